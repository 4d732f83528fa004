"""Training of LeNet-5 for 8 bits with the TensorFlow Model Optimization Toolkit.

Started by benchmarks/quantization.py in a process of its own, because the toolkit runs
on legacy Keras only:

    python benchmarks/_tfmot_quantize.py FOLDER SETTINGS

FOLDER has input.npz with data and the weights in float; SETTINGS is JSON. Prints a JSON
line with test accuracies of the trained model and of its file.
"""

import json
import math
import os
import sys
import time
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from ai_edge_litert.interpreter import Interpreter

folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
keras.utils.set_random_seed(settings["seed"])
given = np.load(folder / "input.npz")
layers = keras.layers


def lenet5():
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(20, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(50, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(500, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.set_weights([given[f"weight{i}"] for i in range(8)])
    return model


def fit(model, images, labels, epochs):
    """Trains; returns seconds of the processor."""
    steps = epochs * math.ceil(len(images) / settings["batch"])
    rate = keras.optimizers.schedules.CosineDecay(settings["rate"], steps)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    start = time.process_time()
    model.fit(images, labels, settings["batch"], epochs, verbose=0)
    return time.process_time() - start


def of_file(content, images):
    """What a file answers, one image at a time."""
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    (source,), (target,) = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )
    answers = []
    for image in images:
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        answers.append(interpreter.get_tensor(target["index"])[0])
    return np.array(answers).argmax(-1)


images, labels = given["train_x"], given["train_y"]
tests, expected = given["test_x"], given["test_y"]
model = tfmot.quantization.keras.quantize_model(lenet5())
# The same steps, once they are compiled, with and without fake quantization.
some = images[: 50 * settings["batch"]], labels[: 50 * settings["batch"]]
plain, other = lenet5(), tfmot.quantization.keras.quantize_model(lenet5())
seconds = [[fit(each, *some, 1) for _ in range(3)][1:] for each in (plain, other)]
fit(model, images, labels, settings["epochs"])
converter = tf.lite.TFLiteConverter.from_keras_model(model)
converter.optimizations = [tf.lite.Optimize.DEFAULT]
content = converter.convert()
answers = model.predict(tests, 500, verbose=0).argmax(-1)
found = of_file(content, tests)
print(
    json.dumps(
        {
            "keras": float((answers == expected).mean()),
            "file": float((found == expected).mean()),
            "equal": float((answers == found).mean()),
            "bytes": len(content),
            "epoch": min(seconds[1]) / min(seconds[0]),
        }
    )
)
