"""The `tfcompress` command: look at, compress, export and compare saved models.

Nothing heavy is imported before a command runs, so that help is there at once.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import app, logging
from absl.flags import argparse_flags

import tfcompress as tfc
from tfcompress._files import check_writable

if TYPE_CHECKING:
    import keras

    from tfcompress.data import Dataset

__all__ = ["main"]

_CALIBRATION_IMAGES = 500
_EXPECTED = (ValueError, TypeError, OSError, RuntimeError, ImportError)


def main() -> None:
    """Runs the command line."""
    app.run(_run, flags_parser=_parse)


def _run(arguments: argparse.Namespace) -> int:
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            _start_quietly()
            for path in arguments.imports:
                _import(path)
            arguments.command(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if arguments.traceback:
            raise
        kind = "" if isinstance(error, _EXPECTED) else f"{type(error).__name__}: "
        print(f"tfcompress: error: {kind}{error}", file=sys.stderr)
        return 1
    return 0


def _start_quietly() -> None:
    """Imports TensorFlow without what it says about the machine.

    It writes to the file descriptor, beneath `sys.stderr`, and before it looks at
    any setting. What it says is shown only if the start fails.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.set_verbosity(logging.ERROR)
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            import keras
            import tensorflow as tf

            # The driver is looked for, and complained about, at the first use.
            tf.config.list_logical_devices()
            del keras
        except BaseException:
            log.seek(0)
            os.write(saved, log.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"tfcompress: warning: {message}", file=sys.stderr)


def _import(path: str) -> None:
    """Runs a Python file, which registers classes that saved models name."""
    file = Path(path)
    if file.suffix != ".py" or not file.is_file():
        raise ValueError(
            "Invalid value for argument `import`. Expected a Python file. Received: "
            f"import={path!r}"
        )
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(file.stem, module)
    spec.loader.exec_module(module)


# What can be said ------------------------------------------------------------


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse_flags.ArgumentParser(
        prog="tfcompress",
        description="Looks at, compresses, exports and compares saved Keras models.",
    )
    parser.add_argument(
        "--version", action="version", version=f"tfcompress {tfc.__version__}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    model = "a .keras or .h5 file"

    groups = _add(commands, "groups", _groups, "list the channels that can be removed")
    groups.add_argument("model", help=model)

    cost = _add(commands, "cost", _cost, "count MACs and parameters by layer")
    cost.add_argument("model", help=model)
    cost.add_argument("--hardware", help="profile to model the energy with")

    shrink = _add(commands, "shrink", _shrink, "remove wrappers and zero channels")
    shrink.add_argument("model", help=model)
    shrink.add_argument("out", help="the .keras file to write")
    shrink.add_argument(
        "--overwrite", action="store_true", help="`out` may be the model itself"
    )

    export = _add(commands, "export", _export, "convert to TFLite and check the file")
    export.add_argument("model", help=model)
    export.add_argument("out", help="the .tflite file to write")
    export.add_argument("--quantization", choices=["float16", "dynamic", "int8"])
    _add_data(export, "data set to calibrate and check with")

    verify = _add(commands, "verify", _verify, "check a file against its model")
    verify.add_argument("model", help=model)
    verify.add_argument("file", help="a .tflite, .tfcz, .keras or .h5 file")
    verify.add_argument(
        "--agreement",
        type=float,
        default=99.0,
        help="least percentage of samples with the same decision (default 99)",
    )
    verify.add_argument(
        "--tolerance",
        type=float,
        default=5.0,
        help="where outputs are no classes: largest difference in percent of the "
        "largest output (default 5)",
    )
    _add_data(verify, "data set to compare on")

    pack = _add(commands, "pack", _pack, "write a small .tfcz file")
    pack.add_argument("model", help=model)
    pack.add_argument("out", help="the .tfcz file to write")

    unpack = _add(commands, "unpack", _unpack, "turn a .tfcz file into a .keras file")
    unpack.add_argument("file", help="a .tfcz file")
    unpack.add_argument("out", help="the .keras file to write")

    time = _add(commands, "benchmark", _benchmark, "time a TFLite file")
    time.add_argument("file", help="a .tflite file")
    time.add_argument("--threads", type=int, default=1)

    report = _add(commands, "report", _report, "compare models on a data set")
    report.add_argument("models", nargs="+", help=f"{model} each, the baseline first")
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
    parser.add_argument(
        "--import",
        dest="imports",
        metavar="FILE.py",
        action="append",
        default=[],
        help="a Python file that defines classes of the model; may be repeated",
    )
    parser.add_argument(
        "--traceback", action="store_true", help="show where an error comes from"
    )
    return parser


def _add_data(
    parser: argparse.ArgumentParser, summary: str, *, required: bool = False
) -> None:
    parser.add_argument(
        "--data",
        required=required,
        help=f"{summary}: digits, folder:PATH, npz:FILE, csv:FILE or a TensorFlow "
        "Datasets name",
    )
    parser.add_argument("--data_dir", help="folder of prepared TensorFlow Datasets")
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="the value of a white pixel: 1 (default), or 255 for a model that "
        "rescales its input itself",
    )


