"""The `tfcompress` command: look at, shrink, export and compare saved models."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import app
from absl.flags import argparse_flags

import tfcompress as tfc
from tfcompress._files import check_writable

if TYPE_CHECKING:
    import keras

__all__ = ["main"]

_CALIBRATION_IMAGES = 500


def main() -> None:
    """Runs the command line."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(_run, flags_parser=_parse)


def _run(arguments: argparse.Namespace) -> int:
    try:
        arguments.command(arguments)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        print(f"tfcompress: error: {error}", file=sys.stderr)
        return 1
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse_flags.ArgumentParser(
        prog="tfcompress",
        description="Looks at, shrinks, exports and compares saved Keras models.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    groups = _add(commands, "groups", _groups, "list the channels that can be removed")
    groups.add_argument("model", help="a .keras file")

    cost = _add(commands, "cost", _cost, "count MACs and parameters by layer")
    cost.add_argument("model", help="a .keras file")
    cost.add_argument("--hardware", help="profile to model the energy with")

    shrink = _add(commands, "shrink", _shrink, "remove wrappers and zero channels")
    shrink.add_argument("model", help="a .keras file")
    shrink.add_argument("out", help="the .keras file to write")

    export = _add(commands, "export", _export, "convert to TFLite and check the file")
    export.add_argument("model", help="a .keras file")
    export.add_argument("out", help="the .tflite file to write")
    export.add_argument("--quantization", choices=["float16", "dynamic", "int8"])
    _add_data(export, "data set to calibrate and check with")

    pack = _add(commands, "pack", _pack, "write a small .tfcz file")
    pack.add_argument("model", help="a .keras file")
    pack.add_argument("out", help="the .tfcz file to write")

    unpack = _add(commands, "unpack", _unpack, "turn a .tfcz file into a .keras file")
    unpack.add_argument("file", help="a .tfcz file")
    unpack.add_argument("out", help="the .keras file to write")

    time = _add(commands, "benchmark", _benchmark, "time a TFLite file")
    time.add_argument("file", help="a .tflite file")
    time.add_argument("--threads", type=int, default=1)

    report = _add(commands, "report", _report, "compare models on a data set")
    report.add_argument("models", nargs="+", help=".keras files, the baseline first")
    report.add_argument("--out", help="the .html, .json or .md file to write")
    _add_data(report, "data set to test and calibrate with", required=True)

    return parser.parse_args(argv[1:])


def _add(
    commands: argparse._SubParsersAction,
    name: str,
    command: Callable[[argparse.Namespace], None],
    summary: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=summary)
    parser.set_defaults(command=command)
    return parser


def _add_data(
    parser: argparse.ArgumentParser, summary: str, *, required: bool = False
) -> None:
    parser.add_argument(
        "--data",
        required=required,
        help=f"{summary}: digits, folder:PATH or a TensorFlow Datasets name",
    )
    parser.add_argument("--data_dir", help="folder of prepared TensorFlow Datasets")


def _groups(arguments: argparse.Namespace) -> None:
    print(tfc.structure.channel_groups(_load(arguments.model)))


def _cost(arguments: argparse.Namespace) -> None:
    cost = tfc.cost.count(_load(arguments.model))
    print(cost)
    if arguments.hardware is not None:
        print(f"\n{tfc.cost.energy(cost, arguments.hardware)}")


def _shrink(arguments: argparse.Namespace) -> None:
    out = check_writable(arguments.out, argument="out", suffixes=(".keras",))
    model = _load(arguments.model)
    small = tfc.finalize(model)
    _save(small, out)
    print(f"parameters  {model.count_params():,} -> {small.count_params():,}")
    if any(None in tensor.shape[1:] for tensor in model.inputs):
        return  # the number of MACs depends on the size of what goes in
    before, after = (tfc.cost.count(m) for m in (model, small))
    print(f"MACs        {before.macs:,} -> {after.macs:,}")


def _export(arguments: argparse.Namespace) -> None:
    check_writable(arguments.out, argument="out", suffixes=(".tflite",))
    calibration = None
    if arguments.data is not None:
        data = tfc.data.load(arguments.data, arguments.data_dir)
        calibration = data.train.images[:_CALIBRATION_IMAGES]
    artifact = tfc.export.to_tflite(
        _load(arguments.model),
        arguments.out,
        quantization=arguments.quantization,
        calibration=calibration,
    )
    print(artifact)


def _pack(arguments: argparse.Namespace) -> None:
    check_writable(arguments.out, argument="out", suffixes=(".tfcz",))
    print(tfc.export.pack(_load(arguments.model), arguments.out))


def _unpack(arguments: argparse.Namespace) -> None:
    out = check_writable(arguments.out, argument="out", suffixes=(".keras",))
    _save(tfc.export.unpack(arguments.file), out)


def _benchmark(arguments: argparse.Namespace) -> None:
    print(tfc.export.benchmark(arguments.file, threads=arguments.threads))


def _report(arguments: argparse.Namespace) -> None:
    if arguments.out is not None:
        check_writable(
            arguments.out, argument="out", suffixes=(".html", ".json", ".md")
        )
    data = tfc.data.load(arguments.data, arguments.data_dir)
    report = tfc.report.compare(
        {_short(path, arguments.models): _load(path) for path in arguments.models},
        data=(data.test.images, data.test.labels),
        calibration=data.train.images[:_CALIBRATION_IMAGES],
        provenance={"data set": repr(data)},
    )
    print(report)
    if arguments.out is not None:
        report.save(arguments.out)


def _short(path: str, paths: Sequence[str]) -> str:
    """The file's name alone where that tells it from the others."""
    stems = [Path(other).stem for other in paths]
    return Path(path).stem if len(set(stems)) == len(stems) else path


def _load(path: str) -> keras.Model:
    import keras

    return keras.saving.load_model(path)


def _save(model: keras.Model, path: Path) -> None:
    """Saves `model` so that nobody ever sees half a file."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        model.save(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
