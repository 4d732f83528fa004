import importlib.util
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress.callbacks import MagnitudePruning
from tfcompress.callbacks.magnitude_pruning import largest
from tfcompress.constraints import BlockSparsity, NOfM
from tfcompress.schedules import Constant, Linear, OneShot, Polynomial


def data():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(32, 16)).astype("float32")
    return x, generator.normal(size=(32, 4)).astype("float32")


def network(scale=1.0):
    model = keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(24, activation="relu", name="hidden"),
            layers.Dense(4, name="out"),
        ]
    )
    hidden = model.get_layer("hidden").kernel
    hidden.assign(hidden * scale)
    model.compile(keras.optimizers.Adam(1e-2), "mse", run_eagerly=True)
    return model


def kernel(model, name):
    return model.get_layer(name).kernel.numpy()


def train(model, pruning, **options):
    options = {"epochs": 1, "batch_size": 8, "shuffle": False, "verbose": 0} | options
    return model.fit(*data(), callbacks=[pruning], **options)


def test_the_largest_weights_stay():
    weights = np.array([[0.5, -3.0], [1.0, -0.1]])
    (keep,) = largest([weights], 0.5)
    np.testing.assert_array_equal(keep, [[False, True], [True, False]])
    (keep,) = largest([weights], 0.99)  # at least one
    np.testing.assert_array_equal(keep, [[False, True], [False, False]])
    together = largest([weights, 10 * weights], 0.5)
    assert [int(keep.sum()) for keep in together] == [1, 3]


def test_zeros_beyond_the_rate_do_not_keep_the_others():
    weights = np.zeros((4, 10))
    weights[0, :6] = np.arange(1, 7)
    (keep,) = largest([weights], 0.5)
    assert keep.sum() == 20 and keep[0, :6].all()
    first, second = largest([weights, np.zeros((2, 5))], 0.5)
    assert first.sum() + second.sum() == 25 and second.any()
    (keep,) = largest([np.zeros((4, 10))], 0.75)
    assert keep.sum() == 10 and keep.any(axis=1).all()


def test_every_step_has_the_scheduled_number_of_zeros():
    zeros = []

    class Count(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            zeros.append(int((kernel(self.model, "hidden") == 0).sum()))

    model, schedule = network(), Linear(0.0, 0.75, begin=1, end=7, every=3)
    pruning = MagnitudePruning(schedule)
    history = model.fit(
        *data(), epochs=2, batch_size=8, verbose=0, callbacks=[pruning, Count()]
    )
    size = kernel(model, "hidden").size
    assert zeros == [round(schedule(step) * size) for step in range(8)]
    assert history.history["weight_sparsity"][-1] == 0.75
    assert np.count_nonzero(model.get_layer("hidden").bias) == 24


def test_weights_that_lie_below_the_threshold_are_the_smallest():
    model = network()
    before = np.abs(kernel(model, "hidden"))
    train(model, MagnitudePruning(OneShot(0.5, at=0)), epochs=1)
    gone = kernel(model, "hidden") == 0
    assert before[gone].max() < before[~gone].min()


def test_a_network_wide_threshold_prunes_small_layers_more():
    model = network(scale=0.01)
    model.get_layer("out").kernel.assign(np.ones((24, 4)))
    train(model, MagnitudePruning(Constant(0.5), scope="network", unit="epoch"))
    sizes = kernel(model, "hidden").size, kernel(model, "out").size
    left = [np.count_nonzero(kernel(model, name)) for name in ("hidden", "out")]
    assert sum(left) == sum(sizes) // 2
    assert left[1] == sizes[1] and left[0] == sum(sizes) // 2 - sizes[1]


def test_a_network_wide_threshold_leaves_a_weight_of_each_kernel():
    model = network()
    out = model.get_layer("out").kernel
    out.assign(1e-4 * np.ones(out.shape) + 1e-5 * np.eye(24, 4))
    train(model, MagnitudePruning(0.5, scope="network"), epochs=2)
    assert np.count_nonzero(kernel(model, "out"))


def test_two_of_four_along_what_attention_and_transposed_layers_sum_over():
    inputs = keras.Input((4, 8))
    x = layers.MultiHeadAttention(4, 2, name="attention")(inputs, inputs)
    x = layers.Conv1DTranspose(4, 3, name="up")(x)
    model = keras.Model(inputs, layers.GlobalAveragePooling1D()(x))
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(8, 4, 8))
    model.fit(
        x,
        x[:, 0, :4],
        verbose=0,
        callbacks=[MagnitudePruning(0.5, "2:4", unit="epoch")],
    )
    attention = model.get_layer("attention")
    alive = [each.numpy() != 0 for each in attention.weights if each.ndim == 3]
    # Queries, keys and values sum over the 8 features, the last one over heads' sizes.
    for kernel in alive[:3]:
        assert (kernel.reshape(2, 4, 4, 2).sum(axis=1) == 2).all()
    assert (alive[3].sum(axis=1) == 2).all()  # of 2: a short group keeps both
    up = model.get_layer("up").kernel.numpy() != 0  # (size, out, in)
    assert (up.reshape(3, 4, 2, 4).sum(axis=-1) == 2).all()


