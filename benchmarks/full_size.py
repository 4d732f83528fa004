"""The papers' networks on a machine with a GPU, through the recipes, on JAX.

Such a machine needs this repository, Keras and JAX, but neither TensorFlow nor
TensorFlow Datasets nor a network. So the images travel in one small file:

    python benchmarks/full_size.py --pack_data=cifar10.packed.npz --data_dir=DIR

writes the JPEG images of a set that TFDS has prepared as they are, without the header
that all of them share (18 MB for CIFAR-10 in JPEG), and

    python benchmarks/full_size.py --data=cifar10.packed.npz --pieces=pruning

trains there. A piece is a list of runs, each one recipe with one seed in a folder of
its own. --processes of them run on the GPU at the same time, because small networks
leave most of it idle. After --minutes all runs are stopped, and the same command
resumes them from their backups. Every call writes OUT/records.json with all finished
runs, and prints a table for each piece.

Pieces with "-small" have the networks that two processor cores can train in hours,

    KERAS_BACKEND=tensorflow python benchmarks/full_size.py --data=cifar10.packed.npz \\
        --pieces=pruning-small --processes=2 --minutes=180

where TensorFlow's convolutions take half the time of JAX's; the others are of the
papers' size. --smoke trains all of them for two epochs with a few images and channels.
"""

import dataclasses
import io
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import app, flags

REPOSITORY = Path(__file__).resolve().parents[1]

FLAGS = flags.FLAGS


