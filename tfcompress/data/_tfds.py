"""Image-classification sets of TensorFlow Datasets."""

from __future__ import annotations

import contextlib
import difflib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfcompress._checks import invalid
from tfcompress.data._sets import (
    TEST_FRACTION,
    TEST_SEED,
    DatasetUnavailableError,
    Published,
    Scale,
    Split,
    hold_out,
)

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = ["read_tfds"]

_PROBE_SECONDS = 10
_READ_BATCH = 1024
_PARALLEL = 2
_OWN = ("digits", "folder:PATH", "npz:FILE", "csv:FILE")


def read_tfds(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    image_size: tuple[int, int] | None,
    scale: Scale,
) -> Published:
    """Reads a prepared set, or downloads it."""
    try:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core import read_only_builder
    except ImportError as error:
        raise ImportError(
            f"Expected TensorFlow Datasets, which knows {name!r}. Install it with "
            "`pip install tensorflow tensorflow-datasets`, or load "
            f"{', '.join(map(repr, _OWN))}."
        ) from error

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
    return _read(builder, name, image_size, scale)


def _unknown(name: str, known: list[str], error: Exception) -> str:
    expected = f"{', '.join(map(repr, _OWN))} or a TensorFlow Datasets name"
    prefix = _prefix(name)
    if prefix is not None:
        return f"{invalid('name', expected, name)}. Did you mean {prefix + name!r}?"
    close = difflib.get_close_matches(name, ["digits", *known], n=5, cutoff=0.7)
    hint = f". Did you mean one of {close}?" if close else ""
    return f"{invalid('name', expected, name)} ({_first_line(error)}){hint}"


def _prefix(name: str) -> str | None:
    """What is missing before the path of a folder or file."""
    path = Path(name).expanduser()
    for suffix in ("npz", "csv"):
        if path.suffix.lower() == f".{suffix}":
            return f"{suffix}:"
    return "folder:" if path.is_dir() else None


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
    raise ValueError(invalid("name", expected, name))


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


def _read(
    builder: Any, name: str, image_size: tuple[int, int] | None, scale: Scale
) -> Published:
    """The splits of a prepared TFDS builder as arrays."""
    _, label = _features(builder, name)
    classes = builder.info.features[label].num_classes
    splits = builder.info.splits
    if "train" not in splits:
        expected = "a set with a training split"
        raise ValueError(invalid("name", f"{expected}, not {sorted(splits)}", name))
    train = _read_split(builder, "train", name, image_size, scale)
    for held_out in ("test", "validation"):
        if held_out in splits:
            test = _read_split(builder, held_out, name, image_size, scale)
            return Published(classes, train, test)
    order = np.random.default_rng(TEST_SEED).permutation(len(train))
    return Published(classes, *hold_out(train, TEST_FRACTION, order))


def _read_split(
    builder: Any,
    split: str,
    name: str,
    image_size: tuple[int, int] | None,
    scale: Scale,
) -> Split:
    import tensorflow as tf

    count = builder.info.splits[split].num_examples
    image_key, label_key = _features(builder, name)
    shape = builder.info.features[image_key].shape
    resize = None if image_size is None else _resize(image_size, scale)
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
    stream = stream.map(pair, _PARALLEL)
    images = np.empty((count, *shape), "float32")
    labels = np.empty(count, "int32")
    try:
        read = _fill(images, labels, stream, scale)
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


def _fill(
    images: np.ndarray, labels: np.ndarray, stream: tf.data.Dataset, scale: Scale
) -> int:
    """Copies `stream` into the arrays, scaled as asked; returns the count."""
    done = 0
    for pixels, classes in stream.batch(_READ_BATCH).as_numpy_iterator():
        part = slice(done, done + len(classes))
        # By the integer's range, so that 8 and 16 bit images both end at 1.
        whole = scale == "unit" and pixels.dtype.kind == "u"
        largest = np.iinfo(pixels.dtype).max if whole else 1
        np.divide(pixels, largest, out=images[part], casting="unsafe")
        labels[part] = classes
        done += len(classes)
    return done


def _resize(size: tuple[int, int], scale: Scale) -> Callable[[Any], Any]:
    """Resizes integer or float images; the result is float, scaled as asked."""
    import tensorflow as tf

    def resize(image: Any) -> Any:
        largest = image.dtype.max if scale == "none" and image.dtype.is_integer else 1
        image = tf.image.convert_image_dtype(image, tf.float32)
        image = tf.image.resize(image, size, antialias=True)
        return tf.clip_by_value(image, 0, 1) * largest

    return resize
