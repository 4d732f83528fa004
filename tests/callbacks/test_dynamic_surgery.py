import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.callbacks import DynamicSurgery
from tfcompress.callbacks.dynamic_surgery import mode_factors, thresholds

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
Y = np.tanh(X[:, :3] - X[:, 3:])


def network(optimizer="sgd", depth=1, **kwargs):
    """Dense layers "hidden0" … and "logits", all masked."""
    hidden = [layers.Dense(20, "tanh", name=f"hidden{i}") for i in range(depth)]
    plain = keras.Sequential(
        [keras.Input((6,)), *hidden, layers.Dense(3, name="logits")]
    )
    model = tfc.layers.wrap_kernels(plain, tfc.layers.MaskedKernel)
    model.compile(optimizer, "mse", **kwargs)
    return model


def fit(model, *callbacks, epochs=1, **kwargs):
    return model.fit(
        X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0,
        callbacks=list(callbacks), **kwargs,
    )  # fmt: skip


def own(model, name="hidden0"):
    return model.get_layer(name).masks[0]


class Crash(keras.callbacks.Callback):
    """Interrupts training when an epoch begins."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise InterruptedError


def test_thresholds():
    assert thresholds(1.0, 0.5, 0.8) == pytest.approx((1.26, 1.54))
    assert thresholds(1.0, 0.5, -3.0) == (0.0, 0.0)


def test_factors_of_the_modes():
    names = ["c0", "c1", "c2", "c3", "c4", "fc"]
    assert mode_factors("intermediate", names) == {
        "c1": 0.5, "c2": 0.5, "c3": 0.8, "c4": 0.8,
    }  # fmt: skip
    expected = {"conservative": 0.5, "aggressive": 0.8, "pruning_only": 1.3}
    for mode, factor in expected.items():
        assert mode_factors(mode, names) == dict.fromkeys(names[1:-1], factor)
    with pytest.raises(ValueError, match="between the first and the last"):
        mode_factors("aggressive", ["a", "b"])


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.3])
def test_normal_weights_are_pruned_by_the_fraction_that_the_factor_means(factor):
    from scipy.stats import halfnorm

    model = network(keras.optimizers.SGD(0.0))
    weights = np.random.default_rng(0).normal(size=(6, 20))
    own(model).kernel.assign(weights)
    history = fit(model, DynamicSurgery({"hidden0": factor})).history
    sizes = np.abs(weights)
    gone = sizes <= 0.9 * (sizes.mean() + factor * sizes.std())
    np.testing.assert_array_equal(own(model).mask.numpy(), ~gone)
    assert history["surgery_sparsity"][-1] == pytest.approx(gone.mean())
    # What the docstring says: 68, 75 and 85 %.
    low = 0.9 * (halfnorm.mean() + factor * halfnorm.std())
    stated = {0.5: 0.68, 0.8: 0.75, 1.3: 0.85}[factor]
    assert halfnorm.cdf(low) == pytest.approx(stated, abs=0.005)


def test_weights_go_come_back_and_stay_in_between():
    model = network(keras.optimizers.SGD(0.0))
    target = own(model)
    mean, std = 0.8, 0.25  # t = 1.0 with factor 0.8: a = 0.9, b = 1.1
    target.statistics.assign([mean, std])
    values = np.full((6, 20), 2.0)
    values[0, :4] = [0.5, -0.85, 1.0, -1.2]
    target.kernel.assign(values)
    surgery = DynamicSurgery({"hidden0": 0.8})
    logs = fit(model, surgery).history
    assert target.mask.numpy()[0, :4].tolist() == [False, False, True, True]
    assert (logs["surgery_pruned"], logs["surgery_spliced"]) == ([2], [0])
    values[0, :4] = [1.0, -1.3, 0.95, 0.1]
    target.kernel.assign(values)
    logs = fit(model, surgery).history
    # 1.0 is not large enough to come back, 0.95 not small enough to go.
    assert target.mask.numpy()[0, :4].tolist() == [False, True, True, False]
    assert (logs["surgery_pruned"], logs["surgery_spliced"]) == ([1], [1])
    assert logs["surgery_sparsity"] == [pytest.approx(2 / 120)]


def test_a_weight_that_is_needed_comes_back_by_its_gradient():
    """y = w x with w masked: the loss pulls w up until it is spliced back."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False)])
    model = tfc.layers.wrap_kernels(model, tfc.layers.MaskedKernel)
    layer = model.layers[0]
    model.compile(keras.optimizers.SGD(0.02), "mse")
    (target,) = layer.masks
    target.kernel.assign([[0.1]])
    target.statistics.assign([1.0, 0.1])  # a = 0.9, b = 1.1 with factor 0
    x = np.ones((1, 1), "float32")
    logs = model.fit(
        x, 3 * x, epochs=30, verbose=0, callbacks=[DynamicSurgery(0.0, gamma=0.0)]
    ).history
    assert sum(logs["surgery_pruned"]) == sum(logs["surgery_spliced"]) == 1
    assert logs["surgery_sparsity"][0] == 1.0 and logs["surgery_sparsity"][-1] == 0.0
    assert target.kernel.numpy().item() > 1.1
    # While it is masked, dL/dw = -2 · (3 - 0) whatever w is: 0.1 + 0.12 a step.
    back = logs["surgery_spliced"].index(1)
    assert back == int(np.ceil((1.1 - 0.1) / 0.12))


