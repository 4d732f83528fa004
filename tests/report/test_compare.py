"""Figures of a report come from the models themselves."""

import base64
import contextlib
import dataclasses
import importlib.metadata
import math
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress as tfc
from tfcompress import _made
from tfcompress.export.targets import _target
from tfcompress.report import _compare
from tfcompress.report._align import aligned
from tfcompress.report._tasks import tasks_of
from tfcompress.report._verdict import sentence, verdict
from tfcompress.report._words import step


def dense_model(units):
    """Classifies 4 features by the largest of them, where `units` is 4."""
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(units, use_bias=False, name="first")]
    )
    model.add(keras.layers.Dense(4, use_bias=False, name="last"))
    model.layers[0].set_weights([np.eye(4, units)])
    model.layers[1].set_weights([np.eye(units, 4)])
    return model


@pytest.fixture(scope="module")
def models():
    # With two units only the first two classes can be told apart.
    return {"full": dense_model(4), "half": dense_model(2)}


@pytest.fixture(scope="module")
def test_data():
    labels = np.arange(40) % 4
    return np.eye(4, dtype="float32")[labels], labels


@pytest.fixture(scope="module")
def report(models, test_data):
    return tfc.report.compare(
        models,
        data=test_data,
        calibration=test_data[0],
        histories={"full": {"loss": [1.0, float("nan")]}},
        provenance={"seed": 7},
        title="Units",
    )


class TestFigures:
    def test_accuracy_is_that_of_the_models(self, report):
        full, half = report.models
        assert full.metrics["accuracy"].value == 1.0
        # Class 0 and 1 are right; 2 and 3 give equal outputs and are called 0.
        assert half.metrics["accuracy"].value == 0.5
        assert list(half.metrics) == ["accuracy"]

    def test_accuracy_has_wilson_intervals(self, report):
        # Closed form (Wilson, 1927): 20 of 40, and 40 of 40.
        z = 1.959963984540054
        center, scale = (0.5 + z**2 / 80) / (1 + z**2 / 40), 1 + z**2 / 40
        half = z / scale * math.sqrt(0.25 / 40 + (z / 80) ** 2)
        figure = report.models[1].metrics["accuracy"]
        assert (figure.low, figure.high) == pytest.approx(
            (center - half, center + half)
        )
        figure = report.models[0].metrics["accuracy"]
        assert figure.low == pytest.approx(1 / (1 + z**2 / 40))
        assert figure.high == pytest.approx(1.0)

    def test_differences_have_paired_noise(self, report):
        assert report.models[0].metrics["accuracy"].noise is None
        # 20 of 40 samples differ: standard deviation of the paired differences.
        noise = 1.959963984540054 * math.sqrt(40 * 0.25 / 39) / math.sqrt(40)
        assert report.models[1].metrics["accuracy"].noise == pytest.approx(noise)

    def test_integer_files_have_the_same_metrics(self, report):
        full, half = report.models
        for model, value in ((full, 1.0), (half, 0.5)):
            file = model.files["int8"]
            assert file.metrics["accuracy"].value == value
            (agreement,) = file.agreement.values()
            assert agreement == tfc.report.Agreement("top-1", 1.0, 40)

    def test_classes_are_counted(self, report):
        assert report.models[0].classes.confusion == (
            (10, 0, 0, 0),
            (0, 10, 0, 0),
            (0, 0, 10, 0),
            (0, 0, 0, 10),
        )
        assert [row[0] for row in report.models[1].classes.confusion] == [10, 0, 10, 10]

    def test_sizes_are_those_of_the_files(self, report):
        for model in report.models:
            for file in model.files.values():
                assert 0 < file.zipped < file.bytes
            assert 0 < model.packed < model.files["float32"].bytes

    def test_counts_follow_from_the_widths(self, report):
        full, half = report.models
        assert (full.parameters, half.parameters) == (32, 16)
        assert (full.macs, half.macs) == (32, 16)
        assert [layer.name for layer in half.layers] == ["first", "last"]
        assert [layer.macs for layer in half.layers] == [8, 8]

    def test_energy_is_that_of_the_cost_module(self, models, report):
        estimate = tfc.cost.energy(tfc.cost.count(models["full"]), "horowitz_45nm")
        assert report.models[0].energy == estimate.by_kind
        assert report.models[0].joules == pytest.approx(estimate.total)
        assert "horowitz_45nm" in report.provenance["Modeled energy"]

    def test_files_are_measured(self, report):
        for model in report.models:
            assert set(model.files) == {"float32", "int8"}
            for file in model.files.values():
                assert file.bytes > 0
                assert file.latency.p10 <= file.latency.median <= file.latency.p90
            assert model.files["float32"].parity.max_difference < 1e-6

    def test_nothing_is_missing(self, report):
        assert report.notes == ()

    def test_what_was_given_is_kept(self, report):
        assert report.title == "Units"
        assert report.provenance["seed"] == "7"
        assert report.histories["full"].metrics["loss"] == (1.0, None)
        assert "40 test samples" in report.provenance["Quality"]

    def test_it_survives_json(self, report):
        assert tfc.report.load(report.to_json()) == report


def test_energy_is_measured_where_the_machine_counts_it(models, monkeypatch):
    @contextlib.contextmanager
    def counters():
        yield tfc.cost.MeasuredEnergy(joules=3.0)

    monkeypatch.setattr(tfc.cost, "measure_energy", counters)
    monkeypatch.setattr(_compare, "_ENERGY_SECONDS", 0.05)
    report = tfc.report.compare({"m": models["full"]}, hardware=None)
    assert 0 < report.models[0].files["float32"].energy <= 3.0
    assert "processor packages" in report.provenance["Measured energy"]


def test_energy_is_not_guessed_where_it_is_not_counted(models, monkeypatch):
    @contextlib.contextmanager
    def no_counters():
        yield tfc.cost.MeasuredEnergy()

    monkeypatch.setattr(tfc.cost, "measure_energy", no_counters)
    report = tfc.report.compare({"m": models["full"]}, hardware=None)
    assert report.models[0].files["float32"].energy is None
    assert report.provenance["Measured energy"] == "not measured on this machine"


