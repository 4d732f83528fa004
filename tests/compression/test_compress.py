"""The one call, end to end on small networks."""

import json
import re

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import tfcompress as tfc
from tests.compression.conftest import blobs, network
from tfcompress._files import lock
from tfcompress.compression._measure import Meter
from tfcompress.export._trained import is_prepared

L = keras.layers
QUIET = {"verbose": 0, "epochs": 3, "methods": ["filters"]}


ARGUMENTS = {**QUIET, "budget": {"macs": "50%"}, "monitor": "accuracy"}


@pytest.fixture(scope="module")
def whole(trained, data, tmp_path_factory):
    """A run that nothing interrupted, and its folder."""
    out = tmp_path_factory.mktemp("whole")
    return tfc.compress(trained, data, out=out, **ARGUMENTS), out


def copied(weights):
    return [keras.ops.convert_to_numpy(w).copy() for w in weights]


def test_a_budget_is_met_and_everything_is_written(trained, data, tmp_path, capsys):
    before = copied(trained.weights)
    state = copied(trained.optimizer.variables)
    out = tmp_path / "out"
    result = tfc.compress(
        trained, data, budget=tfc.Budget(size="6kB", macs=0.9), epochs=3, out=out
    )
    for old, new in zip(
        before + state,
        copied([*trained.weights, *trained.optimizer.variables]),
        strict=True,
    ):
        np.testing.assert_array_equal(old, new)
    # An independent count of what was promised.
    file = out / "model.tflite"
    # Not smaller than it has to be, either.
    assert result.files["file"] == file and 5400 <= file.stat().st_size <= 6000
    small = keras.saving.load_model(out / "model.keras")
    macs = tfc.cost.count
    assert macs(small).macs <= 0.9 * macs(trained).macs
    # Quality is that of the file, on the validation data.
    rng = np.random.default_rng(0).permutation(320)[:32]
    held_out = [array[np.sort(rng)] for array in data]
    answers = tfc.export.run(file, held_out[0]).argmax(-1)
    accuracy = float((answers == held_out[1]).mean())
    assert result.best.quality["accuracy"] == pytest.approx(accuracy)
    assert result.kind == "int8" and result.in_budget
    assert result.model.count_params() == small.count_params()
    assert result.model.get_layer("c1").filters < 16
    assert "The budget is met." in str(result)
    assert {p.name for p in result.files.values()} == {
        "model.keras",
        "model.tflite",
        "report.html",
        "plan.toml",
    }
    shown = capsys.readouterr().out
    assert "int8: down to" in shown and "out (" in shown  # why 'out' is left alone
    # The model goes on training as the original would.
    result.model.fit(*data, epochs=1, verbose=0)


def test_bits_alone_where_they_suffice(trained, data):
    result = tfc.compress(trained, data, budget={"size": "60%"}, verbose=0)
    assert result.kind == "int8"
    assert result.model.get_layer("c1").filters == 16
    assert result.in_budget and result.in_tolerance
    assert result.files == {}


def integers_only(file):
    interpreter = Interpreter(model_path=str(file))
    kinds = {detail["dtype"] for detail in interpreter.get_tensor_details()}
    return kinds <= {np.int8, np.int32}


def test_rounding_is_learned_where_the_rounded_file_is_wrong(
    trained, data, tmp_path, monkeypatch
):
    rounded = Meter.export

    def fails(self, model, kind, file, *, rough=False):
        if kind == "int8" and not rough and not is_prepared(model):
            raise RuntimeError("the file does not compute what the model does")
        return rounded(self, model, kind, file, rough=rough)

    monkeypatch.setattr(Meter, "export", fails)
    result = tfc.compress(
        trained, data, budget={"size": "60%"}, epochs=4, verbose=0, out=tmp_path
    )
    assert result.in_budget and result.in_tolerance
    assert integers_only(tmp_path / "model.tflite")
    # The Keras model is plain, and has its kernels on the grid of the file.
    kernel = np.asarray(result.model.get_layer("c2").kernel)
    steps = kernel / (np.abs(kernel).max(axis=(0, 1, 2)) / 127)
    np.testing.assert_allclose(steps, steps.round(), atol=1e-3)