@dataclasses.dataclass(frozen=True)
class Run:
    """One recipe in a folder of its own.

    Attributes:
        piece: name of the piece, and of the folder above.
        name: what distinguishes the run from others of the piece.
        seed: passed to the recipe.
        recipe: name of the script in `recipes`.
        flags: passed to the recipe.
    """

    piece: str
    name: str
    seed: int
    recipe: str
    flags: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Where its results are, below --out."""
        return f"{self.piece}/{self.name}-seed{self.seed}"


@dataclasses.dataclass(frozen=True)
class Piece:
    """Runs that belong together.

    Attributes:
        recipe: name of the script in `recipes`.
        flags: of all runs.
        smoke: flags that take the place of some of them in a smoke test.
        runs: flags of each run, by its name.
        seeds: of the runs; 0 is the only one for those in `once`.
        once: names of runs that are controls.
    """

    recipe: str
    flags: str
    smoke: str
    runs: dict[str, str]
    seeds: tuple[int, ...] = (0, 1, 2)
    once: tuple[str, ...] = ()

    def list(self, name: str, smoke: bool) -> Iterator[Run]:
        """The runs, seed by seed, so that a call that is too short has whole seeds."""
        for seed in (0,) if smoke else self.seeds:
            for run, own in self.runs.items():
                if seed and run in self.once:
                    continue
                words = f"{self.flags} {own} {self.smoke if smoke else ''}".split()
                yield Run(name, run, seed, self.recipe, tuple(words))


PRUNING = {
    "dense": "--variants=dense",
    "pwt80": "--variants=pwt-l1 --rates=0.8",
    "prt80": "--variants=prt --rates=0.8",
}
PRUNING_SMALL = {
    "dense": "--variants=dense",
    **{
        f"pwt{rate}-floor{floor}": f"--variants=pwt-l1 --rates=0.{rate} "
        f"--floor=0.{floor}"
        for rate in (50, 60)
        for floor in ("06", "12", "18")
    },
    "prt60": "--variants=prt --rates=0.6 --floor=0.12",
    "algorithm2-60": "--variants=pwt-mean-activation --rates=0.6",
    "algorithm3-80": "--variants=pwt-random --rates=0.8 --floor=0",
    "algorithm3-40": "--variants=pwt-random --rates=0.4 --floor=0",
}
SCHEMES = "--schemes=dense --schemes=proposed --schemes=baseline"
CROSS_STACK = {
    "k1-5": f"--bits=1,5 {SCHEMES}",
    "k2-6": f"--bits=2,6 {SCHEMES}",
    "alone": "--bits=1,5 --schemes=pruning --schemes=incremental",
}
DENSITY = {
    "dense": "--variants=dense",
    "random": "--variants=density-random --variants=uniform",
    "inherit": "--variants=density-inherit --variants=uniform-inherit",
}
GATES = {"dense": "--gates=none", "gates": "--nodense"}
SMOKE_IMAGES = 200
PATIENCE = 5.0  # seconds that recipes have to stop
TINY = "--limit=96 --batch_size=32"

# Masks only: a removal while the run goes on costs more to compile than it saves here.
PIECES = {
    "pruning": Piece(
        "prune_while_training",
        "--preset=paper --epochs=60 --ramp=0.6 --shrink_every=60 --batch_size=256 "
        "--dtype_policy=mixed_bfloat16",
        f"--width=0.0625 --epochs=2 --shrink_every=2 {TINY} --dtype_policy=float32",
        PRUNING,
    ),
    "pruning-small": Piece(
        "prune_while_training",
        "--preset=paper --width=0.25 --limit=20000 --epochs=30 --ramp=0.4 "
        "--shrink_every=30 --batch_size=64",
        f"--width=0.0625 --epochs=2 --shrink_every=2 {TINY}",
        PRUNING_SMALL,
        once=("algorithm2-60", "algorithm3-80", "algorithm3-40"),
    ),
    "cross-stack": Piece(
        "cross_stack",
        "--preset=paper --order=magnitude --dense_epochs=40 --surgery_epochs=15 "
        "--approximation_epochs=10 --batch_size=256",
        f"--width=0.0625 --dense_epochs=2 --surgery_epochs=1 --approximation_epochs=2 "
        "--iterations=2 "
        f"{TINY}",
        CROSS_STACK,
        seeds=(0,),
    ),
    "cross-stack-small": Piece(
        "cross_stack",
        "--preset=paper --order=magnitude --width=0.125 --limit=20000 "
        "--dense_epochs=30 --surgery_epochs=10 --approximation_epochs=6",
        f"--width=0.0625 --dense_epochs=2 --surgery_epochs=1 --approximation_epochs=2 "
        "--iterations=2 "
        f"{TINY}",
        CROSS_STACK,
    ),
    "density": Piece(
        "activation_density",
        "--preset=paper --model=resnet18 --epochs=40 --decay_at=20,32 "
        "--round_epochs=15 --max_rounds=1",
        f"--width=0.0625 --epochs=2 --round_epochs=1 --decay_at=1 {TINY}",
        DENSITY,
        seeds=(0,),
    ),
    "density-small": Piece(
        "activation_density",
        "--preset=paper --model=resnet18 --width=0.1875 --epochs=30 --decay_at=15,23 "
        "--round_epochs=10 --max_rounds=1",
        f"--width=0.0625 --epochs=2 --round_epochs=1 --decay_at=1 {TINY}",
        DENSITY,
        seeds=(0, 1),
    ),
    "gates": Piece(
        "green_ai_gating",
        "--preset=paper --model=resnet56 --epochs=60 --decay_at=30,45,54 "
        "--batch_size=128 --open_bias=0",
        f"--width=0.25 --epochs=2 --decay_at=1 {TINY} --draws=1",
        GATES,
        seeds=(0,),
    ),
    "gates-small": Piece(
        "green_ai_gating",
        "--preset=paper --model=resnet32 --width=0.5 --limit=20000 --epochs=20 "
        "--decay_at=10,15,18 --batch_size=128",
        f"--width=0.25 --epochs=2 --decay_at=1 {TINY} --draws=1",
        {
            "dense": "--gates=none",
            "open": "--nodense --open_bias=1 --lambda_polar=5 --lambda_act=2.4",
            "rising": "--nodense --open_bias=0 --lambda_polar=0:0,7:2,13:3",
        },
    ),
}

flags.DEFINE_string("pack_data", None, "File to write: the images of a TFDS set.")
flags.DEFINE_string("set", "cifar10", "The set.")
flags.DEFINE_string("data_dir", None, "Folder of prepared TFDS sets.")
flags.DEFINE_string("data", None, "File that --pack_data has written.")
flags.DEFINE_string("out", "out/full_size", "Folder for the results.")
flags.DEFINE_multi_enum("pieces", list(PIECES), list(PIECES), "What to train.")
flags.DEFINE_list("only", None, "Names of runs; all of the pieces without.")
flags.DEFINE_integer("processes", 4, "Recipes at the same time.", lower_bound=1)
flags.DEFINE_float("minutes", 8.0, "Stop after.", lower_bound=0.0)
flags.DEFINE_bool("smoke", False, "Two epochs with a few images and channels.")


def main(_):
    if FLAGS.pack_data:
        return pack(Path(FLAGS.pack_data), FLAGS.set, FLAGS.data_dir)
    end = time.monotonic() + 60 * FLAGS.minutes
    if not FLAGS.data or not Path(FLAGS.data).is_file():
        raise app.UsageError(
            "Expected for --data a file that --pack_data has written. Received: "
            f"{FLAGS.data!r}"
        )
    known = sorted({run for piece in FLAGS.pieces for run in PIECES[piece].runs})
    if unknown := set(FLAGS.only or ()) - set(known):
        raise app.UsageError(
            f"Expected for --only some of {', '.join(known)}. Received: "
            f"{', '.join(sorted(unknown))}"
        )
    # Apart, so that a real run takes neither images nor results of a smoke test.
    out = Path(FLAGS.out).resolve() / ("smoke" if FLAGS.smoke else "")
    out.mkdir(parents=True, exist_ok=True)
    arrays = out / "data" / f"{FLAGS.set}.npz"
    if not arrays.exists():
        unpack(Path(FLAGS.data), arrays, limit=SMOKE_IMAGES if FLAGS.smoke else None)
    pieces = [
        [
            run
            for run in PIECES[piece].list(piece, FLAGS.smoke)
            if FLAGS.only is None or run.name in FLAGS.only
        ]
        for piece in dict.fromkeys(FLAGS.pieces)
    ]
    # In turns, so that a call that is too short has something of every piece.
    turns = itertools.chain.from_iterable(itertools.zip_longest(*pieces))
    runs = [run for run in turns if run is not None]
    failed = train(runs, out, arrays.parent, end)
    write_records(out)
    for piece in dict.fromkeys(run.piece for run in runs):
        print(f"\n{piece}\n{table(read_records(out).get(piece, []))}", flush=True)
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}. See the logs in {out}")
    return None


# Images that travel --------------------------------------------------------------


def pack(path: Path, name: str, data_dir: str | None) -> None:
    """Writes a set's encoded images without the beginning that they share."""
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir)
    arrays = {}
    for split in ("train", "test"):
        examples = builder.as_dataset(
            split=split, decoders={"image": tfds.decode.SkipDecoding()}
        )
        pairs = [(e["image"], e["label"]) for e in examples.as_numpy_iterator()]
        images = [image for image, _ in pairs]
        # What the first and the last have in common in alphabetical order, all have.
        ends = zip(min(images), max(images), strict=False)
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], ends)
        shared = bytes(byte for byte, _ in same)
        arrays |= {
            f"shared_{split}": np.frombuffer(shared, np.uint8),
            f"bytes_{split}": np.frombuffer(
                b"".join(image[len(shared) :] for image in images), np.uint8
            ),
            f"sizes_{split}": np.array([len(i) - len(shared) for i in images]),
            f"y_{split}": np.array([label for _, label in pairs], np.int32),
        }
    temporary = path.with_name(f".unfinished-{path.name}")
    with open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(temporary, path)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def unpack(path: Path, arrays: Path, limit: int | None = None) -> None:
    """Decodes them, or the first of them, into x_train, y_train, x_test, y_test."""
    from PIL import Image

    result = {}
    with np.load(path) as file:
        for split in ("train", "test"):
            shared = file[f"shared_{split}"].tobytes()
            data = file[f"bytes_{split}"].tobytes()
            ends = np.cumsum(file[f"sizes_{split}"])[:limit]
            pieces = zip([0, *ends[:-1]], ends, strict=True)
            result[f"x_{split}"] = np.stack(
                [np.asarray(Image.open(io.BytesIO(shared + data[a:b])))
                 for a, b in pieces]
            )  # fmt: skip
            result[f"y_{split}"] = file[f"y_{split}"][:limit]
    arrays.parent.mkdir(parents=True, exist_ok=True)
    temporary = arrays.with_name(f".unfinished-{arrays.name}")
    with open(temporary, "wb") as file:
        np.savez(file, **result)
    os.replace(temporary, arrays)


