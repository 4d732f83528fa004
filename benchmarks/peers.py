"""The same task for this library and for others, each in an environment of its own.

    python benchmarks/peers.py --data_dir=… [--quick] [--peers=tfcompress,tfmot]
    python benchmarks/peers.py --network=resnet8 --data_dir=…

trains LeNet-5 on MNIST (or ResNet-8 on a subset of CIFAR-10) once, and gives the same
weights to every peer, which compresses them in up to three ways in as many epochs:

- zeros: 90 % of the weights of each layer are zero;
- filters: 60 % of the filters and hidden units are removed;
- int8: integers of 8 bits for weights and activations, trained for or afterwards.

Printed as a Markdown table: test accuracy (of the file where LiteRT runs it, otherwise
as the peer itself says), bytes of the file and of the zipped file, latency by LiteRT
with one thread and files in turns, processor seconds of the training run against as
many epochs of the peer's own plain training, and the lines of user code beside plain
training and conversion.

Each peer has a virtual environment in `--envs`, which pip fills at the first run. A
peer that cannot be installed, or that fails, gets a row with the reason. Finished rows
are kept in `--out`; the same command resumes after an interruption.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from absl import app, flags

import tfcompress as tfc
from tfcompress.export._runtime import benchmark_together

SCRIPTS = Path(__file__).resolve().parent / "_peers"
sys.path.append(str(SCRIPTS))
from _common import build  # noqa: E402


@dataclass(frozen=True)
class Peer:
    """A library: its script and what pip installs for it, nothing for this one's."""

    label: str
    script: str
    requirements: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("zeros", "filters", "int8")


PEERS = {
    "tfcompress": Peer("tfcompress", "with_tfcompress.py"),
    "tfmot": Peer(
        "TFMOT on tf_keras",
        "with_tfmot.py",
        ("tensorflow-model-optimization", "tf-keras", "tensorflow"),
        ("zeros", "int8"),
    ),
    "keras": Peer("Keras, quantize", "with_keras.py", (), ("int8",)),
    "pquant": Peer(
        "PQuantML", "with_pquant.py", ("pquant-ml", "tensorflow-cpu"), ("zeros", "int8")
    ),
    "hgq2": Peer("HGQ2", "with_hgq2.py", ("hgq2", "tensorflow-cpu"), ("int8",)),
    "torch-pruning": Peer(
        "Torch-Pruning",
        "with_torch_pruning.py",
        ("torch-pruning", "torch"),
        ("filters",),
    ),
    "mct": Peer(
        "MCT on TensorFlow 2.15",
        "with_mct.py",
        ("model-compression-toolkit", "tensorflow==2.15.1"),
        ("filters", "int8"),
    ),
}

FLAGS = flags.FLAGS
flags.DEFINE_string("data_dir", None, "Folder of prepared TensorFlow Datasets.")
flags.DEFINE_string("out", "out/peers", "Folder of files and finished rows.")
flags.DEFINE_string("envs", "out/peers/envs", "Folder of the virtual environments.")
flags.DEFINE_enum("network", "lenet5", ["lenet5", "resnet8"], "What to compress.")
flags.DEFINE_list("peers", list(PEERS), "Which peers, by name.")
flags.DEFINE_string("torch", "torch", "What pip is to install as PyTorch.")
flags.DEFINE_bool("quick", False, "10,000 images and 4 epochs.")
flags.DEFINE_integer("limit", None, "Training images; all if not given.")
flags.DEFINE_integer("dense_epochs", 6, "Epochs of the dense network.")
flags.DEFINE_integer("epochs", 10, "Epochs of each compression.")
flags.DEFINE_integer("batch", 128, "Images in a step.")
flags.DEFINE_integer("seed", 0, "Seed of everything random.")
flags.DEFINE_integer("timeout", 3600, "Seconds that a peer may take.")


