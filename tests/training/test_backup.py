"""Backups: complete or absent, and enough to go on as if nothing had happened."""

import os
import signal
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress import _files, _made
from tfcompress.callbacks import ADMM, FilterPruning, HoldWeights, MagnitudePruning
from tfcompress.constraints import Cardinality
from tfcompress.schedules import Linear
from tfcompress.training import fit_shrinking
from tfcompress.training._backup import Backup, _joined, _renamed, _split
from tfcompress.training._run import progress

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(32, 6)).astype("float32"), RNG.integers(0, 3, 32)
RISING = Linear(0.0, 0.5, begin=0, end=3)


def network():
    """With automatic names, and a generator."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    return model


class Interrupt(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def run(folder, *callbacks, **options):
    model = network()
    # Named as a user would in a notebook: by the automatic name.
    pruning = FilterPruning(RISING, layers=[model.layers[0].name])
    return fit_shrinking(
        model,
        X,
        Y,
        epochs=4,
        batch_size=16,
        callbacks=[pruning, *callbacks],
        backup_dir=folder,
        verbose=0,
        **options,
    )


@pytest.fixture(scope="module")
def whole():
    return run(None)


def assert_equal(one, two):
    assert one.history.epoch == two.history.epoch
    assert one.history.history == two.history.history
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Interrupt())
    names = [layer.name for layer in whole.layers]
    resumed = run(tmp_path)
    assert_equal(resumed, whole)
    # It goes by the names of the model of this cell, which are others.
    assert not set(names) & {layer.name for layer in resumed.layers}
    assert not tmp_path.exists()


def test_an_interruption_between_two_removals_costs_no_epoch(tmp_path):
    whole = run(None, shrink_every=3)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Interrupt(), shrink_every=3)
    assert Backup(tmp_path).state()["run"]["run"]["epoch"] == 2
    assert_equal(run(tmp_path, shrink_every=3), whole)


def test_a_submodel_is_found_again_in_a_smaller_model_and_after_an_interruption(
    tmp_path,
):
    def train(folder, *more):
        keras.utils.set_random_seed(0)
        hidden = layers.Dense(8, activation="relu")
        part = keras.Sequential(
            [keras.Input((6,)), hidden, layers.Dense(4, activation="relu")], name="part"
        )
        model = keras.Sequential([keras.Input((6,)), part, layers.Dense(3)])
        model.compile("sgd", "mse", run_eagerly=True)
        return fit_shrinking(
            model,
            X,
            np.eye(3, dtype="float32")[Y],
            epochs=4,
            callbacks=[FilterPruning(RISING, target=part), *more],
            backup_dir=folder,
            verbose=0,
        )

    whole = train(None)
    assert whole.get_layer("part").layers[0].units == 4
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, Interrupt())
    assert_equal(train(tmp_path), whole)


class Twice(layers.Layer):
    """Not registered with Keras."""

    def call(self, x):
        return 2 * x


def test_a_run_with_a_layer_of_its_own_class_goes_on(tmp_path):
    def train(*callbacks):
        model = keras.Sequential([keras.Input((6,)), Twice(), layers.Dense(3)])
        model.compile("sgd", "mse", run_eagerly=True)
        y = np.eye(3, dtype="float32")[Y]
        arguments = {"epochs": 3, "callbacks": list(callbacks), "backup_dir": tmp_path}
        return fit_shrinking(model, X, y, verbose=0, **arguments)

    with pytest.raises(KeyboardInterrupt):
        train(Interrupt())
    assert train().history.epoch == [0, 1, 2]


def scaled(factor):
    """A function of a name that all of them have."""

    def by(x):
        return factor * x

    return by


class Slower(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.1 / (1.0 + keras.ops.cast(step, "float32"))

    def get_config(self):
        return {}


class Plain(keras.optimizers.SGD):
    pass


class Distance(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return keras.ops.mean(keras.ops.abs(y_true - y_pred), -1)


@pytest.mark.filterwarnings("error:The object being serialized")
@pytest.mark.parametrize("loss", [Distance(), lambda t, p: keras.ops.square(t - p)])
def test_a_run_with_functions_of_its_own_goes_on(loss, tmp_path):
    def error(y_true, y_pred):
        return keras.ops.abs(y_true - y_pred)

    def train(folder, *callbacks):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(4, activation=scaled(2.0)),
                layers.Lambda(lambda x: keras.ops.tanh(x)),
                layers.Dense(3, activation=scaled(0.5)),
            ]
        )
        mean = keras.metrics.MeanMetricWrapper(error, name="mean")
        model.compile(Plain(Slower()), loss, metrics=[error, mean], run_eagerly=True)
        y = np.eye(3, dtype="float32")[Y]
        arguments = {"epochs": 3, "callbacks": list(callbacks), "backup_dir": folder}
        return fit_shrinking(model, X, y, verbose=0, **arguments)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, Interrupt())
    assert_equal(train(tmp_path), train(None))


class Quality(keras.callbacks.Callback):
    """One that is best in the first epoch."""

    def on_epoch_end(self, epoch, logs=None):
        logs["q"] = [0.1, 0.9, 0.95, 0.97][epoch]


def test_callbacks_of_keras_know_the_epochs_before_an_interruption(tmp_path):
    def train(folder, *others):
        callbacks = keras.callbacks
        known = [
            callbacks.ModelCheckpoint(
                tmp_path / "q.keras", "q", mode="min", save_best_only=True
            ),
            callbacks.EarlyStopping("q", patience=3, mode="min"),
            callbacks.ReduceLROnPlateau("q", patience=2, cooldown=1, mode="min"),
        ]
        fit_shrinking(
            network(),
            X,
            Y,
            epochs=4,
            callbacks=[Quality(), *known, *others],
            backup_dir=folder,
            verbose=0,
        )
        return known

    whole = train(None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", Interrupt())
    best = (tmp_path / "q.keras").stat().st_mtime_ns
    resumed = train(tmp_path / "run")
    assert (tmp_path / "q.keras").stat().st_mtime_ns == best
    assert progress(resumed) == progress(whole)
    assert [each.best for each in resumed] == [0.1] * 3
    assert resumed[1].stopped_epoch == 3
    rates = [float(each[2].model.optimizer.learning_rate) for each in (whole, resumed)]
    assert rates[0] == rates[1] == pytest.approx(1e-4)  # a tenth of Adam's


class Hides(layers.Layer):
    """Keeps its function where nobody finds it."""

    def __init__(self, rule, **options):
        super().__init__(**options)
        self.inside = rule

    def call(self, x):
        return self.inside(x)

    def get_config(self):
        rule = keras.saving.serialize_keras_object(self.inside)
        return {**super().get_config(), "rule": rule}


def test_what_a_backup_would_lose_is_said_before_the_first_epoch(tmp_path):
    hides = Hides(scaled(2.0))
    model = keras.Sequential([keras.Input((6,)), hides, layers.Dense(3)])
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=r"`backup_dir`.*the function 'by'"):
        fit_shrinking(model, X, Y, verbose=0, backup_dir=tmp_path)
    assert model.optimizer.iterations == 0


def test_names_that_begin_with_a_renamed_one_stay():
    state = {
        "layers": [["Dense", "dense"], ["Dense", "dense_out"]],
        "run": {"logs": {"val_dense_loss": 1, "dense_out#2": 2, "dense_out_loss": 3}},
    }
    renamed = _renamed(state, {"dense": "dense_7"})
    logs = {"val_dense_7_loss": 1, "dense_out#2": 2, "dense_out_loss": 3}
    assert renamed["run"] == {"logs": logs}


@pytest.mark.parametrize("write", range(3))
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_at_any_write_leaves_a_backup(
    whole, tmp_path, monkeypatch, write, moment
):
    replace, left = os.replace, [write]

    def dies(source, target):
        left[0] -= 1
        if left[0] >= 0:
            return replace(source, target)
        if moment == "after":
            replace(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, keep_backup=True)
    monkeypatch.undo()
    assert_equal(run(tmp_path), whole)
    assert not tmp_path.exists()


@pytest.mark.slow
def test_a_process_that_is_killed_loses_nothing(whole, tmp_path):
    code = f"""
        import os, signal, sys
        sys.path.insert(0, {os.getcwd()!r})
        from tests.training import test_backup
        from tfcompress import _files
        def die(path, _replace=os.replace, left=[2]):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
        os.fsync = lambda handle: die(handle)
        test_backup.run({str(tmp_path)!r})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)])
    assert done.returncode == -signal.SIGKILL
    assert_equal(run(tmp_path), whole)
    assert not tmp_path.exists()


