"""Folders of images."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tfcompress._checks import invalid
from tfcompress.data._sets import (
    TEST_FRACTION,
    Published,
    Scale,
    Split,
    hold_out,
    resized,
)

__all__ = ["read_folder"]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp")
# Names of folders, and the splits that they are.
_SPLITS = {
    "train": "train",
    "test": "test",
    "val": "validation",
    "validation": "validation",
}
_SHOWN = 5


def read_folder(
    root: Path, image_size: tuple[int, int] | None, scale: Scale, skip_broken: bool
) -> Published:
    """Reads `root/<class>/…` or `root/<split>/<class>/…`."""
    if not root.is_dir():
        raise ValueError(
            invalid("name", "folder:PATH of an existing folder", str(root))
        )
    folders = _folders(root)
    # A class may be called "train", beside "bus" and "car".
    split_by_folder = "train" in folders and (
        bool(_folders(root / "train")) or set(folders) <= set(_SPLITS)
    )
    parts = {"": root}
    if split_by_folder:
        parts = {_SPLITS[name]: root / name for name in _SPLITS if name in folders}
    classes = sorted(_folders(next(iter(parts.values()))))
    if not classes:
        raise _nothing(root)
    reader = _Reader(root, image_size, scale, skip_broken)
    for place in parts.values():
        unknown = sorted(set(_folders(place)) - set(classes))
        if unknown:
            raise ValueError(
                f"Invalid value for argument `name`. Expected the classes {classes} in "
                f"{str(place)!r}, as in {str(parts['train'])!r}. Received: {unknown}"
            )
    read = {
        split: reader.split(place, classes, every_class=split in ("", "train"))
        for split, place in parts.items()
    }
    reader.refuse_broken()
    if not split_by_folder:
        samples = read[""]
        train, test = hold_out(samples, TEST_FRACTION, np.arange(len(samples)))
        if not len(test):
            raise ValueError(
                "Invalid value for argument `name`. Expected a folder with at least 2 "
                "images in a class, a fifth of which is kept for testing. Received: "
                f"{str(root)!r} with {len(samples)} images in {len(classes)} classes"
            )
        return Published(len(classes), train, test, skipped=tuple(reader.skipped))
    train = read["train"]
    if "test" in read:
        validation, test = read.get("validation"), read["test"]
    elif "validation" in read:
        validation, test = None, read["validation"]
    else:
        validation = None
        train, test = hold_out(train, TEST_FRACTION, np.arange(len(train)))
    return Published(len(classes), train, test, validation, tuple(reader.skipped))


class _Reader:
    """Reads pictures of one size and collects those that cannot be read."""

    def __init__(
        self,
        root: Path,
        image_size: tuple[int, int] | None,
        scale: Scale,
        skip_broken: bool,
    ) -> None:
        self._root = root
        self._resize = None if image_size is None else resized(image_size)
        self._scale = scale
        self._skip_broken = skip_broken
        self._decode = _decoder()
        self._first: tuple[Path, tuple[int, ...]] | None = None
        self.skipped: list[str] = []

    @property
    def _must_refuse(self) -> bool:
        """Whether a picture was left out that must not be."""
        return bool(self.skipped) and not self._skip_broken

    def split(self, place: Path, classes: Sequence[str], *, every_class: bool) -> Split:
        """The pictures of all classes, mixed."""
        images, labels, names = [], [], []
        for label, name in enumerate(classes):
            for path in _pictures(place / name):
                image = self._read(path)
                if image is not None:
                    images.append(image)
                    labels.append(label)
                    names.append(str(path.relative_to(place)))
            missing = label not in labels and not self._must_refuse
            if missing and every_class:
                raise _nothing(place / name)
        if not images and not self._must_refuse:
            raise _nothing(place)
        values = np.empty(
            (len(images), *(images[0].shape if images else ())), "float32"
        )
        # Not class by class: the first images are a sample of all.
        order = _by_hash(names)
        for row, index in zip(values, order, strict=True):
            row[...] = images[index]
        if self._scale == "unit" and self._resize is None:
            values /= 255
        elif self._scale == "none" and self._resize is not None:
            values *= 255
        return Split(values, np.array(labels, "int32")[order])

    def refuse_broken(self) -> None:
        """Raises if a picture was left out that must not be."""
        if not self._must_refuse:
            return
        shown = "; ".join(self.skipped[:_SHOWN])
        more = len(self.skipped) - _SHOWN
        raise ValueError(
            "Invalid value for argument `name`. Expected a folder of images. Received: "
            f"{len(self.skipped)} files that cannot be read: {shown}"
            + (f"; and {more} more" if more > 0 else "")
            + ". Remove them, or pass skip_broken=True to leave them out."
        )

    def _read(self, path: Path) -> np.ndarray | None:
        """A picture as uint8, or as float in [0, 1] where it was resized."""
        try:
            image = self._decode(_content(path))
        except (OSError, ValueError) as error:
            self.skipped.append(f"{path} ({error})")
            return None
        if self._resize is not None:
            return self._resize((image / np.float32(255))[np.newaxis])[0]
        if self._first is None:
            self._first = (path, image.shape)
        first, shape = self._first
        if shape != image.shape:
            one, other = (f"{s[0]}×{s[1]} pixels" for s in (shape, image.shape))
            raise ValueError(
                "Invalid value for argument `image_size`. Expected (height, width), "
                f"because the images differ in size: {first} has {one}, {path} has "
                f"{other}. Received: image_size=None"
            )
        return image


def _content(path: Path) -> bytes:
    if path.name.startswith("._"):
        raise ValueError("a resource file of macOS, no image")
    try:
        content = path.read_bytes()
    except OSError as error:
        broken = path.is_symlink() and not path.exists()
        reason = "a link to nothing" if broken else error.strerror
        raise ValueError(str(reason)) from error
    if not content:
        raise ValueError("an empty file")
    return content


def _decoder() -> Callable[[bytes], np.ndarray]:
    """What turns a file's content into a uint8 array (height, width, 3)."""
    if importlib.util.find_spec("tensorflow") is not None:
        import tensorflow as tf

        def decode(content: bytes) -> np.ndarray:
            try:
                with tf.device("CPU:0"):
                    return tf.io.decode_image(
                        content, channels=3, expand_animations=False
                    ).numpy()
            except tf.errors.OpError as error:
                raise ValueError(_first_line(error)) from error

        return decode
    if importlib.util.find_spec("PIL") is not None:
        from PIL import Image

        def open_image(content: bytes) -> np.ndarray:
            with Image.open(io.BytesIO(content)) as image:
                if image.mode.startswith("I"):
                    # 16 bits of gray, which `convert` cuts off at 255 instead of
                    # taking their upper half, as it does of 16 bits of color.
                    gray = np.clip(np.asarray(image).astype("int64") >> 8, 0, 255)
                    return np.repeat(gray.astype("uint8")[..., np.newaxis], 3, axis=-1)
                return np.asarray(image.convert("RGB"))

        return open_image
    raise ImportError(
        "Expected TensorFlow or Pillow, which read images. Install one of them: "
        "`pip install pillow`."
    )