@pytest.fixture
def quick(monkeypatch):
    """Leaves the files out, which these tests do not look at."""
    monkeypatch.setattr(_compare, "_export", lambda *_: None)


@pytest.mark.usefixtures("quick")
class TestData:
    @pytest.mark.parametrize("kind", ["one-hot", "column", "dataset"])
    def test_labels_come_in_several_forms(self, models, test_data, kind):
        inputs, labels = test_data
        data = {
            "one-hot": (inputs, np.eye(4)[labels]),
            "column": (inputs, labels[:, None]),
            "dataset": tf.data.Dataset.from_tensor_slices(test_data).batch(7),
        }[kind]
        report = tfc.report.compare(models, data=data, hardware=None)
        values = [model.metrics["accuracy"].value for model in report.models]
        assert values == [1.0, 0.5]

    def test_without_data_accuracy_and_energy_are_missing(self, models):
        report = tfc.report.compare(models, hardware=None)
        assert report.models[0].metrics == {}
        assert report.models[0].joules is None
        assert "–" in str(report)
        assert report.provenance["Quality"] == "not measured"

    def test_class_names_come_as_an_array(self, models, test_data):
        names = np.array(["ant", "bee", "cat", "dog"])
        report = tfc.report.compare(
            models, data=test_data, hardware=None, class_names=names, verbose=0
        )
        assert report.models[0].classes.names == ("ant", "bee", "cat", "dog")

    def test_points_without_a_place_are_left_out(self, models):
        line = curve([(float("nan"), 0.5), (1.0, float("nan")), (2.0, 0.25)])
        report = tfc.report.compare(models, hardware=None, curves=[line], verbose=0)
        assert report.curves[0].series == {"a": [(1.0, None), (2.0, 0.25)]}

    def test_modules_of_other_packages_have_a_version(self, models, monkeypatch):
        version = importlib.metadata.version

        def absent(package):
            if package == "tensorflow":  # tensorflow-cpu brings the module
                raise importlib.metadata.PackageNotFoundError(package)
            return version(package)

        monkeypatch.setattr(importlib.metadata, "version", absent)
        report = tfc.report.compare(models, hardware=None, verbose=0)
        assert f"tensorflow {tf.__version__}" in report.provenance["Packages"]

    def test_histories_have_what_keras_writes_into_them(self, models):
        curves = {
            "loss": [4.0, 3.0, 2.0, 1.0, 0.5],
            "f1": [np.array([0.2, 0.4])] * 5,  # a figure for each class
            "val_loss": [5.0, 4.0],  # validation_freq=2
            "val_odd": [3.0],  # 3, 4 or 5
            "val_none": [],
        }
        history = keras.callbacks.History()
        history.history = {"loss": [1.0] * 5, "val_loss": [3.0, 2.0, 1.0]}
        history.epoch = [5, 6, 7, 8, 9]  # initial_epoch=5, validation_freq=2
        report = tfc.report.compare(
            models, hardware=None, histories={"a": curves, "b": history}, verbose=0
        )
        a, b = report.histories["a"].metrics, report.histories["b"].metrics
        assert a["f1"] == (pytest.approx(0.3),) * 5
        assert a["val_loss"] == (None, 5.0, None, 4.0, None)
        assert a["val_odd"] == (None, None, None, None, 3.0)
        assert "val_none" not in a
        assert b["val_loss"] == (3.0, None, 2.0, None, 1.0)
        assert any("'val_odd'" in note and "5 epochs" in note for note in report.notes)
        assert any("no curve of 'val_none'" in note for note in report.notes)

    def test_history_objects_keep_their_epochs(self, models):
        history = keras.callbacks.History()
        history.history, history.epoch = {"loss": [0.5, 0.4]}, [10, 11]
        report = tfc.report.compare(models, hardware=None, histories={"full": history})
        assert report.histories["full"].epochs == (10, 11)


def test_a_file_that_cannot_be_made_leaves_a_dash_and_a_note(models):
    inputs = keras.Input((4,))
    odd = keras.Model(inputs, keras.ops.erfinv(inputs) + 0.0)
    report = tfc.report.compare({"full": models["full"], "odd": odd}, hardware=None)
    assert "float32" in report.models[0].files
    assert report.models[1].files == {}
    assert any("'odd'" in note and "Erfinv" in note for note in report.notes)


@pytest.mark.usefixtures("quick")
def test_weights_that_fit_on_the_chip_are_in_the_notes(models):
    # 300,000 float32 weights do not fit into the profile's 1 MB, 32 do.
    large = keras.Sequential([keras.Input((300,)), keras.layers.Dense(1000)])
    report = tfc.report.compare({"large": large, "small": models["full"]})
    assert any("'small' fit into on-chip" in note for note in report.notes)


@pytest.mark.usefixtures("quick")
def test_work_that_cannot_be_counted_is_in_the_notes():
    class Own(keras.layers.Layer):
        def call(self, inputs):
            return inputs * 2.0

    model = keras.Sequential([keras.Input((4,)), Own(name="own")])
    report = tfc.report.compare({"m": model}, hardware=None)
    assert any("'own'" in note for note in report.notes)


def curve(points):
    return tfc.report.Curves("t", "x", "y", {"a": points})


def grid(values):
    return tfc.report.Heatmap("t", "x", "y", "z", ["c"], ["r"], values)