def test_thresholds_stay_what_they_were_when_surgery_began():
    model = network(keras.optimizers.Adam(0.05))
    surgery = DynamicSurgery({"hidden0": 0.8}, gamma=0.0)
    sizes = np.abs(own(model).kernel.numpy())
    fit(model, surgery, epochs=3)
    expected = [sizes.mean(), sizes.std()]
    np.testing.assert_allclose(own(model).statistics, expected, rtol=1e-5)


def test_updates_get_rarer_as_published():
    surgery = DynamicSurgery(0.5, gamma=0.01, power=2.0, begin=100)
    assert surgery.probability(100) == 1.0
    assert surgery.probability(200) == pytest.approx((1 + 0.01 * 100) ** -2)


def test_surgery_has_a_beginning_and_an_end():
    changed = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            mask = own(self.model).mask
            changed.append(not mask.numpy().all())
            mask.assign(np.ones(mask.shape, bool))

    fit(network(), DynamicSurgery(0.8, gamma=0.0, begin=2, end=5), Watch(), epochs=2)
    assert changed == [False, False, True, True, True, False, False, False]


def masks_after(seed, **kwargs):
    keras.utils.set_random_seed(1)
    model = network("adam", depth=2)
    fit(model, DynamicSurgery(0.8, gamma=0.3, seed=seed, **kwargs), epochs=4)
    return [w.numpy() for w in model.weights]


def test_seeds_reproduce():
    first, again, other = masks_after(3), masks_after(3), masks_after(4)
    assert all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, first, other))


