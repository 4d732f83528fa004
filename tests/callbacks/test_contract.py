"""One table: what every callback must do in every situation.

A row is a callback (`contract.CASES`), a column a situation below. Every pair is a
test; none is skipped but where a backend of Keras lacks the situation itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tests.callbacks.contract import BATCH, CASES, EPOCHS, data, network, proves

TENSORFLOW = keras.backend.backend() == "tensorflow"
SITUATIONS = {}


def situation(function):
    SITUATIONS[function.__name__] = function
    return function


# Running a case --------------------------------------------------------------------


def compiled(case, optimizer=None, *, model=None, **options):
    model = case.model() if model is None else model
    model.compile(
        optimizer or keras.optimizers.SGD(0.05, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **options,
    )
    return model


def fit(model, *callbacks, epochs=EPOCHS, **options):
    """Trains in a fixed order, and returns the logs of the last epoch."""
    options = {"shuffle": False, "batch_size": BATCH, "verbose": 0} | options
    history = model.fit(*data(), epochs=epochs, callbacks=list(callbacks), **options)
    return {name: values[-1] for name, values in history.history.items()}


def weights(model):
    return {v.path: keras.ops.convert_to_numpy(v) for v in model.weights}


def assert_equal(one, two, **tolerance):
    assert one.keys() == two.keys()
    for path, value in one.items():
        np.testing.assert_allclose(value, two[path], err_msg=path, **tolerance)


def attachments(model):
    """What a method can leave in a model."""
    return (
        [(v.path, v.constraint, v.regularizer) for v in model.trainable_variables],
        [len(layer._seed_generators) for layer in (model, *model.layers)],
        len(model.optimizer.variables),
        [layer.call.__qualname__ for layer in model.layers],
        [name for name in vars(model) if name.startswith("_tfcompress")],
    )


class Stop(keras.callbacks.Callback):
    """Ends a run by an exception, in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch, self.now = epoch, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.now == self.epoch and batch >= 3:
            raise KeyboardInterrupt


# Situations ------------------------------------------------------------------------


@situation
def one_fit(case, tmp_path):
    model = compiled(case)
    before = attachments(model)
    method = case.method()
    case.check(method, model, fit(model, method))
    after = attachments(model)
    assert after[:2] == before[:2] and after[3:] == before[3:]
    plain = compiled(case)
    fit(plain)
    assert after[2] == attachments(plain)[2]


@situation
def second_fit(case, tmp_path):
    model = compiled(case)
    method = case.method()
    fit(model, method)
    logs = fit(model, method, initial_epoch=EPOCHS, epochs=2 * EPOCHS)
    if isinstance(method, tfc.callbacks.ADMM):
        assert method.updates == 2 * EPOCHS
    case.check(method, model, logs)


@situation
def crash_then_fit(case, tmp_path):
    model = compiled(case)
    before = attachments(model)
    with pytest.raises(KeyboardInterrupt):
        fit(model, case.method(), Stop(1))
    method = case.method()
    case.check(method, model, fit(model, method))
    after = attachments(model)
    assert after[:2] == before[:2] and after[3:] == before[3:]


def resumed(case, folder, callbacks):
    """Runs until a stop in the third epoch, and anew; returns method and model."""

    def run(*more):
        model, method = compiled(case), case.method()
        if isinstance(method, tfc.callbacks.ADMM):
            method.state_path = folder.with_name("state.npz")  # of Z and U
        backup = keras.callbacks.BackupAndRestore(str(folder))
        logs = fit(model, *callbacks(method, backup), *more)
        return method, model, logs

    with pytest.raises(KeyboardInterrupt):
        run(Stop(2))
    return run()


def assert_resumes(case, folder, callbacks):
    whole = compiled(case)
    fit(whole, case.method())
    method, model, logs = resumed(case, folder, callbacks)
    assert_equal(weights(model), weights(whole), rtol=0, atol=1e-6)
    case.check(method, model, logs)


@situation
def backup_before_it(case, tmp_path):
    assert_resumes(case, tmp_path / "backup", lambda m, backup: [backup, m])


@situation
def backup_after_it(case, tmp_path):
    assert_resumes(case, tmp_path / "backup", lambda m, backup: [m, backup])


@situation
def shrinking_equals_masking(case, tmp_path):
    def callbacks():
        rates = {name: tfc.schedules.Linear(0.0, 0.5, 0, 2) for name in case.prunable}
        pruning = [tfc.callbacks.FilterPruning(rates)] if rates else []
        method = case.method()
        return method, [*pruning, method]

    masked, (method, listed) = compiled(case), callbacks()
    expected = fit(masked, *listed)
    case.check(method, masked, expected)
    model, (method, listed) = compiled(case), callbacks()
    small = tfc.training.fit_shrinking(
        model,
        *data(),
        epochs=EPOCHS,
        callbacks=listed,
        shuffle=False,
        batch_size=BATCH,
        verbose=0,
    )
    assert small.count_params() < masked.count_params()
    logged = {name: each[-1] for name, each in small.history.history.items()}
    case.check(method, small, logged)
    if case.exact:
        x = data()[0]
        np.testing.assert_allclose(
            small.predict(x, verbose=0), masked.predict(x, verbose=0), rtol=0, atol=1e-4
        )
        for name in ("approximated", "surgery_sparsity", "pruning_rate"):
            assert logged.get(name) == pytest.approx(expected.get(name))


