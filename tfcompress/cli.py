"""The `tfcompress` command: look at, compress, export and compare saved models.

Nothing heavy is imported before a command runs, so that help is there at once.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib.util
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import app, logging
from absl.flags import argparse_flags

import tfcompress as tfc
from tfcompress._files import check_writable, replacing

if TYPE_CHECKING:
    import keras

    from tfcompress.compression import Compressed
    from tfcompress.data import Dataset

__all__ = ["main"]

_CALIBRATION_IMAGES = 500
_CHOICES = {"augment": ("standard", "shift"), "scale": ("unit", "none")}
_EXPECTED = (ValueError, TypeError, OSError, RuntimeError, ImportError)


def main() -> None:
    """Runs the command line."""
    app.run(_run, flags_parser=_parse)


def _run(arguments: argparse.Namespace) -> int:
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            if arguments.starts:
                _start_quietly()
            for path in arguments.imports:
                _import(path)
            arguments.command(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        if arguments.traceback:
            raise
        print("tfcompress: interrupted", file=sys.stderr)
        return 130  # as shells say it
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

            if keras.backend.backend() == "tensorflow":
                import tensorflow as tf

                # The driver is looked for, and complained about, at the first use.
                tf.config.list_logical_devices()
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
    _add_energy(cost, default=None)

    shrink = _add(commands, "shrink", _shrink, "remove wrappers and zero channels")
    shrink.add_argument("model", help=model)
    shrink.add_argument("out", help="the .keras file to write")
    shrink.add_argument(
        "--overwrite", action="store_true", help="`out` may be the model itself"
    )

    _add_compress(commands, model)

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
        help="if outputs are not classes: largest difference in percent of the "
        "largest output (default 5)",
    )
    _add_data(verify, "data set to compare on")

    debug = _add(commands, "debug", _debug, "compare a file with its model by layer")
    debug.add_argument("model", help=model)
    debug.add_argument("file", help="the .tflite file that was exported from it")
    _add_data(debug, "data set to compare on", required=True)

    pack = _add(commands, "pack", _pack, "write a small .tfcz file")
    pack.add_argument("model", help=model)
    pack.add_argument("out", help="the .tfcz file to write")

    unpack = _add(commands, "unpack", _unpack, "turn a .tfcz file into a .keras file")
    unpack.add_argument("file", help="a .tfcz file")
    unpack.add_argument("out", help="the .keras file to write")

    time = _add(commands, "benchmark", _benchmark, "time a TFLite file")
    time.add_argument("file", help="a .tflite file")
    time.add_argument("--threads", type=int, default=1)

    target = _add(commands, "target", _target, "ask what hardware makes of a file")
    target.add_argument("file", help="a .tflite file")
    target.add_argument(
        "name",
        help="'this computer', 'microcontroller', 'ethos-u55-128', … or a .toml file",
    )

    report = _add(commands, "report", _report, "compare models on a data set")
    report.add_argument("models", nargs="+", help=f"{model} each, the baseline first")
    report.add_argument("--out", help="the .html, .json or .md file to write")
    _add_data(report, "data set to test and calibrate with", required=True)
    _add_report(report)

    recipe = _add(commands, "recipe", _recipe, "run the script of a paper")
    recipe.set_defaults(starts=False)
    recipe.add_argument("name", nargs="?", help="which; none lists them")
    recipe.add_argument(
        "arguments", nargs=argparse.REMAINDER, help="of the recipe, such as --help"
    )

    return parser.parse_args(argv[1:])


def _add_energy(parser: argparse.ArgumentParser, *, default: str | None) -> None:
    said = f" (default {default}; 'none' leaves the energy out)" if default else ""
    parser.add_argument(
        "--hardware",
        default=default,
        help=f"profile to model the energy with: a name or a .toml file{said}",
    )
    parser.add_argument(
        "--products",
        choices=["computed", "gated", "skipped"],
        default="computed",
        help="what the hardware does with products of zero weights (default computed)",
    )
    parser.add_argument(
        "--bits",
        type=_bits,
        metavar="W[,A]",
        help="bits of weights and activations for the modeled energy",
    )


def _bits(text: str) -> int | tuple[int, int]:
    """One width for all, or those of weights and activations."""
    numbers = [int(part) for part in text.split(",")]
    if len(numbers) > 2:
        raise ValueError(text)
    return (numbers[0], numbers[1]) if len(numbers) == 2 else numbers[0]


def _add_report(parser: argparse.ArgumentParser) -> None:
    _add_energy(parser, default="horowitz_45nm")
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        help="hardware to ask what it makes of the files, as for `tfcompress target`; "
        "may be repeated",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1.0,
        help="how much worse the model to ship may be, in percent (points of an "
        "accuracy; default 1)",
    )
    parser.add_argument("--highlight", help="name of the model to ship instead")
    parser.add_argument(
        "--metrics",
        help="further metrics by name, such as mae,mse; the models' own are there "
        "anyway",
    )
    parser.add_argument("--title", default="Compression report", help="heading")
    parser.add_argument(
        "--verbose", type=int, choices=[0, 1], default=1, help="0 tells no progress"
    )


def _add_compress(commands: argparse._SubParsersAction, model: str) -> None:
    parser = _add(
        commands,
        "compress",
        _compress,
        "make a trained model smaller until it meets a budget",
    )
    parser.add_argument("model", help=f"{model}, compiled")
    parser.add_argument("--out", required=True, help="folder for the results")
    _add_data(parser, "data set to train on and to choose by", required=True)
    parser.set_defaults(scale=None)  # not said, so that a plan's value stays
    parser.add_argument(
        "--augment", choices=_CHOICES["augment"], help="vary the training images"
    )
    budget = parser.add_argument_group(
        "budget", "fractions of the original's figures, or absolute: 0.4, 40%%, 5M"
    )
    for name, example in (
        ("size", "100kB"),
        ("macs", "5M"),
        ("parameters", "50k"),
        ("latency", "2.5ms"),
        ("energy", "40uJ"),
        ("flash", "256kB"),
        ("ram", "64kB"),
    ):
        budget.add_argument(f"--{name}", metavar=example)
    budget.add_argument("--target", help="device that flash and ram are counted for")
    parser.add_argument(
        "--max-drop",
        type=float,
        help="how much worse the file may be, in percent (points of an accuracy; "
        "default 1)",
    )
    parser.add_argument(
        "--plan", help="a TOML file with all of these, as --out has one"
    )
    parser.add_argument("--methods", help="filters,int8 for example (default auto)")
    parser.add_argument("--hardware", help="profile that the energy is modeled with")
    parser.add_argument(
        "--products",
        choices=["computed", "gated", "skipped"],
        help="what a product with a zero weight takes there (default computed)",
    )
    parser.add_argument("--monitor", help="the metric that says how good a model is")
    parser.add_argument("--loss", help="compile the model anew with adam and this loss")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--trials", type=int, help="more than 1 search with Optuna")
    parser.add_argument("--storage", help="URL of an Optuna storage to share")
    parser.add_argument(
        "--engine",
        choices=["local", "ray"],
        default="local",
        help="'ray' runs trials as tasks of a Ray cluster",
    )
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--verbose", type=int, choices=[0, 1, 2], help="2 shows the epochs (default 1)"
    )


def _add(
    commands: argparse._SubParsersAction,
    name: str,
    command: Callable[[argparse.Namespace], None],
    summary: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=summary)
    parser.set_defaults(command=command, starts=True)
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
    parser.add_argument(
        "--data-dir", "--data_dir", help="folder of prepared TensorFlow Datasets"
    )
    parser.add_argument(
        "--scale",
        choices=_CHOICES["scale"],
        default="unit",
        help="'unit' (default) brings pixels to [0, 1]; 'none' leaves values as they "
        "are, for a model that rescales its input itself",
    )
    parser.add_argument(
        "--skip-broken",
        action="store_true",
        help="leave out images of a folder that cannot be read",
    )


# Commands ---------------------------------------------------------------------


def _groups(arguments: argparse.Namespace) -> None:
    print(tfc.structure.channel_groups(_load(arguments.model)))


def _cost(arguments: argparse.Namespace) -> None:
    cost = tfc.cost.count(_load(arguments.model))
    print(cost)
    if arguments.hardware is not None:
        energy = tfc.cost.energy(
            cost,
            arguments.hardware,
            products=arguments.products,
            bits=arguments.bits,
        )
        print(f"\n{energy}")


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


def _compress(arguments: argparse.Namespace) -> None:
    options = _compress_options(arguments)
    flags = _flags_of_plan(arguments)
    vars(arguments).update(flags)
    # Whatever can be wrong without them, before model and data are loaded.
    tfc.compression.checked_options(engine=arguments.engine, **options)
    _check_loss(arguments.loss)
    model = _load(arguments.model, compiled=arguments.loss is None)
    if arguments.loss is not None:
        classifies = "crossentropy" in arguments.loss
        model.compile(
            "adam", arguments.loss, metrics=["accuracy"] if classifies else None
        )
    if not model.compiled:
        raise ValueError(
            "Invalid value for argument `model`. Expected a compiled model, whose "
            "loss, optimizer and metrics are used, or --loss, such as --loss "
            f"sparse_categorical_crossentropy. Received: {arguments.model}, which was "
            "saved without them."
        )
    seed = options.get("seed", 0)
    data = _data(arguments, model, seed=seed)
    assert data is not None  # the parser requires it
    data = _labeled_for(model, data)
    train: Any = (data.train.images, data.train.labels)
    if arguments.augment is not None:
        train = data.pipeline(
            "train",
            batch_size=options.get("batch_size", 32),
            augment=arguments.augment,
            seed=seed,
        )
    validation = (data.validation.images, data.validation.labels)
    result = tfc.compress(
        model,
        train,
        validation,
        out=arguments.out,
        storage=arguments.storage,
        engine=arguments.engine,
        **options,
    )
    tfc.compression.add_command(result.files["plan"], flags)
    if options.get("verbose", 1):
        _print_test(result, data)


def _check_loss(name: str | None) -> None:
    import keras

    from tfcompress._checks import invalid

    try:
        keras.losses.get(name)
    except ValueError as error:
        raise ValueError(invalid("loss", "the name of a loss", name)) from error


def _labeled_for(model: keras.Model, data: Dataset) -> Dataset:
    """The data with their classes as the loss of the model takes them."""
    import numpy as np

    loss = getattr(model, "loss", None)
    name: Any = loss if isinstance(loss, str) else ""
    name = name or getattr(loss, "name", None) or getattr(loss, "__name__", "")
    if "categorical_" not in str(name) or not data.classes or model.outputs[1:]:
        return data
    width = model.outputs[0].shape[-1]
    if data.classes > width:
        raise ValueError(
            f"Invalid value for argument `data`. Expected at most {width} classes, as "
            f"many as the model tells apart, with numbers from 0. Received: {data!r}"
        )
    if str(name).startswith("sparse_"):
        return data
    one_hot = np.eye(width, dtype="float32")
    parts: Any = {
        split: tfc.data.Split(part.images, one_hot[part.labels])
        for split in ("train", "validation", "test")
        for part in [getattr(data, split)]
    }
    return dataclasses.replace(data, **parts)


def _print_test(result: Compressed, data: Dataset) -> None:
    """What the file does on images that nothing was chosen by."""
    from tfcompress.compression import quality_of_file

    scores = quality_of_file(
        result.model, result.files["file"], (data.test.images, data.test.labels)
    )
    shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
    print(f"on the {len(data.test):,} test images, the file: {shown}")


def _compress_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `compress`: those of the plan, then those that were said."""
    # These flags have no defaults of their own: `None` means "not said", so that the
    # plan's value stays, or the default of `compress`, which is written in one place.
    options: dict[str, Any] = {}
    if arguments.plan is not None:
        options = tfc.compression.read_plan(arguments.plan, tfc.compress)
    figures = options["budget"].get_config() if "budget" in options else {}
    for name in (*tfc.compression.FIGURES, "target"):
        said = getattr(arguments, name)
        if said is not None:
            figures[name] = said
    options["budget"] = tfc.Budget.from_config(figures)
    for name in (
        "monitor",
        "hardware",
        "products",
        "epochs",
        "batch_size",
        "learning_rate",
        "trials",
        "seed",
        "verbose",
    ):
        if getattr(arguments, name) is not None:
            options[name] = getattr(arguments, name)
    if arguments.max_drop is not None:
        options["max_drop"] = arguments.max_drop / 100
    if arguments.methods is not None:
        auto = arguments.methods == "auto"
        options["methods"] = "auto" if auto else _names(arguments.methods)
    return options


