import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.callbacks import FilterPruning
from tfcompress.schedules import Linear, OneShot
from tfcompress.training import fit_shrinking

SHAPE = (8, 8, 3)


def network():
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU()(x)
    y = layers.Conv2D(6, 3, padding="same", activation="relu", name="inner")(x)
    y = layers.Conv2D(8, 3, padding="same", name="outer")(y)
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Flatten()(layers.MaxPooling2D()(x))
    x = layers.Dense(10, activation="relu", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(4, name="logits")(x))


def compiled(optimizer, seed=0, **kwargs):
    keras.utils.set_random_seed(seed)
    model = network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Tracing a step takes longer than the few steps of a test.
    kwargs.setdefault("run_eagerly", True)
    model.compile(optimizer, loss, metrics=["accuracy"], **kwargs)
    return model


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(32, *SHAPE)), rng.integers(0, 4, 32)


@pytest.fixture
def float64():
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy("float32")


FIT = {"batch_size": 16, "shuffle": False, "verbose": 0}
OPTIMIZERS = {
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.02),
}
RISING = Linear(0.0, 0.6, begin=0, end=4)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_one_step_after_shrinking_equals_one_masked_step(optimizer, data, float64):
    masked = compiled(OPTIMIZERS[optimizer](), run_eagerly=False)
    masked.fit(*data, epochs=2, callbacks=[FilterPruning(0.5)], **FIT)
    small = tfc.finalize(masked)
    small.fit(*data, steps_per_epoch=1, **FIT)
    masked.fit(*data, steps_per_epoch=1, callbacks=[FilterPruning(0.5)], **FIT)
    assert small.count_params() < masked.count_params() / 2
    np.testing.assert_allclose(small(data[0]), masked(data[0]), atol=1e-11)


@pytest.mark.parametrize(
    ("criterion", "shrink_every", "eager"),
    [("l1", 1, True), ("l2", 2, True), ("mean_activation", 2, False)],
)
def test_shrinking_training_equals_masked_training(
    criterion, shrink_every, eager, data, float64
):
    masked = compiled("adam", run_eagerly=eager)
    masked.fit(*data, epochs=6, callbacks=[FilterPruning(RISING, criterion)], **FIT)
    small = fit_shrinking(
        compiled("adam", run_eagerly=eager),
        *data,
        epochs=6,
        callbacks=[FilterPruning(RISING, criterion)],
        shrink_every=shrink_every,
        **FIT,
    )
    assert small.count_params() == tfc.finalize(masked).count_params()
    np.testing.assert_allclose(small(data[0]), masked(data[0]), atol=1e-9)
    for name, values in masked.history.history.items():
        np.testing.assert_allclose(small.history.history[name], values, atol=1e-9)


def without_decay_of_biases():
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.2)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


KERAS = keras.optimizers
# All of Keras' but those whose updates depend on norms of whole variables (below).
EVERY_OPTIMIZER = {
    "nesterov": lambda: KERAS.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "clipped": lambda: KERAS.SGD(0.05, momentum=0.9, clipvalue=0.1),
    "accumulated": lambda: KERAS.Adam(0.01, gradient_accumulation_steps=2),
    "amsgrad": lambda: KERAS.Adam(0.01, amsgrad=True),
    "centered": lambda: KERAS.RMSprop(0.01, momentum=0.5, centered=True),
    "excluded": without_decay_of_biases,
    "adadelta": lambda: KERAS.Adadelta(1.0),
    "adagrad": lambda: KERAS.Adagrad(0.05),
    "adamax": lambda: KERAS.Adamax(0.01),
    "nadam": lambda: KERAS.Nadam(0.01),
    "ftrl": lambda: KERAS.Ftrl(0.05, l2_regularization_strength=0.01),
    "lion": lambda: KERAS.Lion(0.002),
    "scheduled": lambda: KERAS.SGD(KERAS.schedules.ExponentialDecay(0.1, 2, 0.8)),
}


@pytest.mark.parametrize("optimizer", EVERY_OPTIMIZER)
def test_shrinking_equals_masking_under_every_optimizer(optimizer, data, float64):
    rising = Linear(0.0, 0.5, begin=0, end=2)
    masked = compiled(EVERY_OPTIMIZER[optimizer]())
    masked.fit(*data, epochs=4, callbacks=[FilterPruning(rising)], **FIT)
    small = fit_shrinking(
        compiled(EVERY_OPTIMIZER[optimizer]()),
        *data,
        epochs=4,
        callbacks=[FilterPruning(rising)],
        **FIT,
    )
    assert small.count_params() < masked.count_params() / 1.5
    np.testing.assert_allclose(small(data[0]), masked(data[0]), atol=1e-9)