class TestBadInput:
    @pytest.fixture(autouse=True)
    def no_work(self, monkeypatch):
        monkeypatch.setattr(_compare, "_export", lambda *_: pytest.fail("worked"))

    @pytest.mark.parametrize(
        ("argument", "value", "error"),
        [
            ("models", {}, TypeError),
            ("models", [], TypeError),
            ("models", {1: "model"}, TypeError),
            ("models", {"m": 3}, TypeError),
            ("data", (np.zeros((4, 5)), np.zeros(4)), ValueError),
            ("data", np.zeros((4, 4)), ValueError),
            ("data", iter([]), ValueError),
            ("calibration", np.zeros((4, 5)), ValueError),
            ("hardware", "abacus", ValueError),
            ("hardware", 45, TypeError),
            ("histories", {"m": [1, 2]}, TypeError),
            ("histories", {"m": {"loss": [1], "accuracy": [1, 2]}}, ValueError),
            ("curves", [{"title": "t"}], TypeError),
            ("heatmaps", "heat", TypeError),
            ("products", "free", ValueError),
            ("products", "gated", ValueError),  # not known of Horowitz' figures
            ("bits", {"absent": 8}, ValueError),
            ("targets", "ethos-u55-128", TypeError),
            ("targets", ["toaster"], ValueError),
            ("tolerance", -0.1, ValueError),
            ("tolerance", True, ValueError),
            ("highlight", "absent", ValueError),
            ("class_names", "cat", TypeError),
            ("class_names", 3, TypeError),
            ("curves", [curve([0.9, 0.8])], ValueError),
            ("curves", [curve([("a", 0.8)])], ValueError),
            ("heatmaps", [grid([["warm"]])], ValueError),
            ("histories", {"m": {"loss": ["low"]}}, TypeError),
            ("histories", {"m": {"loss": [1], "val_loss": [1, 2]}}, ValueError),
            ("metrics", {"absent": ["mae"]}, ValueError),
            ("metrics", "mae", ValueError),
            ("metrics", [3], ValueError),
            ("models", {"m": "absent.keras"}, ValueError),
        ],
    )
    def test_it_is_refused_before_any_work(self, models, argument, value, error):
        arguments = {"models": models, argument: value}
        with pytest.raises(error):
            tfc.report.compare(arguments.pop("models"), **arguments)

    def test_subclassed_model(self):
        class Subclassed(keras.Model):
            pass

        with pytest.raises(ValueError, match="mine"):
            tfc.report.compare({"mine": Subclassed()})


def test_results_are_values(report):
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.title = "other"


