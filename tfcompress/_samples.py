"""The one reader of data, for every argument that takes samples for a model.

What `model.fit` takes as `x` and `y` is taken here as one argument, and means the
same everywhere:

- an array is the inputs of a model with one input; a list of arrays (in the order
  of `model.inputs`) or a dict (by name) those of a model with several;
- a tuple is `(inputs,)`, `(inputs, labels)` or `(inputs, labels, weights)`, never
  several inputs and never several batches. So `(x, y)` is inputs and labels, also
  where `y` has the shape of an input, as for an autoencoder;
- everything else that can be iterated over yields batches, each of them an array,
  list, dict or tuple as above: a `tf.data.Dataset`, a `keras.utils.PyDataset`, a
  generator, a PyTorch `DataLoader`. Loaders turn their tuples into lists; a list
  of up to three arrays is therefore a tuple where it comes as a batch and cannot
  be several inputs;
- a `tfcompress.data.Split` is its images and labels, a `tfcompress.data.Dataset`
  one of its splits.

As in `fit`, a last axis of 1 may be left out, or be there where the model has none:
columns of shape (samples,) are inputs of shape (samples, 1).

Whatever fits no input of the model is refused by name before any work. TensorFlow
is not needed: its datasets and tensors are known by what they can do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import keras
import numpy as np

from tfcompress.data import Dataset, Split
from tfcompress.structure._graph import functional

__all__ = [
    "Batch",
    "Input",
    "Samples",
    "Source",
    "call_model",
    "check_labeled",
    "class_indices",
    "fixed_batch",
    "inference",
    "input_specs",
    "input_structure",
    "inputs_of",
    "packed",
    "random_samples",
    "read",
    "reusable",
    "take_samples",
]

_BATCH = 128
# A source that does not know its length is given up as endless after so many
# samples. What can be read only once is kept in memory, up to so many bytes, too.
_MOST_SAMPLES = 100_000
_MOST_BYTES = 2**30

# One array for each input of the model, all with the same first dimension.
Samples = list[np.ndarray]

_EXPECTED = (
    "an array of inputs (a list or dict for several), a tuple (inputs, labels), or "
    "an iterable of such batches as a tf.data.Dataset or keras.utils.PyDataset"
)


class Input(NamedTuple):
    """What one input of a model takes.

    Attributes:
        name: name of the input; its key where the model's inputs are a dict.
        shape: shape without the batch; `None` for a size that is open.
        dtype: dtype by name, such as `"float32"` or `"string"`.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class Batch:
    """Some samples.

    Attributes:
        inputs: one array for each input of the model, in order.
        labels: arrays in the structure they were given in, or `None`.
        weights: sample weights likewise.
    """

    inputs: Samples
    labels: Any
    weights: Any

    def __len__(self) -> int:
        return len(self.inputs[0])

    def at(self, rows: Any) -> Batch:
        """Some rows of the batch."""
        labels, weights = (
            None if part is None else keras.tree.map_structure(lambda a: a[rows], part)
            for part in (self.labels, self.weights)
        )
        return Batch([array[rows] for array in self.inputs], labels, weights)


@dataclass(frozen=True, eq=False)
class Source:
    """Checked batches for one model, read anew by every iteration.

    Attributes:
        model: the model whose inputs the samples are for.
        argument: name of the caller's argument, for messages.
        first: the first batch, for checks.
        length: number of batches, where it is known.
    """

    model: keras.Model
    argument: str
    first: Batch
    length: int | None
    _open: Callable[[], Iterator[Batch]]

    @property
    def labeled(self) -> bool:
        """Whether there are labels."""
        return self.first.labels is not None

    def __iter__(self) -> Iterator[Batch]:
        size = fixed_batch(self.model)
        if size is None:
            return self._open()
        return _rebatched(self._open(), size, self.argument)

    def evaluate(self, model: keras.Model) -> dict[str, float]:
        """Loss and metrics of `model`, which takes what `self.model` takes."""
        model.reset_metrics()
        results: dict[str, float] = {}
        for batch in self:
            results = model.test_on_batch(
                packed(model, batch.inputs),
                batch.labels,
                batch.weights,
                return_dict=True,
            )
        return results

    def predict(self, model: keras.Model, *, verbose: Any = 0) -> None:
        """Runs `model` in compiled steps; what it returns is nobody's business."""
        progress = keras.utils.Progbar(
            self.length, verbose=1 if verbose == "auto" else int(verbose)
        )
        for index, batch in enumerate(self):
            model.predict_on_batch(packed(model, batch.inputs))
            progress.update(index + 1)


