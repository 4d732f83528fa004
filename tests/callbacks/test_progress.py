"""A schedule, and the record of how a model was made, over several runs."""

import functools

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress import _made
from tfcompress.callbacks import FilterPruning, HoldWeights, MagnitudePruning
from tfcompress.callbacks._progress import Progress
from tfcompress.schedules import Linear
from tfcompress.training import fit_shrinking

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(32, 6)).astype("float32"), RNG.integers(0, 3, 32)
FIT = {"batch_size": 16, "shuffle": False, "verbose": 0}  # two steps an epoch
EPOCHS = 3  # of each of two runs


def network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = layers.Dense(10, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="out")(x))
    return compiled(model)


def compiled(model):
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    return model


# One of each: both go on in the same way.
METHODS = {"epoch": FilterPruning, "step": MagnitudePruning}


def new_method(unit):
    end = 2 * EPOCHS if unit == "epoch" else 4 * EPOCHS
    schedule = Linear(0.0, 0.6, begin=0, end=end)
    return METHODS[unit](schedule, unit=unit, layers=["hidden"])


class Log(keras.callbacks.Callback):
    """Notes how much is pruned in each epoch, and ends a run in one of them."""

    def __init__(self, stop=None):
        super().__init__()
        self.stop, self.rates = stop, {}

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.now, batch) == self.stop:
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch, logs=None):
        keys = ("pruning_rate", "weight_sparsity")
        (rate,) = (logs[key] for key in keys if key in logs)
        self.rates[epoch] = pytest.approx(rate)


@functools.cache
def second_half(unit):
    """The rates of a second run, where one run goes through all epochs."""
    log = Log()
    network().fit(X, Y, epochs=2 * EPOCHS, callbacks=[new_method(unit), log], **FIT)
    return {epoch: log.rates[EPOCHS + epoch] for epoch in range(EPOCHS)}


pytestmark = pytest.mark.filterwarnings("ignore:.*training has ended before")


@pytest.mark.parametrize("unit", METHODS)
def test_a_model_that_is_compiled_again_is_pruned_on(unit):
    model, method, log = network(), new_method(unit), Log()
    model.fit(X, Y, epochs=EPOCHS, callbacks=[method], **FIT)
    compiled(model).fit(X, Y, epochs=EPOCHS, callbacks=[method, log], **FIT)
    assert log.rates == second_half(unit)


@pytest.mark.parametrize(
    "unit, again, stop",
    [
        ("epoch", "the call", (1, 1)),
        ("epoch", "the program", (0, 0)),
        ("step", "the program", (1, 1)),
    ],
)
def test_a_second_shrinking_run_is_resumed_where_it_was(unit, again, stop, tmp_path):
    def first():
        method = new_method(unit)
        options = {"backup_dir": tmp_path / "first", "keep_backup": True, **FIT}
        model = fit_shrinking(
            network(), X, Y, epochs=EPOCHS, callbacks=[method], **options
        )
        return method, compiled(model)

    def second(method, model, stop=None):
        log = Log(stop)
        options = {"backup_dir": tmp_path / "second", "shrink_every": 2, **FIT}
        model = fit_shrinking(
            model, X, Y, epochs=EPOCHS, callbacks=[method, log], **options
        )
        return model, log.rates

    method, model = first()
    with pytest.raises(KeyboardInterrupt):
        second(method, model, stop)
    if again == "the program":
        method, model = first()
    model, rates = second(method, model)
    whole = second_half(unit)
    assert rates == {epoch: whole[epoch] for epoch in range(stop[0], EPOCHS)}
    epochs = [record["epochs"] for record in _made.made(model)]
    assert epochs == [EPOCHS, EPOCHS]


@pytest.mark.parametrize(
    "unit, again, start",
    [
        ("epoch", "the call", 0),
        ("epoch", "the program", 0),
        ("epoch", "the program", EPOCHS),
        ("step", "the call", 0),
        ("step", "the program", 0),
    ],
)
def test_a_second_fit_is_resumed_where_it_was(unit, again, start, tmp_path):
    def first():
        model, method = network(), new_method(unit)
        model.fit(X, Y, epochs=EPOCHS, callbacks=[method], **FIT)
        return method, compiled(model)

    def second(method, model, stop=None):
        log = Log(stop)
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        callbacks = [backup, method, log]
        epochs = {"initial_epoch": start, "epochs": start + EPOCHS}
        model.fit(X, Y, callbacks=callbacks, **epochs, **FIT)
        return log.rates

    method, model = first()
    with pytest.raises(KeyboardInterrupt):
        second(method, model, stop=(start + 2, 1))
    if again == "the program":
        method, model = first()
    rates = second(method, model)
    assert rates == {start + 2: second_half(unit)[2]}
    epochs = [record["epochs"] for record in _made.made(model)]
    assert epochs == [EPOCHS, EPOCHS]
    # Keras would begin where the run before was resumed.
    assert set(second(method, model)) == set(range(start, start + EPOCHS))


def test_an_interrupted_run_gives_nothing_back():
    model, method = network(), new_method("step")
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, epochs=3, callbacks=[method, Log((2, 1))], **FIT)
    log = Log()
    compiled(model).fit(X, Y, epochs=1, callbacks=[method, log], **FIT)
    # Five steps were done; the sixth and seventh follow.
    kept = round(60 * (1 - float(Linear(0.0, 0.6, 0, 12)(6))))
    assert log.rates == {0: pytest.approx(1 - kept / 60)}


@pytest.mark.parametrize("initial_epoch", [0, 2])
def test_records_count_an_epoch_once(initial_epoch):
    model = network()
    for method in (new_method("epoch"), HoldWeights()):
        begin = 0
        for _ in range(2):
            epochs = {"initial_epoch": begin, "epochs": begin + 2}
            model.fit(X, Y, callbacks=[method], **epochs, **FIT)
            begin += initial_epoch
    assert [record["epochs"] for record in _made.made(model)] == [2] * 4


def test_epochs_that_are_added_to_a_complete_run_have_a_record_of_their_own(tmp_path):
    for epochs in (2, 5):
        model = fit_shrinking(
            network(),
            X,
            Y,
            epochs=epochs,
            callbacks=[HoldWeights()],
            backup_dir=tmp_path,
            keep_backup=True,
            **FIT,
        )
    assert [record["epochs"] for record in _made.made(model)] == [2, 3]


def test_an_offset_belongs_to_a_run():
    progress = Progress()
    progress.begin(0, resumed=False)
    progress.reach(20)
    progress.end()
    assert progress.at(20) == 20
    progress.begin(0, resumed=False)
    assert progress.at(0) == 20
    progress.reach(7)
    resumed = Progress()
    resumed.restore(progress.state())
    resumed.begin(7, resumed=True)
    assert resumed.at(7) == 27
    progress.begin(30, resumed=False)  # a new run, numbered on
    assert progress.at(30) == 30