# Any task ---------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
class TestTasks:
    """Right figures under right names, against NumPy and `Model.evaluate`."""

    rng = np.random.default_rng(0)
    images = rng.random((24, 6, 6, 1), "float32")
    rows = rng.normal(size=(24, 5)).astype("float32")

    def compare(self, model, data, **options):
        report = tfc.report.compare(
            {"m": model}, data=data, hardware=None, verbose=0, **options
        )
        return report.models[0].metrics, report

    def values(self, metrics):
        return {name: figure.value for name, figure in metrics.items()}

    def small(self, units, activation=None):
        keras.utils.set_random_seed(1)
        return keras.Sequential(
            [keras.Input((5,)), keras.layers.Dense(units, activation=activation)]
        )

    def test_autoencoder(self):
        keras.utils.set_random_seed(1)
        conv = keras.layers.Conv2D(1, 3, padding="same", activation="sigmoid")
        model = keras.Sequential([keras.Input((6, 6, 1)), conv])
        metrics, _ = self.compare(model, (self.images, self.images))
        error = model.predict(self.images, verbose=0) - self.images
        assert self.values(metrics) == pytest.approx(
            {
                "mean_absolute_error": np.abs(error).mean(),
                "root_mean_squared_error": np.sqrt(np.square(error).mean()),
            },
            rel=1e-5,
        )
        figure = metrics["mean_absolute_error"]
        assert figure.direction == "down" and figure.low < figure.value < figure.high

    def test_regression_with_four_targets(self):
        model = self.small(4)
        targets = self.rng.normal(size=(24, 4))
        model.compile("sgd", "mse", metrics=["mae"])
        metrics, report = self.compare(model, (self.rows, targets))
        expected = model.evaluate(self.rows, targets, verbose=0, return_dict=True)
        assert self.values(metrics) == pytest.approx(expected, rel=1e-5)
        assert list(metrics) == ["mae", "loss"]
        assert report.models[0].classes is None

    def test_multi_label(self):
        model = self.small(6, "sigmoid")
        labels = self.rng.integers(0, 2, (24, 6))
        metrics, _ = self.compare(model, (self.rows, labels))
        right = (model.predict(self.rows, verbose=0) > 0.5) == labels
        assert self.values(metrics) == {"label_accuracy": pytest.approx(right.mean())}

    def test_one_sigmoid(self):
        model = self.small(1, "sigmoid")
        labels = self.rng.integers(0, 2, 24)
        metrics, report = self.compare(model, (self.rows, labels))
        right = (model.predict(self.rows, verbose=0)[:, 0] > 0.5) == labels
        assert self.values(metrics) == {"accuracy": pytest.approx(right.mean())}
        assert report.models[0].classes.names == ("no", "yes")
        assert sum(map(sum, report.models[0].classes.confusion)) == 24

    def test_logits_decide_at_zero(self):
        model = self.small(1)
        labels = self.rng.integers(0, 2, 24)
        model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
        metrics, _ = self.compare(model, (self.rows, labels))
        right = (model.predict(self.rows, verbose=0)[:, 0] > 0) == labels
        assert metrics["accuracy"].value == pytest.approx(right.mean())

    @pytest.mark.parametrize(
        "behind",
        [
            keras.layers.Reshape((1,)),
            keras.layers.Dropout(0.1),
            tfc.layers.FakeQuantize(),
        ],
    )
    @pytest.mark.parametrize("compiled", [False, True])
    def test_layers_behind_a_sigmoid_leave_its_threshold(self, behind, compiled):
        model = self.small(1, "sigmoid")
        model.add(type(behind).from_config(behind.get_config()))
        if compiled:
            model.compile("sgd", "binary_crossentropy")
        labels = self.rng.integers(0, 2, 24)
        metrics, _ = self.compare(model, (self.rows, labels))
        right = (model.predict(self.rows, verbose=0)[:, 0] > 0.5) == labels
        assert metrics["accuracy"].value == pytest.approx(right.mean())

    def test_a_dense_layer_behind_a_sigmoid_gives_logits(self):
        model = self.small(4, "sigmoid")
        model.add(keras.layers.Dense(1))
        (task,) = tasks_of(model, np.zeros((2, 1)))
        assert (task.kind, task.threshold) == ("binary", 0.0)

    def test_a_binary_loss_tells_what_it_takes(self):
        model = self.small(1, "sigmoid")
        model.add(keras.layers.Rescaling(1.0))
        (task,) = tasks_of(model, None)
        assert task.threshold == 0.0
        loss = keras.losses.BinaryCrossentropy
        for logits, threshold in ((False, 0.5), (True, 0.0)):
            model.compile("sgd", loss(from_logits=logits))
            (task,) = tasks_of(model, None)
            assert (task.kind, task.threshold) == ("binary", threshold)

    def heads(self):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((6, 6, 1))
        x = keras.layers.Flatten()(inputs)
        return keras.Model(
            inputs,
            {
                "cls": keras.layers.Dense(3, activation="softmax", name="cls")(x),
                "box": keras.layers.Dense(4, name="box")(x),
            },
        )

    @pytest.mark.parametrize("compiled", [False, True])
    def test_two_heads(self, compiled):
        model = self.heads()
        labels = {"cls": np.arange(24) % 3, "box": self.rng.normal(size=(24, 4))}
        if compiled:
            model.compile(
                "sgd",
                {"cls": "sparse_categorical_crossentropy", "box": "mse"},
                metrics={"cls": ["accuracy"], "box": ["mae"]},
            )
        metrics, _ = self.compare(model, (self.images, labels))
        out = model.predict(self.images, verbose=0)
        right = (out["cls"].argmax(-1) == labels["cls"]).mean()
        error = np.abs(out["box"] - labels["box"]).mean()
        mae = "box_mae" if compiled else "box_mean_absolute_error"
        assert metrics["cls_accuracy"].value == pytest.approx(right)
        assert metrics[mae].value == pytest.approx(error, rel=1e-5)
        if compiled:
            expected = model.evaluate(
                self.images, labels, batch_size=24, verbose=0, return_dict=True
            )
            assert self.values(metrics) == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("one_hot", [False, True])
    def test_segmentation(self, one_hot):
        keras.utils.set_random_seed(1)
        conv = keras.layers.Conv2D(3, 1, activation="softmax")
        model = keras.Sequential([keras.Input((6, 6, 1)), conv])
        masks = self.rng.integers(0, 3, (24, 6, 6))
        labels = np.eye(3)[masks] if one_hot else masks
        metrics, report = self.compare(model, (self.images, labels))
        right = model.predict(self.images, verbose=0).argmax(-1) == masks
        assert self.values(metrics) == {"pixel_accuracy": pytest.approx(right.mean())}
        # Pixels of one image are no independent samples: images are.
        shares = right.reshape(24, -1).mean(1)
        half = 1.959963984540054 * shares.std(ddof=1) / math.sqrt(24)
        figure = metrics["pixel_accuracy"]
        assert figure.low == pytest.approx(right.mean() - half)
        assert figure.high == pytest.approx(right.mean() + half)
        assert sum(map(sum, report.models[0].classes.confusion)) == masks.size

    @pytest.mark.parametrize(
        "loss",
        [
            "sparse_categorical_crossentropy",
            keras.losses.SparseCategoricalCrossentropy(),
        ],
        ids=["name", "object"],
    )
    def test_losses_have_an_interval(self, loss):
        model = self.small(3, "softmax")
        model.compile("sgd", loss)
        labels = self.rng.integers(0, 3, 24)
        metrics, _ = self.compare(model, (self.rows, labels))
        of_samples = -np.log(model.predict(self.rows, verbose=0)[np.arange(24), labels])
        half = 1.959963984540054 * of_samples.std(ddof=1) / math.sqrt(24)
        figure = metrics["loss"]
        assert figure.value == pytest.approx(of_samples.mean(), rel=1e-5)
        assert figure.high - figure.value == pytest.approx(half, rel=1e-4)

    def test_detection_labels_leave_a_dash_and_a_note(self):
        labels = {
            "boxes": self.rng.normal(size=(24, 7, 4)),
            "classes": self.rng.integers(0, 3, (24, 7)),
        }
        metrics, report = self.compare(self.heads(), (self.images, labels))
        assert metrics == {}
        assert any("do not tell its task" in note for note in report.notes)
        assert report.models[0].macs == 36 * 7

    def test_labels_of_text_leave_a_note(self):
        metrics, report = self.compare(self.small(3), (self.rows, np.array(["a"] * 24)))
        assert metrics == {}
        assert any("do not tell its task" in note for note in report.notes)

    def test_open_sizes(self):
        inputs = keras.Input((None, None, 1))
        x = keras.layers.Conv2D(8, 3, activation="relu")(inputs)
        x = keras.layers.GlobalAveragePooling2D()(x)
        model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))
        metrics, report = self.compare(model, (self.images, np.arange(24) % 3))
        assert "accuracy" in metrics
        assert report.models[0].macs == 4 * 4 * 9 * 8 + 8 * 3
        assert any("6×6×1" in note for note in report.notes)
        report = tfc.report.compare({"m": model}, verbose=0)
        assert report.models[0].macs is None
        assert report.models[0].parameters == model.count_params()

    def test_sample_weights_and_penalties(self):
        keras.utils.set_random_seed(1)
        layer = keras.layers.Dense(3, activation="softmax", kernel_regularizer="l2")
        model = keras.Sequential([keras.Input((5,)), layer])
        model.compile(
            "sgd",
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
            weighted_metrics=["accuracy"],
        )
        labels, weights = np.arange(24) % 3, self.rng.random(24)
        metrics, _ = self.compare(model, (self.rows, labels, weights))
        expected = model.evaluate(
            self.rows, labels, sample_weight=weights, verbose=0, return_dict=True
        )
        assert self.values(metrics) == pytest.approx(expected, rel=1e-5)
        assert metrics["weighted_accuracy"].low is None

    @pytest.mark.parametrize("batch", [50, 300])
    def test_penalties_of_activities(self, batch):
        inputs = keras.Input((5,))
        x = keras.layers.Dense(
            3, "relu", activity_regularizer="l2", kernel_regularizer="l2"
        )(inputs)
        model = keras.Model(inputs, keras.layers.Dense(2, "softmax")(x))
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        rows = self.rng.normal(size=(300, 5)).astype("float32")
        data = tf.data.Dataset.from_tensor_slices((rows, np.arange(300) % 2))
        metrics, _ = self.compare(model, data.batch(batch))
        expected = model.evaluate(data.batch(50), verbose=0, return_dict=True)
        assert self.values(metrics) == pytest.approx(expected, rel=1e-5)

    def test_a_metric_may_be_called_a_loss(self):
        def dice_loss(y_true, y_pred):
            return 1 + 0 * y_pred[:, 0]

        model = self.heads()
        labels = {"cls": np.arange(24) % 3, "box": self.rng.normal(size=(24, 4))}
        metrics, _ = self.compare(
            model, (self.images, labels), metrics={"box": [dice_loss]}
        )
        assert set(metrics) == {"cls_accuracy", "box_dice_loss"}
        assert metrics["box_dice_loss"].value == 1.0

    def test_metrics_are_added_and_replaced(self):
        model = self.small(3, "softmax")
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        labels = np.arange(24) % 3

        def accuracy(y_true, y_pred):
            return keras.ops.zeros(keras.ops.shape(y_pred)[:1])

        top2 = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")
        metrics, _ = self.compare(model, (self.rows, labels), metrics=[top2, accuracy])
        order = model.predict(self.rows, verbose=0).argsort(-1)[:, -2:]
        expected = (order == labels[:, None]).any(-1).mean()
        assert metrics["top2"].value == pytest.approx(expected)
        assert metrics["accuracy"].value == 0.0

    def test_a_model_that_is_not_compiled_is_measured_as_the_first_that_is(self):
        first, second = self.small(4), self.small(4)
        first.compile("sgd", "mse", metrics=["mae"])
        report = tfc.report.compare(
            {"a": second, "b": first},
            data=(self.rows, self.rng.normal(size=(24, 4))),
            hardware=None,
            verbose=0,
        )
        assert [list(m.metrics) for m in report.models] == [["mae", "loss"]] * 2

    def test_the_state_of_the_models_metrics_is_left_alone(self):
        model = self.small(3, "softmax")
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        labels = np.arange(24) % 3
        model.evaluate(self.rows[:6], labels[:6], verbose=0)
        before = [metric.result() for metric in model.metrics[:1]]
        self.compare(model, (self.rows, labels))
        assert [metric.result() for metric in model.metrics[:1]] == before

    @pytest.mark.parametrize("kind", ["copied", "no config", "config without k"])
    def test_a_metric_object_counts_for_every_model_anew(self, kind):
        top = keras.metrics.SparseTopKCategoricalAccuracy

        class Silent(top):
            def get_config(self):
                raise LookupError("no config")

        class Forgetful(keras.metrics.Mean):
            """A copy from its config would look at the best two."""

            def __init__(self, best=2, name="mine", dtype=None):
                super().__init__(name, dtype)
                self.best = best

            def update_state(self, y_true, y_pred, sample_weight=None):
                found = keras.metrics.sparse_top_k_categorical_accuracy
                super().update_state(found(y_true, y_pred, k=self.best))

        mine = {"copied": top, "no config": Silent, "config without k": Forgetful}[
            kind
        ](1, name="mine")
        models = {"a": self.small(3, "softmax"), "b": self.small(3, "softmax")}
        models["b"].set_weights([-w for w in models["b"].get_weights()])
        labels = models["a"].predict(self.rows, verbose=0).argmax(-1)
        mine.update_state([0, 0, 0, 0], np.eye(3, dtype="float32")[[0, 1, 1, 1]])
        report = tfc.report.compare(
            models, data=(self.rows, labels), metrics=[mine], hardware=None, verbose=0
        )
        a, b = (self.values(model.metrics) for model in report.models)
        right = models["b"].predict(self.rows, verbose=0).argmax(-1) == labels
        assert a == {"mine": 1.0}
        assert b == {"mine": pytest.approx(right.mean())} and right.mean() < 0.5
        assert mine.result() == 0.25  # its owner does not notice

    def test_a_metric_of_the_users_that_fails_leaves_the_rest(self):
        class Undecided(keras.metrics.Mean):
            def update_state(self, y_true, y_pred, sample_weight=None):
                super().update_state(y_pred)

            def result(self):
                raise ZeroDivisionError("nobody came")

        model = self.small(3, "softmax")
        data = (self.rows, self.rng.integers(0, 3, 24))
        metrics, report = self.compare(model, data, metrics=[Undecided(name="mine")])
        assert metrics == {} and report.models[0].parameters == 18
        assert any("nobody came" in note for note in report.notes)
        metrics, _ = self.compare(model, data)
        assert set(metrics) == {"accuracy"}

    def test_a_loss_of_the_users_that_fails_leaves_the_rest(self):
        def broken(y_true, y_pred):
            raise RuntimeError("my own loss is broken")

        model = self.small(3, "softmax")
        model.compile("sgd", broken, metrics=["accuracy"])
        metrics, report = self.compare(
            model, (self.rows, np.arange(24) % 3), metrics=["accuracy"]
        )
        assert list(metrics) == ["accuracy"]
        assert any("my own loss is broken" in note for note in report.notes)


