"""What a method says where training has ended before its schedule."""

import warnings
from dataclasses import dataclass

import keras
import pytest

import tfcompress as tfc
from tests.callbacks.contract import data, gated, network
from tfcompress.schedules import Constant, Linear, OneShot, Piecewise

callbacks = tfc.callbacks
EPOCHS = 3
X, Y = (array[:16] for array in data())  # two steps an epoch

# The method, its network, and where it is after two of three epochs.
CASES = {
    "FilterPruning": (
        lambda: callbacks.FilterPruning(Linear(0.0, 0.5, 0, 2)),
        network,
        "0.25 of 0.5",
    ),
    "FilterPruning of layers": (
        lambda: callbacks.FilterPruning({"a": 0.5, "h": OneShot(0.75, at=2)}),
        network,
        "0 of 0.75",
    ),
    "MagnitudePruning": (
        lambda: callbacks.MagnitudePruning(Linear(0.0, 0.5, 0, 5)),
        network,
        "0.3 of 0.5",
    ),
    "MagnitudePruning that never began": (
        lambda: callbacks.MagnitudePruning({"h": OneShot(0.5, at=2)}, unit="epoch"),
        network,
        "0 of 0.5",
    ),
    "GatePenalty": (
        lambda: callbacks.GatePenalty(1.0, Linear(0.0, 2.0, 0, 2)),
        gated,
        "1 of 2",
    ),
    "GatePenalty that falls": (
        lambda: callbacks.GatePenalty(Piecewise({0: 3.0, 2: 0.5})),
        gated,
        "3 of 0.5",
    ),
    "ADMM": (  # of updates: a third one ends the third epoch
        lambda: callbacks.ADMM(
            tfc.constraints.Levels(3, step=0.1), rho=Linear(1.0, 4.0, 0, 3)
        ),
        network,
        "3 of 4",
    ),
    "DynamicSurgery": (
        lambda: callbacks.DynamicSurgery({"b": 0.5}, end=6),
        lambda: network(tfc.layers.MaskedKernel),
        "step 4 (end=6)",
    ),
    "DynamicSurgery that never began": (
        lambda: callbacks.DynamicSurgery({"b": 0.5}, begin=4),
        lambda: network(tfc.layers.MaskedKernel),
        "step 4 (begin=4)",
    ),
    "IncrementalApproximation": (
        lambda: callbacks.IncrementalApproximation(6),
        lambda: network(lambda layer: tfc.layers.DrumMultiply(layer, 2, 6)),
        "iteration 4 of 6",
    ),
}
CONSTANT = {
    "FilterPruning": (lambda: callbacks.FilterPruning(0.5), network),
    "MagnitudePruning": (lambda: callbacks.MagnitudePruning(Constant(0.5)), network),
    "GatePenalty": (lambda: callbacks.GatePenalty(1.0, 0.5), gated),
    "ADMM": (lambda: callbacks.ADMM(tfc.constraints.Levels(3, step=0.1)), network),
    "DynamicSurgery": (
        lambda: callbacks.DynamicSurgery({"b": 0.5}),
        lambda: network(tfc.layers.MaskedKernel),
    ),
}


class Stop(keras.callbacks.Callback):
    """Ends training after two epochs, as `EarlyStopping` does."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == 1


def fit(model, *methods, epochs=EPOCHS, **options):
    """Trains, and returns what the methods said."""
    if not model.compiled:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        # Tracing a step would take longer than the six steps.
        model.compile("sgd", loss, run_eagerly=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        options = {"epochs": epochs, "batch_size": 8, "verbose": 0} | options
        model.fit(X, Y, callbacks=list(methods), **options)
    return [str(w.message) for w in caught if "the schedule" in str(w.message)]


@pytest.mark.parametrize("case", CASES)
def test_a_schedule_that_training_does_not_reach_is_told(case):
    method, model, where = CASES[case]
    (said,) = fit(model(), method(), Stop())
    assert said == (
        f"{case.split()[0]}: training has ended before the schedule did, at {where}. "
        "Train longer, or let the schedule end earlier."
    )


@pytest.mark.parametrize("case", CASES)
def test_a_schedule_that_has_ended_says_nothing(case):
    method, model, _ = CASES[case]
    assert fit(model(), method()) == []


@pytest.mark.parametrize("case", CONSTANT)
def test_a_constant_has_no_end_to_reach(case):
    method, model = CONSTANT[case]
    assert fit(model(), method(), epochs=1) == []


# A further `fit` of `GatePenalty` begins anew unless it has `initial_epoch`, and
# `IncrementalApproximation` divides the epochs of one `fit`.
@pytest.mark.parametrize(
    "case", ["FilterPruning", "MagnitudePruning", "ADMM", "DynamicSurgery"]
)
def test_a_schedule_goes_on_in_a_further_fit(case):
    make, build, where = CASES[case]
    method, model = make(), build()
    (said,) = fit(model, method, epochs=2)
    assert where in said
    assert fit(model, method, epochs=1) == []
    # Nothing trains: a run that was complete when it was restored, say.
    assert fit(model, make(), epochs=1, initial_epoch=1) == []


def test_a_model_that_gets_smaller_at_the_end_does_not_hide_it():
    model = network()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    pruning = callbacks.FilterPruning(Linear(0.0, 0.75, 0, 2))
    with pytest.warns(UserWarning, match=r"FilterPruning: .* at 0\.375 of 0\.75"):
        small = tfc.training.fit_shrinking(
            model, X, Y, epochs=2, callbacks=[pruning], batch_size=8, verbose=0
        )
    assert small.get_layer("a").filters == 5


@dataclass(frozen=True)
class Wave(tfc.schedules.Schedule):
    """Rises and falls again and again, and so has no last value."""

    def __call__(self, step):
        return float(step % 2)

    def bounds(self):
        return 0.0, 1.0

    def last(self):
        return None


def test_a_schedule_that_never_settles_says_nothing():
    assert fit(gated(), callbacks.GatePenalty(Wave())) == []
