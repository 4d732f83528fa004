"""Models that TFMOT has trained come over with masks, clusters and ranges."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import tfcompress as tfc

needs_tfmot = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_model_optimization") is None
    or importlib.util.find_spec("tf_keras") is None,
    reason="needs the extra `tfmot`",
)

# Runs in a process of its own: TFMOT switches it to legacy Keras.
SCRIPT = """
import numpy as np, tf_keras as keras, tensorflow_model_optimization as tfmot
L = keras.layers
keras.utils.set_random_seed(0)
x = np.random.rand(64, 8, 8, 1).astype("float32")
y = np.random.randint(0, 10, 64)
np.save("x.npy", x)

def net():
    i = keras.Input((8, 8, 1))
    x = L.Conv2D(4, 3, name="conv")(i)
    x = L.BatchNormalization(name="norm")(x)
    x = L.ReLU(name="relu")(x)
    x = L.DepthwiseConv2D(3, name="depth")(x)
    x = L.Flatten(name="flat")(x)
    return keras.Model(i, L.Dense(10, activation="softmax", name="dense")(x))

def save(model, name, *callbacks):
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=2, verbose=0, callbacks=list(callbacks))
    model.save(name + ".h5")
    np.save(name + ".npy", model.predict(x, verbose=0))

half = tfmot.sparsity.keras.ConstantSparsity(0.5, 0, frequency=1)
pruned = tfmot.sparsity.keras.prune_low_magnitude(net(), half)
save(pruned, "pruned", tfmot.sparsity.keras.UpdatePruningStep())
start = tfmot.clustering.keras.CentroidInitialization.LINEAR
save(
    tfmot.clustering.keras.cluster_weights(
        net(), number_of_clusters=4, cluster_centroids_init=start
    ),
    "clustered",
)
save(tfmot.quantization.keras.quantize_model(net()), "quantized")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("tfmot")
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1"}
    subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=place, env=environment, check=True
    )
    return place


def both(folder, name):
    """The loaded model, what it computes and what TFMOT computed."""
    model = tfc.interop.tfmot.load(folder / f"{name}.h5")
    return (
        model,
        np.asarray(model(np.load(folder / "x.npy"))),
        np.load(folder / f"{name}.npy"),
    )


@needs_tfmot
def test_pruned_models_keep_their_masks(folder):
    model, ours, theirs = both(folder, "pruned")
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for name in ("conv", "dense"):
        kernel = np.asarray(model.get_layer(name).kernel)
        assert (kernel == 0).mean() == pytest.approx(0.5, abs=0.02)


@needs_tfmot
def test_clustered_models_keep_their_clusters(folder):
    model, ours, theirs = both(folder, "clustered")
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert len(np.unique(model.get_layer("dense").kernel)) <= 4
    again = tfc.quantization.cluster(
        model, 4, preserve_sparsity=False, layers=["conv", "dense"]
    )
    np.testing.assert_allclose(again(np.load(folder / "x.npy")), theirs, atol=1e-4)


@needs_tfmot
def test_quantized_models_keep_their_ranges(folder, tmp_path):
    import h5py

    model, ours, theirs = both(folder, "quantized")
    with h5py.File(folder / "quantized.h5") as file:
        own = file["model_weights/quant_relu/quant_relu"]
        low, high = (
            float(np.asarray(own[f"output_{end}:0"])) for end in ("min", "max")
        )
    assert model.get_layer("relu_quantize").range == pytest.approx((low, high))
    # TFMOT folds nothing and rounds its depthwise kernels by one step each.
    assert np.abs(ours - theirs).mean() < 0.01


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(ValueError, match="`path`"):
        tfc.interop.tfmot.load(tmp_path / "text.h5")
    with pytest.raises(TypeError, match="`path`"):
        tfc.interop.tfmot.load(3)


def test_wrapped_layers_of_nested_models_are_refused(tmp_path):
    import h5py

    wrapped = {"class_name": "PruneLowMagnitude", "config": {"name": "prune_conv"}}
    base = {"name": "base", "layers": [wrapped]}
    config = {"layers": [{"class_name": "Functional", "config": base}]}
    with h5py.File(tmp_path / "nested.h5", "w") as file:
        file.attrs["model_config"] = json.dumps({"config": config})
        file.create_group("model_weights").attrs["layer_names"] = []
    with pytest.raises(ValueError, match=r"strip_pruning.*'base'"):
        tfc.interop.tfmot.load(tmp_path / "nested.h5")