@pytest.mark.usefixtures("quick")
class TestProblems:
    def test_a_model_that_is_nan_has_no_accuracy(self, models, test_data):
        bad = dense_model(4)
        bad.layers[0].set_weights([np.full((4, 4), np.nan)])
        report = tfc.report.compare(
            {"good": models["full"], "bad": bad}, data=test_data, verbose=0
        )
        assert report.models[1].problem.startswith("16 of its weights are not finite")
        assert all(f.value is None for f in report.models[1].metrics.values())
        assert report.models[1].classes is None
        assert "NaN" in str(report).split("Accuracy")[1].split("\n")[0]
        assert report.notes[0].startswith("'bad': 16 of its weights")

    def test_a_model_that_overflows_on_the_data(self, models, test_data):
        bad = dense_model(4)
        for layer in bad.layers:
            layer.set_weights([np.full((4, 4), 3e38)])
        report = tfc.report.compare(
            {"good": models["full"], "bad": bad}, data=test_data, verbose=0
        )
        assert "outputs on the test data are not finite" in report.models[1].problem

    def test_a_model_given_twice_is_noticed(self, models):
        twin = dense_model(4)
        report = tfc.report.compare(
            {"a": models["full"], "b": models["full"], "c": twin}, verbose=0
        )
        assert "'b' is the same object as 'a'." in report.notes
        assert "'c' has exactly the weights of 'a'." in report.notes

    def test_silence_and_progress(self, models, test_data, capfd):
        tfc.report.compare(models, data=test_data, verbose=0)
        assert capfd.readouterr() == ("", "")
        tfc.report.compare(models, data=test_data)
        out, err = capfd.readouterr()
        assert out == ""
        assert "full: counting" in err and "half: running on the test data" in err