@pytest.mark.parametrize("options", [{"ranking": "global"}, {"multiple_of": 4}])
def test_options_of_pruning_count_from_the_original_size(options, data, float64):
    masked = compiled("adam")
    masked.fit(*data, epochs=5, callbacks=[FilterPruning(RISING, **options)], **FIT)
    pruning = FilterPruning(RISING, **options)
    small = fit_shrinking(compiled("adam"), *data, epochs=5, callbacks=[pruning], **FIT)
    assert small.history.history["pruning_rate"] == pytest.approx(
        masked.history.history["pruning_rate"]
    )
    np.testing.assert_allclose(small(data[0]), masked(data[0]), atol=1e-9)


def test_every_epoch_runs_at_its_final_width(data):
    widths = []
    log = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: widths.append(
            log.model.get_layer("hidden").units
        )
    )
    fit_shrinking(
        compiled("adam"),
        *data,
        epochs=5,
        callbacks=[FilterPruning(RISING), log],
        **FIT,
    )
    assert widths == [10 - round(RISING(t) * 10) for t in range(5)]


def test_a_second_training_counts_on_from_the_original_size(data):
    pruning = FilterPruning(RISING)
    small = fit_shrinking(compiled("adam"), *data, epochs=3, callbacks=[pruning], **FIT)
    assert small.get_layer("hidden").units == 10 - round(RISING(2) * 10)
    small = fit_shrinking(small, *data, epochs=2, callbacks=[pruning], **FIT)
    assert small.get_layer("hidden").units == 10 - round(RISING(4) * 10)
    small = fit_shrinking(small, *data, epochs=2, callbacks=[pruning], **FIT)
    assert small.get_layer("hidden").units == 10 - round(RISING(6) * 10)
    gone = sum(round(0.6 * size) for size in (8, 6, 10))
    assert small.history.history["pruning_rate"] == pytest.approx([gone / 24] * 2)


def test_the_rates_of_another_model_are_of_its_own_size(data):
    pruning = FilterPruning(0.5, layers=["hidden"])
    small = fit_shrinking(compiled("adam"), *data, epochs=1, callbacks=[pruning], **FIT)
    again = keras.models.clone_model(small)
    again.compile("adam", small.loss, run_eagerly=True)
    again = fit_shrinking(again, *data, epochs=1, callbacks=[pruning], **FIT)
    assert (small.get_layer("hidden").units, again.get_layer("hidden").units) == (5, 3)


def test_callbacks_see_one_training(data):
    class Log(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.events = []

        def on_train_begin(self, logs=None):
            self.events.append("begin")

        def on_epoch_end(self, epoch, logs=None):
            self.events.append(epoch)

        def on_train_end(self, logs=None):
            self.events.append("end")
            self.final = logs

    log = Log()
    small = fit_shrinking(
        compiled("adam"),
        *data,
        epochs=5,
        initial_epoch=1,
        callbacks=[FilterPruning(RISING), log],
        shrink_every=2,
        validation_data=data,
        **FIT,
    )
    assert log.events == ["begin", 1, 2, 3, 4, "end"]
    assert log.model is small
    assert small.history.epoch == [1, 2, 3, 4]
    assert small.history.history["val_loss"][-1] == log.final["val_loss"]


def test_learning_rate_schedules_go_on(data):
    rates = []

    def halve(epoch, rate):
        rates.append(rate)
        return rate / 2

    fit_shrinking(
        compiled(keras.optimizers.SGD(1.0)),
        *data,
        epochs=4,
        callbacks=[
            FilterPruning(RISING),
            keras.callbacks.LearningRateScheduler(halve),
        ],
        **FIT,
    )
    assert rates == [1.0, 0.5, 0.25, 0.125]
    decay = keras.optimizers.schedules.PiecewiseConstantDecay([5], [0.1, 0.01])
    small = fit_shrinking(
        compiled(keras.optimizers.SGD(decay)),
        *data,
        epochs=4,
        callbacks=[FilterPruning(RISING)],
        **FIT,
    )
    assert int(small.optimizer.iterations) == 8
    assert float(small.optimizer.learning_rate) == pytest.approx(0.01)


def test_early_stopping_stops_all_segments(data):
    stop = keras.callbacks.EarlyStopping("loss", min_delta=1e9, patience=1)
    small = fit_shrinking(
        compiled("adam"),
        *data,
        epochs=9,
        callbacks=[FilterPruning(0.5), stop],
        **FIT,
    )
    assert small.history.epoch == [0, 1]


def test_a_model_that_does_not_change_keeps_its_compiled_step(data):
    model = compiled("adam")
    late = FilterPruning(OneShot(0.5, at=9))
    assert fit_shrinking(model, *data, epochs=2, callbacks=[late], **FIT) is model


class Interrupt(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


# In the midst of a segment, and between two.
@pytest.mark.parametrize("epoch", [3, 4])
@pytest.mark.parametrize(
    ("criterion", "optimizer"), [("l1", "adam"), ("mean_activation", "momentum")]
)
def test_an_interruption_loses_nothing(
    epoch, criterion, optimizer, data, tmp_path, float64
):
    def run(interruption, folder):
        callbacks = [FilterPruning(RISING, criterion), Interrupt(interruption)]
        return fit_shrinking(
            compiled(OPTIMIZERS[optimizer]()),
            *data,
            epochs=6,
            callbacks=callbacks,
            shrink_every=2,
            backup_dir=folder,
            **FIT,
        )

    with pytest.raises(KeyboardInterrupt):
        run(epoch, tmp_path / "a")
    resumed = run(-1, tmp_path / "a")
    whole = run(-1, tmp_path / "b")
    np.testing.assert_allclose(resumed(data[0]), whole(data[0]), atol=1e-12)
    assert resumed.history.epoch == whole.history.epoch
    for name, values in whole.history.history.items():
        np.testing.assert_allclose(resumed.history.history[name], values, atol=1e-12)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "callback",
    [
        lambda: keras.callbacks.BackupAndRestore("backup"),
        lambda: keras.callbacks.EarlyStopping("loss", restore_best_weights=True),
    ],
)
def test_callbacks_that_keep_weights_are_refused(callback, data):
    with pytest.raises(ValueError, match=r"argument `callbacks`.*copies"):
        fit_shrinking(compiled("adam"), *data, callbacks=[callback()])


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"epochs": -1}, "epochs"),
        ({"epochs": 1.5}, "epochs"),
        ({"initial_epoch": -1}, "initial_epoch"),
        ({"shrink_every": 0}, "shrink_every"),
        ({"shrink_every": 1.5}, "shrink_every"),
        ({"multiple_of": 0}, "multiple_of"),
        ({"backup_dir": "/proc/no"}, "backup_dir"),
    ],
)
def test_bad_values_are_refused_before_training(change, argument, data):
    with pytest.raises(ValueError, match=f"argument `{argument}`.*Received"):
        fit_shrinking(compiled("adam"), *data, **change)


