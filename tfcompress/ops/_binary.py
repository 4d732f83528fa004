"""Binary decisions that gradient descent can learn."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

__all__ = ["binary_step", "gumbel_step", "mean_step"]

# Keeps the logarithms of uniform noise finite in float32.
_SMALLEST = 1e-7


def binary_step(x: Any) -> Any:
    r"""1 where `x` is positive, else 0, with a straight-through gradient.

    Equations 4 and 5 of Zhi et al., "A New Baseline for GreenAI" (2023):

    $$STE(x) = [x > 0], \qquad
      \frac{\partial STE}{\partial x} := [\,|x| \le 1\,]$$

    Example:

    >>> tfc.ops.binary_step([-0.5, 0.0, 0.3])  # 0, 0, 1

    Args:
        x: float tensor of any shape.

    Returns:
        A tensor of the shape and dtype of `x`, of exact zeros and ones.
    """
    # clip(x, -1, 1) has the derivative of equation 5: 1 inside [-1, 1], and 0 outside.
    x = ops.convert_to_tensor(x)
    step = ops.cast(x > 0, x.dtype)
    return _with_gradient_of(ops.clip(x, -1.0, 1.0), step)


def gumbel_step(x: Any, temperature: float = 1.0, seed: Any = None) -> Any:
    r"""A random 0 or 1 that is 1 with probability sigmoid(x).

    The Gumbel-softmax of two classes with the logits (x, 0), made hard (Jang et
    al. 2016). The difference of two Gumbel variables is logistic, so with u
    uniform and $l = \log u - \log(1 - u)$,

    $$y = \sigma\!\left(\frac{x + l}{\tau}\right), \qquad G(x) = [y > 1/2],
      \qquad \frac{\partial G}{\partial x} := \frac{y (1 - y)}{\tau}.$$

    Example:

    >>> tfc.ops.gumbel_step(logits, temperature=0.5, seed=1)

    Args:
        x: float tensor of any shape: the logits.
        temperature: τ, positive; smaller makes the gradient steeper. Defaults to
            `1.0`.
        seed: an int, or a `keras.random.SeedGenerator` for new noise at each
            call. Defaults to `None`: Keras' global generator.

    Returns:
        A tensor of the shape and dtype of `x`, of exact zeros and ones.
    """
    x = ops.convert_to_tensor(x)
    # Half precision has too few numbers for the tails of the noise.
    logits = ops.cast(x, "float32")
    u = keras.random.uniform(
        ops.shape(logits), _SMALLEST, 1.0 - _SMALLEST, dtype="float32", seed=seed
    )
    soft = ops.sigmoid((logits + ops.log(u) - ops.log1p(-u)) / temperature)
    hard = ops.cast(soft > 0.5, "float32")
    return ops.cast(_with_gradient_of(soft, hard), x.dtype)


def mean_step(x: Any, threshold: Any = None) -> Any:
    r"""1 where `x` is above its mean, else 0, with a straight-through gradient.

    The "Bernoulli" head of Table 4 in Zhi et al. (2023): the threshold is the
    mean of the outputs of a gate's last dense layer. It counts as a constant
    for the gradient,

    $$M(x) = [x > m], \qquad \frac{\partial M}{\partial x} := [\,|x - m| \le 1\,].$$

    Example:

    >>> tfc.ops.mean_step([1.0, 2.0, 6.0])  # 0, 0, 1

    Args:
        x: float tensor of any shape.
        threshold: the number m to compare with. Defaults to `None`, the mean of
            all of `x`.

    Returns:
        A tensor of the shape and dtype of `x`, of exact zeros and ones.
    """
    x = ops.convert_to_tensor(x)
    if threshold is None:
        threshold = ops.mean(x)
    return binary_step(x - ops.stop_gradient(ops.cast(threshold, x.dtype)))


def _with_gradient_of(soft: Any, hard: Any) -> Any:
    """The value of `hard`, exactly, with the gradient of `soft`."""
    # soft - soft is exactly 0 in the forward pass, where soft is finite. In the
    # backward pass `stop_gradient` is a constant, and what is left is d soft / dx.
    return ops.stop_gradient(hard) + (soft - ops.stop_gradient(soft))
