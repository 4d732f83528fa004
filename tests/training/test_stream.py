"""Data that go on through several fits as through one."""

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress.callbacks import FilterPruning
from tfcompress.constraints import Cardinality
from tfcompress.schedules import Linear
from tfcompress.training import (
    AdmmPhase,
    admm_compress,
    fit_shrinking,
    resize_by_density,
)

tf = pytest.importorskip("tensorflow")

N, BATCH, EPOCHS = 22, 4, 4
X = np.stack([np.arange(N), np.ones(N)], axis=1).astype("float32")
Y = np.arange(N) % 3
RISING = Linear(0.0, 0.5, begin=0, end=3)


SEEN = []
VALIDATED = []


@keras.saving.register_keras_serializable(package="test_stream")
class Spy(keras.Model):
    """Notes the first feature of the samples that it is trained with."""

    def train_step(self, data):
        SEEN.append(np.asarray(data[0])[:, 0].astype(int).tolist())
        return super().train_step(data)

    def test_step(self, data):
        VALIDATED.append(np.asarray(data[0])[:, 0].astype(int).tolist())
        return super().test_step(data)


def compiled(together=1):
    keras.utils.set_random_seed(0)
    SEEN.clear()
    VALIDATED.clear()
    inputs = keras.Input((2,))
    hidden = layers.Dense(4, activation="relu", name="hidden")(inputs)
    model = Spy(inputs, layers.Dense(3, activation="softmax")(hidden))
    model.compile(
        "sgd",
        "sparse_categorical_crossentropy",
        run_eagerly=True,
        steps_per_execution=together,
    )
    return model


class Batches(keras.utils.PyDataset):
    def __init__(self, **options):
        super().__init__(**options)
        self.calls = []

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return X[4 * index : 4 * index + 4], Y[4 * index : 4 * index + 4]

    def on_epoch_begin(self):
        self.calls.append("begin")

    def on_epoch_end(self):
        self.calls.append("end")


def dataset():
    return tf.data.Dataset.from_tensor_slices((X, Y))


def endless():
    while True:
        for start in range(0, N, BATCH):
            yield X[start : start + BATCH], Y[start : start + BATCH]


# What is trained on follows from these arguments alone.
SOURCES = {
    "arrays in order": lambda: {"x": X, "y": Y, "shuffle": False, "batch_size": BATCH},
    "arrays, steps": lambda: {"x": X, "y": Y, "shuffle": False, "steps_per_epoch": 4},
    "arrays, two passes in three epochs": lambda: {
        "x": X, "y": Y, "shuffle": False, "batch_size": BATCH, "steps_per_epoch": 4,
    },
    "validation split": lambda: {
        "x": X, "y": Y, "shuffle": False, "batch_size": BATCH, "validation_split": 0.3,
    },
    "endless dataset": lambda: {"x": dataset().batch(4).repeat(), "steps_per_epoch": 3},
    "finite dataset, steps": lambda: {"x": dataset().batch(4), "steps_per_epoch": 4},
    "dataset of unknown length": lambda: {
        "x": dataset().filter(lambda x, y: y > 0).batch(4)
    },
    "shuffled dataset": lambda: {"x": dataset().shuffle(N, seed=1).batch(4)},
    "shuffled endless dataset": lambda: {
        "x": dataset().shuffle(N, seed=1).repeat().batch(4), "steps_per_epoch": 3,
    },
    "generator": lambda: {"x": endless(), "steps_per_epoch": 3},
    "PyDataset": lambda: {"x": Batches(), "shuffle": False},
    "PyDataset, steps": lambda: {
        "x": Batches(), "shuffle": False, "steps_per_epoch": 3,
    },
    "PyDataset with workers": lambda: {
        "x": Batches(workers=2), "shuffle": False,
    },
    "several steps at once": lambda: {
        "x": X, "y": Y, "shuffle": False, "batch_size": 2, "steps_per_epoch": 4,
    },
}  # fmt: skip


@pytest.mark.filterwarnings(
    "ignore:.*ran out of data", "ignore:The training data ended"
)
@pytest.mark.parametrize("name", SOURCES)
def test_a_run_that_shrinks_sees_what_one_fit_sees(name):
    def run(shrinking):
        arguments = {"epochs": EPOCHS, "verbose": 0, **SOURCES[name]()}
        arguments["callbacks"] = [FilterPruning(RISING, layers=["hidden"])]
        model = compiled(3 if name.startswith("several") else 1)
        if shrinking:
            model = fit_shrinking(model, **arguments)
            assert model.get_layer("hidden").units == 2
        else:
            model.fit(**arguments)
        return list(SEEN), getattr(arguments["x"], "calls", None)

    assert run(True) == run(False)


def three_batches():
    for start in range(0, 12, BATCH):
        yield X[start : start + BATCH], Y[start : start + BATCH]


