"""Models of classes of one's own, with losses and steps of their own."""

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.compression._task import quality_of_file

L = keras.layers
X = np.random.default_rng(0).random((64, 6), "float32")
Y = (X[:, 0] * 3).astype("int32")
ARGUMENTS = {"budget": {"macs": 0.5}, "methods": ["filters"], "epochs": 2, "verbose": 0}


def graph():
    inputs = keras.Input((6,))
    x = L.Dense(16, activation="relu")(inputs)
    return inputs, L.Dense(3, activation="softmax")(x)


def of_class(kind, metrics=None):
    model = kind(*graph())
    model.compile("adam", "sparse_categorical_crossentropy", metrics=metrics)
    return model


class OlderLoss(keras.Model):
    """Its loss does not take `training`, as before Keras 3.3."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return 2 * super().compute_loss(x, y, y_pred, sample_weight)


def test_a_loss_without_the_argument_training_is_distilled():
    model = of_class(OlderLoss, ["accuracy"])
    result = tfc.compress(model, (X, Y), (X, Y), **ARGUMENTS)
    assert type(result.model) is OlderLoss
    logs = result.model.evaluate(X, Y, verbose=0, return_dict=True)
    assert result.best.quality["loss"] == pytest.approx(logs["loss"], rel=1e-3)


class OwnStep(keras.Model):
    """Is evaluated by a step of its own."""

    def compile(self, *args, **kwargs):
        super().compile(*args, **kwargs)
        self.mine = keras.metrics.SparseCategoricalAccuracy(name="my_accuracy")

    @property
    def metrics(self):
        return [*super().metrics, self.mine]

    def test_step(self, data):
        x, y = data
        answers = self(x, training=False)
        self.mine.update_state(y, answers)
        return {
            "my_accuracy": self.mine.result(),
            "loss": self.compute_loss(x, y, answers),
        }


class Around(OwnStep):
    """Its step does not call the model, but a layer of it."""

    def test_step(self, data):
        x, y = data
        answers = self.layers[-1](self.layers[-2](x))
        return {"loss": self.compute_loss(x, y, answers)}


def test_a_file_is_judged_by_the_step_of_the_model(tmp_path):
    model = of_class(OwnStep)
    result = tfc.compress(model, (X, Y), (X, Y), **ARGUMENTS)
    assert result.metric.name == "my_accuracy"
    logs = result.model.evaluate(X, Y, verbose=0, return_dict=True)
    assert result.best.quality == pytest.approx(logs, rel=1e-3)
    file = tmp_path / "model.tflite"
    tfc.export.to_tflite(model, file)
    with pytest.raises(ValueError, match="in whose place an exported file can answer"):
        quality_of_file(of_class(Around), file, (X, Y))


class OwnConstructor(keras.Model):
    def __init__(self, width):
        super().__init__(*graph())

    def train_step(self, data):
        raise AssertionError


def test_a_step_that_a_rebuilt_model_would_not_have_is_refused():
    model = OwnConstructor(16)
    model.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="defines train_step"):
        tfc.compress(model, (X, Y), **ARGUMENTS)


class Hub(keras.Model):
    """As tasks of KerasHub, whose `compile` and `fit` end in those of Keras."""

    def __init__(self, width):
        super().__init__(*graph())

    def compile(self, optimizer="auto", loss="auto"):
        super().compile("adam", "sparse_categorical_crossentropy")

    def fit(self, *args, **kwargs):
        raise AssertionError


def test_a_constructor_of_its_own_is_no_obstacle_where_the_steps_are_those_of_keras():
    model = Hub(16)
    model.compile()
    result = tfc.compress(model, (X, Y), **ARGUMENTS)
    assert type(result.model).__module__.startswith("keras.")
