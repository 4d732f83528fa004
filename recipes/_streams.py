"""Sets that do not fit into memory: images are read while they are used."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SHUFFLED = 10_000
SAMPLE = 500


class Stream:
    """A TFDS set of images of any size, with what recipes use of a `data.Dataset`.

    Its test split is the set's own, or its validation split if that has labels and
    the other is missing, as in ImageNet. One training image in a hundred is held out
    for validation. `train.images` and `test.images` are samples of 500 images.

    Args:
        name: name of the set; it has to be prepared.
        data_dir: folder of prepared sets; `None` for the default of TFDS.
        side: height and width of the crops.
        prepare: from pixels 0 … 255 to what a network expects. Defaults to
            dividing by 255.
    """

    def __init__(
        self,
        name: str,
        data_dir: str | None,
        side: int,
        prepare: Callable[[Any], Any] = lambda images: images / 255.0,
    ) -> None:
        import tensorflow_datasets as tfds

        folder = None if data_dir is None else str(Path(data_dir).expanduser())
        self.builder = tfds.builder(name, data_dir=folder)
        splits = self.builder.info.splits
        if "train" not in splits:
            raise ValueError(
                "Invalid value for argument `dataset`. Expected a set that is prepared "
                f"in the folder of --data_dir. Received: dataset={name!r}, "
                f"data_dir={data_dir!r}"
            )
        self.name, self.side, self.prepare = name, side, prepare
        self.classes = self.builder.info.features["label"].num_classes
        self.input_shape = (side, side, 3)
        held_out = "test" if "test" in splits else "validation"
        self.splits = {
            "train": "train[1%:]",
            "validation": "train[:1%]",
            "test": held_out,
        }
        self.train, self.validation, self.test = (_Part(self, s) for s in self.splits)

    def pipeline(
        self,
        split: str,
        *,
        batch_size: int,
        augment: str | None = None,
        seed: int = 0,
    ) -> Any:
        """Batches: the training split shuffled, and cropped at random if augmented."""
        training = split == "train"
        import tensorflow_datasets as tfds

        examples = self.builder.as_dataset(
            split=self.splits[split],
            shuffle_files=training,
            read_config=tfds.ReadConfig(shuffle_seed=seed),
        )
        return batches(
            examples.map(_pair),
            self.side,
            batch_size,
            self.prepare,
            shuffle=training,
            crop=training and augment is not None,
            seed=seed,
        )


def _pair(example: dict[str, Any]) -> tuple[Any, Any]:
    return example["image"], example["label"]


class _Part:
    """A split of a stream: its length, and a sample as arrays."""

    def __init__(self, stream: Stream, split: str) -> None:
        self.stream, self.split = stream, split

    def __len__(self) -> int:
        splits = self.stream.builder.info.splits
        return splits[self.stream.splits[self.split]].num_examples

    @functools.cached_property
    def _sample(self) -> tuple[np.ndarray, np.ndarray]:
        count = min(SAMPLE, len(self))
        stream = self.stream
        examples = stream.builder.as_dataset(split=stream.splits[self.split])
        some = examples.take(count).map(_pair)
        one = batches(some, stream.side, count, stream.prepare)
        return next(one.as_numpy_iterator())

    @property
    def images(self) -> np.ndarray:
        """(n, side, side, 3)."""
        return self._sample[0]

    @property
    def labels(self) -> np.ndarray:
        """(n,)."""
        return self._sample[1]


def batches(
    examples: Any,
    side: int,
    batch_size: int,
    prepare: Callable[[Any], Any],
    *,
    shuffle: bool = False,
    crop: bool = False,
    seed: int = 0,
) -> Any:
    """Batches of one size from single images of any size.

    Args:
        examples: a `tf.data.Dataset` of (image, label), pixels 0 … 255.
        side: height and width of the result.
        batch_size: images in a batch.
        prepare: applied to each image.
        shuffle: whether to shuffle. Defaults to `False`.
        crop: whether to crop and mirror at random, not in the middle. Defaults to
            `False`.
        seed: of order and crops. Defaults to 0.
    """
    import tensorflow as tf

    shorter = round(side * 256 / 224)

    def example(pair: tuple[Any, Any], noise: Any) -> tuple[Any, Any]:
        image, label = pair
        size = tf.cast(tf.shape(image)[:2], tf.float32)
        size = tf.cast(tf.math.ceil(size * shorter / tf.reduce_min(size)), tf.int32)
        image = tf.image.resize(image, size)
        if crop:
            image = tf.image.stateless_random_crop(image, [side, side, 3], noise)
            image = tf.image.stateless_random_flip_left_right(image, noise)
        else:
            image = tf.image.resize_with_crop_or_pad(image, side, side)
        return prepare(image), label

    # The shorter side becomes 256 pixels where crops have 224, as is usual on ImageNet.
    # Noise is drawn beside the images, not inside `map`, whose parallel calls would
    # draw it in an order of their own.
    if shuffle:
        examples = examples.shuffle(SHUFFLED, seed=seed)
    noise = tf.data.Dataset.random(seed, rerandomize_each_iteration=True).batch(2)
    pairs = tf.data.Dataset.zip(examples, noise)
    return (
        pairs.map(example, tf.data.AUTOTUNE)
        .batch(batch_size)
        .prefetch(tf.data.AUTOTUNE)
    )
