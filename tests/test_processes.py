"""Several processes that train together; `callbacks/test_devices.py` runs them."""

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress import _processes


def test_one_process_agrees_with_itself():
    assert _processes.count() == 1 and _processes.is_first()
    assert _processes.agreed(7) == 7 and _processes.alike(7)


def test_the_first_process_decides(monkeypatch):
    monkeypatch.setattr(_processes, "_gathered", lambda value: np.array([3, value]))
    assert _processes.agreed(7) == 3
    assert _processes.alike(3) and not _processes.alike(7)


def test_what_works_in_one_process_only_is_refused(monkeypatch):
    monkeypatch.setattr(_processes, "count", lambda: 2)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"compress works in one process.*2 processes"):
        tfc.compress(model, np.zeros((4, 2)), budget={"size": 1.0})
