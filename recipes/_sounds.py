"""Sounds as data: spoken words from TensorFlow Datasets, machines from a folder."""

import dataclasses
import os
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import tfcompress as tfc

RATE = 16_000
SPLITS = ("train", "validation", "test")

# Windows of MLPerf Tiny's anomaly detection: five frames of 128 bands.
FRAME, STEP, BANDS, FRAMES = 1024, 512, 128, 5
MIDDLE = slice(50, 250)
NORMAL, ANOMALY = "normal_", "anomaly_"
HELD_OUT = 0.1


# Spoken words ------------------------------------------------------------------------


def speech(name: str, data_dir: str | None, limit: int | None) -> tfc.data.Dataset:
    """A TFDS set of spoken words as cepstral coefficients.

    Each clip is divided by its largest sample and padded to one second, as in MLPerf
    Tiny's reference code. Background noise, which that code mixes into the training
    clips, is not added.

    Args:
        name: name of the set; it has to be prepared.
        data_dir: folder of prepared sets; `None` for `TFDS_DATA_DIR`, or the default
            of TFDS.
        limit: number of training clips to keep; `None` keeps all.

    Returns:
        Images are (49, 10, 1), classes those of the set.

    Raises:
        ValueError: if the set does not fit.
        DatasetUnavailableError: if it is not there.
    """
    builder = _prepared(name, data_dir)
    features = builder.info.features
    if not {"audio", "label"} <= set(features) or {*SPLITS} - {*builder.info.splits}:
        raise ValueError(
            "Invalid value for argument `dataset`. Expected a set of sounds `audio` "
            f"with a class `label`, split into {', '.join(SPLITS)}. Received: "
            f"dataset={name!r}, features {sorted(features)}, splits "
            f"{sorted(builder.info.splits)}"
        )
    rate = getattr(features["audio"], "sample_rate", None) or RATE
    if rate != RATE:
        raise ValueError(
            f"Invalid value for argument `dataset`. Expected sounds of {RATE} samples "
            f"a second. Received: dataset={name!r} of {rate}"
        )
    parts = {}
    for split in SPLITS:
        print(f"Reading {name}: {split}", flush=True)
        parts[split] = _words(builder, split)
    parts["train"] = _limited(parts["train"], limit)
    return tfc.data.Dataset(name=name, classes=features["label"].num_classes, **parts)


def _prepared(name: str, data_dir: str | None) -> Any:
    import tensorflow_datasets as tfds

    folder = data_dir or os.environ.get("TFDS_DATA_DIR")
    folder = None if folder is None else str(Path(folder).expanduser())
    try:
        builder = tfds.builder(name, data_dir=folder)
    except (ValueError, AssertionError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            "Invalid value for argument `dataset`. Expected the name of a TFDS set, or "
            f"npz:FILE of features. Received: dataset={name!r} ({reason})"
        ) from error
    if not builder.info.splits:
        raise tfc.data.DatasetUnavailableError(
            f"The data set {name!r} is not prepared in "
            f"{folder or '~/tensorflow_datasets'}. Pass the folder that holds a "
            "prepared copy as --data_dir or in the environment variable "
            "TFDS_DATA_DIR, or prepare one where there is a network: python -c "
            f"\"import tensorflow_datasets as t; t.load('{name}')\" "
            "(speech_commands needs `pip install pydub` for that)."
        )
    return builder


def _words(builder: Any, split: str) -> tfc.data.Split:
    """A split as features, and numbers of the words."""
    import tensorflow as tf

    def second(example: dict[str, Any]) -> tuple[Any, Any]:
        sound = tf.cast(example["audio"], tf.float32)[:RATE]
        # Digital silence has no largest sample to divide by.
        largest = tf.reduce_max(tf.concat([sound, [0.0]], 0))
        sound = sound / tf.where(largest > 0, largest, 1.0)
        sound = tf.pad(sound, [[0, RATE - tf.shape(sound)[0]]])
        return tf.ensure_shape(sound, (RATE,)), example["label"]

    stream = builder.as_dataset(split=split, shuffle_files=False).map(second)
    images, labels = [], []
    for sounds, words in stream.batch(256).as_numpy_iterator():
        images.append(tfc.data.mfcc(sounds))
        labels.append(words.astype("int32"))
    return tfc.data.Split(np.concatenate(images), np.concatenate(labels))