class TestCost:
    """Zeros, bits and multipliers are seen."""

    @pytest.fixture
    def pruned(self):
        keras.utils.set_random_seed(0)
        layer = keras.layers.Dense(100, use_bias=False)
        model = keras.Sequential([keras.Input((100,)), layer])
        kernel = np.array(layer.kernel)
        kernel[:, :80] = 0
        layer.set_weights([kernel])
        return model

    @pytest.mark.usefixtures("quick")
    @pytest.mark.parametrize("products", ["computed", "gated", "skipped"])
    def test_products_are_those_of_the_assumption(self, pruned, products):
        report = tfc.report.compare(
            {"m": pruned}, hardware="cross_stack_65nm", products=products, verbose=0
        )
        exact, gated = 159.74 + 25 * 32.045, 204.6
        zero = {"computed": exact, "gated": gated, "skipped": 0.0}[products]
        picojoules = 2000 * exact + 8000 * zero
        assert report.models[0].joules == pytest.approx(picojoules * 1e-12)
        words = {"computed": "multiplied as any", "gated": "gate", "skipped": "skipped"}
        assert words[products] in report.provenance["Modeled energy"]

    @pytest.mark.usefixtures("quick")
    def test_a_network_on_approximate_multipliers_has_its_own_energy(self, pruned):
        drum = tfc.layers.wrap_kernels(
            pruned, lambda layer: tfc.layers.DrumMultiply(layer, 1, 5)
        )
        report = tfc.report.compare(
            {"exact": pruned, "drum": drum}, hardware="cross_stack_65nm", verbose=0
        )
        exact, approximate = (model.joules for model in report.models)
        assert approximate / exact == pytest.approx(1 - 0.667, abs=1e-3)

    @pytest.mark.usefixtures("quick")
    def test_bits_by_model(self, pruned):
        twin = keras.models.clone_model(pruned)
        report = tfc.report.compare(
            {"a": pruned, "b": twin}, bits={"b": (4, 8)}, verbose=0
        )
        a, b = (model.energy["arithmetic"] for model in report.models)
        assert a == pytest.approx(10_000 * 4.6e-12)
        assert b == pytest.approx(10_000 * (0.2 * 32 / 64 + 0.1) * 1e-12)

    def test_zeros_are_seen_in_what_is_downloaded(self, pruned):
        dense = keras.models.clone_model(pruned)
        report = tfc.report.compare(
            {"dense": dense, "pruned": pruned}, verbose=0, highlight="pruned"
        )
        first, second = report.models
        assert second.files["float32"].bytes == first.files["float32"].bytes
        assert second.packed < 0.35 * first.packed
        assert second.files["float32"].zipped < 0.35 * first.files["float32"].zipped
        assert second.nonzero == 2000
        assert report.verdict == tfc.report.Verdict(
            "pruned", "float32", "chosen by hand", 0.01
        )


class Seen(keras.metrics.Metric):
    """Counts samples; it has no config that makes it again."""

    def __init__(self, unit, name="seen"):
        super().__init__(name=name)
        self.count = self.add_variable((), "zeros", name="count")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.count.assign_add(keras.ops.shape(y_pred)[0])

    def result(self):
        return self.count


class TestIntegerFile:
    """On 20 of 100 samples, which come class by class."""

    inputs = np.tile(np.eye(4, dtype="float32")[:1], (100, 1))
    labels = np.repeat([0, 1], [60, 40])

    @pytest.fixture(scope="class")
    def files(self, models, tmp_path_factory):
        folder = tmp_path_factory.mktemp("files")
        return {
            kind: tfc.export.to_tflite(
                models["full"],
                folder / f"{kind}.tflite",
                quantization=kind,
                calibration=np.eye(4, dtype="float32"),
            )
            for kind in (None, "int8")
        }

    @pytest.fixture(autouse=True)
    def few(self, files, monkeypatch):
        def made(model, path, *, quantization, calibration):
            return files[quantization]

        monkeypatch.setattr(_compare, "to_tflite", made)
        monkeypatch.setattr(_compare, "_FILE_SAMPLES", 20)

    def compare(self, models, data, **options):
        return tfc.report.compare(
            {"m": models["full"]},
            data=data,
            calibration=self.inputs,
            hardware=None,
            verbose=0,
            **options,
        )

    @pytest.mark.parametrize("kind", ["arrays", "unknown length", "one batch"])
    def test_it_gets_samples_from_everywhere(self, models, kind):
        data = (self.inputs, self.labels)
        batches = tf.data.Dataset.from_tensor_slices(data)
        if kind == "unknown length":
            data = batches.filter(lambda x, y: True).batch(7)
        elif kind == "one batch":
            data = batches.batch(100)
        seen = Seen("samples")
        report = self.compare(models, data, metrics=["accuracy", seen])
        (model,) = report.models
        file = model.files["int8"]
        for found, count in (
            (model.metrics, 100),
            (file.metrics, 20),
            (file.reference, 20),
        ):
            assert found["accuracy"].value == pytest.approx(0.6)
            assert found["seen"].value == count
        (agreement,) = file.agreement.values()
        assert agreement.samples == 20
        assert float(seen.result()) == 0.0
        assert any(
            "on 20 of 100 test samples, on which its model has accuracy 60" in note
            for note in report.notes
        )
        assert "less what it loses there" in report.verdict.rule
        assert tfc.report.load(report.to_json()) == report

    def test_all_of_few_samples_need_no_reference(self, models):
        report = self.compare(models, (self.inputs[:20], self.labels[:20]))
        assert report.models[0].files["int8"].reference == {}
        assert "part of the test data" not in report.verdict.rule

    @pytest.mark.parametrize("labeled", [True, False])
    def test_one_that_fails_leaves_the_figures_of_the_model(
        self, models, monkeypatch, labeled
    ):
        def broken(path):
            raise RuntimeError("no such kernel")

        monkeypatch.setattr(_compare, "open_file", broken)
        data = (self.inputs, self.labels) if labeled else None
        report = self.compare(models, data)
        (model,) = report.models
        assert "The int8 file of 'm' could not be run: no such kernel" in report.notes
        assert model.files["int8"].agreement == {}
        assert model.files["int8"].bytes > 0
        if labeled:
            assert model.metrics["accuracy"].value == pytest.approx(0.6)


