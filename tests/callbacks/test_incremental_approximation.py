import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

import tfcompress as tfc
from tfcompress.callbacks import IncrementalApproximation
from tfcompress.callbacks.incremental_approximation import grow
from tfcompress.layers import DrumMultiply, MaskedKernel
from tfcompress.layers._kernel_wrapper import find_wrapper

X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
Y = np.tanh(X[:, :3] - X[:, 3:])


def network(optimizer="sgd", *, masked="inside", seed=0, **kwargs):
    """hidden (half of it pruned), normalization and logits, on DRUM multipliers."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(20, name="hidden"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(3, name="logits"),
        ]
    )
    kernel = model.get_layer("hidden").kernel
    keep = np.random.default_rng(1).random(kernel.shape) < 0.5
    if not masked:
        kernel.assign(kernel * keep)
    if masked == "inside":
        model = tfc.layers.wrap_kernels(model, MaskedKernel, layers=["hidden"])
    model = tfc.layers.wrap_kernels(model, lambda layer: DrumMultiply(layer, 1, 5))
    if masked == "outside":
        model = tfc.layers.wrap_kernels(model, MaskedKernel, layers=["hidden"])
    if masked:
        find_wrapper(model.get_layer("hidden"), MaskedKernel).masks[0].mask.assign(keep)
    model.compile(optimizer, "mse", **kwargs)
    return model


def fit(model, *callbacks, epochs=4, **kwargs):
    return model.fit(
        X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0,
        callbacks=list(callbacks), **kwargs,
    ).history  # fmt: skip


def pruned(layer):
    masked = find_wrapper(layer, MaskedKernel)
    return ~masked.masks[0].mask.numpy() if masked else layer.kernels[0].numpy() == 0


def drum(model, name):
    return find_wrapper(model.get_layer(name), DrumMultiply)


class Watch(keras.callbacks.Callback):
    """Groups and kernels at the beginning and the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.begins, self.ends = [], []

    def look(self):
        return {
            name: {
                "approximated": drum(self.model, name).approximated.numpy(),
                "pruned": pruned(self.model.get_layer(name)),
                "kernel": drum(self.model, name).kernels[0].numpy(),
                "partition": drum(self.model, name).partition,
            }
            for name in ("hidden", "logits")
        }

    def on_epoch_begin(self, epoch, logs=None):
        self.begins.append(self.look())

    def on_epoch_end(self, epoch, logs=None):
        self.ends.append(self.look())