# Training ------------------------------------------------------------------------


def train(runs: Sequence[Run], out: Path, data: Path, end: float) -> list[str]:
    """Runs what is not done, some at the same time; returns what failed."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": os.environ.get("KERAS_BACKEND", "jax"),
        "PYTHONPATH": os.pathsep.join(
            [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
        # Several processes share the GPU's memory, and what they compile.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_COMPILATION_CACHE_DIR": str(out / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",
        # Each process gets a core: on two cores, two runs at a time are faster than
        # two threads for each.
        "OMP_NUM_THREADS": "1",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "1",
    }
    # A run with other flags is not done: its recipe refuses the folder, by name.
    waiting = [
        run for run in runs if done(out / run.folder) != described(run, environment)
    ]
    working: dict[Run, subprocess.Popen] = {}
    failed = []
    start = time.monotonic()
    while (waiting or working) and time.monotonic() < end:
        while waiting and len(working) < FLAGS.processes:
            run = waiting.pop(0)
            working[run] = begin(run, out, data, environment)
        time.sleep(0.2)
        for run, process in list(working.items()):
            if process.poll() is None:
                continue
            del working[run]
            minutes = (time.monotonic() - start) / 60
            state = "done" if process.returncode == 0 else "FAILED"
            print(f"{minutes:5.1f} min  {state}  {run.folder}", flush=True)
            if process.returncode:
                failed.append(run.folder)
                print((out / run.folder / "log").read_text()[-2000:], flush=True)
            else:
                (out / run.folder / "done").write_text(described(run, environment))
                # At once: the machine may be gone before the end.
                write_records(out)
    stop(working.values())
    left = [run.folder for run in [*working, *waiting]]
    if left:
        print(f"Not finished: {', '.join(left)}", flush=True)
    return failed


def stop(processes: Collection[subprocess.Popen]) -> None:
    """Asks all to stop, and does not wait long: their backups are complete."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and any(p.poll() is None for p in processes):
        time.sleep(0.1)
    for process in processes:
        process.kill()
        process.wait()