# What a model takes -----------------------------------------------------------


def inputs_of(model: keras.Model) -> list[Input]:
    """What each input of `model` takes, in the order of `model.inputs`."""
    structure = input_structure(model)
    keys = list(structure) if isinstance(structure, Mapping) else None
    if keys is not None and len(keys) == len(model.inputs):
        by_id = {id(tensor): key for key, tensor in structure.items()}
        names = [str(by_id.get(id(tensor), tensor.name)) for tensor in model.inputs]
    else:
        names = [tensor.name for tensor in model.inputs]
    return [
        Input(name, tuple(tensor.shape[1:]), _dtype(tensor))
        for name, tensor in zip(names, model.inputs, strict=True)
    ]


def input_specs(model: keras.Model) -> list[Input]:
    """What each input takes, for a file that is made for one input shape.

    Raises:
        ValueError: if a dimension besides the batch is unknown, or an input takes
            text.
    """
    specs = inputs_of(model)
    for spec, tensor in zip(specs, model.inputs, strict=True):
        if None in spec.shape:
            raise ValueError(
                "Invalid value for argument `model`. Expected a model with fixed "
                "input shapes, because a TFLite file is made for one. Received: "
                f"model={model.name!r} whose input {spec.name!r} has shape "
                f"{tuple(tensor.shape)}. Build it with keras.Input(shape=...) "
                "without None."
            )
        if spec.dtype == "string":
            raise ValueError(
                "Invalid value for argument `model`. Expected a model that takes "
                f"numbers. Received: model={model.name!r} whose input "
                f"{spec.name!r} takes text, for which TFLite's built-in operations "
                "have no processing. Export the part behind the text processing."
            )
    return specs


