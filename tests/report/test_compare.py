"""Figures of a report come from the models themselves."""

import contextlib
import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress as tfc
from tfcompress.report import _compare


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
        assert full.accuracy == 1.0
        # Class 0 and 1 are right; 2 and 3 give equal outputs and are called 0.
        assert half.accuracy == 0.5

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
        assert "horowitz_45nm" in report.provenance["Modelled energy"]

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
        assert "40 test samples" in report.provenance["Accuracy"]

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
    monkeypatch.setattr(
        _compare, "_export_and_time", lambda models, *_: {name: {} for name in models}
    )


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
        assert [model.accuracy for model in report.models] == [1.0, 0.5]

    def test_without_data_accuracy_and_energy_are_missing(self, models):
        report = tfc.report.compare(models, hardware=None)
        assert report.models[0].accuracy is None
        assert report.models[0].joules is None
        assert "–" in str(report)
        assert report.provenance["Accuracy"] == "not measured"

    def test_regression_has_no_accuracy_and_a_note_says_so(self):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        data = np.zeros((3, 4)), np.zeros(3)
        report = tfc.report.compare({"m": model}, data=data, hardware=None)
        assert report.models[0].accuracy is None
        assert "No accuracy for 'm'" in report.notes[0]

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


class TestBadInput:
    @pytest.fixture(autouse=True)
    def no_work(self, monkeypatch):
        monkeypatch.setattr(_compare, "_export_and_time", pytest.fail)

    @pytest.mark.parametrize(
        ("argument", "value", "error"),
        [
            ("models", {}, TypeError),
            ("models", [], TypeError),
            ("models", {1: "model"}, TypeError),
            ("models", {"m": "model"}, TypeError),
            ("data", (np.zeros((4, 5)), np.zeros(4)), ValueError),
            ("data", np.zeros((4, 4)), ValueError),
            ("data", (np.zeros((4, 4)), np.zeros((4, 3))), ValueError),
            ("data", (np.zeros((4, 4)), np.array(["a"] * 4)), ValueError),
            ("data", iter([]), ValueError),
            ("calibration", np.zeros((4, 5)), ValueError),
            ("hardware", "abacus", ValueError),
            ("hardware", 45, TypeError),
            ("histories", {"m": [1, 2]}, TypeError),
            ("histories", {"m": {"loss": [1], "accuracy": [1, 2]}}, ValueError),
            ("curves", [{"title": "t"}], TypeError),
            ("heatmaps", "heat", TypeError),
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