VALIDATION = {
    "generator": lambda: {"validation_data": three_batches()},
    "generator, steps": lambda: {
        "validation_data": three_batches(), "validation_steps": 3,
    },
    "dataset, steps": lambda: {
        "validation_data": dataset().batch(BATCH), "validation_steps": 2,
    },
    "arrays": lambda: {"validation_data": (X, Y), "validation_batch_size": 9},
    "every second epoch": lambda: {
        "validation_data": three_batches(), "validation_freq": 2,
    },
    "PyDataset": lambda: {"validation_data": Batches()},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*ran out of data")
@pytest.mark.parametrize("name", VALIDATION)
def test_a_run_that_shrinks_is_validated_as_one_fit_is(name):
    def run(shrinking):
        arguments = {"epochs": EPOCHS, "verbose": 0, "shuffle": False}
        arguments |= VALIDATION[name]()
        arguments["callbacks"] = [FilterPruning(RISING, layers=["hidden"])]
        model = compiled()
        if shrinking:
            history = fit_shrinking(model, X, Y, **arguments).history
        else:
            history = model.fit(X, Y, **arguments)
        calls = getattr(arguments["validation_data"], "calls", None)
        return list(VALIDATED), calls, len(history.history["val_loss"])

    assert run(True) == run(False)


@pytest.mark.filterwarnings("ignore:.*ran out of data")
def test_one_generator_validates_all_networks_and_stages():
    def after_the_first(batches):  # what Keras keeps of a generator that has ended
        return batches[:3] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]] and all(
            batch in batches[:2] for batch in batches[3:]
        )

    resize_by_density(
        compiled(), X, Y, epochs=3, round_epochs=2, max_rounds=1, min_delta=0.0,
        validation_data=three_batches(), verbose=0,
    )  # fmt: skip
    assert after_the_first(VALIDATED)
    plan = [AdmmPhase({"hidden": Cardinality(fraction=0.5)}, 1, 1)]
    admm_compress(compiled(), plan, X, Y, validation_data=three_batches(), verbose=0)
    assert len(VALIDATED) == 5
    assert after_the_first(VALIDATED)


def test_no_validation_data_are_refused_before_training():
    with pytest.raises(ValueError, match=r"argument `validation_data`.*at least one"):
        fit_shrinking(
            compiled(), X, Y, validation_data=(batch for batch in ()), verbose=0
        )
    assert not SEEN


def resumed(arguments, folder, at):
    """What is seen in a run that is interrupted, with what was seen before."""

    class Interrupt(keras.callbacks.Callback):
        left = None

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == at:
                raise KeyboardInterrupt

    def run(*callbacks):
        model = compiled()
        options = {"epochs": EPOCHS, "verbose": 0, "backup_dir": folder}
        fit_shrinking(model, **options, **arguments(), callbacks=list(callbacks))
        return list(SEEN)

    with pytest.raises(KeyboardInterrupt):
        run(Interrupt())
    return list(SEEN) + run(keras.callbacks.Callback())


RESUMED = {
    **SOURCES,
    "shuffled arrays": lambda: {"x": X, "y": Y, "batch_size": BATCH},
    "shuffled within batches": lambda: {"x": X, "y": Y, "shuffle": "batch"},
    "shuffled arrays, steps": lambda: {
        "x": X, "y": Y, "batch_size": BATCH, "steps_per_epoch": 4,
    },
    "shuffled PyDataset": lambda: {"x": Batches()},
}  # fmt: skip


@pytest.mark.filterwarnings(
    "ignore:.*ran out of data", "ignore:The training data ended"
)
@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(name, tmp_path):
    arguments = RESUMED[name]
    fit_shrinking(compiled(), epochs=EPOCHS, verbose=0, **arguments())
    whole = list(SEEN)
    assert resumed(arguments, tmp_path, at=2) == whole


def test_shuffled_arrays_have_another_order_in_every_epoch():
    def run(seed):
        model = compiled()
        np.random.seed(seed)
        fit_shrinking(model, X, Y, batch_size=BATCH, epochs=3, verbose=0)
        flat = [sample for batch in list(SEEN) for sample in batch]
        return [flat[N * epoch : N * epoch + N] for epoch in range(3)]

    orders = run(0)
    assert all(sorted(order) == list(range(N)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert orders == run(0) != run(1)


def test_samples_stay_with_their_labels_and_weights():
    pairs = []

    class Model(keras.Model):
        def train_step(self, data):
            pairs.append([np.asarray(part) for part in keras.tree.flatten(data)])
            return super().train_step(data)

    inputs = {"a": keras.Input((1,), name="a"), "b": keras.Input((1,), name="b")}
    outputs = layers.Dense(3)(layers.Concatenate()(list(inputs.values())))
    model = Model(inputs, outputs)
    model.compile("sgd", "mse", run_eagerly=True)
    number = np.arange(10.0)
    fit_shrinking(
        model,
        {"a": number[:, None], "b": -number[:, None]},
        np.repeat(number[:, None], 3, axis=1),
        sample_weight=number,
        batch_size=4,
        verbose=0,
    )
    assert [len(weights) for *_, weights in pairs] == [4, 4, 2]
    for a, b, y, weights in pairs:
        np.testing.assert_array_equal(a[:, 0], weights)
        np.testing.assert_array_equal(b[:, 0], -weights)
        np.testing.assert_array_equal(y[:, 0], weights)


@pytest.mark.parametrize(
    "empty",
    [
        lambda: {"x": X[:0], "y": Y[:0]},
        lambda: {"x": tf.data.Dataset.from_tensor_slices((X, Y)).batch(4).take(0)},
        lambda: {"x": (batch for batch in ())},
        lambda: {"x": dataset().filter(lambda x, y: y > 5).batch(4)},
    ],
    ids=["arrays", "dataset", "generator", "dataset of unknown length"],
)
@pytest.mark.filterwarnings("ignore:.*ran out of data")
def test_no_data_are_refused(empty):
    model = compiled()
    with pytest.raises(ValueError, match=r"argument `x`.*at least one batch"):
        fit_shrinking(model, **empty(), callbacks=[FilterPruning(0.5)], verbose=0)
    if not hasattr(empty()["x"], "filter") or empty()["x"].cardinality() == 0:
        assert np.all(model.get_layer("hidden").kernel.numpy() != 0)
