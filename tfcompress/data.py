"""Image-classification data: read once into arrays, fed as `tf.data`.

`load` gives the same images in the same splits for the same seed, from
scikit-learn's bundled digits, from any image-classification set of
TensorFlow Datasets, or from a folder of images.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["Dataset", "DatasetUnavailableError", "Split", "load"]

_FOLDER = "folder:"
_SPLITS = ("train", "validation", "test")
# Fraction of the images kept for testing where a set has no test split. It does
# not depend on the seed, so that results with different seeds can be compared.
_TEST_FRACTION = 0.2
_TEST_SEED = 0
_PROBE_SECONDS = 10
_READ_BATCH = 1024


class DatasetUnavailableError(OSError):
    """A data set exists, but neither on this machine nor within its reach."""


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images and their labels.

    Attributes:
        images: float32 array (n, height, width, channels), values in [0, 1].
        labels: int32 array (n,), class numbers from 0.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Split({len(self)} images)"


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """An image-classification set in memory.

    Attributes:
        name: the name that it was loaded by.
        classes: number of classes.
        train: the images to learn from.
        validation: images held out of the training set, to choose by.
        test: the images to report on.
    """

    name: str
    classes: int
    train: Split
    validation: Split
    test: Split

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one image: (height, width, channels)."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.input_shape))
        sizes = ", ".join(f"{len(getattr(self, split))} {split}" for split in _SPLITS)
        return f"Dataset({self.name!r}: {shape}, {self.classes} classes; {sizes})"

    def pipeline(
        self,
        split: Literal["train", "validation", "test"] = "train",
        *,
        batch_size: int = 128,
        augment: Literal["standard", "shift"] | None = None,
        shuffle: bool | None = None,
        seed: int = 0,
        drop_remainder: bool = False,
    ) -> tf.data.Dataset:
        """Batches of one split as a prefetched `tf.data.Dataset`.

        Every pass over the pipeline is shuffled and augmented anew; a pipeline
        built with the same seed (and the same global TensorFlow seed) repeats
        the same passes. Whole batches are gathered and augmented at once, so
        that feeding costs little beside training.

        Example:

        ```python
        data = tfc.data.load("cifar10")
        model.fit(
            data.pipeline("train", augment="standard"),
            validation_data=data.pipeline("validation"),
            epochs=10,
        )
        ```

        Args:
            split: `"train"`, `"validation"` or `"test"`. Defaults to `"train"`.
            batch_size: images in a batch. Defaults to 128.
            augment: `"standard"` shifts each image by up to an eighth of its
                size in both directions (4 pixels at 32×32, the borders filled
                with zeros) and mirrors half of them left to right; `"shift"`
                only shifts, for images such as digits, whose class a mirror
                changes. Defaults to `None`, the images as they are.
            shuffle: whether to shuffle. Defaults to `None`: the training split
                only.
            seed: seed of shuffling and augmentation. Defaults to 0.
            drop_remainder: whether to leave out a last, smaller batch.
                Defaults to `False`.

        Returns:
            A `tf.data.Dataset` of pairs (images, labels): float32
            (batch, height, width, channels) and int32 (batch,).

        Raises:
            ValueError: for an unknown or empty split, an unknown augmentation
                or a batch size below 1.
        """
        if split not in _SPLITS:
            raise ValueError(_invalid("split", f"one of {_SPLITS}", split))
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(_invalid("batch_size", "a positive integer", batch_size))
        if augment not in (None, "standard", "shift"):
            expected = "None, 'standard' or 'shift'"
            raise ValueError(_invalid("augment", expected, augment))
        chosen: Split = getattr(self, split)
        if not len(chosen):
            raise ValueError(
                f"Invalid value for argument `split`. Expected a split with images. "
                f"Received: split={split!r}, which is empty in {self!r}. Load the "
                "data with a larger `validation`."
            )
        if shuffle is None:
            shuffle = split == "train"
        return _pipeline(chosen, batch_size, augment, shuffle, seed, drop_remainder)


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    validation: float = 0.1,
    seed: int = 0,
    *,
    limit: int | None = None,
    image_size: tuple[int, int] | None = None,
) -> Dataset:
    """Loads an image-classification set into memory, with fixed splits.

    `"digits"` is scikit-learn's bundled set of 1 797 handwritten digits
    (8×8 grey); it needs neither network nor folder. `"folder:PATH"` reads the
    images under `PATH/<split>/<class>/`. Any other name is looked up among
    TensorFlow Datasets: first among the sets prepared in the data folder, then
    by download.

    Pixels become float32 in [0, 1]. The validation split is taken out of the
    training images, class by class, by `seed`. A set without a test split is
    tested on its own validation split if it has one, otherwise on a fifth of
    its images, the same for every seed.

    Example:

    ```python
    data = tfc.data.load("digits")
    model = tfc.zoo.lenet5(input_shape=data.input_shape, classes=data.classes)
    ```

    Args:
        name: `"digits"`, `"folder:PATH"` or the name of a TensorFlow Datasets
            image-classification set, such as `"mnist"` or `"cifar10"`.
        data_dir: folder of prepared TensorFlow Datasets. Defaults to `None`:
            the environment variable `TFDS_DATA_DIR`, or else TensorFlow
            Datasets' own default, `~/tensorflow_datasets`.
        validation: fraction of the training images held out for validation, in
            [0, 1). Defaults to 0.1.
        seed: seed of the validation split and of `limit`. Defaults to 0.
        limit: number of training images to keep, drawn by `seed`; a smaller
            limit draws a subset of a larger one. Validation and test images
            stay as they are. Defaults to `None`, all.
        image_size: (height, width) that images are resized to; needed for sets
            whose images differ in size. Defaults to `None`, as they are.

    Returns:
        The `Dataset`.

    Raises:
        ValueError: if an argument is out of range, the name is unknown, or the
            set does not classify images.
        DatasetUnavailableError: if the set is neither prepared in the data
            folder nor can be downloaded.
    """
    _check_arguments(name, data_dir, validation, seed, limit, image_size)
    if name == "digits":
        source = _digits(image_size)
    elif name.startswith(_FOLDER):
        source = _folder(Path(name.removeprefix(_FOLDER)).expanduser(), image_size)
    else:
        source = _tfds(name, data_dir or os.environ.get("TFDS_DATA_DIR"), image_size)
    train, held_out = _hold_out(source.train, validation, seed)
    return Dataset(
        name=name,
        classes=source.classes,
        train=_limited(train, limit, seed),
        validation=held_out,
        test=source.test,
    )


@dataclass(frozen=True)
class _Source:
    """A set as its publisher splits it."""

    classes: int
    train: Split
    test: Split


def _check_arguments(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    validation: float,
    seed: int,
    limit: int | None,
    image_size: tuple[int, int] | None,
) -> None:
    if not isinstance(name, str) or not name:
        raise ValueError(_invalid("name", "the name of a data set", name))
    if data_dir is not None and Path(data_dir).is_file():
        raise ValueError(_invalid("data_dir", "a folder", data_dir))
    if not isinstance(validation, (int, float)) or not 0 <= validation < 1:
        raise ValueError(_invalid("validation", "a fraction in [0, 1)", validation))
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(_invalid("seed", "a non-negative integer", seed))
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(_invalid("limit", "None or a positive integer", limit))
    if image_size is not None and (
        not isinstance(image_size, (tuple, list))
        or len(image_size) != 2
        or not all(isinstance(side, int) and side > 0 for side in image_size)
    ):
        expected = "None or a pair (height, width) of positive integers"
        raise ValueError(_invalid("image_size", expected, image_size))


def _invalid(argument: str, expected: str, received: Any) -> str:
    return (
        f"Invalid value for argument `{argument}`. Expected {expected}. "
        f"Received: {argument}={received!r}"
    )


def _digits(image_size: tuple[int, int] | None) -> _Source:
    from sklearn.datasets import load_digits

    bundle = load_digits()
    images = (bundle.images[..., np.newaxis] / 16).astype("float32")
    if image_size is not None:
        images = np.array(_resize(image_size)(images))
    digits = Split(images, bundle.target.astype("int32"))
    train, test = _hold_out(digits, _TEST_FRACTION, _TEST_SEED)
    return _Source(10, train, test)


def _folder(root: Path, image_size: tuple[int, int] | None) -> _Source:
    if not root.is_dir():
        expected = "folder:PATH of an existing folder"
        raise ValueError(_invalid("name", expected, f"{_FOLDER}{root}"))
    import tensorflow_datasets as tfds

    return _read(tfds.ImageFolder(str(root)), f"{_FOLDER}{root}", image_size)


def _tfds(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    image_size: tuple[int, int] | None,
) -> _Source:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder

    folder = None if data_dir is None else os.fspath(Path(data_dir).expanduser())
    try:
        # What is prepared on disk comes first: it needs neither the set's own
        # code nor the version that this release of TFDS would download.
        builder = read_only_builder.builder_from_files(name, data_dir=folder)
    except (ValueError, AssertionError):
        try:
            builder = tfds.builder(name, data_dir=folder)
        except (ValueError, AssertionError, ImportError) as error:
            raise ValueError(
                _unknown(name, tfds.list_builders(with_community_datasets=False), error)
            ) from None
        _features(builder, name)
        _download(builder, name, folder)
    return _read(builder, name, image_size)


def _unknown(name: str, known: list[str], error: Exception) -> str:
    close = difflib.get_close_matches(name, ["digits", *known], n=5)
    hint = f". Did you mean one of {close}?" if close else ""
    return (
        _invalid("name", "'digits', 'folder:PATH' or a TensorFlow Datasets name", name)
        + f" ({_first_line(error)}){hint}"
    )


def _features(builder: Any, name: str) -> tuple[str, str]:
    """The names of the image and of the label feature."""
    import tensorflow_datasets as tfds

    features = builder.info.features or {}
    image, label = builder.info.supervised_keys or ("image", "label")
    if (
        image in features
        and label in features
        and isinstance(features[image], tfds.features.Image)
        and isinstance(features[label], tfds.features.ClassLabel)
    ):
        return image, label
    expected = "a set of images with one class label each"
    raise ValueError(_invalid("name", expected, name))


def _download(builder: Any, name: str, folder: str | None) -> None:
    import tensorflow_datasets as tfds

    try:
        # TFDS repeats a failing download for minutes; ask once, briefly, first.
        _probe(next(iter(builder.url_infos or {}), None))
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    except Exception as error:
        raise DatasetUnavailableError(
            f"The data set {name!r} is not prepared in "
            f"{folder or '~/tensorflow_datasets'} and cannot be downloaded "
            f"({_first_line(error)}). Pass the folder that holds a prepared copy "
            "as `data_dir` or in the environment variable TFDS_DATA_DIR, or "
            "prepare one where there is a network: "
            f"python -c \"import tensorflow_datasets as t; t.load('{name}')\". "
            "The set 'digits' needs neither."
        ) from None


def _probe(url: str | None) -> None:
    """Raises `OSError` if nothing answers at `url`."""
    if url is None or not url.startswith("http"):
        return
    request = urllib.request.Request(url, method="HEAD")
    # A server that dislikes the question is there all the same.
    with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(request, timeout=_PROBE_SECONDS).close()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _read(builder: Any, name: str, image_size: tuple[int, int] | None) -> _Source:
    """The splits of a prepared TFDS builder as arrays."""
    _, label = _features(builder, name)
    classes = builder.info.features[label].num_classes
    splits = builder.info.splits
    if "train" not in splits:
        expected = "a set with a training split"
        raise ValueError(_invalid("name", f"{expected}, not {sorted(splits)}", name))
    train = _read_split(builder, "train", name, image_size)
    for held_out in ("test", "validation"):
        if held_out in splits:
            return _Source(
                classes, train, _read_split(builder, held_out, name, image_size)
            )
    return _Source(classes, *_hold_out(train, _TEST_FRACTION, _TEST_SEED))


def _read_split(
    builder: Any, split: str, name: str, image_size: tuple[int, int] | None
) -> Split:
    import tensorflow as tf

    count = builder.info.splits[split].num_examples
    image_key, label_key = _features(builder, name)
    shape = builder.info.features[image_key].shape
    resize = None if image_size is None else _resize(image_size)
    if image_size is not None:
        shape = (*image_size, shape[-1])
    elif None in shape:
        raise ValueError(
            "Invalid value for argument `image_size`. Expected (height, width), "
            f"because the images of {name!r} differ in size. Received: image_size=None"
        )

    def pair(example: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        image = example[image_key]
        return image if resize is None else resize(image), example[label_key]

    stream = builder.as_dataset(split=split, shuffle_files=False)
    stream = stream.map(pair, tf.data.AUTOTUNE)
    images = np.empty((count, *shape), "float32")
    labels = np.empty(count, "int32")
    try:
        read = _fill(images, labels, stream)
    except tf.errors.OpError as error:
        read, reason = -1, _first_line(error)
    else:
        reason = f"{read} of {count} images found"
    if read != count:
        raise DatasetUnavailableError(
            f"The {split} split of {name!r} in {builder.data_dir} cannot be read "
            f"({reason}). Delete that folder and prepare the data set again."
        )
    return Split(images, labels)


def _fill(images: np.ndarray, labels: np.ndarray, stream: tf.data.Dataset) -> int:
    """Copies `stream` into the arrays, scaled to [0, 1]; returns the count."""
    done = 0
    for pixels, classes in stream.batch(_READ_BATCH).as_numpy_iterator():
        part = slice(done, done + len(classes))
        # By the integer's range, so that 8 and 16 bit images both end at 1.
        scale = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1
        np.divide(pixels, scale, out=images[part], casting="unsafe")
        labels[part] = classes
        done += len(classes)
    return done


def _resize(size: tuple[int, int]) -> Callable[[Any], Any]:
    """Resizes integer or float images; the result is float in [0, 1]."""
    import tensorflow as tf

    def resize(image: Any) -> Any:
        image = tf.image.convert_image_dtype(image, tf.float32)
        return tf.clip_by_value(tf.image.resize(image, size, antialias=True), 0, 1)

    return resize


def _hold_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Divides `split` class by class into what stays and what is held out."""
    order = np.random.default_rng(seed).permutation(len(split))
    held_out = np.zeros(len(split), bool)
    for label in np.unique(split.labels):
        members = order[split.labels[order] == label]
        held_out[members[: round(fraction * len(members))]] = True
    return _at(split, ~held_out), _at(split, held_out)


