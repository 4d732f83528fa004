"""What compiled steps know of a method, on whatever backend of Keras runs."""

import keras
import pytest

import tfcompress as tfc
from tests.callbacks.contract import BATCH, CASES, data, network


def traces_by_epoch(model, method, epochs=4):
    """How often the training step was traced until the end of each epoch."""
    traces, counts = [], []

    def loss(labels, outputs):
        traces.append(None)
        return keras.losses.sparse_categorical_crossentropy(
            labels, outputs, from_logits=True
        )

    class Count(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            counts.append(len(traces))

    model.compile("sgd", loss)
    model.fit(
        *data(), epochs=epochs, batch_size=BATCH, callbacks=[method, Count()], verbose=0
    )
    return counts


@pytest.mark.parametrize("case", ["FilterPruning", "MagnitudePruning", "ADMM"])
def test_steps_are_not_traced_anew_between_epochs(case):
    counts = traces_by_epoch(CASES[case].model(), CASES[case].method())
    assert counts[0] > 0
    assert counts == counts[:1] * 4


def test_a_change_that_steps_know_as_a_constant_reaches_them():
    # The partition becomes "all" in the last epoch. JAX would find the trace of
    # before, because the variables are the same.
    case = CASES["IncrementalApproximation"]
    counts = traces_by_epoch(case.model(), tfc.callbacks.IncrementalApproximation(4))
    assert counts[0] == counts[1] == counts[2] < counts[3]


def test_other_backends_are_refused_before_training(monkeypatch):
    model = network()
    model.compile("sgd", "sparse_categorical_crossentropy")
    method = CASES["FilterPruning"].method()
    method.set_model(model)
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ValueError, match=r"tensorflow and jax.*torch"):
        method.on_train_begin()
