"""Clusters and zeros survive training, quantization and export."""

import keras
import numpy as np
import pytest

import tfcompress as tfc

L = keras.layers


@pytest.fixture(scope="module")
def pruned():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            L.Conv2D(8, 3, activation="relu", name="conv"),
            L.Flatten(),
            L.Dense(10, activation="softmax", name="dense"),
        ]
    )
    for name in ("conv", "dense"):
        kernel = np.array(model.get_layer(name).kernel)
        kernel[np.abs(kernel) < np.quantile(np.abs(kernel), 0.6)] = 0
        model.get_layer(name).kernel.assign(kernel)
    return model


@pytest.fixture(scope="module")
def trained(pruned):
    model = tfc.quantization.cluster(pruned, clusters=6)
    model.compile("adam", "sparse_categorical_crossentropy")
    return fitted(model)


def fitted(model):
    x = np.random.default_rng(0).random((128, 8, 8, 1)).astype("float32")
    model.fit(x, (10 * x.mean((1, 2, 3))).astype(int), epochs=2, verbose=0)
    return model


def check(model, pruned):
    for name in ("conv", "dense"):
        kernel = np.asarray(model.get_layer(name).kernel)
        before = np.asarray(pruned.get_layer(name).kernel)
        assert len(np.unique(kernel)) <= 6
        assert not kernel[before == 0].any()
        assert len(np.unique(kernel)) > 2


def test_training_keeps_clusters_and_zeros(trained, pruned):
    assert len(trained.get_layer("conv").trainable_variables) == 3
    plain = tfc.finalize(trained)
    check(plain, pruned)
    before = tfc.finalize(tfc.quantization.cluster(pruned, clusters=6))
    assert not np.array_equal(
        plain.get_layer("conv").kernel, before.get_layer("conv").kernel
    )


def test_quantization_keeps_them(trained, pruned, tmp_path):
    qat = fitted(tfc.quantization.prepare(trained))
    check(tfc.finalize(qat), pruned)
    x = np.random.default_rng(1).random((64, 8, 8, 1)).astype("float32")
    artifact = tfc.export.to_tflite(qat, tmp_path / "m.tflite", calibration=x)
    (output,) = artifact.parity.outputs
    assert output.max_difference <= 2.01 * output.step


def test_saved_and_loaded(trained, tmp_path):
    trained.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    x = np.random.default_rng(1).random((4, 8, 8, 1))
    np.testing.assert_array_equal(loaded(x), trained(x))


def test_zeros_may_go(pruned):
    model = tfc.quantization.cluster(
        pruned, clusters=4, preserve_sparsity=False, start="linear", layers=["dense"]
    )
    assert isinstance(model.get_layer("dense"), tfc.layers.ClusteredKernel)
    assert type(model.get_layer("conv")) is L.Conv2D
    assert len(np.unique(tfc.finalize(model).get_layer("dense").kernel)) <= 4


def test_order_of_clusters_and_quantization(pruned):
    qat = tfc.quantization.prepare(pruned)
    with pytest.raises(ValueError, match="cluster first"):
        tfc.quantization.cluster(qat)