def test_the_adapters_of_lora_are_not_pruned():
    model = network()
    model.get_layer("hidden").enable_lora(2)
    model.compile("sgd", "mse")
    train(model, MagnitudePruning(0.5))
    assert np.count_nonzero(model.get_layer("hidden").lora_kernel_a) == 32


def test_early_stopping_that_may_give_weights_back_is_warned_of():
    ramp = Linear(0.0, 0.5, begin=0, end=1)
    stop = keras.callbacks.EarlyStopping(
        "loss", restore_best_weights=True, start_from_epoch=1
    )
    pruning = MagnitudePruning(ramp, unit="epoch")
    network().fit(*data(), epochs=2, verbose=0, callbacks=[pruning, stop])
    stop.start_from_epoch = 0
    with pytest.warns(UserWarning, match="start_from_epoch"):
        pruning = MagnitudePruning(ramp, unit="epoch")
        network().fit(*data(), epochs=2, verbose=0, callbacks=[pruning, stop])


@pytest.mark.parametrize("pattern", ["2:4", NOfM(2, 4)])
def test_two_of_four_along_the_inputs(pattern):
    model = network()
    train(model, MagnitudePruning(Linear(0.0, 0.5, 0, 2), pattern=pattern))
    groups = (kernel(model, "hidden") != 0).reshape(4, 4, 24).sum(axis=1)
    assert (groups == 2).all()


def test_whole_tiles_are_pruned():
    model = network()
    pruning = MagnitudePruning(
        Constant(0.5), pattern=BlockSparsity(4, 4, count=1), layers=["hidden"]
    )
    train(model, pruning)
    tiles = (kernel(model, "hidden") != 0).reshape(4, 4, 6, 4).sum(axis=(1, 3))
    assert sorted(tiles.ravel()) == [0] * 12 + [16] * 12
    assert np.count_nonzero(kernel(model, "out")) == kernel(model, "out").size


def test_schedules_of_single_layers():
    model = network()
    train(model, MagnitudePruning({"out": 0.5}))
    assert np.count_nonzero(kernel(model, "hidden")) == 16 * 24
    assert np.count_nonzero(kernel(model, "out")) == 24 * 4 // 2


def test_a_second_run_goes_on_from_the_zeros():
    model = network()
    train(model, MagnitudePruning(0.5))
    zero = kernel(model, "hidden") == 0
    train(model, MagnitudePruning(OneShot(0.75, at=1000)))  # not yet
    np.testing.assert_array_equal(kernel(model, "hidden") == 0, zero)


def test_a_second_run_goes_on_in_the_schedule():
    model = network()
    pruning = MagnitudePruning(Linear(0.0, 0.75, begin=0, end=2), unit="epoch")
    train(model, pruning, epochs=3)
    zeros = kernel(model, "hidden") == 0
    assert zeros.mean() == 0.75
    train(model, pruning, epochs=2)
    np.testing.assert_array_equal(kernel(model, "hidden") == 0, zeros)


def test_a_kernel_that_begins_at_zero_learns_before_it_is_pruned():
    model = network()
    out = model.get_layer("out").kernel
    out.assign(np.zeros(out.shape))
    train(model, MagnitudePruning(OneShot(0.5, at=1), unit="epoch"), epochs=2)
    assert (kernel(model, "out") == 0).mean() == 0.5


