"""The self-check: an edited model computes what the original would.

Both models run on the same random input, call by call and without compilation. The
original runs first, with the edit in effect on it: masked variables read as zeros, and
the layers of a dropped branch return zeros. Nothing is written into it, because
`keras.StatelessScope` hands the masked values to the layers in place of the variables'
own. Each of its tensors that has a counterpart in the copy is kept, the copy runs next,
and each pair is compared when the copy computes it. So the first error names the first
layer that differs, and not only an output at the end.

A tensor of the original has the channels that the copy lacks. They are cut out of it by
the same labels by which the weights were cut, and the rest must agree:

    original (1, 8, 8, 16), channels 3 and 5 masked  →  without 3 and 5  (1, 8, 8, 14)
    copy                                                                 (1, 8, 8, 14)

A rule that takes an operation for channel-wise although it is not shows up here, as
does a registered layer that maps a channel of zeros to something else.

A layer that draws random numbers, as that of a variational autoencoder does, differs
from itself. Where a model has operations that are not of Keras, the original runs once
more, each of them on what it read the first time. Of one that then returns something
else only the shape is checked, and the copy goes on with what the original has drawn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from tfcompress.structure import _graph
from tfcompress.structure._rebuild import Rebuild

__all__ = ["VerificationError", "random_inputs", "verify"]

# Relative to the tensor's largest value.
_TOLERANCE = {"float64": 1e-9, "float32": 1e-3, "bfloat16": 0.1, "float16": 0.02}


class VerificationError(RuntimeError):
    """An edited model does not compute what the original would."""


def verify(
    model: keras.Model,
    rebuild: Rebuild,
    masks: Sequence[tuple[keras.Variable, np.ndarray]] = (),
    absent: Sequence[int] = (),
) -> None:
    """Compares original and copy on random input, tensor by tensor.

    Args:
        model: the original.
        rebuild: its edited copy.
        masks: what to multiply variables of the original with for this.
        absent: ids of layers of the original whose output counts as zero.

    Raises:
        VerificationError: naming the first layer at which they differ.
    """
    inputs = random_inputs(model)
    # A list for each tensor: one inside of a nested model that is called twice has two
    # values. The copy computes them in the same order.
    expected: dict[int, list[np.ndarray]] = {}
    drawn: dict[int, list[Any]] | None = {} if _may_draw(model) else None
    silent = {
        id(tensor)
        for _, call in _graph.walk(model)
        if id(call.operation) in absent
        for tensor in call.outputs
    }

    def note(tensor: Any, value: Any) -> Any:
        if id(tensor) in silent:
            value = keras.ops.zeros_like(value)
        if drawn is not None:
            drawn.setdefault(id(tensor), []).append(value)
        if id(tensor) in silent:
            return value
        if id(tensor) in rebuild.tensors:
            expected.setdefault(id(tensor), []).append(
                keras.ops.convert_to_numpy(value)
            )
        return None

    mapping = [
        (v, keras.ops.where(mask != 0, v.value, keras.ops.zeros((), v.dtype)))
        for v, mask in masks  # NaN * 0 is NaN
    ]
    random: set[int] = set()

    def note_random(tensor: Any, value: Any) -> Any:
        assert drawn is not None
        first = drawn[id(tensor)].pop(0)
        if id(tensor) not in silent and _differ(first, value):
            random.add(id(tensor))
        return first

    for visit in (note, note_random) if drawn is not None else (note,):
        with keras.StatelessScope(state_mapping=mapping), _full_products():
            _graph.evaluate(model, inputs, visit)
    origins = {id(new): old for old, new in rebuild.tensors.values()}

    def compare(tensor: Any, value: Any) -> Any:
        old = origins.get(id(tensor))
        if old is None or not expected.get(id(old)):
            return None
        reference = expected[id(old)].pop(0)
        for axis in range(reference.ndim):
            keep = rebuild.along(old, axis)
            if keep is not None:
                reference = np.compress(keep, reference, axis)
        if id(old) in random and reference.shape == tuple(value.shape):
            return keras.ops.convert_to_tensor(reference, value.dtype)
        _check(old, reference, keras.ops.convert_to_numpy(value))
        return None

    # Statistics that a call updates stay as they are.
    with keras.StatelessScope(), _full_products():
        _graph.evaluate(rebuild.model, inputs, compare)


@contextlib.contextmanager
def _full_products() -> Iterator[None]:
    """Makes accelerators multiply float32 in full.

    GPUs round the factors to the 10 bits of TF32 otherwise, original and copy
    differently where a kernel was scaled, and the error grows from layer to layer.
    """
    if keras.backend.backend() == "jax":
        import jax

        with jax.default_matmul_precision("highest"):
            yield
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        rounded = tf.config.experimental.tensor_float_32_execution_enabled()
        tf.config.experimental.enable_tensor_float_32_execution(False)
        try:
            yield
        finally:
            tf.config.experimental.enable_tensor_float_32_execution(rounded)
    else:
        yield


def _check(tensor: Any, expected: np.ndarray, received: np.ndarray) -> None:
    name = tensor._keras_history.operation.name
    if expected.shape != received.shape:
        raise VerificationError(
            f"The edited model differs from the original at {name!r}: its output has "
            f"shape {received.shape}, expected {expected.shape}."
        )
    error, scale, same = _distance(expected, received)
    if not same:
        raise VerificationError(
            f"The edited model differs from the original at {name!r}: the largest "
            f"difference is {error:.3g} at values up to {scale:.3g}. Nothing is "
            "returned. If the layer is registered as channel-wise, check that it maps "
            "zero channels to zero."
        )


def _distance(expected: np.ndarray, received: np.ndarray) -> tuple[float, float, bool]:
    """The largest difference and value, and whether two arrays count as the same."""
    # Only floats are compared by value. The kind of bfloat16 in NumPy is "V".
    if not expected.size or expected.dtype.kind not in "fV":
        return 0.0, 0.0, True
    tolerance = _TOLERANCE.get(str(expected.dtype), 0.1)
    expected = expected.astype("float64")
    received = received.astype("float64")
    both = np.isfinite(expected) & np.isfinite(received)
    scale = max(1e-6, float(np.abs(expected[both]).max(initial=0.0)))
    error = float(np.abs(expected - received)[both].max(initial=0.0))
    same = (np.isfinite(expected) == np.isfinite(received)).all()
    return error, scale, bool(same and error <= tolerance * scale)


def _may_draw(model: keras.Model) -> bool:
    """Whether a model has operations that may draw random numbers at inference."""
    # Those of Keras do not, or draw the same ones again within a `StatelessScope`.
    return any(
        isinstance(call.operation, keras.layers.Lambda)
        or type(call.operation).__module__.partition(".")[0]
        not in ("keras", "tfcompress")
        for _, call in _graph.walk(model)
    )


def _differ(first: Any, second: Any) -> bool:
    """Whether an operation has returned two different values for the same inputs."""
    first, second = map(keras.ops.convert_to_numpy, (first, second))
    if first.shape != second.shape:
        return True
    if first.dtype.kind in "fV":
        return not _distance(first, second)[2]
    return not np.array_equal(first, second)


def _random(rng: np.random.Generator, shape: list[int], dtype: str) -> Any:
    if dtype == "string":
        return keras.ops.convert_to_tensor(np.full(shape, "word"), dtype)
    value = rng.normal(size=shape) if "float" in dtype else rng.integers(0, 2, shape)
    return keras.ops.cast(value, dtype)


def random_inputs(model: keras.Model) -> list[np.ndarray]:
    """One example, small where the model leaves sizes open."""
    # A network without padding may need larger maps than 32. The sizes are tried one
    # after another, and the last error is reported if none works.
    rng = np.random.default_rng(0)
    problem: Exception | None = None
    for size in (32, 128, 256):
        inputs = []
        for tensor in _graph.functional(model).inputs:
            shape = [size if n is None else n for n in tensor.shape[1:]]
            shape = [tensor.shape[0] or 1, *shape]
            inputs.append(_random(rng, shape, tensor.dtype))
        if all(None not in t.shape[1:] for t in _graph.functional(model).inputs):
            return inputs
        try:
            with keras.StatelessScope():
                _graph.evaluate(model, inputs, lambda tensor, value: None)
        except Exception as error:  # too small for the model's strides
            problem = error
            continue
        return inputs
    raise ValueError(
        f"Model {model.name!r} could not be run on random input for the self-check; "
        "give its inputs fixed sizes, or pass verify=False."
    ) from problem
