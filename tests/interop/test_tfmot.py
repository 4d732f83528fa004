import importlib.util
import json
import os
import subprocess
import sys

import pytest

import tfcompress as tfc
from tfcompress.interop.tfmot import schedule


class Decay:
    """Follows TFMOT's protocol: a linear decay with updates every few steps."""

    begin_step, end_step, frequency = 2, 10, 3

    def __call__(self, step):
        step = int(step)
        inside = self.begin_step <= step <= self.end_step
        update = inside and (step - self.begin_step) % self.frequency == 0
        return update, 0.1 * step


def in_force(theirs, steps):
    """The sparsity of the last update, step by step."""
    current, result = 0.0, []
    for step in range(steps):
        update, sparsity = theirs(step)
        current = float(sparsity) if update else current
        result.append(current)
    return result


def test_the_sparsity_of_the_last_update_is_in_force():
    ours = schedule(Decay())
    assert [ours(t) for t in range(20)] == in_force(Decay(), 20)


def test_a_schedule_without_an_end_is_looked_at_for_some_steps():
    def theirs(step):
        return int(step) % 2 == 0, 0.01 * int(step)

    ours = schedule(theirs, steps=30)
    assert [ours(t) for t in range(30)] == in_force(theirs, 30)
    with pytest.raises(ValueError, match="argument `steps`"):
        schedule(theirs)


def test_the_result_needs_tfmot_no_more():
    ours = schedule(Decay())
    again = tfc.schedules.deserialize(tfc.schedules.serialize(ours))
    assert again == ours


@pytest.mark.parametrize("value", [None, 0.5, "polynomial"])
def test_what_is_no_schedule_is_refused(value):
    with pytest.raises(TypeError, match="argument `pruning_schedule`"):
        schedule(value)
    with pytest.raises(TypeError, match="argument `pruning_schedule`"):
        schedule(value, steps=3)


def test_bad_steps_and_empty_schedules_are_refused():
    with pytest.raises(ValueError, match="argument `steps`"):
        schedule(Decay(), steps=0)
    with pytest.raises(ValueError, match="updates at some step"):
        schedule(lambda step: (False, 0.5), steps=5)


SCRIPT = """
import json
import tensorflow as tf
from tfcompress.interop.tfmot import schedule
import tensorflow_model_optimization as tfmot

keras = tfmot.sparsity.keras
examples = [
    keras.PolynomialDecay(0.1, 0.8, 20, 320, power=3, frequency=100),
    keras.PolynomialDecay(0.0, 0.75, 0, 50, power=1, frequency=1),
    keras.PolynomialDecay(0.0, 0.5, 7, 90, power=2, frequency=9),
    keras.ConstantSparsity(0.5, 30),
    keras.ConstantSparsity(0.4, 10, end_step=60, frequency=7),
]
wrong = 0
for theirs in examples:
    ours, current = schedule(theirs), 0.0
    for step in range(400):
        update, sparsity = theirs(tf.constant(step, tf.int64))
        current = float(sparsity) if bool(update) else current
        wrong += ours(step) != current
print(json.dumps({"wrong": wrong, "examples": len(examples)}))
"""


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_model_optimization") is None,
    reason="the extra tfcompress[tfmot] is not installed",
)
def test_tfmot_schedules_are_equal_at_all_steps():
    # In a process of its own, because TFMOT switches Keras to its old version.
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    assert json.loads(done.stdout.splitlines()[-1]) == {"wrong": 0, "examples": 5}
