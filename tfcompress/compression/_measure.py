"""The figures that budgets limit, of models and of their files."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from tfcompress import cost, export, quantization
from tfcompress.compression._budget import HERE, Budget
from tfcompress.export._trained import is_prepared

__all__ = ["FORMATS", "Meter", "file_name"]

# What a file can hold, and the number format that its energy is modeled with.
FORMATS = {
    "float32": "float32",
    "float16": "float16",
    "dynamic": "int8",
    "int8": "int8",
    "int4": "int8",
    "tfcz": "float32",
}

_ANY = 1e9


def file_name(kind: str) -> str:
    """Name of the exported file."""
    return "model.tfcz" if kind == "tfcz" else "model.tflite"


class Meter:
    """Exports models and measures what a budget limits.

    Args:
        budget: what is limited.
        calibration: typical inputs.
        hardware: profile of the modeled energy.
        products: what a multiplication by a zero weight takes there.
    """

    def __init__(
        self,
        budget: Budget,
        calibration: Any,
        hardware: str,
        products: cost.Products,
    ) -> None:
        self._budget = budget
        self._calibration = calibration
        self._hardware = hardware
        self._products = products

    @property
    def limited(self) -> tuple[str, ...]:
        """Names of the figures that the budget limits."""
        return self._budget.limited

    def export(
        self, model: keras.Model, kind: str, file: Path, *, rough: bool = False
    ) -> None:
        """Writes `model` as a file of a kind.

        Args:
            model: the model; one of `quantization.prepare` is a kind by itself.
            kind: one of `FORMATS`.
            file: where to.
            rough: whether any difference from the model is tolerated, as for a
                candidate that has not been trained. Defaults to `False`.

        Raises:
            ValueError: if the model cannot be such a file.
            RuntimeError: if the conversion fails, or the file is wrong.
        """
        if kind == "tfcz":
            export.pack(model, file)
            return
        if kind == "int4" and not is_prepared(model):
            model = quantization.calibrate(
                quantization.prepare(model, weights=4), self._calibration
            )
        plain = kind in ("float32", "int4") or is_prepared(model)
        export.to_tflite(
            model,
            file,
            quantization=None if plain else kind,  # type: ignore[arg-type]
            calibration=self._calibration,
            tolerance=_ANY if rough else None,
        )

    def model_figures(
        self,
        model: keras.Model,
        kind: str,
        multiplier_bits: tuple[int, int] | None = None,
    ) -> dict[str, float]:
        """What is counted in the model: MACs, parameters, modeled energy.

        Args:
            model: the model.
            kind: one of `FORMATS`.
            multiplier_bits: what multipliers look at; `None` for what the layers
                ask for. Defaults to `None`.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is not counted is in the report
            counted = cost.count(model)
        figures = {
            "macs": float(counted.macs),
            "parameters": float(counted.parameters),
        }
        if "energy" in self._budget.limited:
            estimate = cost.energy(
                counted,
                self._hardware,
                products=self._products,
                precision=FORMATS[kind],
                multiplier_bits=multiplier_bits,
            )
            figures["energy"] = float(estimate.total)
        return figures

    def file_figures(self, file: Path, *, strict: bool = True) -> dict[str, float]:
        """What is measured on a file: size; latency, flash, RAM where limited.

        Args:
            file: the file.
            strict: whether a file that the target cannot run is an error;
                otherwise its figures there are left out. Defaults to `True`.

        Raises:
            ImportError: if the target's tool is not installed.
            ValueError: if the target cannot run the file.
        """
        figures = {"size": float(file.stat().st_size)}
        limited, target = self._budget.limited, self._budget.target
        there = {"flash", "ram"} & {*limited}
        if "latency" in limited:
            if target is None or target == HERE:
                figures["latency"] = export.benchmark(file).median
            else:
                there.add("latency")
        if there:
            assert target is not None  # checked by the budget
            try:
                told = export.target(file, target)
            except (ValueError, RuntimeError):
                if strict:
                    raise
                return figures
            for name in sorted(there):
                value = getattr(told, name)
                # Of a file that runs beside the accelerator, such as one of floats,
                # tools count nothing.
                if not value and strict:
                    raise ValueError(
                        "Invalid value for argument `budget`. Expected figures that "
                        f"the tool of {target!r} tells for the file. Received a limit "
                        f"of {name!r}, for which it says {value}."
                    )
                if value:
                    figures[name] = float(value)
        return figures

    def excess(
        self,
        figures: Mapping[str, float],
        limits: Mapping[str, float],
        names: Sequence[str] | None = None,
    ) -> float:
        """By which factor the worst figure exceeds its limit; at most 1 is within."""
        return max(
            figures[name] / limit
            for name, limit in limits.items()
            if names is None or name in names
        )
