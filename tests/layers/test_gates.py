import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfcompress as tfc

ESTIMATORS = ["ste", "gumbel", "bernoulli"]


def network(estimator="ste", size=6, **compile_arguments):
    """One residual block with both kinds of gates."""
    i = keras.Input((size, size, 3))
    x = layers.Conv2D(4, 3, padding="same", name="stem")(i)
    y = layers.Conv2D(4, 3, padding="same", name="branch")(x)
    y = tfc.layers.ChannelGate(estimator=estimator, seed=1, name="channels")(y)
    y = tfc.layers.LayerGate(estimator=estimator, seed=2, name="layer")([x, y])
    x = layers.Add(name="add")([x, y])
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(i, layers.Dense(3, activation="softmax")(x))
    model.compile("sgd", "sparse_categorical_crossentropy", **compile_arguments)
    return model


def batch(n=8, size=6):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(n, size, size, 3)).astype("float32")
    return images, rng.integers(0, 3, n)


def dense(x, layer):
    return x @ layer.kernel.numpy() + layer.bias.numpy()


def normalized(x, layer):
    """Batch normalization in training."""
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + layer.epsilon)
    return x * layer.gamma.numpy() + layer.beta.numpy()


def random_biases(gate):
    """Gates that decide differently from sample to sample."""
    rng = np.random.default_rng(5)
    gate._logits.kernel.assign(rng.normal(size=gate._logits.kernel.shape))
    gate._logits.bias.assign(rng.normal(size=gate._logits.bias.shape) * 0.1)


