"""Training data that several fits go through as one run.

Keras makes an iterator of its own in every `fit`. A driver that replaces the model
between epochs calls `fit` for each epoch, and would train on the beginning of an
endless dataset again and again. `Stream` stands between the two: Keras takes an
object of its class `DataAdapter` as it is, and asks it for an iterator, which may
well be one that is under way.

The only file that touches the private side of Keras' data.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras.src.trainers import data_adapters
from keras.src.trainers.data_adapters import array_slicing
from keras.src.trainers.data_adapters.data_adapter import DataAdapter

from tfcompress import _processes

__all__ = ["Stream", "lasting", "no_data"]


class Stream(DataAdapter):
    """The training data of a whole run, handed out by epochs.

    What is seen is what a single `fit` with these arguments sees:

    * Without `steps_per_epoch` each epoch is one pass through the data.
    * With it, an epoch goes on where the one before has stopped. A source of a
      known length begins anew at its end, where `fit` cuts the epoch short.
    * Arrays and finite `PyDataset`s that are shuffled have an order that follows
      from a seed and the number of the pass, so that a resumed run sees the order
      that it would have seen. The seed comes from NumPy's global generator.
    * The hooks of a `PyDataset` are called as often as `fit` calls them.
    * Validation goes through its data as in one `fit`, too, see `lasting`.

    Args:
        x: training data as for `fit`.
        y: labels as for `fit`.
        arguments: other arguments of `fit`.
        state: what `state` returned in the run that is resumed. Defaults to
            `None`, a new run.

    Attributes:
        fit_arguments: arguments that are left for `fit`.
        steps: number of steps in an epoch, where it is known.

    Raises:
        ValueError: if there are no data, or no validation data where they are given.
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        arguments: Mapping[str, Any],
        state: Mapping[str, Any] | None = None,
    ) -> None:
        rest = dict(arguments)
        weights = rest.pop("sample_weight", None)
        share = rest.pop("validation_split", None)
        if share and rest.get("validation_data") is None:
            (x, y, weights), rest["validation_data"] = (
                array_slicing.train_validation_split((x, y, weights), share)
            )
        shuffle = rest.pop("shuffle", True)
        self._steps: int | None = rest.pop("steps_per_epoch", None)
        self._source = _source(
            x,
            y=y,
            sample_weight=weights,
            batch_size=rest.get("batch_size"),
            steps_per_epoch=self._steps,
            shuffle=shuffle,
            class_weight=rest.pop("class_weight", None),
            seed=_new_seed() if state is None else state["seed"],
        )
        self.fit_arguments = lasting(rest)
        self._epochs = 0  # that were begun
        self._passes = 0  # that were begun
        self._position = 0  # batches of the present pass that were taken
        self._current: Any = None
        self._under_way: str | None = None
        self._probing = False
        self._example: Any = None
        self._model: keras.Model | None = None
        if state is not None:
            self._go_to(state)

    @property
    def steps(self) -> int | None:
        """Number of steps in an epoch, where it is known."""
        return self._steps or self._source.num_batches

    # What a driver calls ------------------------------------------------------------

    def begin_epoch(self, model: keras.Model) -> int | None:
        """Prepares for one `fit` of one epoch.

        Args:
            model: the model that will be trained.

        Returns:
            The number of steps, as `steps_per_epoch` for that `fit`.
        """
        self._model = model
        self._probing = True
        self._epochs += 1
        if self._steps is None:
            return None
        length = self._source.num_batches
        if length is None or length - self._position >= self._steps:
            return self._steps
        _warn_of_the_end()
        return length - self._position

    def end_epoch(self, batches: int) -> None:
        """Notes how many batches an epoch has taken.

        Args:
            batches: their number.
        """
        if self._steps is None:
            return
        self._position += batches
        length = self._source.num_batches
        ended = batches < self._steps if length is None else self._position >= length
        if ended:
            self._current, self._position = None, 0

    def state(self) -> dict[str, Any]:
        """What a resumed run needs in order to go on, JSON-compatible."""
        return {
            "seed": self._source.seed,
            "epochs": self._epochs,
            "passes": self._passes,
            "position": self._position,
        }

    # What Keras calls -----------------------------------------------------------------

    def get_tf_dataset(self) -> Any:
        """Something that `fit` takes for a distributed dataset: it only iterates."""
        import tensorflow as tf

        class Ongoing(tf.distribute.DistributedDataset):
            def __init__(self, iterator: Callable[[], Iterator[Any]]) -> None:
                self.iterator = iterator

            def __iter__(self) -> Iterator[Any]:
                return self.iterator()

        return Ongoing(lambda: self._iterator("tf"))

    def get_jax_iterator(self) -> Iterator[Any]:
        """Batches as JAX takes them."""
        return self._iterator("jax")

    def get_numpy_iterator(self) -> Iterator[Any]:
        """Batches as NumPy arrays."""
        return self._iterator("numpy")

    def get_torch_dataloader(self) -> Any:
        """Batches as torch takes them."""
        return self._iterator("torch")

    @property
    def num_batches(self) -> int | None:
        """Batches in an epoch; unknown where `begin_epoch` says how many to take."""
        return None if self._steps else self._source.num_batches

    @property
    def batch_size(self) -> int | None:
        """Samples in a batch, where it is known."""
        return self._source.batch_size

    @property
    def has_partial_batch(self) -> bool | None:
        """Whether the last batch is smaller, where it is known."""
        return self._source.has_partial_batch

    @property
    def partial_batch_size(self) -> int | None:
        """Size of the last batch if it is smaller, where it is known."""
        return self._source.partial_batch_size

    def on_epoch_begin(self) -> None:
        """Passes on that an epoch begins."""
        if not self._probing:
            self._source.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Passes on that an epoch ends, and once that `fit` begins."""
        if not self._probing or self._epochs == 1:
            self._source.on_epoch_end()
        # `fit` resets its iterator before the first epoch, which calls this as well.
        # Until then Keras takes a batch just to see its shapes, if it takes any.
        self._probing = False

    # Steps ----------------------------------------------------------------------------

    def _iterator(self, kind: str) -> Iterator[Any]:
        # At the beginning of each `fit`, Keras may take a batch to build the model from
        # its shapes. If it came from the data, every epoch would lose one.
        if self._probing:
            if self._example is None:
                self._example = self._source.example(kind)
            return iter([self._example])
        if self._steps is None:
            self._passes += 1
            return self._source.iterator(kind, self._epochs, self._strategy())
        if self._current is None:
            self._passes += 1
            self._current = self._source.iterator(kind, self._passes, self._strategy())
        return self._current

    def _strategy(self) -> Any:
        return getattr(self._model, "_distribute_strategy", None)

    def _go_to(self, state: Mapping[str, Any]) -> None:
        """Goes to where another process has stopped."""
        self._epochs = state["epochs"]
        self._source.repeat_hooks(self._epochs)
        self._position = state["position"]
        # Of a pass that is under way the batches that were seen are skipped.
        open_passes = 1 if self._position else 0
        self._passes = state["passes"] - open_passes
        # Keras begins a pass more at the end of an epoch, of which it reads nothing.
        read = self._passes if self._steps else min(self._epochs, self._passes)
        self._source.skip(self._passes, read, self._position)


class _Source:
    """Data of any kind that Keras knows, pass by pass."""

    def __init__(self, adapter: DataAdapter, seed: int) -> None:
        self.adapter = adapter
        self.seed = seed
        self._dataset: Any = None
        self._distributed: Any = None
        self._skipped = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.adapter, name)

    def iterator(self, kind: str, number: int, strategy: Any) -> Iterator[Any]:
        """A new iterator for the pass of that number, from 1."""
        skipped, self._skipped = self._skipped, 0
        if kind == "tf":
            dataset = self._tf_dataset(number)
            if skipped:
                dataset = dataset.skip(skipped)
            if strategy is not None:
                return iter(self._under(strategy, dataset))
            return iter(dataset)
        iterator = self._python_iterator(kind, number)
        for _ in range(skipped):
            next(iterator, None)
        return iterator

    def example(self, kind: str) -> Any:
        """A batch of which only the shapes count."""
        first = getattr(self.adapter, "_first_batches", None)
        if first:  # of a generator, from which nothing may be taken
            return first[0]
        if kind == "tf":
            return next(iter(self._tf_dataset(1)))
        return next(self._python_iterator(kind, 1))

    def repeat_hooks(self, epochs: int) -> None:
        """Calls the hooks of a PyDataset as in that many epochs."""
        hooks = getattr(self.adapter, "py_dataset", None)
        if hooks is not None:
            hooks.on_epoch_end()
            for _ in range(epochs):
                hooks.on_epoch_begin()
                hooks.on_epoch_end()

    def skip(self, passes: int, read: int, batches: int) -> None:
        """Leaves out passes, some of them read, and batches of the next one."""
        self._skipped = batches
        if keras.backend.backend() == "tensorflow" and self._is_dataset:
            # Beginning a pass draws the seed of its shuffle. The order may also
            # follow from the number of passes that were read to their end, as in
            # `data.Dataset.pipeline`.
            for number in range(passes):
                begun = iter(self._tf_dataset(1))
                if number < read:
                    for _ in begun:
                        pass
        # No pass of a PyDataset is read here. One that counts what is read, as that of
        # `data.Dataset.pipeline` without TensorFlow, is told.
        skip_passes = getattr(
            getattr(self.adapter, "py_dataset", None), "skip_passes", None
        )
        if skip_passes is not None:
            skip_passes(read)

    @property
    def _is_dataset(self) -> bool:
        return isinstance(self.adapter, data_adapters.TFDatasetAdapter)

    def _tf_dataset(self, number: int) -> Any:
        if self._dataset is None:
            self._dataset = self.adapter.get_tf_dataset()
        return self._dataset

    def _under(self, strategy: Any, dataset: Any) -> Any:
        known, distributed = self._distributed or (None, None)
        if known is not dataset:
            distributed = strategy.experimental_distribute_dataset(dataset)
            self._distributed = (dataset, distributed)
        return distributed

    def _python_iterator(self, kind: str, number: int) -> Iterator[Any]:
        if kind == "torch":
            return iter(self.adapter.get_torch_dataloader())
        if kind == "jax":
            return iter(self.adapter.get_jax_iterator())
        return iter(self.adapter.get_numpy_iterator())


class _ShuffledArrays(_Source):
    """Arrays in an order that follows from the seed and the number of the pass."""

    def __init__(self, adapter: Any, seed: int) -> None:
        super().__init__(adapter, seed)
        self._samples: int = adapter._num_samples
        self._size: int = adapter._batch_size
        self._whole = adapter._shuffle != "batch"
        self._sliceable: Any = None
        self._number: int | None = None

    def _order(self, number: int) -> np.ndarray:
        draw = np.random.default_rng([self.seed, number])
        if self._whole:
            return draw.permutation(self._samples)
        starts = range(0, self._samples, self._size)
        ends = [min(start + self._size, self._samples) for start in starts]
        parts = [
            draw.permutation(np.arange(start, end))
            for start, end in zip(starts, ends, strict=True)
        ]
        return np.concatenate(parts)

    def _tf_dataset(self, number: int) -> Any:
        import tensorflow as tf

        if self._number == number:  # Keras begins every pass twice
            return self._dataset
        if self._sliceable is None:
            arrays = array_slicing.convert_to_sliceable(
                self.adapter._inputs, target_backend="tensorflow"
            )
            self._sliceable = keras.tree.map_structure(
                lambda x: tf.convert_to_tensor(x) if isinstance(x, np.ndarray) else x,
                keras.tree.lists_to_tuples(arrays),
            )
        order = self._order(number).astype("int64")
        whole = self._samples // self._size * self._size
        batches = tf.data.Dataset.from_tensor_slices(
            order[:whole].reshape(-1, self._size)
        )
        if whole < self._samples:
            batches = batches.concatenate(tf.data.Dataset.from_tensors(order[whole:]))

        def take(indices: Any) -> Any:
            def one(x: Any) -> Any:
                if isinstance(x, array_slicing.TensorflowSparseWrapper):
                    return array_slicing.slice_tensorflow_sparse_wrapper(x, indices)
                if isinstance(x, list | tuple | dict):
                    return None  # go on inside of it
                return tf.gather(x, indices, axis=0) if tf.is_tensor(x) else x

            return keras.tree.traverse(one, self._sliceable)

        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = (
            tf.data.experimental.AutoShardPolicy.DATA
        )
        self._dataset = (
            batches.map(take, num_parallel_calls=tf.data.AUTOTUNE)
            .with_options(options)
            .prefetch(tf.data.AUTOTUNE)
        )
        self._number = number
        return self._dataset

    def _python_iterator(self, kind: str, number: int) -> Iterator[Any]:
        if kind == "torch":
            return super()._python_iterator(kind, number)
        return self._batches(kind, self._order(number))

    def _batches(self, kind: str, order: np.ndarray) -> Iterator[Any]:
        if self._sliceable is None:
            self._sliceable = array_slicing.convert_to_sliceable(
                self.adapter._inputs, target_backend=kind
            )
        for start in range(0, self._samples, self._size):
            indices = order[start : start + self._size]

            def take(x: Any, indices: np.ndarray = indices) -> Any:
                if x is None:
                    return None
                if kind == "jax":
                    return x.convert_to_jax_compatible(x[indices])
                return x.convert_to_numpy(x[indices])

            yield keras.tree.map_structure(take, self._sliceable)


class _Reordered(keras.utils.PyDataset):
    """A finite PyDataset whose batches come in another order in every pass."""

    def __init__(self, inner: keras.utils.PyDataset) -> None:
        super().__init__(inner.workers, inner.use_multiprocessing, inner.max_queue_size)
        self.inner = inner
        self.order: Any = None

    @property
    def num_batches(self) -> int | None:
        return self.inner.num_batches

    def __getitem__(self, index: int) -> Any:
        return self.inner[index if self.order is None else int(self.order[index])]

    def on_epoch_begin(self) -> None:
        self.inner.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self.inner.on_epoch_end()

    def skip_passes(self, count: int) -> None:
        if hasattr(self.inner, "skip_passes"):
            self.inner.skip_passes(count)


class _ShuffledPyDataset(_Source):
    """A PyDataset in an order that follows from the seed and the number."""

    def iterator(self, kind: str, number: int, strategy: Any) -> Iterator[Any]:
        reordered = self.adapter.py_dataset
        draw = np.random.default_rng([self.seed, number])
        reordered.order = draw.permutation(reordered.num_batches)
        return super().iterator(kind, number, strategy)


def _source(x: Any, *, shuffle: Any, seed: int, **arguments: Any) -> _Source:
    """The source of the right kind, checked not to be empty."""
    kind: type[_Source] = _Source
    if isinstance(x, keras.utils.PyDataset):
        if shuffle and x.num_batches:
            kind, x = _ShuffledPyDataset, _Reordered(x)
        shuffle = False
    elif isinstance(x, types.GeneratorType) or data_adapters.is_tf_dataset(x):
        shuffle = False  # Keras only warns
    arrays = (x, arguments["y"], arguments["sample_weight"])
    if data_adapters.array_data_adapter.can_convert_arrays(arrays):
        if not all(
            len(leaf) for leaf in keras.tree.flatten(arrays) if leaf is not None
        ):
            raise no_data()
        kind = _ShuffledArrays if shuffle else _Source
    try:
        adapter = data_adapters.get_data_adapter(x, shuffle=shuffle, **arguments)
    except ValueError as error:
        if "Received an empty generator" in str(error):
            raise no_data() from None
        raise
    if adapter.num_batches == 0:
        raise no_data()
    return kind(adapter, seed)


def lasting(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `fit` with validation data that several fits can go through.

    Args:
        arguments: arguments of `fit`; what was made lasting before stays as it is.

    Raises:
        ValueError: if the validation data are an empty generator.
    """
    # `fit` makes one adapter for all its epochs, which keeps the first batches of a
    # generator: later epochs are validated on what is left of it. An adapter for every
    # epoch would find a finite generator empty, and take batches of an endless one
    # just to see their shapes.
    data = arguments.get("validation_data")
    if data is None:
        return dict(arguments)
    x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
    try:
        adapter = data_adapters.get_data_adapter(
            x,
            y=y,
            sample_weight=weights,
            batch_size=arguments.get("validation_batch_size")
            or arguments.get("batch_size"),
            steps_per_epoch=arguments.get("validation_steps"),
        )
    except ValueError as error:
        if "Received an empty generator" in str(error):
            raise _nothing("validation_data", "validation data") from None
        raise
    return {**arguments, "validation_data": adapter}


def _new_seed() -> int:
    """From NumPy's global generator; one for all processes that train together."""
    return _processes.agreed(int(np.random.randint(2**31)))


def no_data() -> ValueError:
    """The error of a run without training data."""
    return _nothing("x", "training data")


def _nothing(argument: str, what: str) -> ValueError:
    return ValueError(
        f"Invalid value for argument `{argument}`. Expected at least one batch of "
        f"{what}. Received none: an empty array, dataset or generator"
    )


def _warn_of_the_end() -> None:
    warnings.warn(
        "The training data ended within an epoch, which is shorter therefore. Make "
        "sure that they hold `steps_per_epoch * epochs` batches, or repeat them.",
        stacklevel=4,
    )