def test_an_interrupted_surgery_goes_on_as_if_it_had_not_been(tmp_path):
    def make():
        keras.utils.set_random_seed(1)
        return network("adam", depth=2), DynamicSurgery("aggressive", gamma=0.3)

    whole, surgery = make()
    fit(whole, surgery, epochs=4)
    first, surgery = make()
    backup = keras.callbacks.BackupAndRestore(tmp_path)
    with pytest.raises(InterruptedError):
        fit(first, backup, surgery, Crash(2), epochs=4)
    keras.utils.set_random_seed(2)
    second = network("adam", depth=2)
    surgery = DynamicSurgery("aggressive", gamma=0.3)
    fit(second, keras.callbacks.BackupAndRestore(tmp_path), surgery, epochs=4)
    assert not all(own(whole, "hidden1").mask.numpy().ravel())
    for a, b in zip(whole.weights, second.weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("jit", [True, False, "auto"])
def test_surgery_works_in_compiled_steps(jit):
    model = network("adam", jit_compile=jit)
    before = own(model).kernel.numpy()
    fit(model, DynamicSurgery({"hidden0": 0.8}), epochs=2)
    mask = own(model).mask.numpy()
    assert 0 < mask.mean() < 0.6
    # Masked weights go on learning, and do not count.
    assert np.all(own(model).kernel.numpy()[~mask] != before[~mask])
    expected = model.predict(X, verbose=0)
    own(model).kernel.assign(own(model).kernel * mask)
    np.testing.assert_array_equal(model.predict(X, verbose=0), expected)


REPLICAS = """
import json, sys
import keras, numpy as np, tensorflow as tf
from keras import layers
import tfcompress as tfc

cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
rng = np.random.default_rng(0)
x = rng.normal(size=(32, 6)).astype("float32")
with strategy.scope():
    plain = keras.Sequential([keras.Input((6,)), layers.Dense(20), layers.Dense(3)])
    model = tfc.layers.wrap_kernels(plain, tfc.layers.MaskedKernel)
    model.compile("adam", "mse")
surgery = tfc.callbacks.DynamicSurgery(0.8)
model.fit(x, x[:, :3], batch_size=8, epochs=2, verbose=0, callbacks=[surgery])
copies = [strategy.experimental_local_results(w.value) for w in model.weights]
print(json.dumps({
    "replicas": [len(c) for c in copies],
    "equal": all(np.array_equal(c[0], c[-1]) for c in copies),
    "sparsity": surgery.sparsity,
}))
"""


def test_replicas_have_the_same_masks():
    # Logical devices can only be made before TensorFlow starts.
    run = subprocess.run(
        [sys.executable, "-c", REPLICAS], capture_output=True, text=True, check=True
    )
    found = json.loads(run.stdout.splitlines()[-1])
    assert set(found["replicas"]) == {2}
    assert found["equal"]
    assert 0.4 < found["sparsity"] < 1


def test_only_masked_layers_can_be_operated_on():
    plain = keras.Sequential([keras.Input((6,)), layers.Dense(3, name="logits")])
    plain.compile("sgd", "mse")
    with pytest.raises(ValueError, match="layers wrapped in"):
        fit(plain, DynamicSurgery(0.8))
    with pytest.raises(ValueError, match="others: logits"):
        fit(plain, DynamicSurgery({"logits": 0.8}))
    with pytest.raises(ValueError, match="hiden"):
        fit(network(), DynamicSurgery({"hiden": 0.8}))


def test_layers_that_do_not_train_are_left_alone_unless_named():
    def trained(factors, frozen):
        model = network(depth=2)
        for name in frozen:
            model.get_layer(name).trainable = False
        model.compile("sgd", "mse")
        fit(model, DynamicSurgery(factors))
        masks = [own(model, f"hidden{i}").mask for i in range(2)]
        return [int(np.sum(~keras.ops.convert_to_numpy(mask))) for mask in masks]

    left, operated = trained(0.5, ["hidden0"])
    assert left == 0 < operated
    named, _ = trained({"hidden0": 0.5}, ["hidden0"])
    assert named > 0
    with pytest.raises(ValueError, match="hidden0, hidden1, logits, not trainable"):
        trained(0.5, ["hidden0", "hidden1", "logits"])


@pytest.mark.parametrize("factors", [0.8, "intermediate", {"hidden0": 0.5}])
def test_configuration_survives_json(factors):
    callback = DynamicSurgery(factors, gamma=0.1, power=2, begin=3, end=9, seed=4)
    stored = json.loads(json.dumps(callback.get_config()))
    assert DynamicSurgery.from_config(stored).get_config() == stored


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"factors": "mild"}, ValueError, "factors"),
        ({"factors": {}}, ValueError, "empty"),
        ({"factors": {"a": "b"}}, TypeError, "factors"),
        ({"factors": np.nan}, ValueError, "finite"),
        ({"factors": 0.5, "gamma": -1}, ValueError, "gamma"),
        ({"factors": 0.5, "power": "1"}, TypeError, "power"),
        ({"factors": 0.5, "begin": -1}, ValueError, "begin"),
        ({"factors": 0.5, "begin": 5, "end": 5}, ValueError, "end"),
        ({"factors": 0.5, "seed": 0.5}, ValueError, "seed"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        DynamicSurgery(**arguments)
