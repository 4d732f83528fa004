"""Which methods are planned for a budget, and what each leaves behind."""

import re

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress._models import load_model

L = keras.layers
QUIET = {"epochs": 3, "verbose": 0, "max_drop": 1.0}


def kernel(model, name):
    return keras.ops.convert_to_numpy(model.get_layer(name).kernel)


def residual():
    """Two residual blocks; the second one changes nothing."""
    x = inputs = keras.Input((8, 8, 1))
    x = L.Conv2D(8, 3, padding="same", activation="relu", name="stem")(x)
    for block in range(2):
        y = L.Conv2D(12, 3, padding="same", activation="relu", name=f"a{block}")(x)
        y = L.Conv2D(8, 3, padding="same", name=f"b{block}")(y)
        x = L.ReLU(name=f"relu{block}")(L.Add(name=f"add{block}")([x, y]))
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, L.Dense(4, activation="softmax", name="out")(x))


@pytest.fixture(scope="module")
def blocks(data):
    keras.utils.set_random_seed(0)
    model = residual()
    model.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(1e-2, 100), global_clipnorm=1.0
        ),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(*data, epochs=3, verbose=0)
    return model


def test_single_weights_where_zeros_are_skipped(trained, data, capsys, tmp_path):
    """The energy profits from zeros; the plan says so, and rounding keeps them."""
    result = tfc.compress(
        trained,
        data,
        budget={"energy": 0.12},
        methods="auto",
        products="skipped",
        out=tmp_path,
        **{**QUIET, "verbose": 1},
    )
    shown = capsys.readouterr().out
    assert "weights: down to energy" in shown or "weights: down to" in shown
    assert "Plan: single weights (3 epochs), then a file in int8" in shown
    assert re.search(r"epoch 3/3  loss \d\.\d+  val_accuracy [01]\.\d+\n", shown)
    assert "drum: cannot be used: the profile 'horowitz_45nm' has no" in shown
    assert result.in_budget and result.kind == "int8"
    assert result.model.get_layer("c1").filters == 16  # no filter was touched
    planned = result.best.settings["weights"]
    total = zeros = 0
    for name, share in planned.items():
        values = kernel(result.model, name)
        assert (values == 0).sum() == round(share * values.size)
        total, zeros = total + values.size, zeros + (values == 0).sum()
    # An independent account of the budget.
    counted = tfc.cost.count(result.model)
    joules = tfc.cost.energy(counted, precision="int8", products="skipped").total
    dense = tfc.cost.energy(tfc.cost.count(trained), products="skipped").total
    assert joules <= 0.12 * dense
    assert counted.macs == tfc.cost.count(trained).macs and zeros > 0.1 * total


@pytest.mark.slow
def test_rounding_that_is_learned_keeps_the_zeros(trained, data):
    result = tfc.compress(
        trained,
        data,
        budget={"energy": 0.12},
        methods=["weights", "qat", "int8"],
        products="skipped",
        **QUIET,
    )
    assert result.in_budget
    for name, share in result.best.settings["weights"].items():
        values = kernel(result.model, name)
        assert (values == 0).sum() >= round(share * values.size)


def test_filters_then_single_weights_share_what_a_packed_file_has_to_lose(
    trained, data
):
    result = tfc.compress(
        trained,
        data,
        budget={"size": 0.15, "macs": 0.6},
        methods=["filters", "weights", "tfcz"],
        **QUIET,
    )
    assert result.in_budget and result.kind == "tfcz"
    assert result.best.settings["filters"] and result.best.settings["weights"]
    assert (kernel(result.model, "c2") == 0).any()
    assert result.model.get_layer("c2").filters < 16