def input_structure(model: keras.Model) -> Any:
    """What `model` is called with: a Keras tensor, or nested ones."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0]
    return functional(model)._inputs_struct


def packed(model: keras.Model, inputs: Sequence[Any]) -> Any:
    """`inputs` in the structure that `model` is called with."""
    return keras.tree.pack_sequence_as(input_structure(model), list(inputs))


def fixed_batch(model: keras.Model) -> int | None:
    """Number of samples that `model` is built to take at once, if it is."""
    sizes = [tensor.shape[0] for tensor in model.inputs if tensor.shape]
    return next((size for size in sizes if size is not None), None)


def random_samples(model: keras.Model, count: int, seed: int = 0) -> Samples:
    """Seeded stand-ins: uniform in [0, 1); 0 or 1 for integer inputs."""
    rng = np.random.default_rng(seed)
    samples = []
    for spec in input_specs(model):
        shape = (count, *(size or 0 for size in spec.shape))  # none is open
        whole = spec.dtype.startswith(("int", "uint", "bool"))
        values = rng.integers(0, 2, shape) if whole else rng.random(shape)
        samples.append(values.astype(spec.dtype))
    return samples


# Running a model --------------------------------------------------------------


@contextlib.contextmanager
def inference(
    model: keras.Model, *, remember: bool = False
) -> Iterator[Callable[[Samples], Any]]:
    """Yields a function that runs `model` on one batch, leaving it as it was.

    Layers that remember what came before start every batch anew, unless they are
    to `remember`. In the end their memory is what it was at the beginning.
    """
    layers = [
        layer
        for layer in model._flatten_layers()
        if getattr(layer, "stateful", False) and hasattr(layer, "reset_state")
    ]
    memory = [
        (variable, np.array(keras.ops.convert_to_numpy(variable)))
        for layer in layers
        # What a layer remembers is not among its variables.
        for variable in keras.tree.flatten(getattr(layer, "states", ()))
        if isinstance(variable, keras.Variable)
    ]

    def run(inputs: Samples) -> Any:
        if not remember:
            for layer in layers:
                layer.reset_state()
        return model(packed(model, inputs), training=False)

    try:
        yield run
    finally:
        for variable, value in memory:
            variable.assign(value)


def call_model(
    model: keras.Model, samples: Samples, *, remember: bool = False
) -> list[np.ndarray]:
    """Outputs of the model at inference, leaving its compile state alone.

    A model of a fixed batch runs its last, smaller batch with the last sample
    repeated; what comes of the repetitions is cut off. With `remember`, layers
    with a memory go on from batch to batch, as they do in a TFLite file.
    """
    size = fixed_batch(model) or _BATCH
    chunks = []
    with inference(model, remember=remember) as run:
        for start in range(0, len(samples[0]), size):
            batch = [array[start : start + size] for array in samples]
            count = len(batch[0])
            if fixed_batch(model):
                rows = np.minimum(np.arange(size), count - 1)
                batch = [array[rows] for array in batch]
            outputs = keras.tree.flatten(run(batch))
            chunks.append([keras.ops.convert_to_numpy(o)[:count] for o in outputs])
    return [np.concatenate(arrays) for arrays in zip(*chunks, strict=True)]


# Reading ----------------------------------------------------------------------


def read(
    model: keras.Model,
    data: Any,
    argument: str = "data",
    *,
    split: Literal["train", "validation", "test"] = "train",
    limit: int | None = None,
) -> Source:
    """Reads `data` for `model`; the module's docstring says what is taken.

    The kind of `data` and its first batch are checked at once, further batches as
    they come. Arrays come in batches of 128. A model of a fixed batch gets batches
    of its size; samples that are left over then are left out, with a warning.

    Args:
        model: a built Functional or Sequential model.
        data: the samples.
        argument: name of the caller's argument, for messages. Defaults to
            `"data"`.
        split: what a `tfcompress.data.Dataset` stands for. Defaults to `"train"`.
        limit: the most samples to read. Defaults to `None`: all, and sources
            without end are refused: those that say so at once, those that do not
            know after 100,000 samples.

    Returns:
        A `Source`.

    Raises:
        TypeError: if `data` is of another kind.
        ValueError: if it is empty, endless or does not fit the model.
    """
    specs = inputs_of(model)
    data = _unfolded(data, split, argument)
    if not _is_stream(data):
        whole = _checked(data, specs, argument, batch=False)
        whole = whole if limit is None else whole.at(slice(limit))

        def cut() -> Iterator[Batch]:
            for start in range(0, len(whole), _BATCH):
                yield whole.at(slice(start, start + _BATCH))

        length: int | None = -(-len(whole) // _BATCH)
        source = Source(model, argument, whole.at(slice(_BATCH)), length, cut)
    else:
        data = reusable(data, argument, limit=limit)
        length = _length(data, argument, bounded=limit is not None)
        bound = _MOST_SAMPLES if length is None and limit is None else None

        def stream() -> Iterator[Batch]:
            elements = _elements(data, length)
            batches = (_checked(e, specs, argument, batch=True) for e in elements)
            return _bounded(batches, limit, bound, argument)

        source = Source(model, argument, _first(stream(), argument), length, stream)
    if fixed_batch(model) is None:
        return source
    next(iter(source))  # refuses fewer samples than one batch
    return dataclasses.replace(source, length=None)  # of other batches


def reusable(data: Any, argument: str = "data", *, limit: int | None = None) -> Any:
    """Returns `data`, in place of an iterator what it yields.

    For what is read more than once: by several models, or in every epoch.

    Args:
        data: as for `read`.
        argument: name of the caller's argument, for messages. Defaults to
            `"data"`.
        limit: the most samples that are needed. Defaults to `None`, all, of which
            an iterator may have up to 100,000 that take up to 1 GiB.

    Raises:
        ValueError: if an iterator yields nothing, or too much.
    """
    if not isinstance(data, Iterator):
        return data
    elements = []
    samples = size = 0
    for element in data:
        leaves = keras.tree.flatten(element)
        samples += next((len(x) for x in leaves if getattr(x, "shape", ())), 1)
        size += sum(getattr(leaf, "nbytes", 0) for leaf in leaves)
        elements.append(element)
        if limit is not None and samples >= limit:
            break
        if samples > _MOST_SAMPLES or size > _MOST_BYTES:
            raise ValueError(
                f"Invalid value for argument `{argument}`. Expected data that can be "
                f"read more than once, or an iterator over at most {_MOST_SAMPLES:,} "
                f"samples and {_MOST_BYTES >> 20:,} MiB. Received: {data!r}, which "
                "goes on. Pass arrays, a part of it by itertools.islice, or a "
                "tf.data.Dataset or keras.utils.PyDataset."
            )
    if not elements:
        raise _empty(argument)
    return _Kept(elements)


def take_samples(
    model: keras.Model,
    data: Any,
    *,
    limit: int | None,
    argument: str = "calibration",
    split: Literal["train", "validation", "test"] = "train",
) -> tuple[Samples, Any]:
    """Up to `limit` samples of `data`, in arrays.

    Args:
        model: the model whose inputs the samples are for.
        data: as for `read`.
        limit: the most samples to take. Arrays are sampled evenly, so that data
            sorted by class are covered; streams from the start. `None` for all,
            which refuses endless streams.
        argument: name of the caller's argument, for messages. Defaults to
            `"calibration"`.
        split: what a `tfcompress.data.Dataset` stands for. Defaults to `"train"`.

    Returns:
        The inputs, and the labels where `data` has them.

    Raises:
        TypeError: if `data` is of another kind.
        ValueError: if it is empty, not finite or does not fit the model.
    """
    data = _unfolded(data, split, argument)
    if _is_stream(data):
        batches = list(read(model, data, argument, limit=limit)._open())
        _check_sizes(batches, argument)
        taken = _concatenated(batches)
    else:
        whole = _checked(data, inputs_of(model), argument, batch=False)
        count = len(whole) if limit is None else min(limit, len(whole))
        picked = np.linspace(0, len(whole) - 1, count)
        taken = whole.at(np.unique(picked.round().astype(int)))
    for array in taken.inputs:
        if array.dtype.kind == "f" and not np.all(np.isfinite(array)):
            raise ValueError(
                f"Invalid value for argument `{argument}`. Expected finite inputs. "
                "Received: inputs with NaN or infinity."
            )
    return taken.inputs, taken.labels


def class_indices(labels: np.ndarray) -> np.ndarray:
    """Class indices from class indices or one-hot rows."""
    if labels.ndim == 2 and labels.shape[1] > 1:
        return labels.argmax(-1)
    return labels.reshape(len(labels))


def check_labeled(source: Source) -> None:
    """Checks that samples come with one class label each.

    Args:
        source: from `read`.

    Raises:
        ValueError: if they do not, or the model has not one output of shape
            (batch, classes).
    """
    shapes = [tensor.shape for tensor in source.model.outputs]
    if len(shapes) != 1 or len(shapes[0]) != 2 or (shapes[0][-1] or 0) < 2:
        raise ValueError(
            "Invalid value for argument `model`. Expected one output of shape (batch, "
            f"classes), with two classes or more. Received: outputs of shape {shapes}"
        )
    labels = source.first.labels
    if labels is None:
        raise ValueError(
            f"Invalid value for argument `{source.argument}`. Expected (inputs, "
            "labels), or an iterable of such batches as a tf.data.Dataset. Received: "
            "inputs without labels"
        )
    classes = source.model.outputs[0].shape[-1]
    arrays = keras.tree.flatten(labels)
    if len(arrays) == 1:
        columns = arrays[0].reshape(len(arrays[0]), -1).shape[1]
        if arrays[0].dtype.kind in "iufb" and columns in (1, classes):
            return
    received = " and ".join(f"shape {a.shape} and dtype {a.dtype}" for a in arrays)
    raise ValueError(
        f"Invalid value for argument `{source.argument}`. Expected one class index "
        f"for each sample, or {classes} one-hot columns. Received: labels of {received}"
    )


# Kinds of sources -------------------------------------------------------------


class _Kept(tuple):
    """Batches that came from an iterator."""


def _unfolded(data: Any, split: str, argument: str) -> Any:
    """The arrays of a `tfcompress.data.Split`, also of the one that a set has."""
    if isinstance(data, Dataset):
        chosen = getattr(data, split)
        if not len(chosen):
            raise ValueError(
                f"Invalid value for argument `{argument}`. Expected a data set whose "
                f"{split} split has samples. Received: {data!r}"
            )
        data = chosen
    return (data.images, data.labels) if isinstance(data, Split) else data


def _is_stream(data: Any) -> bool:
    """Whether `data` yields batches."""
    return isinstance(data, keras.utils.PyDataset | _Kept) or (
        isinstance(data, Iterable)
        and not isinstance(data, np.ndarray | list | tuple | Mapping | str | bytes)
        and not hasattr(data, "__array__")
    )


def _length(data: Any, argument: str, *, bounded: bool) -> int | None:
    """Number of batches; `None` where nobody knows. Endless ones must be bounded."""
    endless = False
    length: int | None = None
    if isinstance(data, keras.utils.PyDataset):
        length = data.num_batches
        endless = length is None
    elif callable(getattr(data, "cardinality", None)):  # tf.data
        found = int(data.cardinality())
        endless = found == -1
        length = found if found >= 0 else None
    else:
        with contextlib.suppress(TypeError, NotImplementedError):
            length = len(data)
    if endless and not bounded:
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected data that end. "
            f"Received: {data!r}, which repeats for ever. Pass it without repeat(), "
            "or a part of it by take(n)."
        )
    if length == 0:
        raise _empty(argument)
    return length


def _elements(data: Any, length: int | None) -> Iterator[Any]:
    if isinstance(data, keras.utils.PyDataset):
        # Not iterated over: that would not end, and `on_epoch_end` belongs to `fit`.
        indices = itertools.count() if length is None else range(length)
        return (data[index] for index in indices)
    return iter(data)


def _bounded(
    batches: Iterator[Batch], limit: int | None, bound: int | None, argument: str
) -> Iterator[Batch]:
    """Stops after `limit` samples, and gives up after `bound`."""
    seen = 0
    for batch in batches:
        if limit is not None:
            batch = batch.at(slice(limit - seen))
        seen += len(batch)
        if bound is not None and seen > bound:
            raise ValueError(
                f"Invalid value for argument `{argument}`. Expected data that end, or "
                f"that know their length. Received: {bound:,} samples and no end. "
                "Pass a part of it, such as dataset.take(n)."
            )
        yield batch
        if limit is not None and seen >= limit:
            return


def _first(batches: Iterator[Batch], argument: str) -> Batch:
    for batch in batches:
        return batch
    raise _empty(argument)


def _empty(argument: str) -> ValueError:
    return ValueError(
        f"Invalid value for argument `{argument}`. Expected at least one sample. "
        "Received: data without elements"
    )


# Batches of another size ------------------------------------------------------


def _rebatched(batches: Iterator[Batch], size: int, argument: str) -> Iterator[Batch]:
    """Batches of exactly `size`."""
    waiting: Batch | None = None
    any_left = False
    for batch in batches:
        if waiting is not None and len(waiting):
            batch = _concatenated([waiting, batch])
        whole = len(batch) - len(batch) % size
        for start in range(0, whole, size):
            any_left = True
            yield batch.at(slice(start, start + size))
        waiting = batch.at(slice(whole, None))
    left = 0 if waiting is None else len(waiting)
    if not any_left:
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected at least {size} "
            "samples, which the model is built to take at once. Received: "
            f"{left} samples"
        )
    if left:
        warnings.warn(
            f"The last {left} samples of `{argument}` are left out, because the model "
            f"is built to take {size} at once.",
            stacklevel=3,
        )


def _concatenated(batches: Sequence[Batch]) -> Batch:
    def joined(*arrays: np.ndarray) -> np.ndarray:
        return np.concatenate(arrays)

    def structures(parts: Sequence[Any]) -> Any:
        if any(part is None for part in parts):
            return None
        return keras.tree.map_structure(joined, *parts)

    inputs = zip(*(batch.inputs for batch in batches), strict=True)
    return Batch(
        [np.concatenate(arrays) for arrays in inputs],
        structures([batch.labels for batch in batches]),
        structures([batch.weights for batch in batches]),
    )


def _check_sizes(batches: Sequence[Batch], argument: str) -> None:
    """Samples of an open size can be of several, but not in one array."""
    shapes = {tuple(array.shape[1:] for array in batch.inputs) for batch in batches}
    if len(shapes) > 1:
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected samples of one size. "
            f"Received: {', '.join(map(str, sorted(shapes)))}"
        )


# One batch --------------------------------------------------------------------


def _dtype(tensor: Any) -> str:
    return keras.backend.standardize_dtype(tensor.dtype)


def _checked(data: Any, specs: list[Input], argument: str, *, batch: bool) -> Batch:
    """Inputs, labels and weights of one batch, or of everything given as arrays."""
    raw, labels, weights = _split(data, specs, argument, batch)
    inputs = _match(raw, specs, argument, labels is not None)
    found = Batch(
        inputs, _arrays(labels, "labels", argument), _arrays(weights, "w", argument)
    )
    _check_lengths(found, argument)
    return found


def _split(
    data: Any, specs: list[Input], argument: str, batch: bool
) -> tuple[Any, Any, Any]:
    """(inputs, labels, weights) of a tuple; inputs alone of everything else."""
    if batch and isinstance(data, list) and _is_listed_tuple(data, specs):
        data = tuple(data)
    if not isinstance(data, tuple):
        return data, None, None
    if not 1 <= len(data) <= 3:
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected a tuple (inputs,), "
            "(inputs, labels) or (inputs, labels, weights); several inputs are a list "
            f"or a dict. Received: a tuple of {len(data)} elements"
        )
    return (*data, None, None)[:3]


def _is_listed_tuple(data: list[Any], specs: list[Input]) -> bool:
    """Whether a list is what a loader made of the tuple (inputs, labels)."""
    if not 1 <= len(data) <= 3:
        return False
    if len(specs) > 1:
        return isinstance(data[0], list | tuple | Mapping)
    if isinstance(data[0], Mapping):
        return True
    return hasattr(data[0], "shape") and _has_rank(data[0].shape, specs[0])


def _match(raw: Any, specs: list[Input], argument: str, labeled: bool) -> Samples:
    """One array for each input, in order, with the right shape and dtype."""
    names = [spec.name for spec in specs]
    if isinstance(raw, Mapping):
        raw = dict(raw)
        if not all(name in raw for name in names):
            raise ValueError(
                f"Invalid value for argument `{argument}`. Expected the inputs "
                f"{names}. Received: {sorted(map(str, raw))}"
            )
        arrays = [raw[name] for name in names]
    elif len(specs) > 1:
        flat = _flat(raw, len(specs))
        if not isinstance(raw, list | tuple) or len(flat) != len(specs):
            received = (
                f"{len(flat)} arrays"
                if isinstance(raw, list | tuple)
                else type(raw).__name__
            )
            raise ValueError(
                f"Invalid value for argument `{argument}`. Expected a list of "
                f"{len(specs)} arrays or a dict, one for each of the inputs {names}. "
                f"Received: {received}"
                + (
                    " as the first element of a tuple, which is read as (inputs, "
                    "labels); give several inputs as a list or a dict"
                    if labeled
                    else ""
                )
            )
        arrays = flat
    else:
        arrays = [_lone(raw, specs[0], argument)]
    return [
        _as_array(array, spec, argument)
        for array, spec in zip(arrays, specs, strict=True)
    ]


def _flat(raw: Any, count: int) -> list[Any]:
    """The `count` arrays of a list, or of nested lists, tuples and dicts."""
    if isinstance(raw, list | tuple) and len(raw) == count:
        nested = (part for part in raw if isinstance(part, list | tuple | Mapping))
        if not any(_holds_arrays(part) for part in nested):
            return list(raw)
    if isinstance(raw, Mapping):  # in the order of keras.tree.flatten
        return [array for key in sorted(raw) for array in _flat(raw[key], -1)]
    if isinstance(raw, list | tuple) and _holds_arrays(raw):
        return [array for part in raw for array in _flat(part, -1)]
    return [raw]


def _holds_arrays(part: Any) -> bool:
    """Whether a list or dict is a structure, not an array written as a list."""
    values = part.values() if isinstance(part, Mapping) else part
    return any(
        hasattr(value, "shape")
        or isinstance(value, Mapping)
        or (isinstance(value, list | tuple) and _holds_arrays(value))
        for value in values
    )


def _lone(raw: Any, spec: Input, argument: str) -> Any:
    """The array of the one input, which may come alone in a list."""
    if not isinstance(raw, list | tuple) or not raw:
        return raw
    shapes = [getattr(part, "shape", ()) for part in raw]
    if len(raw) == 1 and _has_rank(shapes[0], spec):
        return raw[0]
    # Not `_has_rank`: several arrays of shape (1,) are samples of shape (1,).
    if all(len(shape) == len(spec.shape) + 1 for shape in shapes):
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected one array for the "
            f"input {spec.name!r}. Received: a list of {len(raw)} arrays of shapes "
            f"{[tuple(part.shape) for part in raw]}. Labels go into a tuple (inputs, "
            "labels); batches into a tf.data.Dataset or a generator, or one array."
        )
    return raw


def _has_rank(shape: Sequence[int], spec: Input) -> bool:
    """Whether an array has the axes of an input, but for a last one of 1."""
    difference = len(shape) - len(spec.shape) - 1
    if difference == 1:
        return shape[-1] == 1
    return difference == 0 or (difference == -1 and spec.shape[-1:] == (1,))


def _as_array(raw: Any, spec: Input, argument: str) -> np.ndarray:
    try:
        array = np.asarray(raw)
    except Exception as error:
        raise _wrong_kind(raw, spec, argument) from error
    kinds = "USO" if spec.dtype == "string" else "fiub"
    if array.dtype.kind not in kinds and array.dtype.name != "bfloat16":
        raise _wrong_kind(raw, spec, argument)
    if array.ndim == 0:
        raise _wrong_kind(raw, spec, argument)
    given = array.shape
    if array.ndim != len(spec.shape) + 1 and _has_rank(array.shape, spec):
        shorter = array.ndim <= len(spec.shape)
        array = array[..., None] if shorter else array[..., 0]
    fits = array.ndim == len(spec.shape) + 1 and all(
        expected in (None, size)
        for expected, size in zip(spec.shape, array.shape[1:], strict=True)
    )
    if not fits:
        expected = ("samples", *spec.shape)
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected inputs of shape "
            f"({', '.join(map(str, expected))}) for input {spec.name!r}. Received: "
            f"shape {given}"
        )
    if spec.dtype == "string":
        return array
    cast = array.astype(spec.dtype, copy=False)
    if cast.dtype.kind in "iub" and not np.array_equal(cast, array):
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected values of dtype "
            f"{spec.dtype} for input {spec.name!r}. Received: dtype {array.dtype} "
            "with values that it cannot hold"
        )
    return cast


def _arrays(raw: Any, what: str, argument: str) -> Any:
    """Labels or weights as arrays, in the structure in which they were given."""
    if raw is None:
        return None

    def convert(part: Any) -> np.ndarray:
        try:
            return np.asarray(part)
        except Exception as error:
            raise TypeError(
                f"Invalid value for argument `{argument}`. Expected arrays of {what}. "
                f"Received: an object of type {type(part).__name__}"
            ) from error

    if isinstance(raw, list) and not any(hasattr(part, "shape") for part in raw):
        return convert(raw)  # a list of numbers
    if isinstance(raw, list | tuple | Mapping):
        return keras.tree.map_structure(convert, raw)
    return convert(raw)


def _wrong_kind(raw: Any, spec: Input, argument: str) -> TypeError:
    received = f"an object of type {type(raw).__name__}"
    if isinstance(raw, np.ndarray) or hasattr(raw, "dtype"):
        received += f" and dtype {raw.dtype}"
    return TypeError(
        f"Invalid value for argument `{argument}`. Expected {_EXPECTED}; {spec.dtype} "
        f"for input {spec.name!r}. Received: {received}"
    )


def _check_lengths(batch: Batch, argument: str) -> None:
    rest = [
        array.shape
        for part in (batch.labels, batch.weights)
        if part is not None
        for array in keras.tree.flatten(part)
    ]
    lengths = {len(array) for array in batch.inputs}
    lengths.update(shape[0] if shape else -1 for shape in rest)
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(
            f"Invalid value for argument `{argument}`. Expected at least one sample "
            "and equally many inputs and labels. Received: lengths "
            f"{[len(array) for array in batch.inputs]}"
            + (f" and labels of shapes {rest}" if rest else "")
        )
