"""One function for all targets."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from tfcompress.export._runtime import open_file
from tfcompress.export.targets._figures import TargetFigures
from tfcompress.export.targets._here import HERE, time_here
from tfcompress.export.targets._micro import MICROCONTROLLER, run_on_micro
from tfcompress.export.targets._profile import TargetProfile, load_profile
from tfcompress.export.targets._program import operators
from tfcompress.export.targets._vela import ACCELERATORS, compile_for

__all__ = ["require_tool", "resolve", "target"]

_TARGETS = [*ACCELERATORS, MICROCONTROLLER, HERE]
_NEEDS = {"ethosu": "ethos-u-vela", "tflite_micro": "tflite-micro"}


def target(
    path: str | os.PathLike[str] | bytes,
    name: str | os.PathLike[str] | TargetProfile,
) -> TargetFigures:
    """Figures of an exported file on some hardware, from its maker's own tool.

    - `"ethos-u55-128"` and other accelerators of Arm (u55-32, -64, -128, -256;
      u65-256, -512; u85-128, -256, -512, -1024, -2048): the compiler Vela and its
      model of the hardware. Flash after its compression of the weights, SRAM,
      latency, operators that are left to the CPU.
    - `"microcontroller"`: TensorFlow Lite Micro's reference kernels, run on this
      computer. The tensor arena, operators without a kernel, whether the numbers
      are LiteRT's bit for bit. No latency, which depends on the board.
    - `"this computer"`: LiteRT with one thread. Latency.

    Vela compresses zeros and repeated values, so that pruned and clustered
    weights take less flash, although the `.tflite` file is as large as before. On a
    microcontroller they save nothing; fewer channels and layers save everywhere.

    The first two need `pip install "tfcompress[targets]"`.

    Example:

    ```python
    tfc.export.to_tflite(model, "model.tflite", quantization="int8", calibration=x)
    print(tfc.export.target("model.tflite", "ethos-u55-128"))
    print(tfc.export.target("model.tflite", "board.toml").verdict)
    ```

    Args:
        path: a `.tflite` file, or its content as bytes. Accelerators take integer
            files (`quantization="int8"`).
        name: name of the target; a `TargetProfile`, or the path of the TOML file
            of one, for a board of your own with budgets.

    Returns:
        A `TargetFigures`; its `verdict` says whether the budgets are kept.

    Raises:
        ImportError: if the tool is not installed.
        TypeError: if an argument is of another kind.
        ValueError: if there is no such target, or the file is not for it.
    """
    profile = resolve(name)
    require_tool(profile.target)
    open_file(path)  # says what is wrong with it
    content = path if isinstance(path, bytes) else Path(path).read_bytes()
    if profile.target in ACCELERATORS:
        figures = compile_for(content, profile.target)
    elif profile.target == MICROCONTROLLER:
        figures = run_on_micro(content)
    else:
        figures = time_here(content)
    return profile.judge(figures, operators(content))


def resolve(name: str | os.PathLike[str] | TargetProfile) -> TargetProfile:
    """The profile that a name, a path or a profile stands for.

    Raises:
        TypeError: if `name` is of another kind.
        ValueError: if there is no such target.
    """
    if isinstance(name, TargetProfile):
        if name.target not in _TARGETS:
            raise ValueError(
                "Invalid value for argument `name`. Expected a profile whose target "
                f"is one of {_TARGETS}. Received: name={name!r}"
            )
        return name
    if not isinstance(name, str | os.PathLike):
        raise TypeError(
            "Invalid value for argument `name`. Expected the name of a target, a "
            f"TargetProfile or the path of one. Received: name={name!r}"
        )
    if str(name) in _TARGETS:
        return TargetProfile(str(name), str(name))
    if not str(name).lower().endswith(".toml"):
        raise ValueError(
            f"Invalid value for argument `name`. Expected one of {_TARGETS}, or the "
            f"path of a .toml file. Received: name={str(name)!r}"
        )
    return load_profile(name, _TARGETS)


def require_tool(name: str) -> None:
    """Raises `ImportError` if the tool of a target is not installed."""
    module = {MICROCONTROLLER: "tflite_micro", HERE: ""}.get(name, "ethosu")
    if module and importlib.util.find_spec(module) is None:
        raise ImportError(
            f"The target {name!r} needs {_NEEDS[module]}: pip install "
            '"tfcompress[targets]"'
        )