def _flags_of_plan(arguments: argparse.Namespace) -> dict[str, Any]:
    """How the data are read and varied: as a plan says, unless it was said."""
    from tfcompress._checks import invalid

    flags: dict[str, Any] = {"augment": None, "loss": None, "scale": "unit"}
    flags["skip_broken"] = False
    if arguments.plan is not None:
        flags |= tfc.compression.read_command(arguments.plan)
    flags |= {name: said for name in flags if (said := getattr(arguments, name))}
    for name, choices in _CHOICES.items():
        if flags[name] not in (None, *choices):
            raise ValueError(invalid("plan", f"{name} = one of {choices}", flags[name]))
    return flags


def _names(text: str) -> list[str]:
    """Names with commas between them."""
    return [name.strip() for name in text.split(",")]


def _export(arguments: argparse.Namespace) -> None:
    out = check_writable(arguments.out, argument="out", suffixes=(".tflite",))
    model = _load(arguments.model)
    data = _data(arguments, model)
    samples = None if data is None else _calibration(data)
    with replacing(out) as temporary:
        artifact = tfc.export.to_tflite(
            model,
            temporary,
            quantization=arguments.quantization,
            calibration=samples,
        )
        if arguments.quantization == "int8":
            _refuse_constant(temporary, model, samples)
    print(dataclasses.replace(artifact, path=out))