class Crash(keras.callbacks.Callback):
    """Interrupts training when an epoch begins."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise InterruptedError


@given(st.integers(1, 40), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_groups_are_disjoint_complete_and_only_grow(size, iterations, seed):
    rng = np.random.default_rng(seed)
    free = rng.random(size) < 0.7
    done = np.zeros(size, bool)
    for iteration in range(1, iterations + 1):
        error = rng.random(size)
        count = np.count_nonzero(free) * iteration // iterations
        first, before = grow(error, free, done, count), done
        joined, second = first & ~before, free & ~first
        assert np.all(first >= before)
        assert np.count_nonzero(first) == count
        # G1 (new), G2 and the pruned or processed weights.
        groups = [joined, second, ~free | before]
        np.testing.assert_array_equal(np.sum(groups, axis=0), 1)
        if joined.any() and second.any():
            assert error[joined].max() <= error[second].min()
        done = first
    np.testing.assert_array_equal(done, free)


def test_each_iteration_takes_its_share_of_what_remains():
    """η = 100 / (N - i + 1) %: 25, 33, 50 and 100 % of what remains."""
    free, done, sizes = np.ones(120, bool), np.zeros(120, bool), []
    for iteration in range(1, 5):
        before = np.count_nonzero(done)
        done = grow(np.arange(120.0), free, done, 120 * iteration // 4)
        sizes.append((np.count_nonzero(done) - before) / (120 - before))
    assert sizes == pytest.approx([1 / (4 - i + 1) for i in range(1, 5)])


@pytest.mark.parametrize("masked", ["inside", "outside", None])
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        lambda: keras.optimizers.AdamW(0.05, weight_decay=0.1),
        lambda: keras.optimizers.RMSprop(0.01, use_ema=True),
    ],
)
def test_frozen_weights_do_not_move_by_one_bit(optimizer, masked):
    model, watch = network(optimizer(), masked=masked), Watch()
    # A training before, so that momenta push at all weights.
    fit(model, epochs=1)
    history = fit(model, IncrementalApproximation(4), watch)
    for begin, end in zip(watch.begins, watch.ends, strict=True):
        for name in ("hidden", "logits"):
            old, new = begin[name], end[name]
            frozen = old["approximated"] | old["pruned"]
            assert old["kernel"][frozen].tobytes() == new["kernel"][frozen].tobytes()
            assert np.all(old["kernel"][~frozen] != new["kernel"][~frozen])
            np.testing.assert_array_equal(old["pruned"], new["pruned"])
            assert not np.any(old["approximated"] & old["pruned"])
    last = watch.ends[-1]
    for name in ("hidden", "logits"):
        (kernel,) = model.get_layer(name).kernels
        assert last[name]["kernel"].tobytes() == kernel.numpy().tobytes()
        np.testing.assert_array_equal(last[name]["approximated"], ~last[name]["pruned"])
        assert kernel.constraint is None
    assert np.all(np.diff(history["approximated"]) > 0)
    assert history["approximated"][-1] == 1.0


def test_approximation_errors_decide():
    model, watch = network(keras.optimizers.SGD(0.0)), Watch()
    fit(model, IncrementalApproximation(2), watch, epochs=2)
    kernel = model.get_layer("logits").kernels[0].numpy()
    # T_1 is the power of two below.
    error = np.abs(np.sign(kernel) * 2 ** np.floor(np.log2(np.abs(kernel))) - kernel)
    chosen = watch.begins[0]["logits"]["approximated"]
    assert np.count_nonzero(chosen) == kernel.size // 2
    assert error[chosen].max() <= error[~chosen].min()


@pytest.mark.parametrize("order", ["error", "relative", "magnitude"])
def test_the_order_decides_which_half_comes_first(order):
    model = network(keras.optimizers.SGD(0.0))
    layer = model.get_layer("logits")
    # Apart, so that no two orders take the same half. T_1 of these is 1, 2, 4, 8.
    sizes = np.array([1.0, 1.9, 2.2, 3.0, 4.1, 7.8, 9.0, 15.0], "float32")
    sizes = np.concatenate([sizes, [1.45, 5.0, 6.1, 12.0]]).astype("float32")
    kernel = np.resize(sizes, layer.kernels[0].shape)
    kernel[::2] *= -1
    layer.kernels[0].assign(kernel)
    watch = Watch()
    fit(model, IncrementalApproximation(2, order=order), watch, epochs=2)
    chosen = watch.begins[0]["logits"]["approximated"]
    size = np.abs(kernel)
    error = size - 2 ** np.floor(np.log2(size))
    rank = {"error": error, "relative": error / size, "magnitude": -size}
    assert np.count_nonzero(chosen) == kernel.size // 2
    for name, values in rank.items():
        first = values[chosen].max() <= values[~chosen].min()
        assert first == (name == order)


def test_epochs_are_divided_evenly_and_the_partition_follows():
    model, watch = network(), Watch()
    history = fit(model, IncrementalApproximation(3), watch, epochs=7)
    assert [b["hidden"]["partition"] for b in watch.begins] == ["mixed"] * 5 + [
        "all"
    ] * 2
    shares = np.array(history["approximated"])
    np.testing.assert_allclose(
        shares, np.repeat([1 / 3, 2 / 3, 1], [3, 2, 2]), atol=0.02
    )


def test_what_a_traced_step_computes_follows_the_partition():
    model = network(keras.optimizers.SGD(0.0))
    evaluated = model.predict(X, verbose=0)  # traced with all weights approximated
    model.get_layer("norm").trainable = False
    seen = []

    class Predict(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            eager = model(X, training=False)
            traced = self.model.predict(X, verbose=0)
            np.testing.assert_allclose(traced, eager, rtol=1e-5, atol=1e-6)
            seen.append(traced)

    fit(model, IncrementalApproximation(2), Predict(), epochs=2)
    assert not np.allclose(seen[0], evaluated, atol=1e-4)
    np.testing.assert_allclose(seen[1], evaluated, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("jit", [True, False, "auto"])
def test_it_works_in_compiled_steps(jit):
    model, watch = network("adam", jit_compile=jit), Watch()
    fit(model, IncrementalApproximation(2), watch, epochs=2)
    for begin, end in zip(watch.begins, watch.ends, strict=True):
        old, new = begin["hidden"], end["hidden"]
        frozen = old["approximated"] | old["pruned"]
        assert old["kernel"][frozen].tobytes() == new["kernel"][frozen].tobytes()
    assert np.any(watch.begins[0]["hidden"]["kernel"] != new["kernel"])


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path):
    whole = network("adam")
    fit(whole, IncrementalApproximation(2), epochs=4)
    first = network("adam")
    backup = keras.callbacks.BackupAndRestore(tmp_path)
    with pytest.raises(InterruptedError):
        fit(first, backup, IncrementalApproximation(2), Crash(3), epochs=4)
    second = network("adam", seed=5)
    backup = keras.callbacks.BackupAndRestore(tmp_path)
    fit(second, backup, IncrementalApproximation(2), epochs=4)
    for a, b in zip(whole.weights, second.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_training_that_failed_lets_go_of_its_weights():
    model, callback = network("adam"), IncrementalApproximation(2)
    with pytest.raises(InterruptedError):
        fit(model, callback, Crash(1))
    layer = model.get_layer("logits")
    assert layer.kernels[0].constraint is not None
    before, frozen = layer.kernels[0].numpy(), layer.approximated.numpy()
    fit(model, callback)
    after = layer.kernels[0].numpy()
    assert layer.kernels[0].constraint is None
    assert before[frozen].tobytes() == after[frozen].tobytes()
    assert np.all(before[~frozen] != after[~frozen])


def test_named_layers_only():
    model = network("adam")
    fit(model, IncrementalApproximation(2, layers=["hidden"]), epochs=2)
    assert not np.any(model.get_layer("logits").approximated)
    assert np.any(model.get_layer("hidden").approximated)
    with pytest.raises(ValueError, match=r"'norm'.*DrumMultiply"):
        fit(model, IncrementalApproximation(2, layers=["norm"]))
    with pytest.raises(ValueError, match=r"hiden"):
        fit(model, IncrementalApproximation(2, exclude=["hiden"]))


@pytest.mark.parametrize("jit", [True, False])
def test_more_iterations_than_epochs_begin_within_them(jit):
    model, watch, seen = network("adam", jit_compile=jit), Watch(), []

    class Each(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.before = watch.look()["logits"]

        def on_train_batch_end(self, batch, logs=None):
            after, frozen = watch.look()["logits"], self.before["approximated"]
            moved = self.before["kernel"] != after["kernel"]
            np.testing.assert_array_equal(moved, ~frozen)
            seen.append((np.count_nonzero(frozen), after["partition"]))

    # 3 epochs of 4 batches: an iteration for every two of them.
    fit(model, IncrementalApproximation(6), watch, Each(), epochs=3)
    expected = [60 * i // 6 for i in range(1, 7) for _ in range(2)]
    assert [count for count, _ in seen] == expected
    assert [kind for _, kind in seen] == ["mixed"] * 10 + ["all"] * 2


def test_epochs_may_follow_the_last_iteration():
    model, watch = network("adam"), Watch()
    history = fit(model, IncrementalApproximation(4, epochs=2), watch, epochs=5)
    # The second half of the weights joins in the middle of an epoch.
    np.testing.assert_allclose(history["approximated"], [0.5, 1, 1, 1, 1], atol=0.02)
    assert [b["logits"]["partition"] for b in watch.begins] == ["mixed"] * 2 + [
        "all"
    ] * 3
    with pytest.raises(ValueError, match=r"`fit` has, 1\. Received: epochs=2"):
        fit(model, IncrementalApproximation(2, epochs=2), epochs=1)


def test_weights_of_an_exact_epoch_may_not_come_back():
    stop = keras.callbacks.EarlyStopping("loss", restore_best_weights=True)
    with pytest.raises(ValueError, match="start_from_epoch=2 or more"):
        fit(network(), IncrementalApproximation(2, epochs=2), stop, epochs=3)
    stop.start_from_epoch = 2
    fit(network(), IncrementalApproximation(2, epochs=2), stop, epochs=3)


def test_there_must_be_a_batch_for_each_iteration():
    import tensorflow as tf

    model = network()
    with pytest.raises(ValueError, match=r"batches, 12\. Received: iterations=13"):
        fit(model, IncrementalApproximation(13), epochs=3)
    unknown = tf.data.Dataset.from_generator(
        lambda: iter([(X, Y)]),
        output_signature=(tf.TensorSpec((32, 6)), tf.TensorSpec((32, 3))),
    )
    with pytest.raises(ValueError, match=r"epochs, 3\. Received: iterations=4"):
        model.fit(
            unknown, epochs=3, callbacks=[IncrementalApproximation(4)], shuffle=False
        )


@pytest.mark.parametrize("iterations", [0, -1, 2.0, True, "4"])
def test_bad_iterations_are_refused(iterations):
    kind = TypeError if isinstance(iterations, bool | str) else ValueError
    with pytest.raises(kind, match="iterations"):
        IncrementalApproximation(iterations)
    with pytest.raises(kind, match="epochs"):
        IncrementalApproximation(epochs=iterations)


def test_configuration_survives_json():
    callback = IncrementalApproximation(3, epochs=5, layers=["a"], exclude=["b"])
    stored = json.loads(json.dumps(callback.get_config()))
    assert IncrementalApproximation.from_config(stored).get_config() == stored


REPLICAS = """
import json
import keras, numpy as np, tensorflow as tf
from keras import layers
import tfcompress as tfc

cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
with strategy.scope():
    plain = keras.Sequential([keras.Input((6,)), layers.Dense(20), layers.Dense(3)])
    drum = lambda layer: tfc.layers.DrumMultiply(layer, 1, 5)
    model = tfc.layers.wrap_kernels(plain, tfc.layers.MaskedKernel)
    model = tfc.layers.wrap_kernels(model, drum)
    model.compile("adam", "mse")
kernel = model.layers[0].kernels[0]
moved = []

class Watch(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        mask = keras.ops.convert_to_numpy(model.layers[0].approximated)
        self.frozen = mask, keras.ops.convert_to_numpy(kernel)[mask]

    def on_epoch_end(self, epoch, logs=None):
        mask, value = self.frozen
        moved.append(int(np.sum(keras.ops.convert_to_numpy(kernel)[mask] != value)))

method = tfc.callbacks.IncrementalApproximation(2)
model.fit(x, x[:, :3], batch_size=8, epochs=2, verbose=0, callbacks=[method, Watch()])
copies = [strategy.experimental_local_results(w.value) for w in model.weights]
print(json.dumps({
    "replicas": [len(c) for c in copies],
    "equal": all(np.array_equal(c[0], c[-1]) for c in copies),
    "approximated": method.approximated,
    "moved": moved,
}))
"""


def test_replicas_approximate_the_same_weights():
    # Logical devices can only be made before TensorFlow starts.
    run = subprocess.run(
        [sys.executable, "-c", REPLICAS], capture_output=True, text=True, check=True
    )
    found = json.loads(run.stdout.splitlines()[-1])
    assert set(found["replicas"]) == {2}
    assert found["equal"]
    assert found["approximated"] == 1.0
    assert found["moved"] == [0, 0]