def test_one_run_at_a_time_owns_a_folder(tmp_path):
    with (
        _files.lock(tmp_path),
        pytest.raises(ValueError, match=r"argument `backup_dir`.*another run"),
    ):
        run(tmp_path)


def test_a_kept_backup_gives_the_result_again(tmp_path):
    first = run(tmp_path, keep_backup=True)
    again = run(tmp_path, keep_backup=True)
    assert_equal(first, again)
    assert _made.made(again) == _made.made(first) != []
    assert os.listdir(tmp_path) == ["backup.keras"]


@pytest.mark.filterwarnings("error:MagnitudePruning")
def test_a_run_that_is_complete_already_warns_of_no_schedule(tmp_path):
    for _ in range(2):
        pruning = MagnitudePruning(RISING, unit="epoch")
        fit_shrinking(
            network(),
            X,
            Y,
            epochs=4,
            callbacks=[pruning],
            backup_dir=tmp_path,
            keep_backup=True,
            verbose=0,
        )


def with_zero_rows(rows):
    keras.utils.clear_session()  # so that layers have the names of the other models
    model = network()
    kernel = model.layers[0].kernel
    values = np.ones(kernel.shape)
    values[rows] = 0
    kernel.assign(values)
    return model


def complete(folder, callback):
    """A run whose backup is complete, with a callback that a new process has made."""
    return fit_shrinking(
        with_zero_rows(slice(0, 3)),
        X,
        Y,
        epochs=1,
        callbacks=[callback],
        backup_dir=folder,
        keep_backup=True,
        verbose=0,
    )