def main(argv) -> None:
    unknown = [name for name in FLAGS.peers if name not in PEERS]
    if len(argv) > 1 or unknown:
        raise app.UsageError(f"Expected peers of {', '.join(PEERS)}.")
    settings = settings_of()
    out = Path(FLAGS.out).resolve() / f"{FLAGS.network}-{FLAGS.seed}"
    out.mkdir(parents=True, exist_ok=True)
    test = prepare(out, settings)
    dense = {"method": "dense", "files": {"float32": str(out / "dense.tflite")}}
    rows = [(Peer("all begin with", ""), {**dense, "lines": None})]
    for name in FLAGS.peers:
        print(f"{name} …", file=sys.stderr, flush=True)
        rows += [(PEERS[name], result) for result in results(name, out, settings)]
    judge(rows, test)
    print_table(rows, settings)


def settings_of() -> dict:
    """What every peer is told."""
    quick = FLAGS.quick
    return {
        "name": FLAGS.network,
        "limit": 10_000 if quick and FLAGS.limit is None else FLAGS.limit,
        "dense_epochs": 3 if quick else FLAGS.dense_epochs,
        "epochs": 4 if quick else FLAGS.epochs,
        "batch": FLAGS.batch,
        "rate": 1e-3,
        "seed": FLAGS.seed,
        "sparsity": 0.9,
        "filters": 0.6,
    }