def test_a_layer_gate_is_the_module_of_table_1():
    gate = tfc.layers.LayerGate()
    x = np.random.default_rng(0).normal(size=(9, 5, 4, 7)).astype("float32")
    branch = np.random.default_rng(1).normal(size=(9, 3, 2, 2)).astype("float32")
    gate.build([x.shape, branch.shape])
    random_biases(gate)
    hidden = normalized(dense(x.mean((1, 2)), gate._dense[0]), gate._norms[0])
    open_ = dense(np.maximum(hidden, 0), gate._logits) > 0
    assert 0 < open_.sum() < 9
    y = gate([x, branch], training=True)
    np.testing.assert_allclose(y, branch * open_[:, None, None], rtol=1e-6)
    assert gate._dense[0].units == 16 and gate._logits.units == 1


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_channel_gate_is_the_module_of_table_1(depth):
    gate = tfc.layers.ChannelGate(depth=depth)
    x = np.random.default_rng(0).normal(size=(9, 3, 2, 5)).astype("float32")
    gate.build(x.shape)
    random_biases(gate)
    hidden = x.reshape(9, -1)
    for index in range(depth):
        inner = gate._dense[index], gate._norms[index]
        hidden = np.maximum(normalized(dense(hidden, inner[0]), inner[1]), 0)
    open_ = dense(hidden, gate._logits) > 0
    assert 0 < open_.sum() < open_.size and open_.shape == (9, 5)
    y = gate(x, training=True)
    np.testing.assert_allclose(y, x * open_[:, None, None], rtol=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("jit", [False, True])
def test_gated_models_train_with_and_without_xla(estimator, jit):
    model = network(estimator, jit_compile=jit)
    x, y = batch(16)
    before = [w.numpy() for w in model.trainable_variables]
    loss = model.fit(x, y, batch_size=8, epochs=2, verbose=0).history["loss"]
    assert np.isfinite(loss).all()
    assert any(
        (old != new.numpy()).any()
        for old, new in zip(before, model.trainable_variables, strict=True)
        if "layer/logits" in new.path
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_a_gated_model_comes_back_from_its_file(estimator, policy, tmp_path):
    keras.config.set_dtype_policy(policy)
    model = network(estimator)
    x, y = batch(16)
    model.fit(x, y, epochs=1, verbose=0)
    model.save(tmp_path / "gated.keras")
    again = keras.saving.load_model(tmp_path / "gated.keras")
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    for name in ("layer", "channels"):
        one, two = model.get_layer(name), again.get_layer(name)
        assert one.get_config() == two.get_config()
        np.testing.assert_array_equal(one.opening, two.opening)
        assert one._opened.dtype == "float32"


def penalty(openings, polarization, activation):
    """Equations 8 to 11 for one gate, in NumPy."""
    polar = np.mean((1 - openings) * openings)
    return polarization * polar + activation * np.mean(openings)


def test_the_penalty_is_the_papers():
    gate = tfc.layers.ChannelGate(depth=0)
    x, _ = batch(12)
    gate.build(x.shape)
    random_biases(gate)
    gate.set_penalty(0.7, 0.2)
    opened = (np.asarray(gate(x)) != 0).any((1, 2))
    assert 0 < opened.mean() < 1
    expected = penalty(opened.mean(0), 0.7, 0.2)
    np.testing.assert_allclose(sum(gate.losses), expected, rtol=1e-5)


def test_the_gradient_of_the_penalty_is_that_of_the_formula():
    gate = tfc.layers.ChannelGate(depth=0)
    x, _ = batch(12)
    gate.build(x.shape)
    # Small logits: all are where the estimator lets gradients through.
    gate._logits.kernel.assign(gate._logits.kernel * 0.02)
    gate._logits.bias.assign([0.02, 0.0, -0.01])
    gate.set_penalty(0.7, 0.2)
    with tf.GradientTape() as tape:
        y = gate(x)
        loss = sum(gate.losses)
    gradient = tape.gradient(loss, gate._logits.bias.value)
    opening = (np.asarray(y) != 0).any((1, 2)).mean(0)
    # d/db of mean_c [0.7 (1 - g) g + 0.2 g], with dg/db = 1.
    expected = (0.7 * (1 - 2 * opening) + 0.2) / 3
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_without_weights_gates_add_nothing_to_the_loss():
    model = network()
    x, y = batch()
    total = model.evaluate(x, y, verbose=0)
    p = model.predict(x, verbose=0)[np.arange(len(y)), y]
    np.testing.assert_allclose(total, -np.log(p).mean(), rtol=1e-5)


def test_gates_count_while_training_and_not_otherwise():
    gate = tfc.layers.LayerGate()
    x, _ = batch(10)
    gate.build([x.shape, x.shape])
    random_biases(gate)
    assert np.isnan(gate.opening) and np.isnan(gate.polarity)
    gate([x, x])
    assert gate.seen == 0
    ratios = []
    for part in (x[:6], x[6:]):
        y = np.asarray(gate([part, part], training=True))
        ratios.append((y != 0).any((1, 2, 3)).mean())
    assert gate.seen == 10
    np.testing.assert_allclose(gate.opening, 0.6 * ratios[0] + 0.4 * ratios[1])
    expected = sum(w * (1 - r) * r for w, r in zip((0.6, 0.4), ratios, strict=True))
    np.testing.assert_allclose(gate.polarity, expected, rtol=1e-5)
    gate.reset()
    assert gate.seen == 0


def test_gates_start_open():
    x, _ = batch(256)
    for gate, inputs in (
        (tfc.layers.LayerGate(), [x, x]),
        (tfc.layers.ChannelGate(), x),
    ):
        gate(inputs, training=True)
        assert gate.opening.mean() > 0.5


def test_bernoulli_gates_infer_with_the_moving_mean():
    gate = tfc.layers.ChannelGate(depth=0, estimator="bernoulli", open_bias=0.0)
    x, _ = batch(12)
    gate.build(x.shape)
    logits = dense(x.reshape(12, -1), gate._logits)
    y = np.asarray(gate(x, training=True))
    np.testing.assert_array_equal((y != 0).any((1, 2)), logits > logits.mean())
    moving = 0.1 * logits.mean()
    np.testing.assert_allclose(gate._threshold, moving, rtol=1e-4)
    y = np.asarray(gate(x))
    np.testing.assert_array_equal((y != 0).any((1, 2)), logits > moving)


def test_gumbel_gates_are_random_in_training_only():
    gate = tfc.layers.LayerGate(estimator="gumbel", open_bias=0.0, seed=1)
    x, _ = batch(64)
    one, two = (np.asarray(gate([x, x], training=True)) for _ in range(2))
    assert (one != two).any()
    one, two = (np.asarray(gate([x, x])) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_the_cost_of_a_gate_is_its_dense_layers():
    cost = {row.name: row.macs for row in tfc.cost.count(network()).rows}
    assert cost["layer"] == 4 * 16 + 16 * 1
    assert cost["channels"] == 6 * 6 * 4 * 16 + 16 * 4


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: tfc.layers.LayerGate(units=0), "`units`.*int of at least 1"),
        (lambda: tfc.layers.LayerGate(estimator="hard"), "`estimator`.*'ste'"),
        (lambda: tfc.layers.LayerGate(temperature=0), "`temperature`"),
        (lambda: tfc.layers.LayerGate(open_bias=np.nan), "`open_bias`"),
        (lambda: tfc.layers.ChannelGate(depth=3), "`depth`.*0, 1 or 2"),
        (lambda: tfc.layers.LayerGate()(keras.Input((4, 4, 2))), "`inputs`.*list of"),
        (
            lambda: tfc.layers.ChannelGate()(keras.Input((None, 4, 2))),
            "`inputs`.*known",
        ),
        (lambda: tfc.layers.ChannelGate()(keras.Input(())), "`inputs`.*channels"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=f"argument {message}"):
        make()