def test_what_a_complete_backup_holds_is_not_for_another_model(tmp_path):
    for name, make in (
        ("hold", lambda: HoldWeights("zeros")),
        ("admm", lambda: ADMM(Cardinality(fraction=0.5))),
    ):
        complete(tmp_path / name, make())
        method = make()
        complete(tmp_path / name, method)
        other = with_zero_rows(slice(3, 6))
        other.fit(X, Y, callbacks=[method], verbose=0)
        if name == "hold":
            zero = ~keras.ops.convert_to_numpy(other.layers[0].kernel).any(axis=1)
            assert zero.tolist() == [False] * 3 + [True] * 3
        else:
            assert method.updates == 1


def test_admm_goes_on_from_a_complete_backup(tmp_path):
    def admm():
        return ADMM(Cardinality(fraction=0.5))

    first, second = admm(), admm()
    small = complete(tmp_path, first)
    again = complete(tmp_path, second)
    for model, method in ((small, first), (again, second)):
        model.fit(X, Y, callbacks=[method], shuffle=False, verbose=0)
    assert first.updates == second.updates == 2
    for one, two in zip(first.dual.values(), second.dual.values(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_states_come_back_as_they_were(tmp_path):
    state = {
        "numbers": [1, 2.5, None, True, "text"],
        "arrays": {"one": np.arange(6).reshape(2, 3), "two": [np.ones(2, bool)]},
    }
    backup = Backup(tmp_path)
    assert backup.load() is None
    backup.save(network(), {"state": state})
    found = backup.load().state["state"]
    assert found["numbers"] == state["numbers"]
    np.testing.assert_array_equal(found["arrays"]["one"], state["arrays"]["one"])
    np.testing.assert_array_equal(found["arrays"]["two"][0], [True, True])
    assert found["arrays"]["two"][0].dtype == bool


def test_another_file_of_that_name_is_refused(tmp_path):
    network().save(tmp_path / "backup.keras")
    with pytest.raises(ValueError, match=r"argument `backup_dir`.*no backup"):
        Backup(tmp_path).load()


def test_a_log_for_each_class_is_kept():
    arrays = {}
    logs = {"loss": [keras.ops.array(0.5)], "f1": [keras.ops.array([0.25, 1.0])]}
    kept = _joined(_split(logs, arrays), arrays)
    assert kept["loss"] == [0.5]
    np.testing.assert_array_equal(kept["f1"], [[0.25, 1.0]])
