"""Arm Ethos-U: the compiler Vela and its model of the hardware."""

from __future__ import annotations

import csv
import importlib.metadata
import subprocess
import sys
import tempfile
from pathlib import Path

from tfcompress.export.targets._figures import TargetFigures

__all__ = ["ACCELERATORS", "compile_for"]

# Configurations, and the system that each stands for by default.
ACCELERATORS = (
    *(f"ethos-u55-{macs}" for macs in (32, 64, 128, 256)),
    *(f"ethos-u65-{macs}" for macs in (256, 512)),
    *(f"ethos-u85-{macs}" for macs in (128, 256, 512, 1024, 2048)),
)
_KIB = 1024
_TIMEOUT = 600


def compile_for(content: bytes, accelerator: str) -> TargetFigures:
    """Compiles a file for an accelerator and reads Vela's summary.

    Raises:
        ValueError: if Vela cannot compile the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.tflite"
        source.write_bytes(content)
        command = [
            *(sys.executable, "-m", "ethosu.vela", str(source)),
            *("--accelerator-config", accelerator, "--output-dir", folder),
            "--verbose-performance",
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
        summaries = sorted(Path(folder).glob("*_summary_*.csv"))
        if done.returncode or not summaries:
            lines = (done.stdout + done.stderr).strip().splitlines()
            raise ValueError(
                "Invalid value for argument `path`. Expected an integer TFLite file "
                f"that Vela compiles. Received: {lines[-1] if lines else 'no output'}"
            )
        summary = _rows(summaries[-1])[0]
        layers = [
            row for path in Path(folder).glob("*_per-layer.csv") for row in _rows(path)
        ]
        compiled = Path(folder) / "model_vela.tflite"
        size = compiled.stat().st_size if compiled.exists() else None
    # Where the system keeps weights in DRAM, the summary lists no flash for them.
    on_npu = any(row["Target"] == "NPU" for row in layers)
    cpu = [row["Original Operator"] for row in layers if row["Target"] == "CPU"]
    flash = _KIB * (
        float(summary["off_chip_flash_memory_used"])
        + float(summary["on_chip_flash_memory_used"])
        + (float(summary["dram_memory_used"]) if _in_dram(summary) else 0.0)
    )
    return TargetFigures(
        target=accelerator,
        tool=f"ethos-u-vela {importlib.metadata.version('ethos-u-vela')}",
        kind="estimated",
        flash=round(flash),
        ram=round(_KIB * float(summary["sram_memory_used"])),
        # Vela does not model the CPU: nothing is known where it runs everything.
        latency=1e3 * float(summary["inference_time"]) if on_npu else None,
        fallback=tuple(dict.fromkeys(cpu)),
        settings={
            "accelerator": summary["accelerator_configuration"],
            "system": summary["system_config"],
            "memory": summary["memory_mode"],
            "clock": f"{float(summary['core_clock']) / 1e6:g} MHz",
        },
        note=" ".join(_notes(size, cpu)),
    )


def _notes(size: int | None, cpu: list[str]) -> list[str]:
    notes = []
    if size is not None:
        notes.append(
            "Flash is that of the weights and commands as Vela compresses them; the "
            f"compiled file has {size:,} bytes."
        )
    if cpu:
        notes.append("The time of operators on the CPU is not in the latency.")
    return notes


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [
            {key.strip(): value.strip() for key, value in row.items() if key}
            for row in csv.DictReader(file)
        ]


def _in_dram(summary: dict[str, str]) -> bool:
    """Whether weights are stored in DRAM, as on some systems."""
    return "dram" in summary["weights_storage_area"].lower()
