"""Energies against sums by hand."""

import json
import math

import keras
import numpy as np
import pytest
from keras import layers as L

from tfcompress import cost, zoo

MAC = {"float32": 4.6, "float16": 1.5, "int8": 0.3}  # pJ, Horowitz


def dense(inputs=100, units=50, **kwargs):
    layer = L.Dense(units, use_bias=False, **kwargs)
    return keras.Sequential([keras.Input((inputs,)), layer])


@pytest.fixture(scope="module")
def counted():
    return cost.count(dense())


def test_arithmetic_is_macs_times_the_energy_of_one(counted):
    for precision, picojoules in MAC.items():
        estimate = cost.energy(counted, precision=precision)
        arithmetic = estimate.by_kind["arithmetic"]
        assert arithmetic == pytest.approx(5000 * picojoules * 1e-12)


def test_other_operations_are_additions():
    model = keras.Sequential([keras.Input((100,)), L.ReLU()])
    estimate = cost.energy(cost.count(model))
    assert estimate.by_kind["arithmetic"] == pytest.approx(100 * 0.9e-12)


def test_integer_multipliers_scale_with_the_product_of_the_widths(counted):
    for bits, multiply in ((4, 0.2 / 4), (32, 0.2 * 16), (8, 0.2)):
        estimate = cost.energy(counted, precision=f"int{bits}")
        expected = 5000 * (multiply + 0.1) * 1e-12
        assert estimate.by_kind["arithmetic"] == pytest.approx(expected)


def test_every_tensor_crosses_the_on_chip_memory_once(counted):
    for size, picojoules in ((8192, 10), (32768, 20), (10_000, 20), (1048576, 100)):
        estimate = cost.energy(counted, sram_bytes=size)
        expected = (100 + 5000 + 50) * 32 * picojoules / 64 * 1e-12
        assert estimate.by_kind["on-chip memory"] == pytest.approx(expected)


def off_chip_bits(estimate):
    return estimate.by_kind["off-chip memory"] / (1950 / 64 * 1e-12)


def test_weights_that_fit_on_the_chip_stay_there(counted):
    need = (5000 + 100 + 50) * 4
    assert off_chip_bits(cost.energy(counted, sram_bytes=need)) == 0
    estimate = cost.energy(counted, sram_bytes=need - 1)
    assert off_chip_bits(estimate) == pytest.approx(5000 * 32)
    assert estimate.settings["weights_on_chip"] is False


def test_tensors_that_do_not_fit_are_moved_and_read_again():
    # 8000 inputs, 100 positions × 40 outputs; 3200 weights.
    model = keras.Sequential([keras.Input((100, 80)), L.Dense(40, use_bias=False)])
    counted = cost.count(model)
    bits = off_chip_bits(cost.energy(counted, sram_bytes=8000))
    # Input (32 kB), weights (12.8 kB) and output (16 kB) each exceed 8 kB:
    # two tiles of weights, the input is read twice.
    assert bits == pytest.approx(32 * (8000 + 3200 + 4000 + 8000))


def test_zero_skipping_skips_products_and_stores_indices():
    model = dense()
    kernel = np.ones((100, 50), "float32")
    kernel[:, :40] = 0
    model.layers[0].set_weights([kernel])
    counted = cost.count(model)
    dense_chip = cost.energy(counted, sram_bytes=8192)
    sparse_chip = cost.energy(counted, sram_bytes=4096, products="skipped")
    assert sparse_chip.by_kind["arithmetic"] == pytest.approx(
        dense_chip.by_kind["arithmetic"] / 5
    )
    assert off_chip_bits(sparse_chip) == pytest.approx(1000 * (32 + 4))
    assert off_chip_bits(dense_chip) == pytest.approx(5000 * 32)


def half_pruned():
    """Of 5,000 weights 2,000 are left."""
    model = dense()
    kernel = np.ones((100, 50), "float32")
    kernel[:, :30] = 0
    model.layers[0].set_weights([kernel])
    return cost.count(model)


