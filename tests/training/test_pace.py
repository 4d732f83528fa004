"""When a removal pays."""

import pytest

from tfcompress.training._pace import pays

WORTH = {"gain": 0.5, "seconds_left": 10.0, "wasted": 2.0, "removal": 2.0}


def test_the_epochs_that_remain_must_pay_twice_for_a_removal():
    assert pays(**WORTH, settled=False)
    assert pays(**{**WORTH, "seconds_left": 8.0}, settled=False)
    assert not pays(**{**WORTH, "seconds_left": 7.9}, settled=False)
    assert not pays(**{**WORTH, "seconds_left": 7.9}, settled=True)
    assert not pays(**{**WORTH, "gain": 0.0}, settled=True)


def test_a_measured_removal_needs_a_smaller_margin():
    assert pays(**{**WORTH, "seconds_left": 5.0}, settled=True, basis="measured")
    assert not pays(**{**WORTH, "seconds_left": 4.9}, settled=True, basis="measured")


def test_while_more_is_pruned_it_waits_until_a_removal_was_wasted():
    assert not pays(**{**WORTH, "wasted": 1.9}, settled=False)
    assert pays(**{**WORTH, "wasted": 1.9}, settled=True)


@pytest.mark.parametrize("removal", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("true_yield", [0.25, 0.5, 1.0])
def test_a_run_is_hardly_slower_than_one_that_removes_nothing(removal, true_yield):
    """Epochs of one second, pruned evenly to 80 %; the rule expects a yield of ½."""
    epochs, kept, spent, wasted, expected = 60, 1.0, 0.0, 0.0, 0.5
    for epoch in range(epochs):
        rate = min(0.8, 0.02 * epoch)
        spent += 1 - true_yield * (1 - kept)
        gain = expected * (1 - (1 - rate) / kept)
        wasted += gain
        if pays(
            gain=gain,
            seconds_left=epochs - epoch - 1,
            wasted=wasted,
            removal=removal,
            settled=rate == 0.8,
            basis="guessed" if kept == 1 else "measured",
        ):
            spent, kept, wasted, expected = spent + removal, 1 - rate, 0.0, true_yield
    assert spent <= 1.02 * epochs
    if removal < 30 and true_yield == 1.0:
        assert spent < 0.8 * epochs
