"""Loading a set by its name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress._checks import flag, fraction, invalid, one_of, whole
from tfcompress.data._arrays import read_csv, read_npz
from tfcompress.data._folder import read_folder
from tfcompress.data._sets import (
    TEST_FRACTION,
    TEST_SEED,
    Dataset,
    Published,
    Scale,
    Split,
    at,
    hold_out,
    resized,
)

__all__ = ["load"]


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    validation: float = 0.1,
    seed: int = 0,
    *,
    limit: int | None = None,
    image_size: tuple[int, int] | None = None,
    scale: Scale = "unit",
    skip_broken: bool = False,
) -> Dataset:
    """Loads a labeled set into memory, with fixed splits.

    - `"digits"` is scikit-learn's bundled set of 1 797 handwritten digits (8×8
      gray); it needs neither network nor folder.
    - `"folder:PATH"` reads PNG, JPEG, GIF, BMP and WebP images as `PATH/<class>/…` or
      `PATH/<split>/<class>/…` with the splits `train`, `test` and `validation`
      (or `val`).
    - `"npz:FILE"` reads the arrays `x` and `y`; or `x_train`, `y_train`, `x_test`
      and `y_test`; or, for several inputs, `y` and any other names.
    - `"csv:FILE"` reads a table with a header line, a column `label` (or `y`) and
      numbers in all other columns.
    - Any other name is looked up among TensorFlow Datasets: first among the sets
      prepared in the data folder, then by download. A file `NAME.npz` in that folder,
      as above, takes its place, for machines without TensorFlow.

    Images become float32 in [0, 1], in RGB where they come from a folder. The
    validation split is taken out of the training samples, class by class, by
    `seed`; a folder that has `validation` beside `test` uses it instead. A set
    without a test split is tested on its own validation split if it has one,
    otherwise on a fifth of its samples, the same for every seed; in a folder those
    are drawn by the hash of the image's name, so that further images do not mix up
    the old ones.

    Example:

    ```python
    data = tfc.data.load("digits")
    model = tfc.zoo.lenet5(input_shape=data.input_shape, classes=data.classes)
    photos = tfc.data.load("folder:photos", image_size=(96, 96))
    ```

    Args:
        name: see above, such as `"mnist"` or `"folder:photos"`.
        data_dir: folder of prepared TensorFlow Datasets. Defaults to `None`:
            the environment variable `TFDS_DATA_DIR`, or else TensorFlow
            Datasets' own default, `~/tensorflow_datasets`.
        validation: fraction of the training samples held out for validation, in
            [0, 1). Defaults to 0.1.
        seed: seed of the validation split and of `limit`. Defaults to 0.
        limit: number of training samples to keep, drawn by `seed`; a smaller
            limit draws a subset of a larger one. Validation and test samples
            stay as they are. Defaults to `None`, all.
        image_size: (height, width) that images are resized to; needed for sets
            whose images differ in size. Defaults to `None`, as they are.
        scale: `"unit"` divides whole numbers without sign by the largest of their
            type (255 for most images; 16 for the digits), `"none"` leaves values
            as they are, for models that scale their input themselves. Defaults to
            `"unit"`.
        skip_broken: whether images of a folder that cannot be read are left out;
            `Dataset.skipped` names them. Defaults to `False`, which refuses them.

    Returns:
        The `Dataset`.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if an argument is out of range, the name is unknown, the
            set does not classify images, or a file cannot be read.
        DatasetUnavailableError: if the set is neither prepared in the data
            folder nor can be downloaded.
    """
    _check_arguments(name, data_dir, validation, seed, limit, image_size)
    one_of("scale", scale, ("unit", "none"))
    flag("skip_broken", skip_broken)
    kind, _, place = name.partition(":")
    if name == "digits":
        source = _digits(image_size, scale)
    elif kind == "folder":
        source = read_folder(Path(place).expanduser(), image_size, scale, skip_broken)
    elif kind in ("npz", "csv"):
        reader = read_npz if kind == "npz" else read_csv
        source = reader(Path(place).expanduser(), scale)
        _check_size(name, source, image_size)
    else:
        folder = data_dir or os.environ.get("TFDS_DATA_DIR")
        arrays = Path(folder).expanduser() / f"{name}.npz" if folder else None
        if arrays and arrays.is_file():
            source = read_npz(arrays, scale)
            _check_size(name, source, image_size)
        else:
            from tfcompress.data._tfds import read_tfds

            source = read_tfds(name, folder, image_size, scale)
    if source.validation is not None:
        train, held_out = source.train, source.validation
    else:
        order = np.random.default_rng(seed).permutation(len(source.train))
        train, held_out = hold_out(source.train, validation, order)
    return Dataset(
        name=name,
        classes=source.classes,
        train=_limited(train, limit, seed),
        validation=held_out,
        test=source.test,
        skipped=source.skipped,
    )


def _check_arguments(
    name: Any, data_dir: Any, validation: Any, seed: Any, limit: Any, image_size: Any
) -> None:
    if not isinstance(name, str):
        raise TypeError(invalid("name", "the name of a data set", name))
    if not name:
        raise ValueError(invalid("name", "the name of a data set", name))
    if data_dir is not None and Path(data_dir).is_file():
        raise ValueError(invalid("data_dir", "a folder", data_dir))
    fraction("validation", validation, zero=True, one=False)
    whole("seed", seed, least=0)
    if limit is not None:
        whole("limit", limit)
    if image_size is not None:
        expected = "None or a pair (height, width) of positive integers"
        if not isinstance(image_size, tuple | list):
            raise TypeError(invalid("image_size", expected, image_size))
        if len(image_size) != 2:
            raise ValueError(invalid("image_size", expected, image_size))
        for side in image_size:
            whole("image_size", side)


def _check_size(
    name: str, source: Published, image_size: tuple[int, int] | None
) -> None:
    own = getattr(source.train.images, "shape", ())[1:3]
    if image_size is not None and tuple(image_size) != own:
        expected = f"None or the size of the images of {name!r}, {own}"
        raise ValueError(invalid("image_size", expected, image_size))


def _digits(image_size: tuple[int, int] | None, scale: Scale) -> Published:
    from sklearn.datasets import load_digits

    bundle = load_digits()
    images = (bundle.images[..., np.newaxis] / 16).astype("float32")
    if image_size is not None:
        images = resized(image_size)(images)
    if scale == "none":
        images = images * 16
    digits = Split(images, bundle.target.astype("int32"))
    order = np.random.default_rng(TEST_SEED).permutation(len(digits))
    return Published(10, *hold_out(digits, TEST_FRACTION, order))


def _limited(split: Split, limit: int | None, seed: int) -> Split:
    if limit is None:
        return split
    if limit > len(split):
        expected = f"None or at most the {len(split)} training images there are"
        raise ValueError(invalid("limit", expected, limit))
    # Drawn after validation was held out, which therefore is the same for every limit.
    # The first entries of one permutation: a smaller limit is a subset of a larger one.
    order = np.random.default_rng(seed).permutation(len(split))
    return at(split, np.sort(order[:limit]))