@pytest.mark.slow
def test_four_bits_after_filters(trained, data, tmp_path):
    result = tfc.compress(
        trained,
        data,
        budget={"macs": 0.5},
        methods=["int4", "filters"],
        epochs=4,
        verbose=0,
        out=tmp_path,
    )
    assert result.kind == "int4" and result.in_budget
    assert result.best.quality["accuracy"] > 0.9
    kernel = np.asarray(result.model.get_layer("c2").kernel)
    assert all(
        len(np.unique(channel)) <= 15
        for channel in kernel.reshape(-1, kernel.shape[-1]).T
    )


def test_a_budget_that_cannot_be_met_is_said(trained, data):
    result = tfc.compress(trained, data, budget={"macs": 100}, **QUIET)
    assert not result.in_budget
    assert "The budget is NOT met: macs" in result.statement
    assert result.best.figures["macs"] > 100
    # Every group keeps two of its channels: c1, c2, and two of sixteen at the end.
    assert result.best.figures["macs"] == 64 * 9 * 2 + 16 * 9 * 4 + 2 * 16 * 4


@pytest.mark.slow
def test_a_quality_that_cannot_be_kept_is_said(trained, data):
    noise = np.random.default_rng(1).permutation(data[1])  # nothing can be learned
    result = tfc.compress(
        trained, (data[0], noise), data, budget={"macs": 0.1}, teacher=None, **QUIET
    )
    assert result.in_budget and not result.in_tolerance
    assert "The quality is NOT kept: accuracy" in result.statement
    assert result.best.drop == pytest.approx(
        result.original_quality["accuracy"] - result.best.quality["accuracy"]
    )


def test_the_teacher_is_learned_from(trained, data):
    """With the labels' share at zero, wrong labels do no harm."""
    wrong = (data[0], (data[1] + 1) % 4)
    result = tfc.compress(
        trained, wrong, data, budget={"macs": 0.5}, distillation=1.0, **QUIET
    )
    assert result.best.quality["accuracy"] > 0.9


@pytest.mark.slow
def test_compiled_metrics_callbacks_and_schedules_are_respected(trained, data):
    model = network()
    model.set_weights(trained.get_weights())
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((sorted(logs), type(self.model.optimizer).__name__))

    model.compile(
        keras.optimizers.SGD(
            keras.optimizers.schedules.PiecewiseConstantDecay([5], [1e-2, 0.0]),
            momentum=0.9,
        ),
        keras.losses.SparseCategoricalCrossentropy(),
        metrics=[keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2_acc")],
    )
    result = tfc.compress(
        model, data, budget={"macs": 0.5}, callbacks=[Watch()], **QUIET
    )
    assert result.metric.name == "top2_acc" and result.metric.grows
    assert len(seen) == 3
    assert {optimizer for _, optimizer in seen} == {"SGD"}
    assert all("val_top2_acc" in logs and "pruning_rate" in logs for logs, _ in seen)
    # What comes back is compiled as the original was.
    assert result.model.optimizer.get_config()["momentum"] == 0.9
    assert float(result.model.optimizer.learning_rate) == pytest.approx(1e-2)


def regression():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 6)).astype("float32")
    y = (x @ rng.normal(size=(6, 1))).astype("float32")
    x1 = inputs = keras.Input((6,))
    x1 = L.Dense(32, activation="relu", name="hidden")(x1)
    model = keras.Model(inputs, L.Dense(1, name="value")(x1))
    model.compile(keras.optimizers.Adam(1e-2), "mse", metrics=["mae"])
    model.fit(x, y, epochs=15, verbose=0)
    return model, (x, y)


