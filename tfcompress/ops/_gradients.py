"""Functions with the gradient of another function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

__all__ = ["with_gradient_of"]

Function = Callable[..., Any]


def with_gradient_of(smooth: Function, function: Function) -> Function:
    """A function with the value of one function and the gradient of another.

    The forward pass computes `function` only. The backward pass computes `smooth` and
    its gradient; compilers drop what only the value of `smooth` would need.

    Args:
        smooth: function of tensors that is differentiated.
        function: function of the same tensors whose value is returned, with the
            shape and dtype of that of `smooth`.

    Raises:
        ValueError: if the backend of Keras is another one.
    """
    backend = keras.backend.backend()
    forms = {"tensorflow": _on_tensorflow, "jax": _on_jax}
    if backend not in forms:
        raise ValueError(
            "Invalid value for the backend of Keras. Straight-through gradients work "
            f"on {' and '.join(forms)}. Received: {backend!r}"
        )
    return forms[backend](smooth, function)


def _on_tensorflow(smooth: Function, function: Function) -> Function:
    import tensorflow as tf

    # `smooth` is recorded inside of the gradient only, so that the forward pass does
    # not compute it.
    @tf.custom_gradient
    def result(*operands: Any) -> Any:
        def gradient(upstream: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(operands)
                exact = smooth(*operands)
            return tape.gradient(exact, operands, upstream)

        return function(*operands), gradient

    return result


def _on_jax(smooth: Function, function: Function) -> Function:
    import jax

    result = jax.custom_vjp(function)

    def forward(*operands: Any) -> Any:
        return function(*operands), operands

    def backward(operands: Any, upstream: Any) -> Any:
        return jax.vjp(smooth, *operands)[1](upstream)

    result.defvjp(forward, backward)
    return result
