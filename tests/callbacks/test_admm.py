"""The ADMM callback, and weights that are held."""

import functools
import json

import keras
import numpy as np
import pytest

from tfcompress import callbacks, schedules
from tfcompress.callbacks import ADMM, HoldWeights
from tfcompress.constraints import Cardinality, Combined, Levels
from tfcompress.training import hard_prune


def network(**dense):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="tanh", name="hidden", **dense),
            layers.BatchNormalization(name="norm"),
            layers.Dense(3, name="logits"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def data(size=32):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(size, 6)).astype("float32")
    return x, np.tanh(x[:, :3] - x[:, 3:])


def fit(model, epochs, extra, size=32):
    x, y = data(size)
    return model.fit(
        x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, callbacks=extra
    )


class Crash(keras.callbacks.Callback):
    """Interrupts training at the end of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            raise InterruptedError


def least_squares(penalty=None):
    """min mean (X w - y)^2 with orthogonal columns, for which `ideal` is optimal.

    With orthogonal columns of equal norm, the best w with k non-zero entries is
    `ideal` with all but the k largest entries dropped.
    """
    ideal = np.array([[1.0], [-0.3], [0.7], [0.1]], "float32")
    x = np.sqrt(4) * np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(
                1, use_bias=False, name="linear", kernel_regularizer=penalty
            ),
        ]
    )
    model.compile(keras.optimizers.SGD(0.2), "mse")
    return model, x.astype("float32"), x.astype("float32") @ ideal, ideal


def test_converges_to_the_known_optimum_of_a_sparse_least_squares_problem():
    model, x, y, ideal = least_squares()
    # Below about 0.9, rho would let the multiplier of the entry 0.3 (0.6 at the
    # optimum, so U = 0.6 / rho) compete with the entry 0.7 for its place.
    admm = ADMM(Cardinality(count=2), rho=2.0, update_every=2)
    history = model.fit(x, y, epochs=80, batch_size=4, verbose=0, callbacks=[admm])
    expected = ideal * [[1], [0], [1], [0]]
    np.testing.assert_allclose(model.get_weights()[0], expected, atol=1e-4)
    np.testing.assert_allclose(admm.auxiliary["linear"][0], expected, atol=1e-4)
    # At the optimum the multiplier balances the gradient of the loss.
    gradient = 2 * (expected - ideal)
    np.testing.assert_allclose(2.0 * admm.dual["linear"][0], -gradient, atol=1e-3)
    assert history.history["admm_primal"][-1] < 1e-4
    assert history.history["admm_dual/linear"][-1] < 1e-4


def test_training_minimizes_equation_5_beside_the_layers_own_regularizer():
    # One large step count without an update: f + decay + rho/2 |W - Z|^2 with
    # U = 0 has the minimum (2 ideal + rho Z) / (2 + 2 decay + rho).
    decay, rho = 0.1, 0.8
    model, x, y, ideal = least_squares(keras.regularizers.L2(decay))
    model.set_weights([ideal])
    admm = ADMM(Cardinality(count=1), rho=rho, update_every=1000)
    model.fit(x, y, epochs=60, batch_size=4, verbose=0, callbacks=[admm])
    target = ideal * [[1], [0], [0], [0]]
    expected = (2 * ideal + rho * target) / (2 + 2 * decay + rho)
    np.testing.assert_allclose(model.get_weights()[0], expected, atol=1e-5)


def test_an_update_follows_equation_7():
    model = network()
    admm = ADMM({"hidden": Cardinality(fraction=0.25)}, rho=1e-2)
    before = Cardinality(fraction=0.25).project(model.layers[0].kernel.numpy())
    fit(model, 1, [admm])
    weights = model.layers[0].kernel.numpy()
    expected = Cardinality(fraction=0.25).project(weights)
    assert not np.array_equal(before, expected)
    np.testing.assert_array_equal(admm.auxiliary["hidden"][0], expected)
    np.testing.assert_allclose(admm.dual["hidden"][0], weights - expected, atol=1e-7)


def test_the_multiplier_keeps_its_size_when_rho_changes():
    first, second = network(), network()
    second.set_weights(first.get_weights())
    plain = ADMM(Cardinality(count=9), rho=0.01)
    growing = ADMM(Cardinality(count=9), rho=schedules.Piecewise({0: 0.01, 1: 0.04}))
    fit(first, 1, [plain])
    fit(second, 1, [growing])
    np.testing.assert_allclose(
        0.04 * growing.dual["hidden"][0], 0.01 * plain.dual["hidden"][0], rtol=1e-6
    )


@pytest.mark.parametrize("unit, every, updates", [("epoch", 2, 2), ("step", 3, 3)])
def test_updates_come_as_often_as_asked(unit, every, updates):
    admm = ADMM(Cardinality(count=9), update_every=every, unit=unit)
    fit(network(), 5, [admm])  # 2 steps an epoch
    assert admm.updates == updates


def test_several_steps_per_execution_miss_no_update():
    model = network()
    model.compile("sgd", "mse", steps_per_execution=4)
    admm = ADMM(Cardinality(count=9), update_every=3, unit="step")
    fit(model, 1, [admm], size=16 * 8)
    assert admm.updates == 2


def test_a_network_wide_constraint_couples_the_layers():
    model = network()
    admm = ADMM(Cardinality(count=10, scope="network"))
    fit(model, 1, [admm])
    parts = [part for own in admm.auxiliary.values() for part in own]
    assert sum(np.count_nonzero(part) for part in parts) == 10


def test_logs_name_every_layer():
    history = fit(network(), 1, [ADMM(Cardinality(count=9))]).history
    expected = {
        f"admm_{kind}{layer}"
        for kind in ("primal", "dual")
        for layer in ("", "/hidden", "/logits")
    }
    assert expected <= set(history)


@pytest.mark.parametrize("make", [lambda: ADMM(Levels(2)), HoldWeights])
def test_nothing_is_left_on_the_model_afterwards(make):
    own = keras.regularizers.L2(1e-3)
    model = network(kernel_regularizer=own, kernel_constraint="non_neg")
    constraint = model.layers[0].kernel.constraint
    fit(model, 1, [make()])
    assert model.layers[0].kernel.regularizer is own
    assert model.layers[0].kernel.constraint is constraint
    assert model.layers[2].kernel.regularizer is None
    before = model.layers[2].kernel.numpy()
    model.layers[2].kernel.assign(before * 0)
    fit(model, 1, [])
    assert np.count_nonzero(model.layers[2].kernel.numpy())


def test_an_interrupted_training_leaves_no_second_penalty():
    model = network()
    with pytest.raises(InterruptedError):
        fit(model, 2, [ADMM(Cardinality(count=9)), Crash(0)])
    admm = ADMM(Cardinality(count=9))
    fit(model, 1, [admm])
    assert model.layers[0].kernel.regularizer is None


@functools.cache
def uninterrupted(unit, every):
    """Initial and final weights, and the callback, of six whole epochs."""
    model = network()
    start = model.get_weights()
    admm = resumable(unit, every, None)
    fit(model, 6, [admm])
    return start, model.get_weights(), admm


def resumable(unit, every, path):
    rho = schedules.Linear(0.01, 0.05, 0, 4)
    return ADMM(Cardinality(fraction=0.2), rho, every, unit, state_path=path)


@pytest.mark.parametrize("unit, every", [("epoch", 2), ("step", 3)])
@pytest.mark.parametrize("first", ["backup", "state"])
def test_training_interrupted_between_backup_and_state_resumes_as_if_uninterrupted(
    tmp_path, unit, every, first
):
    start, expected, whole = uninterrupted(unit, every)

    def run(*crash):
        backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
        admm = resumable(unit, every, tmp_path / "state" / "admm.npz")
        one, other = (backup, admm) if first == "backup" else (admm, backup)
        model = network()
        model.set_weights(start)
        fit(model, 6, [one, *crash, other])
        return model, admm

    with pytest.raises(InterruptedError):
        run(Crash(3))
    resumed, admm = run()
    assert all(map(np.array_equal, resumed.get_weights(), expected))
    assert admm.updates == whole.updates
    assert np.array_equal(admm.dual["hidden"][0], whole.dual["hidden"][0])
    assert not list((tmp_path / "state").iterdir())


def test_state_of_another_training_is_refused(tmp_path):
    path = tmp_path / "admm.npz"
    with pytest.raises(InterruptedError):
        fit(network(), 2, [ADMM(Cardinality(count=9), state_path=path), Crash(1)])
    other = ADMM({"hidden": Cardinality(count=9)}, state_path=path)
    model = network()
    with pytest.raises(ValueError, match="later step"):
        fit(model, 1, [other])
    other = ADMM({"hidden": Cardinality(count=9)}, state_path=path)
    fit(model, 3, [])
    with pytest.raises(ValueError, match="kernels"):
        fit(model, 1, [other])
    other = ADMM({"hidden": Cardinality(count=9)}, state_path=path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="written by this"):
        fit(model, 1, [other])


def test_a_second_fit_goes_on_where_the_first_stopped():
    whole, parts = network(), network()
    parts.set_weights(whole.get_weights())
    fit(whole, 4, [ADMM(Cardinality(count=9), rho=0.05)])
    admm = ADMM(Cardinality(count=9), rho=0.05)
    fit(parts, 2, [admm])
    fit(parts, 2, [admm])
    for a, b in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_model_that_is_compiled_again_keeps_its_multipliers():
    model, admm = network(), ADMM(Cardinality(count=9), rho=0.05)
    fit(model, 3, [admm])
    before = sum(np.abs(each).sum() for own in admm.dual.values() for each in own)
    model.compile("sgd", "mse")
    fit(model, 1, [admm])
    after = sum(np.abs(each).sum() for own in admm.dual.values() for each in own)
    assert admm.updates == 4 and after > before


def test_a_constraint_that_layers_share_by_name_couples_them_after_a_round_trip():
    shared = Cardinality(count=10, scope="network")
    admm = ADMM({"hidden": shared, "logits": shared})
    model, again = (
        network(),
        ADMM.from_config(json.loads(json.dumps(admm.get_config()))),
    )
    fit(model, 1, [again])
    parts = [part for own in again.auxiliary.values() for part in own]
    assert sum(np.count_nonzero(part) for part in parts) == 10
    assert sum(hard_prune(model, again.constraints).values()) == 10


def test_a_distiller_which_leaves_penalties_out_is_refused():
    model = keras.distillation.Distiller(
        network(), network(), keras.distillation.LogitsDistillation()
    )
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="ADMM acts; that of a Distiller"):
        fit(model, 1, [ADMM(Cardinality(count=9))])


def test_held_weights_of_an_interrupted_training_are_let_go():
    hold = HoldWeights("values")
    first, second = network(), network()
    with pytest.raises(InterruptedError):
        fit(first, 2, [hold, Crash(0)])
    before = second.layers[0].kernel.numpy()
    fit(second, 1, [hold])
    assert first.layers[0].kernel.constraint is None
    assert np.array_equal(second.layers[0].kernel.numpy(), before)


def test_zeros_stay_zero_and_the_rest_learns():
    model = network()
    kernel = model.layers[0].kernel
    kernel.assign(Cardinality(count=5).project(kernel.numpy()))
    before = kernel.numpy()
    fit(model, 3, [HoldWeights("zeros", layers=["hidden"])])
    after = kernel.numpy()
    assert np.array_equal(before == 0, after == 0)
    assert not np.array_equal(before, after)


def test_held_values_stay_and_biases_learn():
    model = network()
    kernels = [model.layers[i].kernel.numpy() for i in (0, 2)]
    fit(model, 2, [HoldWeights("values")])
    assert all(
        np.array_equal(model.layers[i].kernel.numpy(), kept)
        for i, kept in zip((0, 2), kernels, strict=True)
    )
    assert np.count_nonzero(model.layers[0].bias.numpy())


def test_pruned_weights_stay_zero_while_the_rest_is_quantized():
    model = network()
    kernel = model.layers[0].kernel
    kernel.assign(Cardinality(count=20).project(kernel.numpy()))
    support = kernel.numpy() != 0
    admm = ADMM({"hidden": Levels(2)}, rho=0.1)
    fit(model, 4, [HoldWeights("zeros", layers=["hidden"]), admm])
    assert np.array_equal(kernel.numpy() != 0, support)
    assert np.array_equal(admm.auxiliary["hidden"][0] != 0, support)


@pytest.mark.parametrize(
    "callback",
    [
        ADMM(Combined([Cardinality(fraction=0.1), Levels(3)]), exclude=["logits"]),
        ADMM({"hidden": Levels(2)}, rho=schedules.Linear(1e-3, 1e-2, 0, 5)),
        HoldWeights("values", layers=["hidden"]),
    ],
)
def test_configuration_survives_json(callback):
    stored = json.loads(json.dumps(callback.get_config()))
    assert type(callback).from_config(stored).get_config() == stored


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: ADMM("l1"), TypeError, "constraints"),
        (lambda: ADMM({}), ValueError, "empty"),
        (lambda: ADMM(Levels(2), rho=0.0), ValueError, "rho"),
        (lambda: ADMM(Levels(2), rho=schedules.OneShot(1, 3)), ValueError, "rho"),
        (lambda: ADMM(Levels(2), update_every=0), ValueError, "update_every"),
        (lambda: ADMM(Levels(2), unit="batch"), ValueError, "unit"),
        (lambda: ADMM({"a": Levels(2)}, layers=["a"]), ValueError, "layers"),
        (lambda: ADMM(Levels(2), state_path="a.h5"), ValueError, "npz"),
        (lambda: HoldWeights("biases"), ValueError, "what"),
        (lambda: HoldWeights(layers="hidden"), TypeError, "layers"),
    ],
)
def test_bad_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_an_unknown_layer_is_refused_before_training():
    model = network()
    before = model.get_weights()
    with pytest.raises(ValueError, match="hiden"):
        fit(model, 1, [ADMM({"hiden": Levels(2)})])
    with pytest.raises(ValueError, match="no trainable kernel"):
        fit(model, 1, [callbacks.HoldWeights(layers=["norm"])])
    assert all(map(np.array_equal, before, model.get_weights()))