@pytest.mark.slow
def test_a_regression_is_judged_by_its_error():
    keras.utils.set_random_seed(0)
    model, data = regression()
    result = tfc.compress(
        model, data, data, budget={"parameters": 0.5}, max_drop=0.5, **QUIET
    )
    assert result.metric.name == "mae" and not result.metric.grows
    before, after = result.original_quality["mae"], result.best.quality["mae"]
    assert result.best.drop == pytest.approx(after / before - 1)
    assert result.in_budget


def test_two_inputs_and_two_outputs():
    keras.utils.set_random_seed(0)
    images, labels = blobs(128)
    numbers = images.mean(axis=(1, 2))
    a, b = keras.Input((8, 8, 1), name="image"), keras.Input((1,), name="number")
    x = L.Flatten()(L.Conv2D(8, 3, activation="relu", name="c1")(a))
    x = L.Dense(16, activation="relu", name="d")(L.Concatenate()([x, b]))
    outputs = {
        "kind": L.Dense(4, activation="softmax", name="kind")(x),
        "mean": L.Dense(1, name="mean")(x),
    }
    model = keras.Model({"image": a, "number": b}, outputs)
    model.compile(
        "adam",
        {"kind": "sparse_categorical_crossentropy", "mean": "mse"},
        metrics={"kind": "accuracy"},
    )
    train = ({"image": images, "number": numbers}, {"kind": labels, "mean": numbers})
    model.fit(*train, epochs=3, verbose=0)
    result = tfc.compress(
        model, train, train, budget={"macs": 0.5}, max_drop=1.0, **QUIET
    )
    assert result.metric.name == "kind_accuracy"
    assert result.in_budget
    expected = result.model.evaluate(*train, verbose=0, return_dict=True)
    assert result.best.quality["kind_accuracy"] == pytest.approx(
        expected["kind_accuracy"], abs=0.02
    )
    assert result.best.quality["loss"] == pytest.approx(expected["loss"], rel=0.02)


def test_a_model_with_nothing_to_remove(data):
    x = inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, L.Dense(4, activation="softmax")(L.Flatten()(x)))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    result = tfc.compress(model, data, budget={"parameters": 0.5}, verbose=0)
    assert not result.in_budget
    assert result.offer.of("filters").figures == {}
    with pytest.raises(ValueError, match="'filters'"):
        tfc.compress(model, data, budget={"parameters": 0.5}, **QUIET)