def _limited(split: tfc.data.Split, limit: int | None) -> tfc.data.Split:
    """The first samples in an order that never changes; all without a limit."""
    if limit is None:
        return split
    if limit > len(split):
        raise ValueError(
            "Invalid value for argument `limit`. Expected none, or at most the "
            f"{len(split)} training samples there are. Received: limit={limit}"
        )
    kept = np.sort(np.random.default_rng(0).permutation(len(split))[:limit])
    return tfc.data.Split(split.images[kept], split.labels[kept])


# Machines ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Machines:
    """Sounds of machines as windows, from clips that are normal or not.

    Attributes:
        data: windows (n, 640) as inputs and as labels, what an autoencoder learns;
            training and validation have normal sounds only.
        clip: the clip that each window for testing is from.
        anomaly: whether each clip for testing is one.
        machine: the machine of each clip for testing.
    """

    data: tfc.data.Dataset
    clip: np.ndarray
    anomaly: np.ndarray
    machine: np.ndarray


def machines(name: str, limit: int | None) -> Machines:
    """Reads `npz:FILE` of windows, or `folder:PATH` of sounds.

    The file has `x_train` (clips, windows, 640) of normal sounds, `x_test` (clips,
    windows, 640), `y_test` (clips,), which is 1 for an anomaly, and, where there are
    several machines, `machine_test` (clips,). The folder has `train/*.wav` and
    `test/*.wav`, whose names begin with `normal_` or `anomaly_`, and may name the
    machine as `id_01`: what DCASE 2020's task 2 publishes.

    Args:
        name: see above.
        limit: number of clips to learn from; `None` takes all.

    Raises:
        ValueError: if the data do not fit.
    """
    kind, _, place = name.partition(":")
    path = Path(place).expanduser()
    if kind == "npz":
        train, test, anomaly, machine = _from_file(path)
    elif kind == "folder":
        train, test, anomaly, machine = _from_folder(path)
    else:
        raise _refused("npz:FILE of windows, or folder:PATH of .wav files", name)
    for number in np.unique(machine):
        if len(np.unique(anomaly[machine == number])) < 2:
            expected = "normal clips and anomalies for testing, of each machine"
            raise _refused(expected, f"{name!r}, where {number!r} has only one kind")
    if len(train) < 2:
        raise _refused("at least 2 clips to learn from", f"{name!r} with {len(train)}")
    # Whole clips are held out: the windows of one overlap.
    order = np.random.default_rng(0).permutation(len(train))
    count = max(1, round(HELD_OUT * len(train)))
    held_out, rest = order[:count], order[count:]
    if limit is not None and limit > len(rest):
        expected = f"none, or at most the {len(rest)} clips there are"
        raise _refused(expected, limit, "limit")
    parts = {
        "train": [train[i] for i in np.sort(rest[:limit])],
        "validation": [train[i] for i in np.sort(held_out)],
        "test": test,
    }
    splits = {split: _windows(clips) for split, clips in parts.items()}
    return Machines(
        tfc.data.Dataset(name=name, classes=0, **splits),
        np.repeat(np.arange(len(test)), [len(windows) for windows in test]),
        anomaly,
        machine,
    )


def _windows(clips: Any) -> tfc.data.Split:
    windows = np.concatenate(list(clips))
    return tfc.data.Split(windows, windows)


def _refused(expected: str, received: Any, name: str = "dataset") -> ValueError:
    return ValueError(
        f"Invalid value for argument `{name}`. Expected {expected}. Received: "
        f"{name}={received}"
    )


def _from_file(path: Path) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    names = ("x_train", "x_test", "y_test")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        reason = str(error).partition("\n")[0]
        expected = "npz:FILE of a file that can be read"
        raise _refused(expected, f"'npz:{path}' ({reason})") from error
    if missing := [name for name in names if name not in arrays]:
        raise _refused(
            f"the arrays {', '.join(names)}", f"'npz:{path}' without {missing}"
        )
    for name in ("x_train", "x_test"):
        shape = arrays[name].shape
        if len(shape) != 3 or shape[2] != FRAMES * BANDS or not shape[1]:
            expected = f"`{name}` of the shape (clips, windows, {FRAMES * BANDS})"
            raise _refused(expected, f"'npz:{path}' with {shape}")
    count = len(arrays["x_test"])
    machine = arrays.get("machine_test", np.zeros(count, int))
    for name, labels in (("y_test", arrays["y_test"]), ("machine_test", machine)):
        if labels.shape != (count,):
            expected = f"`{name}` with one entry for each of {count} clips"
            raise _refused(expected, f"'npz:{path}' with the shape {labels.shape}")
    if not np.isin(arrays["y_test"], (0, 1)).all():
        expected = "`y_test` of 0, normal, and 1, anomaly"
        raise _refused(expected, f"'npz:{path}' with others")
    train, test = (arrays[n].astype("float32") for n in ("x_train", "x_test"))
    return train, test, arrays["y_test"].astype(bool), machine