def test_a_schedule_that_does_not_end_is_said():
    with pytest.warns(UserWarning, match="at 0.1 of 0.9"):
        train(network(), MagnitudePruning(Linear(0.1, 0.9, 4, 400, every=396)))


def test_weights_that_are_no_numbers_stop_the_run():
    model = network()
    model.get_layer("hidden").kernel.assign(np.full((16, 24), np.nan))
    with pytest.raises(ValueError, match=r"Training has diverged.*'hidden'"):
        train(model, MagnitudePruning(0.5))
    assert model.get_layer("hidden").kernel.constraint is None


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"schedule": 1.0}, ValueError, "`schedule`"),
        ({"schedule": "high"}, ValueError, "A schedule needs arguments"),
        ({"schedule": 0.5, "pattern": "4:2"}, ValueError, "`pattern`"),
        ({"schedule": 0.5, "pattern": 4}, TypeError, "`pattern`"),
        ({"schedule": 0.25, "pattern": "2:4"}, ValueError, "ends at a sparsity of 0.5"),
        ({"schedule": 0.5, "scope": "model"}, ValueError, "`scope`"),
        (
            {"schedule": 0.5, "scope": "network", "pattern": "2:4"},
            ValueError,
            "`scope`",
        ),
        ({"schedule": {"a": 0.5}, "layers": ["a"]}, ValueError, "`layers`"),
        ({"schedule": 0.5, "unit": "batch"}, ValueError, "`unit`"),
        ({"schedule": 0.5, "target": 3}, TypeError, "`target`"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        MagnitudePruning(**arguments)


def test_round_trip_of_patterns():
    for pattern in (None, NOfM(2, 4), BlockSparsity(2, 2, count=1)):
        one = MagnitudePruning(Polynomial(0.0, 0.5, 0, 9), pattern=pattern)
        config = keras.saving.serialize_keras_object(one)
        two = keras.saving.deserialize_keras_object(json.loads(json.dumps(config)))
        assert two.pattern == one.pattern and two.schedule == one.schedule


THEIRS = """
import json, os, sys
os.environ["TF_USE_LEGACY_KERAS"] = "1"
import numpy as np, tensorflow as tf
from tensorflow_model_optimization.python.core.sparsity.keras import (
    pruning_impl, pruning_schedule)
given = np.load(sys.argv[1])
masks = []
for index, sparsity in enumerate(given["sparsities"]):
    weights = tf.Variable(given["weights"][index])
    mask, threshold = tf.Variable(tf.ones_like(weights)), tf.Variable(0.0)
    schedule = pruning_schedule.ConstantSparsity(float(sparsity), 0)
    pruning = pruning_impl.Pruning(
        training_step_fn=lambda: tf.constant(0, tf.int64),
        pruning_vars=[(weights, mask, threshold)],
        pruning_schedule=schedule, block_size=(1, 1), block_pooling_type="AVG")
    _, new = pruning._update_mask(weights)
    masks.append(np.asarray(new).astype(int).tolist())
print(json.dumps(masks))
"""


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_model_optimization") is None,
    reason="needs tensorflow-model-optimization: pip install tfcompress[tfmot]",
)
def test_masks_equal_those_of_tfmot(tmp_path):
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(40, 7, 9)).astype("float32")
    weights[20:] = np.round(weights[20:], 1)  # many ties
    sparsities = generator.uniform(0, 0.98, 40)
    np.savez(tmp_path / "given.npz", weights=weights, sparsities=sparsities)
    result = subprocess.run(
        [sys.executable, "-c", THEIRS, str(tmp_path / "given.npz")],
        capture_output=True,
        text=True,
        env=os.environ | {"TF_USE_LEGACY_KERAS": "1", "KERAS_BACKEND": ""},
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    theirs = json.loads(result.stdout.splitlines()[-1])
    for array, sparsity, expected in zip(weights, sparsities, theirs, strict=True):
        (keep,) = largest([array], sparsity)
        np.testing.assert_array_equal(keep.astype(int), expected)
