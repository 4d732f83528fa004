"""Trains every case of the contract on one device and on two; prints JSON."""

import json
import os
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import keras
import numpy as np
import tensorflow as tf

from tests.callbacks.contract import BATCH, CASES, EPOCHS, data

CPU = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    CPU, [tf.config.LogicalDeviceConfiguration()] * 2
)


# One of each for all cases: collective operations of a second strategy would take up
# the numbers of the first one's, which TensorFlow refuses if shapes differ.
ONE = tf.distribute.MirroredStrategy(["CPU:0"])
TWO = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def train(case, strategy):
    with strategy.scope():
        model = case.model()
        model.compile(
            keras.optimizers.SGD(0.05, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
    method = case.method()
    dataset = tf.data.Dataset.from_tensor_slices(data()).batch(BATCH)
    history = model.fit(dataset, epochs=EPOCHS, callbacks=[method], verbose=0)
    logs = {name: values[-1] for name, values in history.history.items()}
    case.check(method, model, logs)
    return model


def replicas(variable):
    value = variable.value
    return [each.numpy() for each in getattr(value, "values", [value])]


def compare(case):
    one, two = train(case, ONE), train(case, TWO)
    # Moving statistics are left out: Keras lets each replica keep its own.
    between = max(
        float(np.abs(np.asarray(a, "float64") - np.asarray(b, "float64")).max())
        for variable in two.weights
        if "moving_" not in variable.path
        for a, b in [(replicas(variable)[0], replicas(variable)[-1])]
    )
    apart = max(
        float(np.abs(a.numpy() - b.numpy()).max())
        for a, b in zip(one.trainable_weights, two.trainable_weights, strict=True)
    )
    return {
        "error": None,
        "replicas": TWO.num_replicas_in_sync,
        "between_replicas": between,
        "from_one_device": apart,
    }


results = {}
for name, case in CASES.items():
    try:
        results[name] = compare(case)
    except Exception:
        results[name] = {"error": traceback.format_exc()[-2000:]}
print(json.dumps(results))
