"""JAX on two devices and in two processes trains as on one device.

`on_jax_devices.py` says what is run. Each run compiles a network of its own, so all
of them take minutes. Always tested are three kinds of state: what a constraint reads,
what the forward pass writes, and, in `shrinking_resumed`, what the loss reads.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.callbacks.contract import CASES, proves

pytest.importorskip("jax")

SCRIPT = Path(__file__).with_name("on_jax_devices.py")
# Importing TensorFlow takes seconds, and it is not needed.
WITHOUT_TENSORFLOW = (
    "import runpy, sys; sys.modules['tensorflow'] = None; del sys.argv[0]; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)
BRIEF = ["FilterPruning", "GatePenalty", "shrinking_resumed"]
OTHERS = ["mean_activation", "measured_on_data", "gates_resolved", "fit_resumed"]
ALL = [*CASES, *OTHERS, "shrinking_resumed"]


def trained(folder, runs, *, devices=1, processes=1):
    """What each process has found, and the weights that each run has ended with."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    options = (f"--processes={processes}", f"--port={port}")
    started = []
    try:
        for process in range(processes):
            command = (SCRIPT, folder, ",".join(runs), f"--process={process}", *options)
            with (folder / f"errors-{process}").open("w") as errors:
                started.append(
                    subprocess.Popen(
                        [sys.executable, "-c", WITHOUT_TENSORFLOW, *map(str, command)],
                        env=environment,
                        stdout=subprocess.PIPE,
                        stderr=errors,
                        text=True,
                    )
                )
        printed = [each.communicate()[0] for each in started]
    finally:
        for each in started:
            each.kill()
    results = []
    for process, (text, each) in enumerate(zip(printed, started, strict=True)):
        errors = (folder / f"errors-{process}").read_text()
        assert each.returncode == 0, errors[-4000:]
        found = json.loads(text.splitlines()[-1])
        assert found["devices"] == devices * processes
        for run in runs:
            assert found["runs"][run]["error"] is None, found["runs"][run]["error"]
            with np.load(folder / f"{run}-{process}.npz") as file:
                found["runs"][run]["weights"] = dict(file)
        results.append(found["runs"])
    return results


def assert_equal(one, other, *, tolerance):
    assert one["weights"].keys() == other["weights"].keys()
    for path, value in one["weights"].items():
        np.testing.assert_allclose(
            other["weights"][path], value, rtol=0, atol=tolerance, err_msg=path
        )
    for name in ("curve", "files"):
        assert one.get(name) == other.get(name)


def check_processes(run, one, two):
    assert_equal(*two, tolerance=0)  # the same to the last bit
    assert_equal(one, two[0], tolerance=1e-6)  # sums have another order
    if run == "shrinking_resumed":
        assert two[0]["files"] == ["backup.keras"]
    if run == "fit_resumed":
        assert two[0]["files"] == ["admm.npz", "admm.previous.npz"]


def test_two_processes_equal_one_in_brief(tmp_path):
    (one,) = trained(tmp_path / "one", BRIEF)
    two = trained(tmp_path / "two", [*BRIEF, "folders_of_their_own"], processes=2)
    for run in BRIEF:
        check_processes(run, one[run], [found[run] for found in two])
    assert not (tmp_path / "two" / "shrinking").exists()
    # The first process writes, and the other one must be able to read.
    first, second = (found["folders_of_their_own"] for found in two)
    assert "backup.keras" in first["files"] and second["files"] == []
    assert "all processes see" in first["refused"]
    assert "all processes see" in second["refused"]


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    return {
        "one": trained(folder / "one", ALL),
        "devices": trained(folder / "devices", ALL, devices=2),
        "processes": trained(folder / "processes", ALL, processes=2),
    }


@proves("JAX, data parallel")
@pytest.mark.slow
@pytest.mark.parametrize("case", ALL)
def test_data_parallel_equals_one_device(case, everything):
    (one,), (two,) = everything["one"], everything["devices"]
    assert_equal(one[case], two[case], tolerance=1e-6)


@proves("JAX, several processes")
@pytest.mark.slow
@pytest.mark.parametrize("case", ALL)
def test_two_processes_equal_one(case, everything):
    (one,), two = everything["one"], everything["processes"]
    check_processes(case, one[case], [found[case] for found in two])