@situation
def shrinking_resumes(case, tmp_path):
    def run(folder, *more):
        return tfc.training.fit_shrinking(
            compiled(case),
            *data(),
            epochs=EPOCHS,
            callbacks=[case.method(), *more],
            shrink_every=1,
            shuffle=False,
            batch_size=BATCH,
            verbose=0,
            backup_dir=tmp_path / folder,
        )

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("half", Stop(2))
    assert_equal(weights(run("half")), weights(whole), rtol=0, atol=1e-6)


@situation
def several_steps_at_once(case, tmp_path):
    model = compiled(case, steps_per_execution=4)
    method = case.method()
    case.check(method, model, fit(model, method))


@situation
def accumulated_gradients(case, tmp_path):
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9, gradient_accumulation_steps=2)
    model, method = compiled(case, optimizer), case.method()
    if hasattr(method, "begin"):
        method.begin //= 2  # counts updates, of which there are half as many
    case.check(method, model, fit(model, method))


@situation
def averaged_weights(case, tmp_path):
    optimizer = keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.9)
    model, method = compiled(case, optimizer), case.method()
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    case.check(method, model, fit(model, method, swap))


@situation
def mixed_precision(case, tmp_path):
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1024.0)
    model = compiled(case, optimizer, model=case.model(dtype="mixed_float16"))
    method = case.method()
    case.check(method, model, fit(model, method))


@situation
def compiled_by_xla(case, tmp_path):
    one, two = compiled(case, jit_compile=True), compiled(case, jit_compile=False)
    first, second = case.method(), case.method()
    case.check(first, one, fit(one, first))
    case.check(second, two, fit(two, second))
    assert_equal(weights(one), weights(two), rtol=0, atol=2e-3)


@situation
def run_eagerly(case, tmp_path):
    model = compiled(case, run_eagerly=True)
    method = case.method()
    case.check(method, model, fit(model, method))


@situation
def frozen_layers(case, tmp_path):
    model = compiled(case, model=case.model(frozen=["a"]))
    before = {p: w for p, w in weights(model).items() if p.startswith("a/")}
    assert before
    fit(model, case.method())
    after = weights(model)
    assert_equal(before, {path: after[path] for path in before}, rtol=0, atol=0)


@situation
def subclassed_models_are_refused(case, tmp_path):
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, x):
            return self.dense(keras.ops.reshape(x, (-1, 72)))

    model = compiled(case, model=Subclassed())
    with pytest.raises(ValueError, match="Functional or Sequential"):
        fit(model, case.method())
    assert int(model.optimizer.iterations) == 0


@situation
def round_trip(case, tmp_path):
    method = case.method()
    config = keras.saving.serialize_keras_object(method)
    json.dumps(config)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(method)
    assert again.get_config() == method.get_config()
    model = compiled(case)
    case.check(again, model, fit(model, again))


@situation
def touches_only_what_it_owns(case, tmp_path):
    # With a learning rate of 0 nothing moves but what the method moves itself.
    model = compiled(case, keras.optimizers.SGD(0.0))
    before = weights(model)
    fit(model, case.method())
    for path, value in weights(model).items():
        if not case.owns(path) and "moving_" not in path:
            np.testing.assert_array_equal(value, before[path], err_msg=path)


@situation
def works_on_a_part(case, tmp_path):
    inner = case.model()
    outer = keras.Sequential([keras.Input((6, 6, 2)), inner, keras.layers.Softmax()])
    outer.compile(
        keras.optimizers.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy"
    )
    config = case.method().get_config() | {"target": inner.name}
    method = type(case.method()).from_config(config)
    case.check(method, inner, fit(outer, method))


@situation
def others_see_it_first(case, tmp_path):
    # A logger in front of the method, as users write it.
    class Log(keras.callbacks.Callback):
        seen = None

        def on_epoch_end(self, epoch, logs=None):
            self.seen = dict(logs)

    model, method, log = compiled(case), case.method(), Log()
    logs = fit(model, log, method)
    assert log.seen.keys() == logs.keys()


# The table -------------------------------------------------------------------------


# scripts/test.sh runs it on both backends.
@proves("TensorFlow, one device", "JAX, one device")
@pytest.mark.parametrize("name", SITUATIONS)
@pytest.mark.parametrize("case", CASES)
def test_contract(case, name, tmp_path):
    SITUATIONS[name](CASES[case], tmp_path)


def test_every_callback_is_in_the_table():
    assert set(tfc.callbacks.__all__) == set(CASES)


@pytest.fixture(scope="module")
def on_two_devices():
    """The results of every case on one device and on two, from another process."""
    if not TENSORFLOW:
        pytest.skip("MirroredStrategy is a thing of TensorFlow")
    script = Path(__file__).with_name("on_two_devices.py")
    result = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout.splitlines()[-1])


@proves("TensorFlow, `MirroredStrategy`")
@pytest.mark.parametrize("case", CASES)
def test_two_devices_equal_one(case, on_two_devices):
    found = on_two_devices[case]
    assert found["error"] is None
    assert found["replicas"] == 2
    # Replicas are equal to the last bit; one device differs by the order of sums.
    # Gates normalize over the batch of a replica, which is no sum.
    assert found["between_replicas"] == 0
    assert found["from_one_device"] < (1e-4 if case != "GatePenalty" else 0.5)


def test_networks_of_the_table_train():
    """The checks would prove nothing on networks that do not move."""
    model = compiled(None, model=network())
    before = weights(model)
    fit(model, epochs=1)
    after = weights(model)
    assert all(np.abs(after[path] - before[path]).max() > 1e-4 for path in before)