def _refuse_constant(file: Path, model: keras.Model, samples: Any) -> None:
    """Raises where a file answers the same whatever goes in."""
    import keras

    from tfcompress._samples import take_samples

    # In the model's order: a file may name its inputs otherwise.
    inputs, _ = take_samples(model, samples, limit=None)
    given = inputs if len(inputs) > 1 else inputs[0]
    outputs = keras.tree.flatten(tfc.export.run(file, given))
    if all((output == output[:1]).all() for output in outputs):
        raise ValueError(
            f"The int8 file answers the same on all {len(outputs[0])} samples: what "
            "goes in changes the output by less than one step. Do the data have the "
            "range that the model was trained on? See --scale. Nothing was written."
        )


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


def _debug(arguments: argparse.Namespace) -> None:
    model = _load(arguments.model)
    data = _data(arguments, model)
    assert data is not None  # the parser requires it
    print(tfc.export.debug(model, arguments.file, _calibration(data)))


def _pack(arguments: argparse.Namespace) -> None:
    check_writable(arguments.out, argument="out", suffixes=(".tfcz",))
    print(tfc.export.pack(_load(arguments.model), arguments.out))


def _unpack(arguments: argparse.Namespace) -> None:
    out = check_writable(arguments.out, argument="out", suffixes=(".keras",))
    _save(tfc.export.unpack(arguments.file), out)


