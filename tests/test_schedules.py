import json

import keras
import numpy as np
import pytest

from tfcompress import schedules
from tfcompress.schedules import Constant, Linear, OneShot, Piecewise, Polynomial

EXAMPLES = [
    Constant(0.5, begin=3),
    OneShot(0.8, at=4),
    Linear(0.1, 0.7, begin=2, end=9, every=2),
    Polynomial(0.1, 0.7, begin=2, end=9, power=2, every=3),
    Piecewise({0: 0.2, 5: 0.6}),
]


def test_constant_is_zero_before_it_begins():
    assert [Constant(2.0, begin=2)(t) for t in range(4)] == [0, 0, 2, 2]


def test_one_shot_jumps_once():
    assert [OneShot(0.8, at=2)(t) for t in range(4)] == [0, 0, 0.8, 0.8]


def test_linear_is_a_line_between_two_plateaus():
    ramp = Linear(0.2, 1.0, begin=2, end=6)
    expected = np.interp(range(10), [2, 6], [0.2, 1.0])
    np.testing.assert_allclose([ramp(t) for t in range(10)], expected, rtol=1e-15)


def test_linear_with_every_climbs_in_stairs_and_still_arrives():
    ramp = Linear(0.0, 1.0, begin=1, end=6, every=2)
    assert [ramp(t) for t in range(8)] == [0, 0, 0, 0.4, 0.4, 0.8, 1.0, 1.0]


def test_linear_from_rate_grows_by_that_rate_until_the_target():
    ramp = Linear.from_rate(0.01, 0.8, begin=5)
    expected = [min(max(t - 5, 0) * 0.01, 0.8) for t in range(100)]
    np.testing.assert_allclose([ramp(t) for t in range(100)], expected, atol=1e-15)


@pytest.mark.parametrize("power", [1, 2, 3, 0.5])
def test_polynomial_equals_its_formula(power):
    curve = Polynomial(0.1, 0.9, begin=10, end=50, power=power)
    steps = np.arange(70)
    left = 1 - np.clip((steps - 10) / 40, 0, 1)
    np.testing.assert_allclose(
        [curve(t) for t in steps], 0.9 - 0.8 * left**power, rtol=1e-14
    )


def test_polynomial_of_power_one_is_linear():
    line, curve = Linear(0.3, 0.6, 0, 7), Polynomial(0.3, 0.6, 0, 7, power=1)
    np.testing.assert_allclose(
        [line(t) for t in range(9)], [curve(t) for t in range(9)], rtol=1e-15
    )


def test_piecewise_holds_each_value_until_the_next_step():
    pieces = Piecewise({125: 2.0, 10: 1.0})
    assert [pieces(t) for t in (0, 9, 10, 124, 125, 999)] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("schedule", EXAMPLES, ids=repr)
def test_bounds_are_the_extremes_over_all_steps(schedule):
    values = [schedule(t) for t in range(30)]
    assert schedule.bounds() == (min(values), max(values))


@pytest.mark.parametrize("schedule", [*EXAMPLES, Linear(0.7, 0.1, 2, 9)], ids=repr)
def test_the_last_value_stays(schedule):
    assert {schedule(step) for step in range(9, 99)} == {schedule.last()}


@pytest.mark.parametrize("schedule", EXAMPLES, ids=repr)
def test_a_schedule_survives_its_config_and_json(schedule):
    assert type(schedule).from_config(schedule.get_config()) == schedule
    config = json.loads(json.dumps(schedules.serialize(schedule)))
    assert schedules.deserialize(config) == schedule
    assert hash(schedules.get(config)) == hash(schedule)


def test_get_accepts_schedules_numbers_and_dicts():
    assert schedules.get(EXAMPLES[0]) is EXAMPLES[0]
    assert schedules.get(0.5) == Constant(0.5)
    named = {"class_name": "OneShot", "config": {"value": 0.8, "at": 9}}
    assert schedules.get(named) == OneShot(0.8, at=9)


def test_get_names_what_it_received():
    with pytest.raises(ValueError, match="Received: 'linear'"):
        schedules.get("linear")
    with pytest.raises(TypeError, match="of type list"):
        schedules.get([0.5])
    layer = keras.saving.serialize_keras_object(keras.layers.ReLU())
    with pytest.raises(ValueError, match="description of a schedule"):
        schedules.get(layer)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: Linear(0.0, 0.8, begin=5, end=5), "end"),
        (lambda: Polynomial(0.0, 0.8, begin=6, end=5), "end"),
        (lambda: Linear(0.0, 0.8, begin=-1, end=5), "begin"),
        (lambda: Linear(0.0, float("nan"), begin=0, end=5), "final"),
        (lambda: Linear(0.0, 0.8, begin=0, end=5, every=0), "every"),
        (lambda: Linear.from_rate(0.0, 0.8), "rate"),
        (lambda: Linear.from_rate(0.1, -0.8), "target"),
        (lambda: Polynomial(0.0, 0.8, begin=0, end=5, power=0), "power"),
        (lambda: Constant(float("inf")), "value"),
        (lambda: OneShot(0.5, at=-2), "at"),
        (lambda: Piecewise({}), "values"),
        (lambda: Piecewise({-1: 0.5}), "values"),
        (lambda: Piecewise([(1, 0.5), (1, 0.6)]), "values"),
        (lambda: Piecewise(0.5), "values"),
    ],
)
def test_bad_values_are_refused_by_name(make, argument):
    with pytest.raises(ValueError, match=f"argument `{argument}`.*Received"):
        make()


@pytest.mark.parametrize("value", ["0.5", None, True])
def test_values_must_be_numbers(value):
    with pytest.raises(TypeError, match="argument `value`"):
        Constant(value)
