import pytest

from tfcompress import Budget


@pytest.mark.parametrize(
    ("name", "given", "original", "limit"),
    [
        ("size", "100kB", 1e6, 100_000),
        ("size", "64 KiB", 1e6, 65_536),
        ("size", "25%", 1e6, 250_000),
        ("size", 98_496, 1e6, 98_496),
        ("macs", 0.4, 5e6, 2e6),
        ("macs", "5M", 1e9, 5e6),
        ("macs", "12,500,000", 1e9, 12.5e6),
        ("parameters", 1, 7.0, 7),
        ("latency", "2.5ms", 10, 2.5),
        ("latency", "500us", 10, 0.5),
        ("latency", 3, 10, 3),
        ("energy", "40uJ", 1, 40e-6),
        ("energy", "40 \N{GREEK SMALL LETTER MU}J", 1, 40e-6),
        ("energy", "40 \N{MICRO SIGN}J", 1, 40e-6),
        ("energy", 0.5, 3e-6, 1.5e-6),
    ],
)
def test_limits_are_absolute_or_fractions(name, given, original, limit):
    assert Budget(**{name: given}).limit(name, original) == pytest.approx(limit)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({}, ValueError, "at least one"),
        ({"size": "big"}, ValueError, "argument `size`"),
        ({"size": "5 parsecs"}, ValueError, "argument `size`"),
        ({"size": "1,5MB"}, ValueError, "argument `size`"),
        ({"size": "0kB"}, ValueError, "argument `size`"),
        ({"size": "150%"}, ValueError, "argument `size`"),
        ({"macs": -1}, ValueError, "argument `macs`"),
        ({"macs": float("nan")}, ValueError, "argument `macs`"),
        ({"macs": float("inf")}, ValueError, "argument `macs`"),
        ({"macs": True}, TypeError, "argument `macs`"),
        ({"macs": [1]}, TypeError, "argument `macs`"),
        ({"energy": 40}, ValueError, "argument `energy`"),
        ({"flash": "64kB"}, ValueError, "argument `target`"),
        ({"ram": "64kB", "target": "this computer"}, ValueError, "argument `target`"),
        ({"macs": 0.5, "target": 3}, TypeError, "argument `target`"),
    ],
)
def test_bad_figures_are_named(given, error, message):
    with pytest.raises(error, match=message):
        Budget(**given)


def test_a_typing_mistake_is_recognized():
    with pytest.raises(ValueError, match=r"'macss'.*'macs'"):
        Budget.from_config({"macss": 0.4})


def test_config_round_trip():
    budget = Budget(size="20kB", macs=0.5)
    assert Budget.from_config(budget.get_config()) == budget
