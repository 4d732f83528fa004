"""The generated page follows the code."""

import subprocess
import sys
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_of_operations_is_up_to_date():
    version = ".".join(keras.__version__.split(".")[:2])
    if f"As of Keras {version}." not in (ROOT / "docs" / "structure.md").read_text():
        pytest.skip(f"the page lists another version of Keras than {version}")
    script = ROOT / "scripts" / "document_structure.py"
    result = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
