"""How good a model and its file are, and which metric says so."""

import keras
import numpy as np
import pytest

from tfcompress import export
from tfcompress.compression._task import Metric, Task, chosen_metric, quality_of_file

L = keras.layers


def judged(metrics, loss="mse", outputs=("value",)):
    """A model with these metrics, and what `evaluate` returns."""
    x = inputs = keras.Input((3,))
    model = keras.Model(inputs, [L.Dense(2, name=name)(x) for name in outputs])
    model.compile("adam", loss, metrics=metrics)
    y = np.eye(2, dtype="float32")[np.arange(4) % 2]
    logs = model.evaluate(
        np.ones((4, 3), "float32"), [y] * len(outputs), verbose=0, return_dict=True
    )
    return logs, model


@pytest.mark.parametrize(
    ("metric", "grows"),
    [
        (keras.metrics.OneHotMeanIoU(2), True),
        (keras.metrics.SensitivityAtSpecificity(0.5), True),
        (keras.metrics.PearsonCorrelation(), True),
        (keras.metrics.MeanAbsoluteError(), False),
        (keras.metrics.MeanAbsoluteError(name="acceptance"), False),
    ],
)
def test_a_metric_tells_itself_whether_more_is_better(metric, grows):
    logs, model = judged([metric])
    assert chosen_metric(logs, None, model) == Metric(metric.name, grows)
    assert chosen_metric(logs, f"val_{metric.name}", model).grows == grows


def test_the_name_of_an_output_is_no_accuracy():
    logs, model = judged([["mae"], ["mse"]], ["mse"] * 2, ("accel", "place"))
    assert "accel_mae" in logs and "accel_loss" in logs
    assert chosen_metric(logs, None, model) == Metric("loss", False)
    assert chosen_metric(logs, "accel_mae", model) == Metric("accel_mae", False)


def test_a_metric_that_tells_nothing_is_not_guessed():
    def kappa(y_true, y_pred):
        return keras.ops.mean(y_true * y_pred, axis=-1)

    def dice_loss(y_true, y_pred):
        return 1 - keras.ops.mean(y_true * y_pred, axis=-1)

    logs, model = judged([kappa])
    assert chosen_metric(logs, None, model) == Metric("loss", False)
    with pytest.raises(ValueError, match="whether more is better"):
        chosen_metric(logs, "kappa", model)
    logs, model = judged([dice_loss])
    assert chosen_metric(logs, "dice_loss", model) == Metric("dice_loss", False)


def test_padding_counts_in_a_file_no_more_than_in_keras(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(1, 20, (32, 10)).astype("int32")
    x[:, 4:] = 0  # padding, whose labels no model could know
    tokens = keras.Input((10,), dtype="int32")
    embedded = L.Embedding(20, 4, mask_zero=True)(tokens)
    model = keras.Model(tokens, L.Dense(5, activation="softmax")(embedded))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    labels = np.asarray(model(x)).argmax(-1)
    labels[:, 4:] = (labels[:, 4:] + 1) % 5
    expected = model.evaluate(x, labels, verbose=0, return_dict=True)
    assert expected["accuracy"] == 1
    file = tmp_path / "model.tflite"
    export.to_tflite(model, file)
    found = quality_of_file(model, file, (x, labels))
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_metric_of_classes_is_their_mean_and_no_weights_are_none(tmp_path):
    rng = np.random.default_rng(0)
    inputs = keras.Input((3,))
    model = keras.Model(inputs, L.Dense(4, activation="softmax")(inputs))
    score = keras.metrics.F1Score()
    model.compile("adam", "categorical_crossentropy", metrics=[score])
    x, y = (
        rng.random((32, 3), "float32"),
        np.eye(4, dtype="float32")[rng.integers(4, size=32)],
    )
    task = Task(model, (x, y, None), (x, y, None), batch_size=8, seed=0)
    expected = task.quality(model)
    assert expected["f1_score"] == pytest.approx(np.mean(score(y, model(x))))
    assert chosen_metric(expected, None, model) == Metric("f1_score", True)
    file = tmp_path / "model.tflite"
    export.to_tflite(model, file)
    assert quality_of_file(model, file, (x, y)) == pytest.approx(expected, rel=1e-4)


def test_a_dict_of_inputs_has_their_names():
    a, b = keras.Input((2,), name="a"), keras.Input((2,), name="b")
    model = keras.Model([a, b], L.Add()([a, b]))
    x = np.ones((4, 2), "float32")
    with pytest.raises(ValueError, match=r"names \['a', 'b'\].*\['a', 'c'\]"):
        Task(model, ({"a": x, "c": x}, x), None, batch_size=2, seed=0)


def test_a_loss_is_judged_without_the_penalty_on_weights(tmp_path):
    inputs = keras.Input((3,))
    x = y = np.random.default_rng(0).random((16, 3), "float32")

    def compiled(regularizer):
        layer = L.Dense(3, kernel_initializer="ones", kernel_regularizer=regularizer)
        model = keras.Model(inputs, layer(inputs))
        model.compile("adam", "mse")
        return model

    plain, punished = compiled(None), compiled("l2")
    task = Task(plain, (x, y), (x, y), batch_size=8, seed=0)
    expected = plain.evaluate(x, y, verbose=0)
    assert punished.evaluate(x, y, verbose=0) > expected + 0.01
    assert task.quality(plain) == pytest.approx({"loss": expected})
    assert task.quality(punished) == pytest.approx({"loss": expected}, rel=1e-4)
    file = tmp_path / "model.tflite"
    export.to_tflite(punished, file)
    found = quality_of_file(punished, file, (x, y))
    assert found == pytest.approx({"loss": expected}, rel=1e-4)
