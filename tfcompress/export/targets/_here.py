"""This computer, with the LiteRT interpreter."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

from tfcompress.export._runtime import benchmark
from tfcompress.export.targets._figures import TargetFigures

__all__ = ["HERE", "processor", "time_here"]

HERE = "this computer"


def time_here(content: bytes) -> TargetFigures:
    """Times a file on this machine with one thread."""
    latency = benchmark(content)
    return TargetFigures(
        target=HERE,
        tool=f"LiteRT {importlib.metadata.version('ai-edge-litert')}",
        kind="measured",
        flash=len(content),
        latency=latency.median,
        settings={
            "processor": processor(),
            "threads": "1",
            "p10 to p90": f"{latency.p10:.3g} to {latency.p90:.3g} ms",
        },
    )


def processor() -> str:
    """Name of this machine's processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"