def _benchmark(arguments: argparse.Namespace) -> None:
    print(tfc.export.benchmark(arguments.file, threads=arguments.threads))


def _target(arguments: argparse.Namespace) -> None:
    figures = tfc.export.target(arguments.file, arguments.name)
    print(figures)
    if figures.fits is False:
        raise ValueError(f"{arguments.file} does not fit {arguments.name}.")


def _report(arguments: argparse.Namespace) -> None:
    if arguments.out is not None:
        check_writable(
            arguments.out, argument="out", suffixes=(".html", ".json", ".md")
        )
    for target in arguments.target:
        tfc.export.targets.resolve(target)  # before the models are loaded
    data = _data(arguments, _load(arguments.models[0]))
    assert data is not None  # the parser requires it
    metrics = None if arguments.metrics is None else arguments.metrics.split(",")
    report = tfc.report.compare(
        {_short(path, arguments.models): path for path in arguments.models},
        data=(data.test.images, data.test.labels),
        calibration=_calibration(data),
        metrics=metrics,
        hardware=None if arguments.hardware == "none" else arguments.hardware,
        products=arguments.products,
        bits=arguments.bits,
        targets=arguments.target,
        tolerance=arguments.tolerance / 100,
        highlight=arguments.highlight,
        title=arguments.title,
        provenance={"data set": repr(data)},
        verbose=arguments.verbose,
    )
    print(report)
    if arguments.out is not None:
        report.save(arguments.out)


