"""What compiled steps know of a method, on whatever backend of Keras runs."""

import importlib.util
import itertools
from pathlib import Path

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tests.callbacks.contract import BATCH, CASES, data, network, proves


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


@pytest.mark.parametrize("criterion", ["l1", "mean_activation"])
def test_criteria_see_every_epoch(criterion):
    """Channels are chosen from what the last epoch has left, not from a first trace."""
    scores = []

    class Watched(type(tfc.criteria.get(criterion))):
        def __call__(self, model, groups, pruned=None):
            found = super().__call__(model, groups, pruned or {})
            scores.append(np.concatenate(found))
            return found

    model = network()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rising = tfc.schedules.Linear(0.0, 0.5, 0, 4)
    pruning = tfc.callbacks.FilterPruning(rising, criterion=Watched())
    model.fit(*data(), epochs=5, batch_size=BATCH, callbacks=[pruning], verbose=0)
    small = tfc.finalize(model)
    assert [small.get_layer(name).kernel.shape[-1] for name in "abh"] == [4, 4, 4]
    assert len(scores) >= 4
    changes = [np.abs(a - b).max() for a, b in itertools.pairwise(scores)]
    assert min(changes) > 0


def ready(case):
    model, method = CASES[case].model(), CASES[case].method()
    model.compile("sgd", "sparse_categorical_crossentropy")
    method.set_model(model)
    return model, method


@proves("torch", outcome="refused")
@pytest.mark.parametrize("case", CASES)
def test_other_backends_are_refused_before_training(case, monkeypatch):
    _, method = ready(case)
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ValueError, match=r"tensorflow and jax.*torch"):
        method.on_train_begin()


@proves("TensorFlow, several processes", outcome="refused")
@pytest.mark.parametrize("case", CASES)
def test_several_workers_of_tensorflow_are_refused_before_training(case, monkeypatch):
    class MultiWorkerMirroredStrategy:
        """Stands for that of TensorFlow, which would wait for other machines."""

    model, method = ready(case)
    under = property(lambda model: MultiWorkerMirroredStrategy())
    monkeypatch.setattr(type(model), "distribute_strategy", under, raising=False)
    with pytest.raises(ValueError, match=r"keras#20585.*MultiWorkerMirroredStrategy"):
        method.on_train_begin()


@pytest.mark.parametrize("gradient", ["exact", "approximate"])
def test_multipliers_are_refused_on_other_backends(gradient, monkeypatch):
    layer = tfc.layers.DrumMultiply(
        keras.layers.Dense(2), 2, 6, gradient=gradient, partition="all"
    )
    x = keras.ops.ones((1, 3))
    layer(x)
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ValueError, match=r"tensorflow and jax.*torch"):
        layer(x)


# The table of docs/scaling.md ------------------------------------------------------


@pytest.fixture
def document():
    script = Path(__file__).parents[2] / "scripts" / "document_backends.py"
    spec = importlib.util.spec_from_file_location("document_backends", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_backends_is_up_to_date(document):
    text = document.PAGE.read_text(encoding="utf-8")
    assert text == document.page(text), "run scripts/document_backends.py"
    for method in tfc.callbacks.__all__:
        assert f"| `{method}` |" in text


def test_a_cell_without_a_test_is_an_error(document, monkeypatch):
    contract = importlib.import_module("tests.callbacks.contract")
    monkeypatch.setattr(contract, "PLACES", (*contract.PLACES, "elsewhere"))
    with pytest.raises(ValueError, match=r"no test.*elsewhere"):
        document.generated()
