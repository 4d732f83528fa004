import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.schedules import Constant, Linear, Piecewise


def network(**compile_arguments):
    """A layer gate and a channel gate."""
    i = keras.Input((4, 4, 2))
    y = layers.Conv2D(2, 3, padding="same", name="branch")(i)
    y = tfc.layers.ChannelGate(depth=0, name="channels")(y)
    y = tfc.layers.LayerGate(name="layer")([i, y])
    x = layers.GlobalAveragePooling2D()(layers.Add(name="add")([i, y]))
    model = keras.Model(i, layers.Dense(3, activation="softmax")(x))
    model.compile("sgd", "sparse_categorical_crossentropy", **compile_arguments)
    return model


def data(n=16):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(n, 4, 4, 2)).astype("float32")
    return images, rng.integers(0, 3, n)


class Witness(keras.callbacks.Callback):
    """Notes the penalties that are in force in every step."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self.model.get_layer("layer").penalty)


def fit(model, *callbacks, epochs=3, **arguments):
    arguments = {"batch_size": 8, "verbose": 0, "shuffle": False, **arguments}
    return model.fit(*data(), epochs=epochs, callbacks=list(callbacks), **arguments)


def test_weights_follow_schedules_by_epoch():
    witness = Witness()
    penalty = tfc.callbacks.GatePenalty(Piecewise({0: 0.0, 1: 2.0, 2: 3.0}), 0.5)
    model = network()
    fit(model, penalty, witness)
    # Two gates share each weight; an epoch has two steps.
    expected = [(w / 2, 0.25) for w in (0.0, 0.0, 2.0, 2.0, 3.0, 3.0)]
    np.testing.assert_allclose(witness.seen, expected)


def test_weights_follow_schedules_by_step():
    witness = Witness()
    penalty = tfc.callbacks.GatePenalty(1.0, Linear(0.0, 1.0, 0, 4), unit="step")
    model = network()
    fit(model, penalty, witness, epochs=2)
    np.testing.assert_allclose(witness.seen, [(0.5, a / 8) for a in range(4)])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_loss_contains_the_papers_penalties(jit_compile):
    model = network()
    model.compile(
        keras.optimizers.SGD(0.0),
        "sparse_categorical_crossentropy",
        jit_compile=jit_compile,
    )
    plain = fit(model, epochs=1, batch_size=16).history["loss"][0]
    penalty = tfc.callbacks.GatePenalty(0.8, 0.3)
    history = fit(model, penalty, epochs=1, batch_size=16).history
    ratios = [model.get_layer(n).opening for n in ("layer", "channels")]
    polar = np.mean([np.mean((1 - g) * g) for g in ratios])
    act = np.mean([np.mean(g) for g in ratios])
    assert 0 < polar < 0.25
    added = history["loss"][0] - plain
    np.testing.assert_allclose(added, 0.8 * polar + 0.3 * act, rtol=1e-5)
    np.testing.assert_allclose(history["r_polar"], [polar], rtol=1e-5)
    np.testing.assert_allclose(history["r_act"], [act], rtol=1e-5)


def test_penalties_end_with_the_training():
    model = network()
    fit(model, tfc.callbacks.GatePenalty(1.0, 1.0), epochs=1)
    assert all(g.penalty == (0, 0) for g in tfc.gates.gates_of(model).values())


def test_openings_are_recorded_for_every_epoch_and_anew_for_every_training():
    penalty = tfc.callbacks.GatePenalty()
    model = network()
    for epochs in (3, 2):
        history = fit(model, penalty, epochs=epochs).history
        assert {n: len(v) for n, v in penalty.openings.items()} == {
            "channels": epochs,
            "layer": epochs,
        }
        recorded = np.mean(list(penalty.openings.values()), axis=0)
        np.testing.assert_allclose(history["r_act"], recorded)


def test_a_strong_penalty_closes_gates_and_a_training_polarizes_them():
    model = network()
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    history = fit(model, tfc.callbacks.GatePenalty(3.0, 6.0), epochs=40).history
    assert history["r_polar"][0] > 0
    assert history["r_polar"][-1] == 0
    assert history["r_act"][-1] == 0


def test_steps_per_execution_and_validation():
    model = network(steps_per_execution=2)
    history = fit(model, tfc.callbacks.GatePenalty(), validation_data=data(8)).history
    assert len(history["r_polar"]) == 3
    assert model.get_layer("layer").seen == 16  # validation does not count


def test_an_interrupted_training_goes_on(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def run(folder, *more):
        keras.utils.set_random_seed(0)
        penalty = tfc.callbacks.GatePenalty(Linear(0.0, 2.0, 0, 4), 0.5)
        model = tfc.training.fit_shrinking(
            network(),
            *data(),
            epochs=4,
            callbacks=[penalty, *more],
            backup_dir=tmp_path / folder,
            batch_size=8,
            shuffle=False,
            verbose=0,
        )
        return penalty.openings, model

    with pytest.raises(KeyboardInterrupt):
        run("a", Stop())
    resumed, one = run("a", keras.callbacks.Callback())
    whole, two = run("b")
    assert resumed == whole
    assert one.get_layer("layer").penalty == (0, 0)
    for left, right in zip(
        one.trainable_variables, two.trainable_variables, strict=True
    ):
        np.testing.assert_allclose(left, right, atol=1e-6)


def test_round_trip():
    penalty = tfc.callbacks.GatePenalty(Piecewise({0: 0.0, 5: 2.0}), 0.5, unit="step")
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(penalty)
    )
    assert again.polarization == Piecewise({0: 0.0, 5: 2.0})
    assert again.activation == Constant(0.5) and again.unit == "step"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"polarization": -1.0}, "`polarization`.*not negative"),
        ({"activation": Linear(1.0, -1.0, 0, 5)}, "`activation`.*not negative"),
        ({"unit": "batch"}, "`unit`.*'epoch', 'step'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfc.callbacks.GatePenalty(**arguments)


def test_a_distiller_which_leaves_penalties_out_is_refused():
    model = keras.distillation.Distiller(
        network(), network(), keras.distillation.LogitsDistillation()
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="GatePenalty acts; that of a Distiller"):
        fit(model, tfc.callbacks.GatePenalty())


def test_models_without_gates_are_refused_before_training():
    model = keras.Sequential(
        [keras.Input((4, 4, 2)), layers.Flatten(), layers.Dense(3)]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = [w.numpy() for w in model.weights]
    with pytest.raises(ValueError, match=r"`model`.*with gates"):
        fit(model, tfc.callbacks.GatePenalty())
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, new)
