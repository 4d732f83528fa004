import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress import _made
from tfcompress.callbacks import ActivationDensity
from tfcompress.training import resize_by_density
from tfcompress.training._density import DensityNet, DensityResult

SHAPE = (6, 6, 2)


def network(widths=None):
    widths = widths or {}
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(widths.get("stem", 12), 3, padding="same", name="stem")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.Conv2D(widths.get("inner", 10), 3, padding="same", name="inner")(x)
    y = layers.Conv2D(x.shape[-1], 3, padding="same", name="outer")(layers.ReLU()(y))
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(widths.get("hidden", 8), activation="relu", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="out")(x))


def compiled(widths=None, optimizer="adam", **kwargs):
    model = network(widths)
    kwargs.setdefault("run_eagerly", True)
    model.compile(
        optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], **kwargs
    )
    return model


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, *SHAPE)).astype("float32")
    return x, rng.integers(0, 3, 32)


# Nothing settles within these epochs, so that every round takes `round_epochs`.
FIT = {"batch_size": 16, "shuffle": False, "verbose": 0, "min_delta": 0.0}


@pytest.fixture
def falling(monkeypatch):
    """Networks whose density does not rise, whatever they learn."""
    monkeypatch.setattr("tfcompress.training._density.trend", lambda curve: "convex")


def test_widths_follow_from_densities_and_coupled_layers_from_their_mean(data, falling):
    result = resize_by_density(
        compiled(), *data, epochs=2, round_epochs=1, max_rounds=1, seed=0, **FIT
    )
    first, second = result.nets
    last = {name: values[-1] for name, values in first.densities.items()}
    stage = np.mean([last["stem"], last["outer"]])
    assert second.widths == {
        "stem": round(12 * stage),
        "outer": round(12 * stage),
        "inner": round(10 * last["inner"]),
        "hidden": round(8 * last["hidden"]),
    }
    assert (first.epochs, second.epochs) == (1, 2)
    assert result.stop == "max_rounds"
    assert result.model.get_layer("out").units == 3


def test_figures_are_those_of_the_models(data, falling):
    result = resize_by_density(
        compiled(), *data, epochs=2, round_epochs=1, max_rounds=2, seed=0, **FIT
    )
    macs = [tfc.cost.count(net.model).macs for net in result.nets]
    parameters = [net.model.count_params() for net in result.nets]
    assert [net.macs for net in result.nets] == macs
    assert [net.parameters for net in result.nets] == parameters
    epochs = [1, 1, 2]
    assert [net.epochs for net in result.nets] == epochs
    expected = sum(e * m / macs[0] for e, m in zip(epochs, macs, strict=True))
    assert result.training_complexity == pytest.approx(expected)
    expected = sum(
        e * p / parameters[0] for e, p in zip(epochs, parameters, strict=True)
    )
    assert result.training_memory_complexity == pytest.approx(expected)
    text = str(result)
    assert f"{macs[2]:,}" in text and "max_rounds" in text
    records = _made.made(result.model)  # the last network is trained to the end
    assert [(r["net"], r["epochs"]) for r in records] == [
        (0, 1),
        (1, 1),
        (2, 1),
        (2, 1),
    ]
    assert [r["parameters"] for r in records] == [*parameters, parameters[2]]
    assert records[0]["config"]["weights"] == "random"


def test_a_function_sizes_every_layer_by_itself(data, falling):
    asked = []

    def build(widths):
        asked.append(widths)
        return compiled(widths)

    result = resize_by_density(
        build, *data, epochs=1, max_rounds=1, layers=["inner", "hidden"], **FIT
    )
    first, second = result.nets
    assert asked[0] == {}
    for name, size in (("inner", 10), ("hidden", 8)):
        assert second.widths[name] == round(size * first.densities[name][-1])
    assert second.widths["stem"] == asked[1]["stem"] == 12
    assert [record["net"] for record in _made.made(result.model)] == [0, 1]


def test_the_model_that_is_handed_in_stays_as_it_is(data, falling):
    model = compiled()
    before = model.get_weights()
    resize_by_density(model, *data, epochs=1, max_rounds=1, **FIT)
    for one, two in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert int(model.optimizer.iterations) == 0