@pytest.mark.parametrize(
    ("products", "picojoules"),
    [
        ("computed", 5000 * (159.74 + 5 * 32.045)),
        ("gated", 2000 * (159.74 + 5 * 32.045) + 3000 * 204.6),
        ("skipped", 2000 * (159.74 + 5 * 32.045)),
    ],
)
def test_zero_weights_save_what_the_hardware_saves(products, picojoules):
    estimate = cost.energy(
        half_pruned(), "cross_stack_65nm", products=products, multiplier_bits=(1, 5)
    )
    assert estimate.total == pytest.approx(picojoules * 1e-12)
    assert estimate.settings["products"] == products


def test_gated_products_need_a_profile_that_knows_them(tmp_path):
    with pytest.raises(ValueError, match=r"`products`.*horowitz_45nm"):
        cost.energy(half_pruned(), products="gated")
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\ndescription = "d"\nnode_nm = 7\noperands = "o"\n'
        'sources = ["s"]\n[arithmetic.float32]\n'
        "multiply_pj = 3\nadd_pj = 1\ngated_pj = 0.5\n"
    )
    estimate = cost.energy(half_pruned(), path, products="gated")
    assert estimate.total == pytest.approx((2000 * 4 + 3000 * 0.5) * 1e-12)


def two_layers():
    layers = [L.Dense(50, use_bias=False, name=name) for name in ("a", "b")]
    return cost.count(keras.Sequential([keras.Input((100,)), *layers]))


def test_bits_by_layer():
    counted = two_layers()  # 5,000 and 2,500 products
    by_layer = cost.energy(counted, bits={"a": (4, 8)}).rows
    a, b = (row.by_kind["arithmetic"] for row in by_layer)
    assert a == pytest.approx(5000 * (0.2 * 32 / 64 + 0.1) * 1e-12)
    assert b == pytest.approx(2500 * 4.6e-12)
    for bits, same in ((8, "int8"), ((8, 8), "int8")):
        assert cost.energy(counted, bits=bits).rows == (
            cost.energy(counted, precision=same).rows
        )


def test_narrow_weights_alone_save_memory_and_no_arithmetic(counted):
    whole = cost.energy(counted, sram_bytes=8192)
    narrow = cost.energy(counted, sram_bytes=8192, bits=(3, None))
    assert narrow.by_kind["arithmetic"] == whole.by_kind["arithmetic"]
    bits = 100 * 32 + 5000 * 3 + 50 * 32
    assert narrow.by_kind["on-chip memory"] == pytest.approx(bits * 10 / 64 * 1e-12)


def test_macs_times_bits():
    counted = half_pruned()
    assert cost.mac_bits(counted) == 2000 * 32
    assert cost.mac_bits(counted, 3) == 2000 * 3
    assert cost.mac_bits(two_layers(), {"b": (5, None)}) == 5000 * 32 + 2500 * 5
    with pytest.raises(TypeError, match="`cost`"):
        cost.mac_bits(dense())


def test_layers_and_kinds_add_up_to_the_total():
    counted = cost.count(zoo.lenet5())
    estimate = cost.energy(counted)
    assert len(estimate.rows) == len(counted.rows)
    assert math.fsum(estimate.by_kind.values()) == pytest.approx(estimate.total)
    assert math.fsum(estimate.by_layer.values()) == pytest.approx(estimate.total)
    assert set(estimate.by_kind) == {"arithmetic", "on-chip memory", "off-chip memory"}


# The cross-stack paper -----------------------------------------------------------


def test_normalized_layer_energies_of_the_cross_stack_paper(cross_stack_cost):
    counted = cross_stack_cost("cifar10", "regular")
    estimate = cost.energy(counted, "cross_stack_65nm")
    layers = [row.total for row in estimate.rows if row.total]
    normalized = [round(joules / max(layers), 3) for joules in layers]
    assert normalized == [0.023, 1, 0.5, 1, 0.5, 1, 0.125, 0.000]


@pytest.mark.parametrize(
    ("dataset", "variant", "profile", "millijoules"),
    [
        ("cifar10", "regular", "cross_stack_65nm", 200.3728),
        ("cifar10", "shallow", "cross_stack_65nm", 413.0913),
        ("cifar100", "regular", "cross_stack_65nm", 200.3967),
        ("cifar100", "shallow", "cross_stack_65nm", 413.1149),
        ("stl10", "regular", "cross_stack_65nm_stl10", 40.6913),
        ("stl10", "shallow", "cross_stack_65nm_stl10", 227.3043),
    ],
)
def test_incremental_energies_of_table_ii(
    cross_stack_cost, dataset, variant, profile, millijoules
):
    counted = cross_stack_cost(dataset, variant)
    estimate = cost.energy(counted, profile, multiplier_bits=(1, 5))
    assert estimate.total == pytest.approx(millijoules * 1e-3, rel=0.01)


