"""Training with fake quantization and clusters, on the backend that runs."""

import keras
import numpy as np

import tfcompress as tfc

L = keras.layers


def network():
    inputs = keras.Input((8, 8, 1))
    x = L.Conv2D(6, 3, use_bias=False, name="conv")(inputs)
    x = L.BatchNormalization(name="norm")(x)
    x = L.ReLU()(x)
    y = L.DepthwiseConv2D(3, padding="same", name="depth")(x)
    x = L.Flatten()(L.Add()([x, y]))
    outputs = L.Dense(10, activation="softmax", name="logits")(x)
    return keras.Model(inputs, outputs)


def compiled(model):
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def trained(model, data, epochs):
    losses = compiled(model).fit(
        data.train.images, data.train.labels, epochs=epochs, verbose=0
    )
    return losses.history["loss"]


def test_kernels_stay_on_their_grid_while_they_learn(tmp_path):
    keras.utils.set_random_seed(0)
    data = tfc.data.load("digits", limit=320)
    model = network()
    trained(model, data, 2)
    assert not tfc.quantization.plan(model, weights=4).in_float
    qat = tfc.quantization.prepare(model, weights=4)
    losses = trained(qat, data, 4)
    assert losses[-1] < losses[0]

    # Ranges have moved to what the layers return, and are saved.
    path = tmp_path / "qat.keras"
    qat.save(path)
    loaded = keras.saving.load_model(path)
    grids = [x for x in loaded.layers if isinstance(x, tfc.layers.FakeQuantize)]
    assert all(grid.range[1] > 0 for grid in grids)
    x = data.test.images[:50]
    expected = qat.predict(x, verbose=0)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)

    plain = tfc.finalize(qat)
    for name, axes in (("conv", (0, 1, 2)), ("depth", (0, 1)), ("logits", (0, 1))):
        kernel = keras.ops.convert_to_numpy(plain.get_layer(name).kernel)
        step = np.abs(kernel).max(axes, keepdims=True) / 7
        levels = kernel / np.where(step > 0, step, 1)
        # Clipping gives every channel some weight at the end of its grid.
        np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)


def test_clusters_and_zeros_stay_while_they_learn():
    keras.utils.set_random_seed(0)
    data = tfc.data.load("digits", limit=320)
    model = network()
    trained(model, data, 1)
    kernel = model.get_layer("logits").kernel
    values = keras.ops.convert_to_numpy(kernel)
    values = np.where(np.abs(values) < np.quantile(np.abs(values), 0.8), 0, values)
    kernel.assign(values)
    clustered = tfc.quantization.cluster(model, clusters=5)
    losses = trained(clustered, data, 3)
    assert losses[-1] < losses[0]
    both = tfc.quantization.prepare(clustered)
    trained(both, data, 1)
    found = keras.ops.convert_to_numpy(tfc.finalize(both).get_layer("logits").kernel)
    assert 2 < len(np.unique(found)) <= 5
    np.testing.assert_array_equal(found[values == 0], 0)