def _limited(split: Split, limit: int | None, seed: int) -> Split:
    if limit is None:
        return split
    if limit > len(split):
        expected = f"None or at most the {len(split)} training images there are"
        raise ValueError(_invalid("limit", expected, limit))
    order = np.random.default_rng(seed).permutation(len(split))
    return _at(split, np.sort(order[:limit]))


def _at(split: Split, index: np.ndarray) -> Split:
    return Split(split.images[index], split.labels[index])


def _pipeline(
    split: Split,
    batch_size: int,
    augment: str | None,
    shuffle: bool,
    seed: int,
    drop_remainder: bool,
) -> tf.data.Dataset:
    import tensorflow as tf

    with tf.device("CPU:0"):
        images, labels = tf.constant(split.images), tf.constant(split.labels)
    index = tf.data.Dataset.range(len(split))
    if shuffle:
        index = index.shuffle(len(split), seed=seed)
    index = index.batch(batch_size, drop_remainder=drop_remainder)
    # One pair of numbers a batch makes the augmentation repeatable however many
    # threads work on it.
    seeds = tf.data.Dataset.random(seed, rerandomize_each_iteration=True).batch(2)

    def batch(chosen: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pictures = tf.gather(images, chosen)
        if augment is not None:
            pictures = _shifted(pictures, noise)
        if augment == "standard":
            pictures = _mirrored(pictures, noise)
        return pictures, tf.gather(labels, chosen)

    pairs = tf.data.Dataset.zip(index, seeds)
    return pairs.map(batch, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


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