def _from_folder(path: Path) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    found = {part: sorted((path / part).glob("*.wav")) for part in ("train", "test")}
    for part, files in found.items():
        if not files:
            expected = "folder:PATH with sounds PATH/train/*.wav and PATH/test/*.wav"
            raise _refused(expected, f"'folder:{path}' without {part}/*.wav")
    for file in found["train"]:
        if file.name.startswith(ANOMALY):
            raise _refused("normal sounds only to learn from", f"{str(file)!r}")
    for file in found["test"]:
        if not file.name.startswith((NORMAL, ANOMALY)):
            expected = f"names in test/ that begin with {NORMAL!r} or {ANOMALY!r}"
            raise _refused(expected, f"{str(file)!r}")
    machine = [re.search(r"id_\d+", file.name) for file in found["test"]]
    anomaly = [file.name.startswith(ANOMALY) for file in found["test"]]
    print(f"Reading {sum(map(len, found.values()))} sounds in {path}", flush=True)
    train, test = (_read(found[part]) for part in ("train", "test"))
    names = [match.group() if match else "" for match in machine]
    return train, test, np.array(anomaly), np.array(names)


def _read(files: Iterable[Path]) -> list[np.ndarray]:
    """The windows of each file."""
    import tensorflow as tf

    clips = []
    for file in files:
        try:
            sound, rate = tf.audio.decode_wav(file.read_bytes(), desired_channels=1)
        except tf.errors.OpError as error:
            reason = error.message.partition("\n")[0]
            raise _refused(
                "sounds in 16-bit .wav", f"{str(file)!r} ({reason})"
            ) from None
        if int(rate) != RATE:
            expected = f"sounds of {RATE} samples a second"
            raise _refused(expected, f"{str(file)!r} of {int(rate)}")
        windows = log_mel_windows(sound.numpy()[:, 0])
        if not len(windows):
            expected = "sounds of at least 1.8 seconds"
            raise _refused(expected, f"{str(file)!r} of {len(sound) / RATE:.2f}")
        clips.append(windows)
    return clips


def log_mel_windows(sound: np.ndarray) -> np.ndarray:
    """Windows (n, 640) of a sound (samples,): each five frames of 128 bands.

    What MLPerf Tiny's reference computes with librosa's defaults: frames of 64 ms every
    32 ms, centered at multiples of that; power in bands of Slaney's mel scale, in
    decibels; frames 50 to 249 only.
    """
    padded = np.pad(sound.astype("float64"), FRAME // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::STEP][MIDDLE]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)
    power = np.abs(np.fft.rfft(frames * hann)) ** 2
    mel = 10 * np.log10(power @ slaney(BANDS, FRAME, RATE) + np.finfo(float).eps)
    if len(mel) < FRAMES:
        return np.empty((0, FRAMES * BANDS), "float32")
    flat = mel.astype("float32").ravel()
    return np.lib.stride_tricks.sliding_window_view(flat, FRAMES * BANDS)[::BANDS]


def slaney(bands: int, length: int, rate: int) -> np.ndarray:
    """Weights (length // 2 + 1, bands): triangles of area one on Slaney's mel scale."""
    edges = slaney_frequencies(bands + 2, rate / 2)
    bins = np.arange(length // 2 + 1)[:, None] * rate / length
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins - low) / (middle - low)
    falling = (high - bins) / (high - middle)
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)


def slaney_frequencies(count: int, highest: float) -> np.ndarray:
    """Frequencies from 0 at equal distances on Slaney's mel scale.

    It is linear up to 1 kHz, 15 mel, and logarithmic above: 27 mel for a factor 6.4.
    """
    factor = np.log(6.4) / 27
    top = 15 + np.log(highest / 1000) / factor
    mel = np.linspace(0, top, count)
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(factor * (mel - 15)))