def _first_line(error: Exception) -> str:
    """What TensorFlow says, without the name of its operation."""
    text = getattr(error, "message", str(error)).strip()
    return text.rpartition("} ")[2].partition("\n")[0] or type(error).__name__


def _folders(place: Path) -> list[str]:
    """Folders, without those that systems hide or add."""
    return [
        entry.name
        for entry in os.scandir(place)
        if entry.is_dir() and not entry.name.startswith((".", "__"))
    ]


def _pictures(place: Path) -> list[Path]:
    """All files below a folder that are named as images are."""
    if not place.is_dir():
        return []
    return sorted(
        Path(folder) / name
        for folder, _, names in os.walk(place)
        for name in names
        if name.lower().endswith(_SUFFIXES)
    )


def _by_hash(names: Sequence[str]) -> np.ndarray:
    """The order of the hashes of names."""
    # The hash of a name does not depend on the other files: photos that are added
    # later take their own places, and nearly all of the old ones stay in their split.
    # A shuffle by seed would draw a new split, with training images in the test set.
    hashes = [hashlib.sha256(Path(name).as_posix().encode()).digest() for name in names]
    return np.array(sorted(range(len(names)), key=hashes.__getitem__), "int64")


def _nothing(place: Path) -> ValueError:
    return ValueError(
        "Invalid value for argument `name`. Expected a folder of images, one folder "
        "for each class (PATH/<class>/… or PATH/train/<class>/…, "
        f"{', '.join(_SUFFIXES)}). Received: {str(place)!r} without an image"
    )
