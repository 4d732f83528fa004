"""HGQ2: training with fixed-point weights and activations of 8 bits."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import hgq
import keras
from _common import Task, build
from hgq.config import QuantizerConfigScope

VARIABLES = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")


class Layers:
    """Keras' layers, those of HGQ2 where it has them."""

    def __getattr__(self, name):
        quantized = getattr(hgq.layers, f"Q{name}", None)
        if quantized is None or "Pooling" in name:
            return getattr(keras.layers, name)
        return quantized


class Module:
    """What stands for the module `keras` when the network is built."""

    layers, Input, Model = Layers(), keras.Input, keras.Model


def int8(task):
    source = task.network(keras)
    # user code
    weights = QuantizerConfigScope(place="weight", b0=7, trainable=False)
    lanes = QuantizerConfigScope(place="datalane", i0=3, f0=4, trainable=False)
    with weights, lanes:
        model = build(Module, task.name, task.train[0].shape[1:])
    # end
    for layer, given in zip(model.layers, source.layers, strict=True):
        for name in VARIABLES:
            value = getattr(given, name, None)
            if value is not None:
                getattr(layer, f"_{name}", getattr(layer, name)).assign(value)
    seconds = task.fit(task.compiled(keras, model))
    path = task.out / "int8.keras"
    model.save(path, include_optimizer=False)
    return {
        "seconds": seconds,
        "accuracy": task.accuracy(model),
        "files": {".keras": str(path)},
        "note": "for FPGAs: the .keras file holds float32 and widths; no .tflite",
    }


task = Task()
keras.utils.set_random_seed(task.seed)
task.time_plain(keras)
task.run("int8", int8)
