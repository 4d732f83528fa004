"""The hardware-aware search, against accuracies given in closed form."""

import keras
import pytest

from tfcompress.cost import SparseHardware
from tfcompress.training import search_fractions


@pytest.fixture(scope="module")
def model():
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, padding="same", name="first"),  # 64·9·4 MACs
            layers.Conv2D(8, 3, padding="same", name="second"),  # 64·9·32
            layers.Conv2D(8, 3, padding="same", name="third"),  # 64·9·64
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="logits"),
        ]
    )


def sensitive(**needs):
    """Accuracy that falls by what layers get less than they need."""

    def evaluate(fractions):
        return 1 - sum(max(0.0, least - fractions[n]) for n, least in needs.items())

    return evaluate


def test_fractions_fall_in_proportion_to_the_operations(model):
    plan = search_fractions(
        model,
        sensitive(third=0.25),
        least=1.0,
        steps=12,
        hardware=SparseHardware.proportional(1.0),
    )
    # The third layer, with most operations, falls to 0.25; the others in
    # proportion: by 0.75/2 and 0.75/16.
    assert plan.fractions["third"] == pytest.approx(0.25, abs=1e-3)
    assert plan.fractions["second"] == pytest.approx(1 - 0.375, abs=1e-3)
    assert plan.fractions["first"] == pytest.approx(1 - 0.75 / 16, abs=1e-3)
    assert plan.fractions["logits"] == 0.3
    assert plan.accuracy >= 1.0


def test_layers_below_break_even_are_restored_and_the_others_tightened(model):
    evaluate = sensitive(first=1.0, third=0.1)
    plan = search_fractions(model, evaluate, least=0.97, steps=12)
    # The first layer uses up the 0.03 that may be lost at t = 0.48, where no layer
    # is past the ratio. Restoring it frees them for the third, at t = 0.93; the
    # second is at 0.535 then, not past the ratio either, and is restored too.
    assert plan.fractions["first"] == plan.fractions["second"] == 1.0
    assert plan.fractions["third"] == pytest.approx(0.07, abs=1e-3)
    speedups = {layer.name: layer.speedup for layer in plan.layers}
    assert speedups["first"] == 1.0
    # Tables 8 and 9 of the paper have 7.0 to 7.2 at ratios of 13.6 to 14.5.
    assert speedups["third"] == pytest.approx(7.1, rel=0.02)
    assert set(plan.constraints()) == {"third", "logits"}


def test_restoring_the_largest_layer_takes_nothing_more_from_the_others(model):
    # The third layer has most operations. It begins with all its weights and is below
    # the break-even ratio when the second, which begins with few, is at its limit.
    # Given back, it frees nothing: the second stays where it was.
    evaluate = sensitive(second=0.2)
    initial = {"second": 0.4, "third": 1.0}
    plan = search_fractions(model, evaluate, least=1.0, steps=12, initial=initial)
    assert plan.fractions["third"] == 1.0
    assert plan.fractions["second"] == pytest.approx(0.2, abs=1e-3)
    assert plan.accuracy >= plan.least


def test_the_most_is_pruned_where_nothing_is_lost(model):
    plan = search_fractions(model, lambda fractions: 1.0, least=1.0, floor=0.05)
    assert plan.fractions["third"] == 0.05


def test_a_search_that_is_interrupted_repeats_no_trial(model, tmp_path):
    calls = []

    def evaluate(fractions):
        calls.append(fractions)
        if len(calls) == 4:
            raise InterruptedError
        return sensitive(third=0.25)(fractions)

    arguments = {"least": 1.0, "log_path": tmp_path / "log.json"}
    with pytest.raises(InterruptedError):
        search_fractions(model, evaluate, **arguments)
    plan = search_fractions(model, evaluate, **arguments)
    assert plan == search_fractions(model, sensitive(third=0.25), least=1.0)
    # The trial that failed was made twice, the others once.
    assert len(calls) == len(plan.trials) + 1
    with pytest.raises(ValueError, match="same model"):
        search_fractions(model, evaluate, initial={"third": 0.9}, **arguments)


def test_the_plan_prints_as_a_table(model):
    plan = search_fractions(model, sensitive(third=0.25), least=1.0)
    lines = str(plan).splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == [
        "first",
        "second",
        "third",
        "logits",
    ]
    assert f"{plan.speedup:.2f}×" in lines[-1]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"least": 1.1}, "reach"),
        ({"least": 1.0, "initial": {"fourth": 0.5}}, "initial"),
        ({"least": 1.0, "initial": {"third": 0.0}}, "initial"),
        ({"least": 1.0, "others": 1.5}, "others"),
        ({"least": 1.0, "floor": 0}, "floor"),
        ({"least": 1.0, "steps": 0}, "steps"),
        ({"least": 1.0, "log_path": "log.txt"}, "log_path"),
    ],
)
def test_bad_arguments_are_refused(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        search_fractions(model, lambda fractions: 1.0, **arguments)
