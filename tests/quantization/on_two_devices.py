"""Trains with fake quantization on two devices; prints JSON."""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import keras
import numpy as np
import tensorflow as tf

import tfcompress as tfc

CPU = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    CPU, [tf.config.LogicalDeviceConfiguration()] * 2
)

keras.utils.set_random_seed(0)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
inputs = keras.Input((8, 8, 1), name="image")
x = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
outputs = keras.layers.Dense(10, name="logits")(keras.layers.Flatten()(x))
model = keras.Model(inputs, outputs)
data = tfc.data.load("digits", limit=256)
# The first half of a batch goes to the first device.
images, labels = data.train.images[:64].copy(), data.train.labels[:64]
images[0, 0, 0] = 3.0
images[63, 0, 0] = 5.0
with strategy.scope():
    qat = tfc.quantization.prepare(model, weights=4)
    qat.compile(
        keras.optimizers.SGD(0.05),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )


def fit(images, labels, epochs):
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(64)
    return qat.fit(dataset, epochs=epochs, verbose=0).history["loss"]


fit(images, labels, 1)
first = qat.get_layer("image_quantize").range
losses = fit(data.train.images, data.train.labels, 5)
apart = max(
    float(np.abs(value.numpy() - values[0].numpy()).max())
    for variable in qat.weights
    for values in [getattr(variable.value, "values", [variable.value])]
    for value in values
)
qat.save(sys.argv[1])
kernel = np.asarray(tfc.finalize(qat).get_layer("conv").kernel)
levels = kernel / (np.abs(kernel).max((0, 1, 2), keepdims=True) / 7)
print(
    json.dumps(
        {
            "replicas": strategy.num_replicas_in_sync,
            "first": first,
            "losses": losses,
            "apart": apart,
            "off the grid": float(np.abs(levels - np.rint(levels)).max()),
        }
    )
)