class TestVerdict:
    def model(self, name, size, value, int8=None, **options):
        figure = tfc.report.MetricFigure
        options = {"direction": "up", "unit": "fraction", **options}
        parity = tfc.export.Parity(0.0, 1.0, None, 1, "random")
        files = {"float32": tfc.report.FileFigures(size, None, parity)}
        if int8 is not None:
            files["int8"] = tfc.report.FileFigures(
                size // 4, None, parity, metrics={"score": figure(int8, **options)}
            )
        return tfc.report.ModelFigures(
            name, metrics={"score": figure(value, **options)}, files=files
        )

    @pytest.mark.parametrize(
        ("tolerance", "expected"),
        [
            (0.0, ("dense", "int8")),
            (0.01, ("small", "float32")),
            (0.02, ("small", "int8")),
            (0.1, ("tiny", "float32")),
        ],
    )
    def test_the_smallest_within_the_tolerance(self, tolerance, expected):
        models = [
            self.model("dense", 4000, 0.98, int8=0.98),
            self.model("small", 800, 0.975, int8=0.965),
            self.model("tiny", 100, 0.90),
        ]
        found = verdict(models, tolerance, None)
        assert (found.model, found.file) == expected

    def test_a_file_on_easy_samples_is_judged_by_what_it_loses(self):
        def model(name, size, int8):
            made = self.model(name, size, 0.95, int8=int8)
            figure = tfc.report.MetricFigure(0.99, "up", "fraction")
            part = dataclasses.replace(made.files["int8"], reference={"score": figure})
            return dataclasses.replace(made, files={"int8": part})

        # All models are right in 95 % of all samples, and in 99 % of those that the
        # files got. One file loses nothing there, the other one two points.
        models = [
            self.model("dense", 4000, 0.95),
            model("lossless", 1000, 0.99),
            model("lossy", 100, 0.97),
        ]
        found = verdict(models, 0.01, None)
        assert (found.model, found.file) == ("lossless", "int8")
        said = sentence(tfc.report.Report("t", tuple(models), verdict=found))
        assert "score 95.0" in said  # not the 99 % of the easy samples

    def test_less_is_better_where_it_is(self):
        options = {"direction": "down", "unit": ""}
        models = [
            self.model("dense", 4000, 2.0, **options),
            self.model("small", 800, 2.1, **options),
        ]
        assert verdict(models, 0.04, None).model == "dense"
        assert verdict(models, 0.06, None).model == "small"  # a share of 2.0

    def test_a_broken_model_is_never_shipped(self):
        broken = dataclasses.replace(
            self.model("broken", 10, 0.99), problem="not finite"
        )
        models = [self.model("dense", 4000, 0.98), broken]
        assert verdict(models, 0.01, None).model == "dense"

    def test_without_figures_there_is_none(self):
        found = verdict([tfc.report.ModelFigures("m")], 0.01, None)
        assert found.model == "" and found.rule.startswith("No verdict")


class TestAlignment:
    def lines(self, *models):
        figures = tuple(
            tfc.report.ModelFigures(
                str(i),
                layers=tuple(
                    tfc.report.LayerFigures(name, kind, 1, 1) for name, kind in layers
                ),
            )
            for i, layers in enumerate(models)
        )
        found = aligned(tfc.report.Report("t", figures))
        return [
            (line.label, tuple(cell is not None for cell in line.cells))
            for line in found
        ]

    def test_other_names_in_the_same_place(self):
        first = [("conv", "Conv2D"), ("pool", "Pool"), ("fc", "Dense")]
        second = [("conv2d_7", "Conv2D"), ("pool_3", "Pool"), ("dense_2", "Dense")]
        assert self.lines(first, second) == [
            ("conv / conv2d_7", (True, True)),
            ("pool / pool_3", (True, True)),
            ("fc / dense_2", (True, True)),
        ]

    def test_a_layer_that_is_missing_leaves_its_place_empty(self):
        first = [("a", "Conv2D"), ("b", "Conv2D"), ("c", "Dense")]
        second = [("a", "Conv2D"), ("c", "Dense")]
        third = [("a", "Conv2D"), ("new", "Pool"), ("b", "Conv2D"), ("c", "Dense")]
        assert self.lines(first, second, third) == [
            ("a", (True, True, True)),
            ("new", (False, False, True)),
            ("b", (True, False, True)),
            ("c", (True, True, True)),
        ]


class TestMade:
    def test_records_travel_in_the_file(self, models, tmp_path):
        model = dense_model(4)
        _made.note(model, "FilterPruning", config={"rate": 0.6}, epochs=30)
        other = dense_model(4)
        _made.carry(model, other)
        _made.note(other, "finalize")
        other.save(tmp_path / "small.keras")
        plain = keras.saving.load_model(tmp_path / "small.keras")
        assert _made.made(plain) == []  # Keras knows nothing of it
        records = _made.made(tmp_path / "small.keras")
        assert [record["method"] for record in records] == ["FilterPruning", "finalize"]
        assert records[0]["epochs"] == 30 and records[0]["command"]
        assert len(_made.made(model)) == 1

    def test_a_report_shows_them(self, models, tmp_path, quick):
        model = dense_model(4)
        _made.note(model, "FilterPruning", epochs=30)
        path = tmp_path / "small.keras"
        model.save(path)
        report = tfc.report.compare({"dense": models["full"], "small": path}, verbose=0)
        assert report.models[1].path == str(path)
        assert report.models[1].made[0]["method"] == "FilterPruning"
        assert "FilterPruning, epochs: 30" in report.to_markdown()

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", None])
    def test_files_without_records(self, tmp_path, content):
        path = tmp_path / "m.keras"
        if content is not None:
            path.write_bytes(content)
        assert _made.made(path) == []

    def test_assets_of_the_models_class_are_saved_beside_them(self, tmp_path):
        @keras.saving.register_keras_serializable(package="tests_made")
        class Speaking(keras.Model):
            def save_assets(self, folder):
                Path(folder, "words.txt").write_text(self.words)

            def load_assets(self, folder):
                self.words = Path(folder, "words.txt").read_text()

        inputs = keras.Input((4,))
        model = Speaking(inputs, keras.layers.Dense(2)(inputs))
        model.words = "yes no"
        _made.note(model, "FilterPruning")
        model.save(tmp_path / "m.keras")
        assert keras.saving.load_model(tmp_path / "m.keras").words == "yes no"
        assert len(_made.made(tmp_path / "m.keras")) == 1


