"""What was loaded: splits of a set, and how they are drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tfcompress._checks import invalid, one_of, whole
from tfcompress.data._pipeline import pipeline

__all__ = [
    "SPLITS",
    "TEST_FRACTION",
    "TEST_SEED",
    "Dataset",
    "DatasetUnavailableError",
    "Published",
    "Scale",
    "Split",
    "at",
    "hold_out",
    "resized",
]

SPLITS = ("train", "validation", "test")
# Fraction of the samples kept for testing where a set has no test split. It does
# not depend on the seed, so that results with different seeds can be compared.
TEST_FRACTION = 0.2
TEST_SEED = 0

Scale = Literal["unit", "none"]


class DatasetUnavailableError(OSError):
    """A data set exists, but neither on this machine nor within its reach."""


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Samples and their labels.

    Attributes:
        images: float32 array (n, height, width, channels), values in [0, 1] unless
            loaded with `scale="none"`; from a file also an array (n, …), or several
            in a dict by the name of the input.
        labels: int32 array (n,), class numbers from 0; float32 (n, …) where they
            are no classes.
    """

    images: Any
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Split({len(self)} images)"


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A labeled set in memory.

    Attributes:
        name: the name that it was loaded by.
        classes: number of classes; 0 if the labels are not classes.
        train: the samples to learn from.
        validation: samples held out of the training set, to choose by.
        test: the samples to report on.
        skipped: files of a folder that were left out, with the reason.
    """

    name: str
    classes: int
    train: Split
    validation: Split
    test: Split
    skipped: tuple[str, ...] = ()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (height, width, channels) of an image.

        Raises:
            ValueError: if a sample is several arrays.
        """
        if isinstance(self.train.images, Mapping):
            raise ValueError(
                f"{self!r} has several inputs: {', '.join(self.train.images)}. Read "
                "the shapes from train.images."
            )
        return tuple(self.train.images.shape[1:])

    def __repr__(self) -> str:
        images = self.train.images
        named = images if isinstance(images, Mapping) else {"": images}
        shape = ", ".join(
            f"{name} {'×'.join(map(str, array.shape[1:]))}".strip()
            for name, array in named.items()
        )
        sizes = ", ".join(f"{len(getattr(self, split))} {split}" for split in SPLITS)
        left_out = f"; {len(self.skipped)} files left out" if self.skipped else ""
        about = f"{shape}, {self.classes} classes; {sizes}{left_out}"
        return f"Dataset({self.name!r}: {about})"

    def pipeline(
        self,
        split: Literal["train", "validation", "test"] = "train",
        *,
        batch_size: int = 128,
        augment: Literal["standard", "shift"] | None = None,
        shuffle: bool | None = None,
        seed: int = 0,
        initial_epoch: int = 0,
        drop_remainder: bool = False,
    ) -> Any:
        """Batches of one split, as `fit` takes them.

        Every complete pass is shuffled and augmented anew. What the n-th pass
        looks like depends on `seed` and n alone: a training run that is resumed at
        epoch n with `initial_epoch=n` sees what it would have seen without the
        interruption, and so does a run with another pipeline of the same seed.
        Reading only the beginning of a pass does not count.

        Whole batches are gathered and augmented at once, so that feeding costs
        little beside training.

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
            batch_size: samples in a batch. Defaults to 128.
            augment: `"standard"` shifts each image by up to an eighth of its
                size in both directions (4 pixels at 32×32, the borders filled
                with zeros) and mirrors half of them left to right; `"shift"`
                only shifts, for images such as digits, whose class a mirror
                changes. Defaults to `None`, the images as they are.
            shuffle: whether to shuffle. Defaults to `None`: the training split
                only.
            seed: seed of shuffling and augmentation. Defaults to 0.
            initial_epoch: number of the first pass, as for `fit`. Defaults to 0.
            drop_remainder: whether to leave out a last, smaller batch.
                Defaults to `False`.

        Returns:
            With Keras on TensorFlow a prefetched `tf.data.Dataset`, on another
            backend a `keras.utils.PyDataset` (for which `fit` needs
            `shuffle=False`, otherwise it puts the batches into an order of its
            own; its `skip_passes(n)` leaves out n passes), of pairs (images,
            labels): float32 (batch, height, width, channels) and int32 (batch,).

        Raises:
            TypeError: if an argument is of another kind.
            ValueError: for an unknown or empty split, an unknown augmentation, one
                of samples that are not images, or a number out of range.
        """
        one_of("split", split, SPLITS)
        whole("batch_size", batch_size)
        one_of("augment", augment, (None, "standard", "shift"))
        whole("seed", seed, least=0)
        whole("initial_epoch", initial_epoch, least=0)
        chosen: Split = getattr(self, split)
        if not len(chosen):
            raise ValueError(
                f"Invalid value for argument `split`. Expected a split with images. "
                f"Received: split={split!r}, which is empty in {self!r}. Load the "
                "data with a larger `validation`."
            )
        if augment is not None and (
            isinstance(chosen.images, Mapping) or chosen.images.ndim != 4
        ):
            raise ValueError(
                invalid("augment", f"None for {self!r}, no images", augment)
            )
        return pipeline(
            chosen.images,
            chosen.labels,
            batch_size=batch_size,
            augment=augment,
            shuffle=split == "train" if shuffle is None else bool(shuffle),
            seed=seed,
            epoch=initial_epoch,
            drop_remainder=drop_remainder,
        )


@dataclass(frozen=True)
class Published:
    """A set as its publisher splits it."""

    classes: int
    train: Split
    test: Split
    validation: Split | None = None
    skipped: tuple[str, ...] = ()


def at(split: Split, index: np.ndarray) -> Split:
    """The samples of `split` at `index`."""
    if isinstance(split.images, Mapping):
        images: Any = {name: array[index] for name, array in split.images.items()}
    else:
        images = split.images[index]
    return Split(images, split.labels[index])


def hold_out(split: Split, fraction: float, order: np.ndarray) -> tuple[Split, Split]:
    """Divides `split` class by class into what stays and what is held out.

    Args:
        split: the samples.
        fraction: how much of each class is held out, at least one sample of two;
            of everything if the labels are not classes.
        order: permutation of the samples; the first of a class are held out.
    """
    # Class by class, so that a rare class is in both parts and shares stay the same.
    # The samples keep their order in either part; `order` decides only who goes.
    held_out = np.zeros(len(split), bool)
    classes = split.labels.dtype.kind == "i" and split.labels.ndim == 1
    for members in (
        (order[split.labels[order] == label] for label in np.unique(split.labels))
        if classes
        else (order,)
    ):
        count = round(fraction * len(members))
        if fraction and len(members) > 1:
            count = min(max(count, 1), len(members) - 1)
        held_out[members[:count]] = True
    return at(split, ~held_out), at(split, held_out)


def resized(size: tuple[int, int]) -> Callable[[np.ndarray], np.ndarray]:
    """A function that resizes float images in [0, 1]."""
    import keras

    def resize(images: np.ndarray) -> np.ndarray:
        large = keras.ops.image.resize(
            images, size, antialias=True, data_format="channels_last"
        )
        return np.clip(keras.ops.convert_to_numpy(large), 0, 1)

    return resize
