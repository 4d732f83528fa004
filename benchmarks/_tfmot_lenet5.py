"""Magnitude pruning of LeNet-5 with the TensorFlow Model Optimization Toolkit.

Started by benchmarks/admm.py in an environment with the toolkit and tf_keras:

    python benchmarks/_tfmot_lenet5.py FOLDER SETTINGS

FOLDER has input.npz with data and dense weights; SETTINGS is JSON. Prints a JSON
line with the test accuracy and the number of weights left.
"""

import json
import math
import os
import sys
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras as keras

folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
keras.utils.set_random_seed(settings["seed"])
given = np.load(folder / "input.npz")
layers = keras.layers
model = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        layers.Conv2D(20, 5, activation="relu", name="conv1"),
        layers.MaxPooling2D(),
        layers.Conv2D(50, 5, activation="relu", name="conv2"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(500, activation="relu", name="fc1"),
        layers.Dense(10, activation="softmax", name="classifier"),
    ]
)
model.set_weights([given[f"weight{i}"] for i in range(8)])

steps = math.ceil(len(given["train_x"]) / settings["batch"])


def prunable(layer):
    if layer.name not in settings["keep"]:
        return layer
    size = int(np.prod(layer.kernel.shape))
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        initial_sparsity=0.0,
        final_sparsity=1 - settings["keep"][layer.name] / size,
        begin_step=0,
        end_step=steps * settings["prune_epochs"],
        frequency=50,
    )
    return tfmot.sparsity.keras.prune_low_magnitude(layer, schedule)


pruned = keras.models.clone_model(model, clone_function=prunable)
pruned.set_weights(pruned.get_weights())
for layer in pruned.layers:
    name = layer.name.removeprefix("prune_low_magnitude_")
    if name in settings["keep"]:
        kernel, bias = model.get_layer(name).get_weights()
        layer.layer.kernel.assign(kernel)
        layer.layer.bias.assign(bias)

total = settings["prune_epochs"] + settings["retrain_epochs"]


def rate(epoch):
    if epoch < settings["prune_epochs"]:
        return settings["prune_rate"]
    progress = (epoch - settings["prune_epochs"]) / settings["retrain_epochs"]
    return settings["retrain_rate"] * 0.5 * (1 + math.cos(math.pi * progress))


pruned.compile(
    keras.optimizers.Adam(settings["prune_rate"]),
    loss="sparse_categorical_crossentropy",
    metrics=["accuracy"],
)
pruned.fit(
    given["train_x"],
    given["train_y"],
    batch_size=settings["batch"],
    epochs=total,
    verbose=0,
    callbacks=[
        tfmot.sparsity.keras.UpdatePruningStep(),
        keras.callbacks.LearningRateScheduler(rate),
    ],
)
final = tfmot.sparsity.keras.strip_pruning(pruned)
final.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
accuracy = final.evaluate(given["test_x"], given["test_y"], verbose=0)[1]
kernels = [layer.kernel.numpy() for layer in final.layers if hasattr(layer, "kernel")]
nonzero = sum(int(np.count_nonzero(kernel)) for kernel in kernels)
print(json.dumps({"accuracy": float(accuracy), "nonzero": nonzero}))