def _short(path: str, paths: Sequence[str]) -> str:
    """The file's name alone where that tells it from the others."""
    stems = [Path(other).stem for other in paths]
    return Path(path).stem if len(set(stems)) == len(stems) else path


def _recipe(arguments: argparse.Namespace) -> None:
    scripts = _recipes()
    if arguments.name is None:
        width = max(map(len, scripts))
        for name, script in scripts.items():
            text = ast.get_docstring(ast.parse(script.read_text("utf-8"))) or ""
            print(f"{name:<{width}}  {text.partition(chr(10))[0]}")
        return
    name = arguments.name.replace("-", "_")
    if name not in scripts:
        raise ValueError(
            f"Invalid value for argument `name`. Expected one of {', '.join(scripts)}. "
            f"Received: name={arguments.name!r}"
        )
    # In a process of its own: a recipe has flags of its own, and sets up Keras
    # before it is imported.
    status = subprocess.call([sys.executable, str(scripts[name]), *arguments.arguments])
    if status:
        raise SystemExit(status)


def _recipes() -> dict[str, Path]:
    """The recipes' scripts: inside an installed package, beside it in a clone."""
    package = Path(__file__).parent
    for folder in (package / "_recipes", package.parent / "recipes"):
        found = {
            path.stem: path
            for path in sorted(folder.glob("*.py"))
            if not path.name.startswith("_")
        }
        if found:
            return found
    raise ValueError("This installation has no recipes.")


# Files and data ---------------------------------------------------------------


def _load(path: str, argument: str = "model", *, compiled: bool = False) -> keras.Model:
    from tfcompress._models import load_model

    return load_model(path, compiled=compiled, argument=argument)


def _save(model: keras.Model, path: Path) -> None:
    from tfcompress._models import save_model

    save_model(model, path, argument="out")


def _data(
    arguments: argparse.Namespace, model: keras.Model, *, seed: int = 0
) -> Dataset | None:
    """The data set, in the size and with the range of values that was asked for."""
    if arguments.data is None:
        return None
    from tfcompress.compression import data_for, warn_of_range

    data = data_for(
        model,
        arguments.data,
        data_dir=arguments.data_dir,
        seed=seed,
        scale=arguments.scale,
        skip_broken=arguments.skip_broken,
    )
    if data.skipped:
        warnings.warn(
            f"{len(data.skipped)} images cannot be read and are left out.",
            stacklevel=2,
        )
    other = {"unit": "none", "none": "unit"}[arguments.scale]
    warn_of_range(model, data.train.images, f"Pass --scale {other}.")
    return data


def _calibration(data: Dataset) -> Any:
    """Training inputs, evenly spread: files may be sorted by class."""
    import keras
    import numpy as np

    count = min(_CALIBRATION_IMAGES, len(data.train))
    rows = np.linspace(0, len(data.train) - 1, count).round().astype(int)
    return keras.tree.map_structure(lambda array: array[rows], data.train.images)