def test_a_model_trained_for_integers_has_an_integer_file_only(models, test_data):
    inputs, labels = test_data
    prepared = tfc.quantization.prepare(dense_model(4))
    prepared.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    prepared.optimizer.learning_rate = 0.0
    prepared.fit(inputs, labels, epochs=1, verbose=0)
    report = tfc.report.compare(
        {"float": models["full"], "prepared": prepared},
        data=test_data,
        hardware=None,
        verbose=0,
    )
    first, second = report.models
    assert set(first.files) == {"float32"} and set(second.files) == {"int8"}
    assert second.files["int8"].metrics["accuracy"].value == 1.0
    assert "No int8 files: they need calibration data." in report.notes
    assert not any("'prepared'" in note for note in report.notes)


def test_a_tool_that_is_not_installed_leaves_a_dash_and_the_pip_line(
    models, monkeypatch
):
    monkeypatch.setattr(_target.importlib.util, "find_spec", lambda module: None)
    report = tfc.report.compare(
        {"full": models["full"]},
        targets=["ethos-u55-128", "this computer"],
        hardware=None,
        verbose=0,
    )
    assert set(report.models[0].targets) == {"this computer"}
    assert any('pip install "tfcompress[targets]"' in note for note in report.notes)


def test_a_tool_that_fails_leaves_the_rest(models, monkeypatch):
    def late(path, profile):
        raise subprocess.TimeoutExpired("vela", 600)

    monkeypatch.setattr("tfcompress.report._compare.target", late)
    report = tfc.report.compare(
        {"full": models["full"]}, targets=["this computer"], hardware=None, verbose=0
    )
    (figures,) = report.models
    assert figures.targets == {} and figures.files["float32"].latency is not None
    assert any("timed out" in note for note in report.notes)


def test_a_profile_that_knows_gated_products_in_float_only(models, test_data):
    profile = tfc.cost.profile("horowitz_45nm")
    floats = dataclasses.replace(profile.arithmetic["float32"], gated=1e-12)
    profile = dataclasses.replace(
        profile, arithmetic={**profile.arithmetic, "float32": floats}
    )
    report = tfc.report.compare(
        {"mostly zeros": models["full"]},
        calibration=test_data[0],
        hardware=profile,
        products="gated",
        verbose=0,
    )
    (figures,) = report.models
    assert figures.joules > 0
    assert figures.files["int8"].bytes > 0 and figures.files["int8"].modeled is None
    assert any("gated" in note for note in report.notes)


def test_wrong_samples_are_pictures():
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    model.layers[-1].set_weights([np.zeros((16, 2)), np.array([1.0, 0.0])])
    images = np.linspace(0, 1, 10 * 16, dtype="float32").reshape(10, 4, 4, 1)
    report = tfc.report.compare(
        {"m": model},
        data=(images, np.arange(10) % 2),
        class_names=["even", "odd"],
        hardware=None,
        verbose=0,
    )
    wrong = report.models[0].wrong  # all odd ones, of which there are five
    assert [w.index for w in wrong] == [1, 3, 5, 7, 9]
    assert {(w.expected, w.predicted) for w in wrong} == {("odd", "even")}
    picture = tf.io.decode_png(base64.b64decode(wrong[0].image)).numpy()
    np.testing.assert_allclose(picture / 255, images[1], atol=1 / 255)


def test_training_leaves_a_record_and_measuring_none(test_data):
    model = dense_model(4)
    model.compile("sgd", "mse")
    callbacks = [tfc.callbacks.HoldWeights("zeros"), tfc.callbacks.CompressionMetrics()]
    inputs, _ = test_data
    model.fit(inputs, inputs, epochs=2, callbacks=callbacks, verbose=0)
    (record,) = _made.made(model)
    assert (record["method"], record["epochs"]) == ("HoldWeights", 2)
    assert step(record).startswith("HoldWeights(") and "epochs: 2" in step(record)


def test_a_step_reads_like_python():
    schedule = tfc.schedules.Linear(0.0, 0.6, begin=0, end=10)
    config = tfc.callbacks.FilterPruning(schedule).get_config()
    record = {"method": "FilterPruning", "config": config, "epochs": 30}
    assert "schedule=Linear(initial=0.0, final=0.6, begin=0, end=10" in step(record)


@pytest.mark.parametrize(
    "change",
    [
        tfc.finalize,
        lambda model: tfc.finalize(model, dtype="float32"),
        lambda model: tfc.structure.resize(model, {}, weights="random"),
        tfc.quantization.prepare,
    ],
)
def test_records_survive_changes_of_the_model(change):
    model = dense_model(4)
    _made.note(model, "HoldWeights", epochs=3)
    changed = change(model)
    assert [record["method"] for record in _made.made(changed)] == ["HoldWeights"]


def test_a_part_and_the_whole_know_how_the_part_was_trained(tmp_path):
    part = dense_model(4)
    inputs = keras.Input(part.input_shape[1:])
    whole = keras.Sequential([inputs, part, keras.layers.Dense(2)])
    whole.compile("sgd", "mse")
    x = np.zeros((2, *part.input_shape[1:]), "float32")
    hold = tfc.callbacks.HoldWeights("zeros", target=part)
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(whole, "stop_training", epoch == 1)
    )
    whole.fit(x, np.zeros((2, 2)), epochs=9, callbacks=[hold, stop], verbose=0)
    _made.note(whole, "another step")
    for model, steps in ((part, 1), (whole, 2)):
        model.save(tmp_path / "model.keras")
        records = _made.made(tmp_path / "model.keras")
        assert len(records) == steps
        assert records[0]["epochs"] == 2  # of nine
