"""Every method still learns: one seeded run on handwritten digits for each.

A change that leaves the arithmetic exact may still destroy learning: a schedule that
goes too fast, a mask that covers too much, a gradient that is lost. The bound is an
independent reference, a linear classifier (logistic regression of scikit-learn) on the
same pixels and the same split: a compressed network that is not as good as that by two
points has lost what it is for.
"""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc

EPOCHS = 12


@pytest.fixture(scope="module")
def digits():
    return tfc.data.load("digits")


@pytest.fixture(scope="module")
def bound(digits):
    from sklearn.linear_model import LogisticRegression

    def pixels(split):
        return np.reshape(split.images, (len(split.images), -1))

    linear = LogisticRegression(max_iter=500)
    linear.fit(pixels(digits.train), digits.train.labels)
    accuracy = linear.score(pixels(digits.test), digits.test.labels)
    assert 0.9 < accuracy < 0.98
    return accuracy - 0.02


@pytest.fixture(scope="module")
def dense(digits):
    """A trained network that methods may start from; they must not change it."""
    model = network()
    fit(model, digits)
    return model


def network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="conv1")(inputs)
    x = layers.MaxPooling2D()(x)
    y = layers.Conv2D(16, 3, padding="same", activation="relu", name="conv2")(x)
    x = layers.Flatten()(layers.Add(name="add")([x, y]))
    x = layers.Dense(32, activation="relu", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="out")(x))


def compiled(model, rate=3e-3):
    model.compile(
        keras.optimizers.Adam(rate),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def fit(model, digits, *callbacks, epochs=EPOCHS, rate=3e-3):
    compiled(model, rate).fit(
        np.asarray(digits.train.images),
        np.asarray(digits.train.labels),
        epochs=epochs,
        batch_size=32,
        verbose=0,
        callbacks=list(callbacks),
    )


def accuracy(model, digits):
    predicted = model.predict(np.asarray(digits.test.images), verbose=0).argmax(-1)
    return float(np.mean(predicted == digits.test.labels))


def rising(final):
    return tfc.schedules.Linear(0.0, final, begin=0, end=EPOCHS // 2)


def test_filters_pruned_while_training(digits, bound):
    model = network()
    fit(model, digits, tfc.callbacks.FilterPruning(rising(0.5)))
    small = tfc.finalize(model)
    assert small.count_params() < model.count_params() / 2
    assert accuracy(small, digits) > bound


def test_single_weights_pruned_while_training(digits, bound):
    model = network()
    pruning = tfc.callbacks.MagnitudePruning(rising(0.8), unit="epoch")
    fit(model, digits, pruning)
    assert pruning.sparsity == pytest.approx(0.8, abs=0.01)
    assert accuracy(tfc.finalize(model), digits) > bound


def test_admm_then_masked_retraining(digits, dense, bound):
    model = compiled(tfc.structure.wrap(dense, {}))
    fit(model, digits, admm := tfc.callbacks.ADMM(FIFTH, rho=3e-2), epochs=8)
    tfc.training.hard_prune(model, admm.constraints)
    fit(model, digits, tfc.callbacks.HoldWeights("zeros"), epochs=6)
    kernels = [v for v in model.trainable_variables if v.name == "kernel"]
    left = [np.count_nonzero(v) / np.prod(v.shape) for v in kernels]
    assert max(left) < 0.21
    assert accuracy(model, digits) > bound


FIFTH = tfc.constraints.Cardinality(fraction=0.2)


def test_surgery_then_approximate_multipliers(digits, dense, bound):
    model = tfc.layers.wrap_kernels(dense, tfc.layers.MaskedKernel)
    surgery = tfc.callbacks.DynamicSurgery(0.5)
    fit(model, digits, surgery, epochs=5)
    assert surgery.sparsity > 0.5
    model = tfc.layers.wrap_kernels(
        model, lambda layer: tfc.layers.DrumMultiply(layer, 2, 6)
    )
    handing_over = tfc.callbacks.IncrementalApproximation(5, order="magnitude")
    fit(model, digits, handing_over, epochs=6, rate=1e-3)
    assert handing_over.approximated == 1.0
    assert accuracy(tfc.finalize(model), digits) > bound


def test_gates_that_close(digits, bound):
    model = tfc.gates.add_layer_gates(network(), seed=0)
    fit(model, digits, tfc.callbacks.GatePenalty(polarization=2.0, activation=4.0))
    small = tfc.finalize(model, np.asarray(digits.train.images), threshold=0.5)
    assert tfc.cost.count(small).macs < tfc.cost.count(network()).macs  # closed
    assert accuracy(small, digits) > bound


def test_layers_sized_by_density(digits, dense, bound):
    result = tfc.training.resize_by_density(
        compiled(tfc.structure.wrap(dense, {})),
        np.asarray(digits.train.images),
        np.asarray(digits.train.labels),
        epochs=6,
        max_rounds=1,
        weights="inherit",
        seed=0,
        batch_size=32,
        verbose=0,
    )
    assert result.model.count_params() < 0.8 * dense.count_params()
    assert accuracy(result.model, digits) > bound


def test_four_bit_weights(digits, dense, bound):
    model = tfc.quantization.prepare(dense, weights=4)
    fit(model, digits, epochs=4, rate=1e-3)
    assert accuracy(tfc.finalize(model), digits) > bound


def test_sixteen_clusters(digits, dense, bound):
    model = tfc.quantization.cluster(dense, clusters=16)
    fit(model, digits, epochs=4, rate=1e-3)
    small = tfc.finalize(model)
    assert all(
        np.unique(small.get_layer(n).kernel).size <= 16 for n in ("conv2", "out")
    )
    assert accuracy(small, digits) > bound
