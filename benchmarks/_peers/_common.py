"""What the scripts of all peers share: the task, the clock, and how results are told.

Nothing but NumPy and the standard library, because every peer has an environment of
its own. `networks` takes the Keras module to build with.
"""

import functools
import inspect
import json
import math
import sys
import time
import traceback
from pathlib import Path

import numpy as np


class Task:
    """The data, the network's weights and the settings, from the command line."""

    def __init__(self):
        self.folder = Path(sys.argv[1])
        self.out = Path(sys.argv[2])
        self.out.mkdir(parents=True, exist_ok=True)
        for name, value in json.loads(sys.argv[3]).items():
            setattr(self, name, value)
        given = np.load(self.folder / "input.npz")
        self.train = given["train_x"], given["train_y"]
        self.test = given["test_x"], given["test_y"]
        count = len([name for name in given.files if name.startswith("weight")])
        self.weights = [given[f"weight{i}"] for i in range(count)]
        self.steps = math.ceil(len(self.train[0]) / self.batch)
        self.plain = self.returned = None

    def network(self, keras):
        """The dense network with its weights, compiled."""
        model = build(keras, self.name, self.train[0].shape[1:])
        model.set_weights(self.weights)
        return self.compiled(keras, model)

    def compiled(self, keras, model, from_logits=False):
        """The model, compiled as all are."""
        model.compile(
            keras.optimizers.Adam(self.rate),
            keras.losses.SparseCategoricalCrossentropy(from_logits),
            metrics=["accuracy"],
        )
        return model

    def fit(self, model, callbacks=(), fit=None, **options):
        """Trains; returns processor seconds: wall time would measure the neighbors.

        What `fit` returns is in `returned`.
        """
        begin = time.process_time()
        self.returned = (fit or type(model).fit)(
            model,
            *self.train,
            batch_size=self.batch,
            callbacks=list(callbacks),
            verbose=0,
            **{"epochs": self.epochs, **options},
        )
        return time.process_time() - begin

    def time_plain(self, keras):
        """Seconds of as many epochs of plain training, from two of them."""
        model = self.network(keras)
        first = self.fit(model, epochs=1)  # with tracing
        second = self.fit(model, epochs=1)
        self.plain = first + (self.epochs - 1) * second

    def accuracy(self, model):
        """Accuracy of a Keras model on the test images."""
        answers = model.predict(self.test[0], batch_size=250, verbose=0)
        return float((answers.argmax(-1).ravel() == self.test[1]).mean())

    def run(self, method, user_code, *arguments):
        """Runs one method and prints its result; a failure is a result, too.

        Args:
            method: `"zeros"`, `"filters"` or `"int8"`.
            user_code: what does it, a function that returns a dict with some of
                `accuracy`, `files` (kind -> path), `seconds` of training,
                `note`. Its lines between `# user code` and `# end` are counted.
        """
        result = {"method": method, "plain": self.plain, "lines": lines_of(user_code)}
        try:
            result |= user_code(self, *arguments)
        except Exception as error:
            traceback.print_exc()
            text = (str(error).strip() or type(error).__name__).splitlines()[0]
            result["reason"] = f"{type(error).__name__}: {text}"[:200]
        print("RESULT " + json.dumps(result), flush=True)


def lines_of(function):
    """Lines of code between the comments `# user code` and `# end`, comments not."""
    inside, count = False, 0
    for line in map(str.strip, inspect.getsource(function).splitlines()):
        if line in ("# user code", "# end"):
            inside = line == "# user code"
        elif inside and line and not line.startswith("#"):
            count += 1
    return count


def convert(tf, model, path, calibration=None):
    """Writes a TFLite file with TensorFlow's converter."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if calibration is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if len(calibration):
            converter.representative_dataset = lambda: (
                [image[None]] for image in calibration
            )
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    path.write_bytes(converter.convert())
    return str(path)


def build(keras, name, shape):
    """LeNet-5 as in Caffe, or MLPerf Tiny's ResNet-8, in any Keras."""
    layers = keras.layers
    conv = functools.partial(layers.Conv2D, padding="same")
    inputs = keras.Input(shape)
    if name == "lenet5":
        x = layers.Conv2D(20, 5, activation="relu", name="conv1")(inputs)
        x = layers.MaxPooling2D()(x)
        x = layers.Conv2D(50, 5, activation="relu", name="conv2")(x)
        x = layers.MaxPooling2D()(x)
        x = layers.Dense(500, activation="relu", name="fc1")(layers.Flatten()(x))
    else:

        def unit(x, filters, strides=1, relu=True):
            x = layers.BatchNormalization()(conv(filters, 3, strides)(x))
            return layers.ReLU()(x) if relu else x

        x = unit(inputs, 16)
        for stage, filters in enumerate((16, 32, 64)):
            strides = 2 if stage else 1
            y = unit(unit(x, filters, strides), filters, relu=False)
            x = conv(filters, 1, strides)(x) if stage else x
            x = layers.ReLU()(layers.Add()([x, y]))
        x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(10, activation="softmax", name="classifier")(x)
    return keras.Model(inputs, outputs)