def prepare(out: Path, settings: dict):
    """Writes data and the trained dense network; returns the test data."""
    data_name = {"lenet5": "mnist", "resnet8": "cifar10"}[settings["name"]]
    data = tfc.data.load(
        data_name,
        data_dir=FLAGS.data_dir,
        limit=settings["limit"],
        seed=settings["seed"],
    )
    known = out / "settings.json"
    if not known.exists() or json.loads(known.read_text())["asked"] != settings:
        keras.utils.set_random_seed(settings["seed"])
        model = build(keras, settings["name"], data.input_shape)
        model.compile(
            keras.optimizers.Adam(settings["rate"]),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        model.fit(
            data.train.images,
            data.train.labels,
            batch_size=settings["batch"],
            epochs=settings["dense_epochs"],
            verbose=0,
        )
        np.savez(
            out / "input.npz",
            train_x=data.train.images,
            train_y=data.train.labels,
            test_x=data.test.images,
            test_y=data.test.labels,
            **{f"weight{i}": w for i, w in enumerate(model.get_weights())},
        )
        path = out / "dense.tflite"
        tfc.export.to_tflite(model, path)
        narrow = tfc.structure.remove_channels(model, weak(model, settings["filters"]))
        parameters = {"filters": narrow.count_params(), "dense": model.count_params()}
        for row in out.glob("*/results.json"):
            row.unlink()
        known.write_text(json.dumps({"asked": settings, "parameters": parameters}))
    settings["parameters"] = json.loads(known.read_text())["parameters"]
    return data.test


def weak(model, share):
    """The weakest filters and units of every group that may lose some."""
    result = {}
    for group in tfc.structure.channel_groups(model):
        if group.prunable:
            count = round(share * group.size)
            result[group.name] = np.arange(count)
    return result


def results(name: str, out: Path, settings: dict) -> list[dict]:
    """What a peer's script has printed, now or in an earlier run."""
    peer, folder = PEERS[name], out / name
    kept = folder / "results.json"
    if kept.exists():
        return json.loads(kept.read_text())
    folder.mkdir(exist_ok=True)
    failed = [{"method": method, "lines": None} for method in peer.methods]
    try:
        python = environment(name)
        begin, used = time.perf_counter(), children()
        done = subprocess.run(
            [python, SCRIPTS / peer.script, out, folder, json.dumps(settings)],
            stdout=subprocess.PIPE,
            stderr=(folder / "errors.txt").open("w"),
            text=True,
            timeout=FLAGS.timeout,
            cwd=SCRIPTS,
            check=False,
        )
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        reason = str(error).splitlines()[-1][:200]
        return [{**row, "reason": reason} for row in failed]
    told = [
        json.loads(line.removeprefix("RESULT "))
        for line in done.stdout.splitlines()
        if line.startswith("RESULT ")
    ]
    lines = (folder / "errors.txt").read_text().strip().splitlines()
    last = lines[-1][:200] if lines else f"ended with status {done.returncode}"
    told += [
        {**row, "reason": last}
        for row in failed
        if row["method"] not in {result["method"] for result in told}
    ]
    if done.returncode == 0:
        kept.write_text(json.dumps(told))
    print(
        f"  {time.perf_counter() - begin:.0f} s, of the processor "
        f"{children() - used:.0f} s",
        file=sys.stderr,
        flush=True,
    )
    return told


def children() -> float:
    """Processor seconds of the programs that this one has started and that ended."""
    times = os.times()
    return times.children_user + times.children_system


def environment(name: str) -> str:
    """The Python of a peer's environment, made where it is missing."""
    wanted = PEERS[name].requirements
    if not wanted:
        return sys.executable
    folder = Path(FLAGS.envs).resolve() / name
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        venv.create(folder, with_pip=True)
        wanted = [FLAGS.torch if each == "torch" else each for each in wanted]
        done = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", *wanted],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"cannot be installed: {done.stderr.strip()}")
        (folder / "installed").touch()
    return str(python)


def judge(rows, test) -> None:
    """Adds to every result what its files take, and how well and fast they run."""
    for _, result in rows:
        result["judged"] = {}
        for kind, path in result.get("files", {}).items():
            figures = {"bytes": Path(path).stat().st_size, "zipped": zipped(path)}
            if path.endswith(".tflite"):
                answers = tfc.export.run(path, test.images)
                right = answers.argmax(-1).ravel() == test.labels
                figures["accuracy"] = float(right.mean())
            else:
                figures["accuracy"] = result["accuracy"]
            result["judged"][kind] = figures
    timed = [
        (figures, result["files"][kind])
        for _, result in rows
        for kind, figures in result["judged"].items()
        if result["files"][kind].endswith(".tflite")
    ]
    latencies = benchmark_together([path for _, path in timed], warmup=5, runs=200)
    for (figures, _), latency in zip(timed, latencies, strict=True):
        figures["latency"] = latency.median


def zipped(path: str) -> int:
    """Bytes of the file in a ZIP archive."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "file.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            file.write(path, "file")
        return archive.stat().st_size


def print_table(rows, settings) -> None:
    """A table for each method, sorted by peer and file."""
    images = settings["limit"] or "all"
    print(
        f"\n{settings['name']}, {images} training images, {settings['dense_epochs']} "
        f"dense epochs, then {settings['epochs']} more; seed {settings['seed']}\n"
    )
    print(
        "| method | peer | file | accuracy (%) | file (kB) | zipped (kB) | latency "
        "(µs) | training / plain | lines | |"
    )
    print("|---|---|---|---:|---:|---:|---:|---:|---:|---|")
    for method in ("dense", "zeros", "filters", "int8"):
        for peer, result in rows:
            if result["method"] != method:
                continue
            for kind, figures in result["judged"].items() or [("–", {})]:
                cells = [
                    method,
                    peer.label,
                    kind,
                    number(figures.get("accuracy"), 100, "{:.2f}"),
                    number(figures.get("bytes"), 1e-3, "{:.1f}"),
                    number(figures.get("zipped"), 1e-3, "{:.1f}"),
                    number(figures.get("latency"), 1e3, "{:.0f}"),
                    slowdown(result),
                    number(result["lines"], 1, "{:.0f}"),
                    result.get("reason") or result.get("note", ""),
                ]
                print(f"| {' | '.join(cells)} |")


def number(value, factor, form) -> str:
    return "–" if value is None else form.format(factor * value)


def slowdown(result) -> str:
    if not result.get("seconds") or not result.get("plain"):
        return "–"
    return f"{result['seconds'] / result['plain']:.2f}"


if __name__ == "__main__":
    app.run(main)