def test_approximate_multipliers_where_the_hardware_has_them(trained, data, tmp_path):
    result = tfc.compress(
        trained,
        data,
        budget={"energy": 0.5},
        hardware="cross_stack_65nm",
        out=tmp_path,
        **QUIET,
    )
    assert result.in_budget and result.kind == "float32"
    bits = result.best.settings["drum"]
    # The profile: 159.74 pJ and 32.045 for each product of bits, 5 · 5 without.
    ratio = (159.74 + 32.045 * bits[0] * bits[1]) / (159.74 + 32.045 * 25)
    figures = result.best.figures
    assert figures["energy"] == pytest.approx(ratio * result.offer.original["energy"])
    assert "filters" not in result.best.settings
    # What was saved computes with the truncated weights of such multipliers.
    small = load_model(tmp_path / "model.keras")
    values = small.get_layer("c2").layer.kernel
    np.testing.assert_array_equal(
        values, tfc.ops.drum_truncate(keras.ops.convert_to_tensor(values), bits[0])
    )


@pytest.mark.slow
def test_admm_finds_as_many_zeros_as_are_planned(blocks, data):
    """Under an optimizer with a schedule, which ADMM itself refuses."""
    result = tfc.compress(
        blocks,
        data,
        budget={"energy": 0.5},
        methods=["admm"],
        products="skipped",
        **QUIET,
    )
    assert result.in_budget
    for name, share in result.best.settings["admm"].items():
        values = kernel(result.model, name)
        assert (values == 0).sum() == pytest.approx(share * values.size, abs=1)
    # Compiled as the original is.
    assert callable(result.model.optimizer._learning_rate)
    assert result.model.optimizer.global_clipnorm == 1.0


def test_a_method_that_the_data_decide_can_be_the_only_one(blocks, data):
    result = tfc.compress(
        blocks, data, budget={"macs": 0.99}, methods=["gates"], **QUIET
    )
    assert result.best.settings["gates"] is True


@pytest.mark.slow
@pytest.mark.parametrize("before", ["gates", "density"])
def test_what_the_data_decide_comes_before_what_the_budget_decides(
    before, blocks, data
):
    result = tfc.compress(
        blocks, data, budget={"macs": 0.3}, methods=[before, "filters"], **QUIET
    )
    assert result.in_budget
    assert result.offer.of(before).figures["macs"] < result.offer.original["macs"]
    assert result.best.settings[before] is True
    # One class is found by chance in a quarter of the images.
    assert result.best.quality["accuracy"] > 0.4
    # The last model is as small as the budget says, not smaller.
    assert result.best.figures["macs"] > 0.15 * result.offer.original["macs"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["weights", "int8"], "budget": {"size": "5kB"}}, "no figure of"),
        ({"methods": ["gates"]}, "'gates': .*no Add"),
        ({"methods": ["drum"]}, "no approximate multiplier"),
        ({"methods": ["drum"], "hardware": "cross_stack_65nm"}, "energy only"),
        ({"methods": ["weights", "admm"]}, "at most one of"),
        ({"methods": ["drum", "int8"]}, "'int8' beside 'drum'"),
        ({"products": "skipped"}, "argument `products`"),
        ({"products": "free", "budget": {"energy": 0.5}}, "argument `products`"),
    ],
)
def test_methods_that_cannot_help_are_refused_before_any_training(
    trained, data, changes, message, monkeypatch
):
    monkeypatch.setattr(keras.Model, "fit", None)
    arguments = {"budget": {"macs": 0.5}, "verbose": 0, **changes}
    with pytest.raises(ValueError, match=message):
        tfc.compress(trained, data, **arguments)


def test_multipliers_are_refused_where_layers_cannot_adapt(trained, data, monkeypatch):
    monkeypatch.setattr(keras.Model, "fit", None)
    model = keras.models.clone_model(trained)
    model.set_weights(trained.get_weights())
    first = next(layer for layer in model.layers if hasattr(layer, "kernel"))
    first.trainable = False
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    with pytest.raises(ValueError, match=rf"{first.name} cannot adapt.*not trainable"):
        tfc.compress(
            model,
            data,
            budget={"energy": 0.5},
            methods=["drum"],
            hardware="cross_stack_65nm",
            verbose=0,
        )
