"""One rule for arguments: another kind is a TypeError, another value a ValueError."""

import keras
import numpy as np
import pytest

from tfcompress import _checks


@pytest.mark.parametrize(
    ("check", "good", "wrong_value", "wrong_kind"),
    [
        (_checks.whole, [1, np.int64(7), np.uint8(3)], [0, -1, 1.5], [True, "1", None]),
        (
            _checks.number,
            [0, 2.5, np.float32(0.5), np.int32(4)],
            [-1e-9, float("nan"), float("inf"), 10**400],
            [False, "0.5", [1.0]],
        ),
        (_checks.positive, [1e-300, 3], [0, -1.0, float("inf")], [True, "3"]),
        (
            _checks.fraction,
            [1, 0.25, np.float64(0.5)],
            [0, 1.001, float("nan")],
            [True, "0.5", None],
        ),
    ],
)
def test_numbers(check, good, wrong_value, wrong_kind):
    message = r"argument `x`\. Expected .*\. Received: x="
    for value in good:
        assert check("x", value) == value
        assert type(check("x", value)) in (int, float)
    for value in wrong_value:
        with pytest.raises(ValueError, match=message):
            check("x", value)
    for value in wrong_kind:
        with pytest.raises(TypeError, match=message):
            check("x", value)


def test_the_ends_of_a_range_are_open_or_closed_as_asked():
    assert _checks.fraction("x", 0, zero=True) == 0
    with pytest.raises(ValueError, match=r"\(0, 1\)"):
        _checks.fraction("x", 1, one=False)
    assert _checks.whole("x", -3, least=None) == -3
    assert _checks.number("x", -3, least=None) == -3


def test_names_and_choices():
    assert _checks.one_of("x", "a", ("a", "b")) == "a"
    assert _checks.one_of("x", None, (None, "b")) is None
    with pytest.raises(ValueError, match="one of 'a', 'b'"):
        _checks.one_of("x", "c", ("a", "b"))
    with pytest.raises(TypeError, match="one of 'a', 'b'"):
        _checks.one_of("x", np.zeros(2), ("a", "b"))
    assert _checks.name_list("x", ["a", "b"]) == ("a", "b")
    for value in ("ab", 3, ["a", 3]):
        with pytest.raises(TypeError, match="a list of names"):
            _checks.name_list("x", value)
    assert _checks.flag("x", np.bool_(True)) is True
    with pytest.raises(TypeError, match="True or False"):
        _checks.flag("x", "False")


def test_lists_of_callbacks():
    stop = keras.callbacks.TerminateOnNaN()
    assert _checks.callback_list("x", (stop,)) == [stop]
    for value in (stop, [stop, 3], "callbacks"):
        with pytest.raises(TypeError, match="a list of callbacks"):
            _checks.callback_list("x", value)