@pytest.mark.parametrize("weights", ["random", "inherit"])
def test_every_network_starts_its_training_anew(data, falling, weights):
    rates = []

    class Log(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            rates.append(float(self.model.optimizer.learning_rate))

        def on_epoch_end(self, epoch, logs=None):
            self.model.optimizer.learning_rate = rates[-1] / 2

    result = resize_by_density(
        compiled(optimizer=keras.optimizers.SGD(0.5)),
        *data,
        epochs=3,
        round_epochs=2,
        max_rounds=1,
        weights=weights,
        callbacks=[Log()],
        **FIT,
    )
    assert rates == [0.5, 0.25, 0.5, 0.25, 0.125]
    assert int(result.model.optimizer.iterations) == 3 * 2


def test_inherited_weights_are_those_of_the_largest_filters(data, falling):
    kept = []

    class Log(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            kept.append(self.model.get_layer("hidden").get_weights()[1])

    model = compiled(optimizer=keras.optimizers.SGD(0.0))
    bias = np.linspace(0.1, 0.8, 8)
    model.get_layer("hidden").bias.assign(bias)
    resize_by_density(
        model,
        *data,
        epochs=1,
        max_rounds=1,
        weights="inherit",
        layers=["hidden"],
        callbacks=[Log()],
        **FIT,
    )
    kernel = np.abs(model.get_layer("hidden").get_weights()[0]).sum(axis=0)
    largest = np.sort(np.argsort(kernel)[8 - len(kept[1]) :])
    np.testing.assert_allclose(kept[1], bias[largest], rtol=1e-6)


def test_a_seed_makes_initial_weights_reproducible(data, falling):
    runs = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(0)
        result = resize_by_density(
            compiled(), *data, epochs=1, max_rounds=1, seed=seed, **FIT
        )
        runs.append(result.model.get_weights())
    for one, two in zip(runs[0], runs[1], strict=True):
        np.testing.assert_array_equal(one, two)
    assert any((a != b).any() for a, b in zip(runs[0], runs[2], strict=True))


def test_widths_are_rounded_up_and_never_zero(data, falling, monkeypatch):
    monkeypatch.setattr(
        "tfcompress._meters.DensityMeter.layers",
        lambda self: dict.fromkeys(self.taps, 0.01),
    )
    result = resize_by_density(compiled(), *data, epochs=1, max_rounds=1, **FIT)
    assert set(result.nets[1].widths.values()) == {1}
    result = resize_by_density(
        compiled(), *data, epochs=1, max_rounds=1, multiple_of=4, **FIT
    )
    assert set(result.nets[1].widths.values()) == {4}


def rising(monkeypatch, *trends):
    found = iter(trends)
    monkeypatch.setattr("tfcompress.training._density.trend", lambda curve: next(found))


def test_the_last_network_whose_density_does_not_rise_is_the_final_one(
    data, monkeypatch
):
    rising(monkeypatch, "convex", "flat", "concave")
    result = resize_by_density(
        compiled(), *data, epochs=4, round_epochs=2, max_rounds=5, **FIT
    )
    assert (result.stop, result.final) == ("concave", 1)
    assert [net.epochs for net in result.nets] == [2, 4, 2]
    assert [net.trend for net in result.nets] == ["convex", "flat", "concave"]
    final = result.nets[1]
    assert result.model is final.model
    assert len(final.curve) == len(final.history["loss"]) == 4
    assert int(final.model.optimizer.iterations) == 4 * 2
    assert "final: net 1" in str(result)


def test_a_first_network_whose_density_rises_is_the_final_one(data, monkeypatch):
    rising(monkeypatch, "concave")
    result = resize_by_density(compiled(), *data, epochs=2, round_epochs=1, **FIT)
    assert (result.stop, result.final) == ("concave", 0)
    assert [net.epochs for net in result.nets] == [2]


def test_what_does_not_train_keeps_its_width_and_weights(data, falling):
    model = compiled()
    for name in ("inner", "outer"):
        model.get_layer(name).trainable = False
    model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    before = {name: model.get_layer(name).get_weights() for name in ("inner", "outer")}
    result = resize_by_density(model, *data, epochs=1, max_rounds=1, **FIT)
    # "stem" is read by "inner", and coupled to "outer".
    assert result.nets[1].widths["hidden"] < 8
    assert result.nets[1].widths["stem"] == 12
    assert "not trainable" in result.skipped["stem"]
    for name, weights in before.items():
        for one, two in zip(
            weights, result.model.get_layer(name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(one, two)


def test_densities_that_are_no_numbers_make_no_network(data, falling, monkeypatch):
    monkeypatch.setattr(
        "tfcompress._meters.DensityMeter.layers",
        lambda self: dict.fromkeys(self.taps, float("nan")),
    )
    with pytest.raises(ValueError, match="diverged"):
        resize_by_density(compiled(), *data, epochs=1, max_rounds=1, **FIT)


def test_a_kept_backup_holds_the_result(data, falling, tmp_path):
    def run(*callbacks):
        return resize_by_density(
            compiled(),
            *data,
            epochs=2,
            round_epochs=1,
            max_rounds=1,
            callbacks=list(callbacks),
            backup_dir=tmp_path,
            keep_backup=True,
            **FIT,
        )

    best, known = (
        keras.callbacks.ModelCheckpoint(
            tmp_path.with_name("best.keras"), "loss", mode="min", save_best_only=True
        )
        for _ in range(2)
    )
    first, again = run(best), run(Interrupt(0, 0), known)
    assert known.best == best.best
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "net0.keras",
        "net1.keras",
    ]
    assert _made.made(again.model) == _made.made(first.model) != []
    assert [net.history for net in first.nets] == [net.history for net in again.nets]
    pairs = zip(first.model.get_weights(), again.model.get_weights(), strict=True)
    for one, two in pairs:
        np.testing.assert_array_equal(one, two)


def test_a_callback_may_end_the_final_training(data, falling):
    stop = keras.callbacks.EarlyStopping("loss", min_delta=1e9, patience=2)
    result = resize_by_density(
        compiled(),
        *data,
        epochs=9,
        round_epochs=1,
        max_rounds=1,
        callbacks=[stop],
        **FIT,
    )
    # A round of one epoch, and the rest: one epoch, and two without improvement.
    assert [net.epochs for net in result.nets] == [1, 4]


def test_a_round_may_be_too_short_to_be_validated(data, falling):
    result = resize_by_density(
        compiled(),
        *data,
        epochs=4,
        round_epochs=1,
        max_rounds=1,
        **{**FIT, "validation_data": data, "validation_freq": 2},
    )
    assert len(result.nets[-1].history["val_loss"]) == 2


def test_dense_activations_leave_the_network_as_it_is(data, falling, monkeypatch):
    monkeypatch.setattr(
        "tfcompress._meters.DensityMeter.layers",
        lambda self: dict.fromkeys(self.taps, 0.999),
    )
    result = resize_by_density(compiled(), *data, epochs=3, round_epochs=1, **FIT)
    assert result.stop == "unchanged"
    assert [net.epochs for net in result.nets] == [3]


def test_a_network_that_has_settled_is_resized_at_once(data, falling):
    options = {**FIT, "min_delta": 1.0}
    result = resize_by_density(compiled(), *data, epochs=5, max_rounds=1, **options)
    # Three epochs, between which there are two small changes.
    assert [net.epochs for net in result.nets] == [3, 5]
    assert [net.saturation for net in result.nets] == [3, 3]


class Interrupt(keras.callbacks.Callback):
    """Ends the process, as it were, in an epoch of a network."""

    def __init__(self, network, epoch):
        super().__init__()
        self.place = (network, epoch)
        self.network = -1

    def on_train_begin(self, logs=None):
        self.network += 1

    def on_epoch_begin(self, epoch, logs=None):
        if (self.network, epoch) == self.place:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("place", "weights"),
    [
        ((0, 1), "random"),
        ((1, 0), "inherit"),
        ((1, 1), "random"),
        ((2, 1), "inherit"),
        ((3, 2), "random"),
    ],
)
def test_an_interruption_in_any_round_changes_nothing(
    data, falling, tmp_path, place, weights
):
    def run(folder, *callbacks):
        keras.utils.set_random_seed(0)
        return resize_by_density(
            compiled(),
            *data,
            epochs=3,
            round_epochs=2,
            max_rounds=2,
            seed=0,
            weights=weights,
            callbacks=list(callbacks),
            backup_dir=folder,
            **FIT,
        )

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", Interrupt(*place))
    resumed = run(tmp_path / "a", Interrupt(-1, -1))
    whole = run(tmp_path / "b", Interrupt(-1, -1))
    assert len(resumed.nets) == len(whole.nets) == 3
    for one, two in zip(resumed.nets, whole.nets, strict=True):
        assert one.widths == two.widths
        assert one.epochs == two.epochs
        assert one.curve == two.curve
        assert one.history == two.history
    for one, two in zip(
        resumed.model.get_weights(), whole.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, two)
    assert not (tmp_path / "a").exists()


def test_a_backup_of_other_settings_is_refused(data, falling, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        resize_by_density(
            compiled(),
            *data,
            epochs=1,
            max_rounds=1,
            callbacks=[Interrupt(1, 0)],
            backup_dir=tmp_path,
            **FIT,
        )
    with pytest.raises(ValueError, match=r"argument `backup_dir`.*other settings"):
        resize_by_density(compiled(), *data, epochs=2, backup_dir=tmp_path, **FIT)


def test_measuring_goes_on_where_a_training_is_resumed(data, tmp_path):
    def run(callback, *others):
        keras.utils.set_random_seed(0)
        return tfc.training.fit_shrinking(
            compiled(),
            *data,
            epochs=4,
            callbacks=[callback, *others],
            backup_dir=tmp_path,
            batch_size=16,
            shuffle=False,
            verbose=0,
        )

    with pytest.raises(KeyboardInterrupt):
        run(ActivationDensity(stop=False), Interrupt(0, 2))
    resumed, whole = ActivationDensity(stop=False), ActivationDensity(stop=False)
    run(resumed, Interrupt(-1, -1))
    run(whole)
    np.testing.assert_allclose(resumed.curve, whole.curve, rtol=1e-6)
    assert len(resumed.layers["inner"]) == 4


def test_accuracy_is_that_of_the_validation():
    def net(**history):
        return DensityNet(None, {}, (), {}, None, "flat", 1, history, 1, 1)

    assert net(accuracy=[0.1, 0.2], val_accuracy=[0.3, 0.4]).accuracy == 0.4
    assert net(accuracy=[0.1, 0.2]).accuracy == 0.2
    assert net(loss=[1.0]).accuracy is None


def test_results_have_figures_for_a_report(tmp_path):
    densities = {"a": (0.5, 0.4), "b": (0.3, 0.2)}
    nets = [
        DensityNet(None, {"a": n}, (0.5, 0.4), densities, s, "flat", 2, {}, n, n)
        for n, s in ((8, 2), (4, None))
    ]
    result = DensityResult(tuple(nets), "max_rounds")
    curves = result.curves()
    assert curves.series["net 0"] == [(1, 0.5), (2, 0.4)]
    assert curves.series["net 0 settled"] == [(2, 0.4)]
    assert "net 1 settled" not in curves.series
    assert [grid.values for grid in result.heatmaps()] == [[[0.5, 0.4], [0.3, 0.2]]] * 2


@pytest.mark.parametrize(
    ("change", "error", "argument"),
    [
        ({"epochs": 0}, ValueError, "epochs"),
        ({"max_rounds": -1}, ValueError, "max_rounds"),
        ({"round_epochs": 0}, ValueError, "round_epochs"),
        ({"multiple_of": 0}, ValueError, "multiple_of"),
        ({"weights": "best"}, ValueError, "weights"),
        ({"patience": 0}, ValueError, "patience"),
        ({"min_delta": "x"}, TypeError, "min_delta"),
        ({"layers": ["stam"]}, ValueError, "layers"),
        ({"layers": ["out"]}, ValueError, "layers"),
        ({"exclude": "stem"}, TypeError, "exclude"),
        ({"backup_dir": "/proc/no"}, ValueError, "backup_dir"),
    ],
)
def test_bad_arguments_are_refused_before_training(data, change, error, argument):
    arguments = {"epochs": 1, **FIT, **change}
    with pytest.raises(error, match=f"argument `{argument}`"):
        resize_by_density(compiled(), *data, **arguments)


def test_models_that_cannot_be_trained_this_way_are_refused(data):
    with pytest.raises(ValueError, match="compiled"):
        resize_by_density(network(), *data, epochs=1)
    with pytest.raises(TypeError, match=r"argument `build_or_model`"):
        resize_by_density(None, *data, epochs=1)
    with pytest.raises(TypeError, match=r"function that returns a keras\.Model"):
        resize_by_density(lambda widths: None, *data, epochs=1)
    with pytest.raises(ValueError, match=r"argument `weights`.*for a function"):
        resize_by_density(compiled, *data, epochs=1, weights="inherit")
    with pytest.raises(ValueError, match=r"argument `layers`.*'out'"):
        resize_by_density(compiled, *data, epochs=1, layers=["out"])