def begin(run: Run, out: Path, data: Path, environment: dict) -> subprocess.Popen:
    """Starts the process of a run; what it prints goes into a file."""
    folder = out / run.folder
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        str(REPOSITORY / "recipes" / f"{run.recipe}.py"),
        *run.flags,
        f"--seeds={run.seed}",
        f"--data_dir={data}",
        f"--out={folder}",
        "--noreport",
    ]
    with open(folder / "log", "a") as log:
        return subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT
        )


def done(folder: Path) -> str | None:
    """What the run that has finished was; `None` if none has."""
    file = folder / "done"
    return file.read_text() if file.exists() else None


def described(run: Run, environment: dict) -> str:
    """What a run is."""
    return f"{environment['KERAS_BACKEND']} {' '.join(run.flags)}"


# Results -------------------------------------------------------------------------


def read_records(out: Path) -> dict[str, list[dict]]:
    """The records of all recipes, by piece, with the name of the run."""
    records: dict[str, list[dict]] = {}
    for path in sorted(out.glob("*/*/seed*.json")):
        record = json.loads(path.read_text())
        record["run"] = path.parent.name.rpartition("-seed")[0]
        records.setdefault(path.parents[1].name, []).append(record)
    return records


def write_records(out: Path) -> None:
    """Writes records.json, complete or not at all."""
    temporary = out / ".unfinished-records.json"
    temporary.write_text(json.dumps(read_records(out)))
    os.replace(temporary, out / "records.json")


def table(records: Sequence[dict]) -> str:
    """Validation and test accuracy of each network, mean and deviation over seeds."""
    lines = [
        "| run | network | seeds | validation, % | test, % | seconds |",
        "|" + 6 * "---|",
    ]
    groups: dict[tuple[str, str], list[dict]] = {}
    for record in records:
        groups.setdefault((record["run"], record["name"]), []).append(record)
    for (run, name), group in groups.items():
        cells = [
            run,
            name,
            str(len(group)),
            percent([validation(record) for record in group]),
            percent([record["test_accuracy"] for record in group]),
            f"{statistics.median(record['seconds'] for record in group):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def validation(record: dict) -> float:
    """Accuracy on the validation split of the network that is tested.

    Where that is the network of the last epoch, the history has it.
    """
    if "validation_accuracy" in record:
        return record["validation_accuracy"]
    nets = record.get("nets")
    history = nets[record["final"]]["history"] if nets else record["history"]
    return history["val_accuracy"][-1]


def percent(values: Sequence[float]) -> str:
    text = f"{100 * statistics.mean(values):.2f}"
    if len(values) > 1:
        text += f" ± {100 * statistics.stdev(values):.2f}"
    return text


if __name__ == "__main__":
    app.run(main)
