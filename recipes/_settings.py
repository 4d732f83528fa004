"""Settings of a recipe as flags, and how a recipe is run."""

import dataclasses
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
from absl import app, flags

import tfcompress as tfc

# Flags that a recipe defines with these functions are the recipe's own.
flags.disclaim_key_flags()
FLAGS = flags.FLAGS


def setting(
    help: str,
    default: Any = dataclasses.MISSING,
    *,
    choices: Sequence[str] | None = None,
    least: float | None = None,
    most: float | None = None,
) -> Any:
    """A field of a recipe's settings, and what its flag needs to know.

    Args:
        help: what the setting is, for `--help`.
        default: of presets that do not name it. Defaults to none: they all do.
        choices: the values of a string, or words that a whole number may be replaced
            by. Defaults to `None`: any string, no word.
        least: smallest number. Defaults to `None`, any.
        most: largest number. Defaults to `None`, any.
    """
    facts = {"help": help, "choices": choices, "least": least, "most": most}
    return dataclasses.field(default=default, metadata=facts)


def define_flags(presets: Mapping[str, Any], out: str) -> None:
    """Defines a flag for every setting, and those that all recipes have."""
    flags.DEFINE_enum("preset", "quick", list(presets), "Where settings come from.")
    flags.DEFINE_list("seeds", ["0"], "Every network is trained once for each.")
    flags.DEFINE_string("out", out, "Folder for the results.")
    flags.DEFINE_string("data_dir", None, "Folder of prepared TFDS sets.")
    flags.DEFINE_enum(
        "dtype_policy",
        "float32",
        ["float32", "mixed_bfloat16", "mixed_float16"],
        "What layers compute in.",
    )
    flags.DEFINE_bool("report", True, "Whether to write report.html at the end.")
    flags.register_validator(
        "seeds",
        lambda seeds: bool(seeds) and all(seed.isdecimal() for seed in seeds),
        "Expected whole numbers.",
    )
    settings = next(iter(presets.values()))
    for field in _with_flags(settings):
        values = (f"{p} {getattr(s, field.name)}" for p, s in presets.items())
        text = f"{field.metadata['help']} [preset: {'; '.join(values)}]"
        _define(field.name, _type_of(settings, field.name)[0], text, field.metadata)


def _with_flags(settings: Any) -> list[dataclasses.Field]:
    """The fields that `setting` has made; others come from presets only."""
    return [field for field in dataclasses.fields(settings) if field.metadata]


def _define(name: str, kind: Any, text: str, facts: Mapping[str, Any]) -> None:
    if kind is bool:
        flags.DEFINE_bool(name, None, text)
    elif kind is int and facts["choices"]:
        flags.DEFINE_string(name, None, text)
        flags.register_validator(
            name,
            lambda word: word is None or _number_or_word(word, facts) is not None,
            f"Expected a whole number{_at_least(facts)}, or "
            f"{' or '.join(facts['choices'])}.",
        )
    elif kind is int:
        flags.DEFINE_integer(name, None, text, facts["least"], facts["most"])
    elif kind is float:
        flags.DEFINE_float(name, None, text, facts["least"], facts["most"])
    elif kind is str and facts["choices"]:
        flags.DEFINE_enum(name, None, facts["choices"], text)
    elif kind is str:
        flags.DEFINE_string(name, None, text)
    else:
        flags.DEFINE_list(name, None, text)
        item = typing.get_args(kind)[0]
        flags.register_validator(
            name,
            lambda words: words is None or _items(words, item) is not None,
            f"Expected values of type {item.__name__}, separated by commas.",
        )


def _type_of(settings: Any, name: str) -> tuple[Any, bool]:
    """The type of a setting without `None`, and whether it may be `None`."""
    hint = typing.get_type_hints(type(settings))[name]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        return kinds[0], type(None) in typing.get_args(hint)
    return hint, False


def _items(words: Iterable[str], kind: Callable[[str], Any]) -> tuple[Any, ...] | None:
    try:
        return tuple(kind(word) for word in words)
    except ValueError:
        return None


def _number_or_word(word: str, facts: Mapping[str, Any]) -> int | str | None:
    """What the flag of a number stands for that words may replace."""
    if word in facts["choices"]:
        return word
    (number,) = _items([word], int) or (None,)
    if number is None or (facts["least"] is not None and number < facts["least"]):
        return None
    return number


def _at_least(facts: Mapping[str, Any]) -> str:
    return "" if facts["least"] is None else f" of at least {facts['least']}"


def chosen(presets: Mapping[str, Any]) -> Any:
    """The settings of `--preset`, with those in place that have flags of their own."""
    settings = presets[FLAGS.preset]
    changes = {}
    for field in _with_flags(settings):
        value = FLAGS[field.name].value
        kind, optional = _type_of(settings, field.name)
        if value is None:
            continue
        if typing.get_origin(kind) is tuple:
            value = _items(value, typing.get_args(kind)[0])
        elif kind is int and field.metadata["choices"]:
            value = _number_or_word(value, field.metadata)
        elif optional and value == "none":
            value = None
        changes[field.name] = value
    return dataclasses.replace(settings, **changes)


def common() -> dict[str, Any]:
    """What the flags that all recipes have say, for a recipe's `run`.

    The policy of data types is set here: whatever is built afterwards follows it.
    """
    keras.config.set_dtype_policy(FLAGS.dtype_policy)
    return {
        "seeds": list(dict.fromkeys(map(int, FLAGS.seeds))),
        "out": FLAGS.out,
        "data_dir": FLAGS.data_dir,
        "report": FLAGS.report,
    }


def launch(main: Callable[[], Any]) -> None:
    """Runs a recipe, and says at the end where its results are."""

    def guarded(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
        stopped = False
        try:
            main()
        except KeyboardInterrupt:
            stopped = True
            print("\nStopped. The same command goes on from here.")
        except (ValueError, tfc.data.DatasetUnavailableError) as error:
            refusal = str(error).startswith("Invalid value for argument")
            if refusal or isinstance(error, tfc.data.DatasetUnavailableError):
                sys.exit(f"{Path(sys.argv[0]).name}: {error}")
            raise
        print(f"Results are in {Path(FLAGS.out).resolve()}", flush=True)
        if stopped:
            sys.exit(130)

    app.run(guarded)
