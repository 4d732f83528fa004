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
    sparse_chip = cost.energy(counted, sram_bytes=4096, zero_skipping=True)
    assert sparse_chip.by_kind["arithmetic"] == pytest.approx(
        dense_chip.by_kind["arithmetic"] / 5
    )
    assert off_chip_bits(sparse_chip) == pytest.approx(1000 * (32 + 4))
    assert off_chip_bits(dense_chip) == pytest.approx(5000 * 32)


def test_layers_and_kinds_add_up_to_the_total():
    counted = cost.count(zoo.lenet5())
    estimate = cost.energy(counted)
    assert len(estimate.rows) == len(counted.rows)
    assert math.fsum(estimate.by_kind.values()) == pytest.approx(estimate.total)
    assert math.fsum(estimate.by_layer.values()) == pytest.approx(estimate.total)
    assert set(estimate.by_kind) == {"arithmetic", "on-chip memory", "off-chip memory"}


# The cross-stack paper -----------------------------------------------------------


def test_normalised_layer_energies_of_the_cross_stack_paper(cross_stack_cost):
    counted = cross_stack_cost("cifar10", "regular")
    estimate = cost.energy(counted, "cross_stack_65nm")
    layers = [row.total for row in estimate.rows if row.total]
    normalised = [round(joules / max(layers), 3) for joules in layers]
    assert normalised == [0.023, 1, 0.5, 1, 0.5, 1, 0.125, 0.000]


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


def test_an_estimate_is_labelled_and_survives_json(counted):
    estimate = cost.energy(counted, precision="int8")
    plain = json.loads(json.dumps(estimate.to_dict()))
    assert plain["label"] == "modelled" and plain["sources"]
    assert cost.EnergyEstimate.from_dict(plain) == estimate
    assert "modelled with horowitz_45nm" in str(estimate)


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
    with pytest.raises(TypeError, match="`cost`"):
        cost.energy(dense())