class Poison(keras.callbacks.Callback):
    """Makes the weights NaN at the end of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            bias = self.model.get_layer("out").bias
            bias.assign(np.full(bias.shape, np.nan))


def test_nan_after_the_final_size_keeps_the_last_good_state(trained, data):
    result = tfc.compress(
        trained, data, budget={"macs": 0.5}, callbacks=[Poison(2)], **QUIET
    )
    assert result.in_budget
    assert all(np.isfinite(w).all() for w in copied(result.model.weights))
    assert result.best.quality["accuracy"] > 0.5


def test_a_run_that_a_callback_ends_has_not_diverged(trained, data):
    stops = keras.callbacks.LambdaCallback()
    stops.on_epoch_end = lambda *_: setattr(stops.model, "stop_training", True)
    with (
        pytest.raises(ValueError, match=r"beyond epoch 2, .* after epoch 1 of 3"),
        pytest.warns(UserWarning, match="before the schedule did"),
    ):
        tfc.compress(trained, data, budget={"macs": 0.5}, callbacks=[stops], **QUIET)


def test_nan_before_the_final_size_stops(trained, data):
    with pytest.raises(RuntimeError, match="diverged in every trial"):
        tfc.compress(
            trained, data, budget={"macs": 0.5}, callbacks=[Poison(0)], **QUIET
        )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"budget": {"speed": 2}}, ValueError, "argument `budget`"),
        ({"budget": 3}, TypeError, "argument `budget`"),
        ({"budget": {"flash": "9kB", "target": "abacus"}}, ValueError, "abacus"),
        ({"methods": ["filters", "magic"]}, ValueError, "argument `methods`"),
        ({"methods": ["int8", "float16"]}, ValueError, "one file format"),
        ({"methods": ["qat", "float16"]}, ValueError, "'int8' beside"),
        ({"methods": "filters"}, TypeError, "argument `methods`"),
        ({"max_drop": -1}, ValueError, "argument `max_drop`"),
        ({"epochs": 0}, ValueError, "argument `epochs`"),
        ({"trials": 0}, ValueError, "argument `trials`"),
        ({"distillation": 2}, ValueError, "argument `distillation`"),
        ({"learning_rate": 0}, ValueError, "argument `learning_rate`"),
        ({"monitor": "f2"}, ValueError, "argument `monitor`"),
        ({"criterion": "l3"}, ValueError, "l3"),
        ({"hardware": "abacus"}, ValueError, "abacus"),
        ({"engine": "cloud"}, ValueError, "argument `engine`"),
        ({"engine": "ray"}, ValueError, "at least 2 with engine='ray'"),
        ({"teacher": 3}, TypeError, "argument `teacher`"),
        ({"teacher": "wide"}, ValueError, "argument `teacher`"),
        ({"train": "images"}, ValueError, "without labels|a tuple of|labels"),
        ({"train": "wrong shape"}, ValueError, "shapes"),
        ({"train": "for ever"}, ValueError, "for ever"),
        ({"train": "unlabeled dataset"}, ValueError, "without labels"),
        ({"train": "other kind"}, TypeError, "argument `train`"),
        ({"validation": "missing"}, ValueError, "argument `validation`"),
        ({"model": "not compiled"}, ValueError, "compiled model"),
    ],
)
def test_bad_arguments_are_refused_before_any_training(
    trained, data, changes, error, message, monkeypatch
):
    import tensorflow as tf

    stream = tf.data.Dataset.from_tensor_slices(data).batch(32)
    wide = keras.Sequential([keras.Input((9, 9, 1)), L.Flatten(), L.Dense(4)])
    trains = {
        "images": (data[0],),
        "wrong shape": (data[0][:, :4], data[1]),
        "for ever": stream.repeat(),
        "unlabeled dataset": stream.map(lambda x, y: x),
        "other kind": {"x": 1},
    }
    arguments = {"model": trained, "train": data, "validation": data, **QUIET}
    arguments |= {"budget": {"macs": 0.5}, **changes}
    arguments["train"] = trains.get(changes.get("train"), arguments["train"])
    if changes.get("teacher") == "wide":
        arguments["teacher"] = wide
    if changes.get("validation") == "missing":
        arguments |= {"train": stream, "validation": None}
    if changes.get("model") == "not compiled":
        arguments["model"] = network()
    monkeypatch.setattr(keras.Model, "fit", None)
    with pytest.raises(error, match=message):
        tfc.compress(**arguments)


# Going on ------------------------------------------------------------------------


class Killed(BaseException):
    pass


class KillAt(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            self.epoch = None
            raise Killed


def test_a_killed_run_goes_on_to_the_same_result(trained, data, whole, tmp_path):
    arguments = {**ARGUMENTS, "out": tmp_path}
    with pytest.raises(Killed):
        tfc.compress(trained, data, callbacks=[KillAt(1)], **arguments)
    assert not (tmp_path / "trials.json").exists()
    again = tfc.compress(trained, data, callbacks=[KillAt(None)], **arguments)
    assert again.trials == whole[0].trials


def test_a_complete_run_answers_without_training(trained, data, whole, monkeypatch):
    monkeypatch.setattr(keras.Model, "fit", None)
    again = tfc.compress(trained, data, out=whole[1], **ARGUMENTS)
    assert again.trials == whole[0].trials


def test_an_interrupted_run_leaves_no_plan(trained, data, tmp_path):
    def interrupt(epoch, logs=None):
        raise KeyboardInterrupt

    stop = keras.callbacks.LambdaCallback(on_epoch_end=interrupt)
    with pytest.raises(KeyboardInterrupt):
        tfc.compress(trained, data, out=tmp_path, callbacks=[stop], **ARGUMENTS)
    assert (tmp_path / "run.json").exists()
    assert not (tmp_path / "plan.toml").exists()


def test_the_name_of_an_optimizer_makes_no_other_run(trained, data, whole, monkeypatch):
    monkeypatch.setattr(keras.Model, "fit", None)
    again = keras.Model.from_config(trained.get_config())
    again.set_weights(trained.get_weights())
    again.compile(
        keras.optimizers.Adam(5e-3, name="the_ninth"),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    result = tfc.compress(again, data, out=whole[1], **ARGUMENTS)
    assert result.trials == whole[0].trials


def test_a_plan_repeats_a_run(trained, data, whole):
    plan = tfc.compression.read_plan(whole[0].files["plan"], tfc.compress)
    again = tfc.compress(trained, data, verbose=0, **plan)
    assert again.trials == whole[0].trials
    for a, b in zip(*(copied(r.model.weights) for r in (again, whole[0])), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_folder_of_another_run_is_refused(trained, data, whole):
    arguments = {**ARGUMENTS, "out": whole[1]}
    with pytest.raises(ValueError, match="another budget"):
        tfc.compress(trained, data, **{**arguments, "budget": {"macs": 0.4}})
    with pytest.raises(ValueError, match="another data"):
        tfc.compress(trained, (data[0] * 2, data[1]), **arguments)


def test_a_model_of_somebody_else_is_not_replaced(trained, data, tmp_path):
    trained.save(tmp_path / "model.keras")
    before = (tmp_path / "model.keras").read_bytes()
    with pytest.raises(ValueError, match=r"another model\.keras would be"):
        tfc.compress(trained, data, out=tmp_path, **ARGUMENTS)
    assert (tmp_path / "model.keras").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"model.keras"}


def test_two_processes_cannot_use_one_folder(trained, data, tmp_path):
    with lock(tmp_path), pytest.raises(ValueError, match="argument `out`"):
        tfc.compress(trained, data, out=tmp_path, **ARGUMENTS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = ", "a TOML file"),
        ("epoch = 3", "'epoch'.*'epochs'"),
        ("out = 'x'", "'out'"),
        ("budget = 3", "table"),
        ("[budget]\nmac = 1", "'mac'"),
        ("\x00", "a TOML file"),
    ],
)
def test_a_bad_plan_is_named(tmp_path, text, message):
    file = tmp_path / "plan.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        tfc.compression.read_plan(file, tfc.compress)


# Search ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_search_is_repeatable_and_goes_on_after_a_kill(trained, data, tmp_path):
    pytest.importorskip("optuna")
    arguments = {**QUIET, "budget": {"macs": 0.5}, "trials": 3}
    whole = tfc.compress(trained, data, out=tmp_path / "whole", **arguments)
    assert [trial.number for trial in whole.trials] == [0, 1, 2]
    assert len({json.dumps(dict(t.settings)) for t in whole.trials}) == 3
    assert all(t.status == "hopeless" or t.in_budget for t in whole.trials)
    done = [t for t in whole.trials if t.drop is not None]
    assert whole.best.drop == min(t.drop for t in done)

    class KillInTrial(keras.callbacks.Callback):
        left = 4  # epochs: within the second trial

        def on_epoch_end(self, epoch, logs=None):
            self.left -= 1
            if self.left == 0:
                raise Killed

    out = tmp_path / "killed"
    with pytest.raises(Killed):
        tfc.compress(trained, data, out=out, callbacks=[KillInTrial()], **arguments)
    again = tfc.compress(trained, data, out=out, **arguments)
    assert again.trials == whole.trials


def test_more_trials_need_optuna(trained, data, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=re.escape("tfcompress[search]")):
        tfc.compress(trained, data, budget={"macs": 0.5}, trials=2, **QUIET)


def test_a_target_whose_tool_is_absent_is_refused_at_once(trained, data, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(keras.Model, "evaluate", None)
    budget = tfc.Budget(flash="9kB", target="microcontroller")
    with pytest.raises(ImportError, match=re.escape("tfcompress[targets]")):
        tfc.compress(trained, data, budget=budget, **QUIET)