def test_models_that_cannot_be_trained_this_way_are_refused(data):
    with pytest.raises(ValueError, match="compiled"):
        fit_shrinking(network(), *data)
    with pytest.raises(TypeError, match="argument `model`"):
        fit_shrinking(None, *data)
    with pytest.raises(TypeError, match="argument `callbacks`"):
        fit_shrinking(compiled("adam"), *data, callbacks=FilterPruning(0.5))
    with pytest.raises(ValueError, match="use_ema"):
        fit_shrinking(compiled(keras.optimizers.Adam(use_ema=True)), *data)


def test_a_run_that_decides_itself_ends_as_any_other(data):
    def run(every):
        return fit_shrinking(
            compiled("adam"),
            *data,
            epochs=4,
            callbacks=[FilterPruning(RISING)],
            shrink_every=every,
            **FIT,
        )

    one, two = run(1), run("auto")
    assert one.count_params() == two.count_params()
    np.testing.assert_allclose(one(data[0]), two(data[0]), atol=1e-4)


def test_a_run_that_diverges_stops_and_keeps_the_last_backup(data, tmp_path):
    def run(rate):
        def schedule(epoch, _):
            return rate if epoch == 2 else 0.01

        return fit_shrinking(
            compiled(keras.optimizers.SGD(0.01)),
            *data,
            epochs=4,
            callbacks=[keras.callbacks.LearningRateScheduler(schedule)],
            backup_dir=tmp_path,
            **FIT,
        )

    with pytest.raises(ValueError, match="diverged"):
        run(1e30)
    assert run(0.01).history.epoch == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("optimizer", "names"),
    [
        (lambda: keras.optimizers.Adam(clipnorm=1.0), "clipnorm"),
        (lambda: keras.optimizers.SGD(global_clipnorm=1.0), "global_clipnorm"),
        (lambda: keras.optimizers.Lamb(), "Lamb"),
        (
            lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adafactor()),
            "Adafactor",
        ),
    ],
)
def test_norms_of_whole_variables_are_warned_of(optimizer, names, data):
    with pytest.warns(UserWarning, match=f"^{names}: updates depend on norms"):
        fit_shrinking(compiled(optimizer()), *data, epochs=0, **FIT)


@keras.saving.register_keras_serializable(package="test_shrinking")
class OwnTraining(keras.Model):
    def __init__(self, *args, alpha=0.5, **kwargs):
        super().__init__(*args, **kwargs)
        self.alpha = alpha

    def train_step(self, data):
        return super().train_step(data)


def test_models_that_cannot_be_rebuilt_are_refused_before_the_first_step(data):
    inner = network()
    model = OwnTraining(inner.input, inner.output)
    model.compile("adam", compiled("adam").loss, run_eagerly=True)
    with pytest.raises(ValueError, match="OwnTraining"):
        fit_shrinking(model, *data, callbacks=[FilterPruning(0.5)], **FIT)
    assert int(model.optimizer.iterations) == 0
