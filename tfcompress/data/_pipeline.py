"""Batches in an order that depends on the seed and the number of the pass only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["pipeline"]

# Few threads and short queues: with tf.data.AUTOTUNE epochs ended in seconds of
# idle time on small machines.
_PARALLEL = 2
_PREFETCH = 2


def pipeline(
    images: Any,
    labels: np.ndarray,
    *,
    batch_size: int,
    augment: str | None,
    shuffle: bool,
    seed: int,
    epoch: int,
    drop_remainder: bool,
) -> Any:
    """See `Dataset.pipeline`."""
    kind = _tf_batches if keras.backend.backend() == "tensorflow" else _Batches
    return kind(
        images, labels, batch_size, augment, shuffle, seed, epoch, drop_remainder
    )


def _length(count: int, batch_size: int, drop_remainder: bool) -> int:
    return count // batch_size if drop_remainder else -(-count // batch_size)


class _Batches(keras.utils.PyDataset):
    """The pipeline without TensorFlow."""

    def __init__(
        self,
        images: Any,
        labels: np.ndarray,
        batch_size: int,
        augment: str | None,
        shuffle: bool,
        seed: int,
        epoch: int,
        drop_remainder: bool,
    ) -> None:
        super().__init__()
        self._images = images
        self._labels = labels
        self._batch_size = batch_size
        self._augment = augment
        self._shuffle = shuffle
        self._seed = seed
        self._epoch = epoch
        self._length = _length(len(labels), batch_size, drop_remainder)
        self._given: set[int] = set()
        self._drawn: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Any, np.ndarray]:
        self._given.add(index)
        rows = self._order()[index * self._batch_size : (index + 1) * self._batch_size]
        if isinstance(self._images, Mapping):
            return {n: a[rows] for n, a in self._images.items()}, self._labels[rows]
        images = self._images[rows]
        if self._augment is not None:
            rng = np.random.default_rng([self._seed, self._epoch, index])
            images = _augmented(images, rng, mirror=self._augment == "standard")
        return images, self._labels[rows]

    def on_epoch_end(self) -> None:
        """Goes on to the next pass if this one was read to its end."""
        # Keras calls this more than once, and before the first pass, too.
        if len(self._given) == self._length:
            self._epoch += 1
            self._given.clear()

    def skip_passes(self, count: int) -> None:
        """Goes on as if that many passes more had been read to their end."""
        self._epoch += count
        self._given.clear()

    def _order(self) -> np.ndarray:
        if self._drawn is None or self._drawn[0] != self._epoch:
            count = len(self._labels)
            rng = np.random.default_rng([self._seed, self._epoch])
            order = rng.permutation(count) if self._shuffle else np.arange(count)
            self._drawn = self._epoch, order
        return self._drawn[1]


def _augmented(
    images: np.ndarray, rng: np.random.Generator, *, mirror: bool
) -> np.ndarray:
    """Moves each image by up to an eighth of its size and mirrors half of them."""
    count, height, width, _ = images.shape
    down, right = height // 8, width // 8
    tops = rng.integers(0, 2 * down + 1, count)
    lefts = rng.integers(0, 2 * right + 1, count)
    padded = np.pad(images, ((0, 0), (down, down), (right, right), (0, 0)))
    # Slices are copied row by row: four times as fast as one gather of all.
    images = np.stack(
        [
            image[top : top + height, left : left + width]
            for image, top, left in zip(padded, tops, lefts, strict=True)
        ]
    )
    if mirror:
        flipped = rng.random((count, 1, 1, 1)) < 0.5
        images = np.where(flipped, images[:, :, ::-1], images)
    return images


def _tf_batches(
    images: Any,
    labels: np.ndarray,
    batch_size: int,
    augment: str | None,
    shuffle: bool,
    seed: int,
    epoch: int,
    drop_remainder: bool,
) -> tf.data.Dataset:
    import tensorflow as tf

    count = len(labels)
    length = _length(count, batch_size, drop_remainder)
    # A resumed training run has to see the same batches as a run without interruption.
    # So no random generator has a state: the order is a function of the seed and the
    # number of the pass, and the noise also of the number of the batch. The pass is
    # counted in a variable, because `fit` reads the same dataset in every epoch.
    with tf.device("CPU:0"):
        tensors = tf.nest.map_structure(tf.constant, (images, labels))
        # Number of the pass. It is read when a pass begins and raised when the
        # last batch has been handed out.
        number = tf.Variable(epoch, trainable=False, dtype=tf.int64)

    def order(_: tf.Tensor) -> tf.data.Dataset:
        now = number.read_value()
        index = tf.range(count, dtype=tf.int64)
        if shuffle:
            index = tf.random.experimental.stateless_shuffle(index, [seed, now])
        rows = tf.data.Dataset.from_tensor_slices(index)
        rows = rows.batch(batch_size, drop_remainder=drop_remainder)
        return tf.data.Dataset.zip(
            rows,
            tf.data.Dataset.range(length),
            tf.data.Dataset.from_tensors(now).repeat(),
        )

    def batch(rows: tf.Tensor, index: tf.Tensor, now: tf.Tensor) -> Any:
        pictures, classes = tf.nest.map_structure(lambda t: tf.gather(t, rows), tensors)
        if augment is not None:
            noise = tf.random.fold_in(tf.stack([tf.cast(seed, tf.int64), now]), index)
            pictures = _shifted(pictures, noise)
            if augment == "standard":
                pictures = _mirrored(pictures, noise)
        return index, pictures, classes

    def count_pass(index: tf.Tensor, pictures: Any, classes: tf.Tensor) -> Any:
        # Behind the queue, so that what is only fetched ahead does not count.
        tf.cond(
            tf.equal(index, length - 1),
            lambda: number.assign_add(1, read_value=True),
            number.read_value,
        )
        return pictures, classes

    batches = tf.data.Dataset.range(1).flat_map(order)
    batches = batches.map(batch, _PARALLEL, deterministic=True).prefetch(_PREFETCH)
    batches = batches.map(count_pass).apply(
        tf.data.experimental.assert_cardinality(length)
    )
    batches._number = number  # lives as long as the pipeline
    return batches


def _shifted(images: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    """Moves each image by up to an eighth of its size, filling with zeros."""
    import tensorflow as tf

    count = tf.shape(images)[0]
    for axis, seed in ((1, noise), (2, noise + 1)):
        size = images.shape[axis]
        reach = size // 8
        starts = tf.random.stateless_uniform(
            [count, 1], seed, maxval=2 * reach + 1, dtype=tf.int32
        )
        padding = [[reach, reach] if i == axis else [0, 0] for i in range(4)]
        images = tf.gather(
            tf.pad(images, padding), starts + tf.range(size), axis=axis, batch_dims=1
        )
    return images


def _mirrored(images: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    """Mirrors half of the images left to right."""
    import tensorflow as tf

    count = tf.shape(images)[0]
    drawn = tf.random.stateless_uniform([count, 1, 1, 1], noise + 2)
    return tf.where(drawn < 0.5, tf.reverse(images, [2]), images)
