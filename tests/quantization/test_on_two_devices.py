"""Training with fake quantization under MirroredStrategy."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import tfcompress as tfc


def test_replicas_learn_the_same_ranges_and_weights(tmp_path):
    script = Path(__file__).with_name("on_two_devices.py")
    path = tmp_path / "qat.keras"
    result = subprocess.run(
        [sys.executable, str(script), str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["replicas"] == 2
    # Each replica sees its half, of largest values 3 and 5: the range is their mean.
    assert found["first"] == pytest.approx([0, 4])
    assert found["losses"][-1] < found["losses"][0]
    assert found["apart"] == 0
    assert found["off the grid"] < 1e-4

    # What two devices have trained is a file on one.
    qat = keras.saving.load_model(path)
    x = tfc.data.load("digits").test.images[:100]
    artifact = tfc.export.to_tflite(qat, tmp_path / "qat.tflite", calibration=x)
    (output,) = artifact.parity.outputs
    assert output.max_difference <= 2.01 * output.step
    assert np.isfinite(tfc.export.run(artifact.path, x)).all()