# Commands ---------------------------------------------------------------------


def _groups(arguments: argparse.Namespace) -> None:
    print(tfc.structure.channel_groups(_load(arguments.model)))


def _cost(arguments: argparse.Namespace) -> None:
    cost = tfc.cost.count(_load(arguments.model))
    print(cost)
    if arguments.hardware is not None:
        print(f"\n{tfc.cost.energy(cost, arguments.hardware)}")


def _shrink(arguments: argparse.Namespace) -> None:
    out = check_writable(arguments.out, argument="out", suffixes=(".keras",))
    given = Path(arguments.model)
    if not arguments.overwrite and out.exists() and out.samefile(given):
        raise ValueError(
            "Invalid value for argument `out`. Expected another file than the model, "
            f"or --overwrite. Received: out={arguments.out!r}"
        )
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
    model = _load(arguments.model)
    data = _data(arguments, model)
    artifact = tfc.export.to_tflite(
        model,
        arguments.out,
        quantization=arguments.quantization,
        calibration=None if data is None else _calibration(data),
    )
    print(artifact)


def _verify(arguments: argparse.Namespace) -> None:
    model = _load(arguments.model)
    data = _data(arguments, model)
    samples = None if data is None else data.test.images
    file = Path(arguments.file)
    other: Any = file
    if file.suffix.lower() == ".tfcz":
        other = tfc.export.unpack(file)
    elif file.suffix.lower() != ".tflite":
        other = _load(arguments.file, "file")
    parity = tfc.export.parity(model, other, samples)
    print(parity)
    if parity.top1_agreement is not None and parity.data == "given":
        agrees = 100 * parity.top1_agreement >= arguments.agreement
    else:
        limit = arguments.tolerance / 100 * parity.output_range
        agrees = parity.max_difference <= limit
    if not agrees:
        raise ValueError(f"{file} does not compute what {arguments.model} does.")


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
    models = {_short(path, arguments.models): _load(path) for path in arguments.models}
    data = _data(arguments, next(iter(models.values())))
    assert data is not None  # the parser requires it
    report = tfc.report.compare(
        models,
        data=(data.test.images, data.test.labels),
        calibration=_calibration(data),
        provenance={"data set": repr(data)},
    )
    print(report)
    if arguments.out is not None:
        report.save(arguments.out)


def _short(path: str, paths: Sequence[str]) -> str:
    """The file's name alone where that tells it from the others."""
    stems = [Path(other).stem for other in paths]
    return Path(path).stem if len(set(stems)) == len(stems) else path


# Files and data ---------------------------------------------------------------


def _load(path: str, argument: str = "model", *, compiled: bool = False) -> keras.Model:
    from tfcompress._models import load_model

    return load_model(path, compiled=compiled, argument=argument)


def _save(model: keras.Model, path: Path) -> None:
    from tfcompress._models import save_model

    save_model(model, path, argument="out")


def _data(arguments: argparse.Namespace, model: keras.Model) -> Dataset | None:
    """The data set, in the size and with the range of values that was asked for."""
    if arguments.data is None:
        return None
    from tfcompress.compression import scaled_data, warn_of_range

    data = scaled_data(arguments.data, arguments.data_dir, model, scale=arguments.scale)
    warn_of_range(model, data.train.images, "Pass --scale=255 or --scale=1.")
    return data


def _calibration(data: Dataset) -> Any:
    return data.train.images[:_CALIBRATION_IMAGES]
