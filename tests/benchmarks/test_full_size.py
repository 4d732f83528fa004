"""The driver of the papers' networks: images that travel, runs, what is left."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "benchmarks" / "full_size.py"


def driver(folder: Path, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, SCRIPT, f"--out={folder / 'out'}", *flags],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    """A set as --pack_data writes it, of images that Pillow encodes."""
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 160), ("test", 40)):
        encoded = []
        for pixels in rng.integers(0, 256, (count, 32, 32, 3), np.uint8):
            buffer = io.BytesIO()
            image.fromarray(pixels).save(buffer, "JPEG")
            encoded.append(buffer.getvalue())
        arrays |= {
            f"shared_{split}": np.frombuffer(encoded[0][:100], np.uint8),
            f"bytes_{split}": np.frombuffer(
                b"".join(e[100:] for e in encoded), np.uint8
            ),
            f"sizes_{split}": np.array([len(e) - 100 for e in encoded]),
            f"y_{split}": np.arange(count, dtype=np.int32) % 10,
        }
    path = tmp_path_factory.mktemp("packed") / "packed.npz"
    np.savez(path, **arrays)
    return path


def test_packed_images_are_those_of_the_set(cifar10_dir, tmp_path):
    import tensorflow_datasets as tfds
    from PIL import Image

    path = tmp_path / "cifar10.npz"
    driver(tmp_path, f"--pack_data={path}", f"--data_dir={cifar10_dir}")
    assert path.stat().st_size < 55e6
    builder = tfds.builder("cifar10", data_dir=cifar10_dir)
    examples = builder.as_dataset(
        split="test", decoders={"image": tfds.decode.SkipDecoding()}
    )
    with np.load(path) as file:
        shared = file["shared_test"].tobytes()
        data, sizes = file["bytes_test"].tobytes(), file["sizes_test"]
        assert len(file["y_train"]) == 50_000
        labels = file["y_test"]
    end = 0
    for i, example in enumerate(examples.take(100).as_numpy_iterator()):
        start, end = end, end + int(sizes[i])
        assert shared + data[start:end] == example["image"]
        assert labels[i] == example["label"]
        assert Image.open(io.BytesIO(example["image"])).size == (32, 32)


def test_a_call_that_is_too_short_is_continued_by_the_next(packed, tmp_path):
    flags = (f"--data={packed}", "--smoke", "--pieces=cross-stack-small", "--only=k1-5")
    first = driver(tmp_path, *flags, "--minutes=0")
    assert first.returncode == 0, first.stderr
    assert "Not finished: cross-stack-small/k1-5-seed0" in first.stdout
    second = driver(tmp_path, *flags)
    assert second.returncode == 0, second.stdout + second.stderr
    records = json.loads((tmp_path / "out" / "smoke" / "records.json").read_text())
    found = {record["name"] for record in records["cross-stack-small"]}
    assert found == {
        "dense", "pruned-aggressive", "proposed-aggressive", "baseline-aggressive"
    }  # fmt: skip
    assert "| k1-5 | proposed-aggressive | 1 |" in second.stdout
    log = tmp_path / "out" / "smoke" / "cross-stack-small" / "k1-5-seed0" / "log"
    before = log.read_text()
    driver(tmp_path, *flags)
    assert log.read_text() == before  # nothing is trained twice


def test_a_run_that_fails_is_named(packed, tmp_path):
    folder = tmp_path / "out" / "smoke" / "gates-small" / "dense-seed0"
    folder.mkdir(parents=True)
    settings = folder / "settings.json"
    settings.write_text('{"width": 7}')  # of another experiment
    (folder / "done").write_text("jax --width=7")  # and finished
    result = driver(
        tmp_path, f"--data={packed}", "--smoke", "--pieces=gates-small", "--only=dense"
    )
    assert result.returncode == 1
    assert "gates-small/dense-seed0" in result.stderr


def test_names_and_files_that_are_not_there_are_refused(packed, tmp_path):
    for flags, message in (
        ((f"--data={packed}", "--only=dens"), "--only.*Received: dens"),
        (("--data=nothing.npz",), "--data.*nothing.npz"),
    ):
        result = driver(tmp_path, *flags)
        assert result.returncode == 1
        assert re.search(message, result.stdout + result.stderr, re.DOTALL)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_every_piece_trains(packed, tmp_path):
    result = driver(
        tmp_path, f"--data={packed}", "--smoke", "--processes=2", "--minutes=60"
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Not finished" not in result.stdout