def test_approximation_saves_two_thirds(counted):
    exact = cost.energy(counted, "cross_stack_65nm")
    approximate = cost.energy(counted, "cross_stack_65nm", multiplier_bits=(1, 5))
    assert 1 - approximate.total / exact.total == pytest.approx(0.667, abs=5e-4)
    assert any("(5, 5)" in note for note in exact.notes)
    assert not any("(5, 5)" in note for note in approximate.notes)


def test_the_proposed_scheme_saves_what_figure_5_says(paper_tables, cross_stack_cost):
    """26.23 % less than approximation alone, 29.97 % less than pruning alone."""
    counted = cross_stack_cost("cifar10", "regular")
    pruned = paper_tables.pruned

    def joules(fraction, bits):
        return cost.energy(
            pruned(counted, fraction),
            "cross_stack_65nm",
            products="gated",
            multiplier_bits=bits,
        ).total

    proposed = joules(0.743, (1, 5))
    assert 1 - proposed / joules(0, (1, 5)) == pytest.approx(0.2623, abs=0.01)
    assert 1 - proposed / joules(0.829, (5, 5)) == pytest.approx(0.2997, abs=0.01)


def test_a_profile_without_memory_has_no_memory_energy(counted):
    estimate = cost.energy(counted, "cross_stack_65nm")
    assert set(estimate.by_kind) == {"arithmetic"}
    assert any("no figures for memory" in note for note in estimate.notes)
    with pytest.raises(ValueError, match="sram_bytes"):
        cost.energy(counted, "cross_stack_65nm", sram_bytes=1024)


def test_an_approximate_multiplier_that_a_profile_lacks_is_not_invented(counted):
    exact = cost.energy(counted)
    approximate = cost.energy(counted, multiplier_bits=(1, 5))
    assert approximate.total == exact.total
    assert any("upper bound" in note for note in approximate.notes)


# Results and refusals ------------------------------------------------------------


def test_an_estimate_is_labeled_and_survives_json(counted):
    estimate = cost.energy(counted, precision="int8")
    plain = json.loads(json.dumps(estimate.to_dict()))
    assert plain["label"] == "modeled" and plain["sources"]
    assert cost.EnergyEstimate.from_dict(plain) == estimate
    assert "modeled with horowitz_45nm" in str(estimate)


def test_uncounted_layers_are_noted():
    class Strange(keras.layers.Layer):
        def call(self, x):
            return x

    model = keras.Sequential([keras.Input((5,)), Strange(name="strange")])
    with pytest.warns(UserWarning):
        counted = cost.count(model)
    assert any("strange" in note for note in cost.energy(counted).notes)


@pytest.mark.parametrize(
    "arguments",
    [
        {"precision": "double"},
        {"precision": "int0"},
        {"precision": "float"},
        {"products": "free"},
        {"bits": 0},
        {"bits": 65},
        {"bits": (8, 8, 8)},
        {"bits": (None, 8)},
        {"bits": "int8"},
        {"bits": {"absent": 8}},
        {"multiplier_bits": (0, 5)},
        {"multiplier_bits": 5},
        {"sram_bytes": 0},
        {"sram_bytes": 1 << 30},
        {"hardware": "abacus"},
    ],
)
def test_bad_arguments_are_refused_by_name(counted, arguments):
    (name,) = arguments
    expected = "name_or_path" if name == "hardware" else name
    with pytest.raises(ValueError, match=f"`{expected}`"):
        cost.energy(counted, **arguments)


def test_formats_without_figures_are_refused(counted):
    with pytest.raises(ValueError, match="float64"):
        cost.energy(counted, precision="float64")
    with pytest.raises(ValueError, match=r"`bits`.*`precision`"):
        cost.energy(counted, precision="int8", bits=4)
    with pytest.raises(TypeError, match="`cost`"):
        cost.energy(dense())
