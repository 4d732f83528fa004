"""The break-even model against ADMM-NN."""

import math

import keras
import numpy as np
import pytest
from keras import layers as L

from tfcompress import cost


def test_the_default_hardware_breaks_even_at_55_percent():
    hardware = cost.SparseHardware()
    assert hardware.break_even_ratio == pytest.approx(2.22)
    assert round(hardware.break_even_fraction, 2) == 0.55
    assert hardware.speedup(1 - 1 / 2.22) == pytest.approx(1)
    assert hardware.worthwhile(0.56) and not hardware.worthwhile(0.54)


# Tables 8 and 9: operations left of a layer's, and its speed-up.
PAIRS = [
    *((211, left, s) for left, s in ((177, 0.16), (175, 0.17), (180, 0.15))),
    *((448, left, s) for left, s in ((31, 7), (170, 1.4), (116, 2.6), (107, 2.9))),
    *((299, left, s) for left, s in ((18, 7.5), (105, 1.6), (67, 3), (44, 4.6))),
    *((224, left, s) for left, s in ((16, 7.2), (83, 1.5), (52, 3), (42, 3.8))),
    *((150, left, s) for left, s in ((11, 7.1), (56, 1.5), (35, 3), (36, 2.9))),
]


@pytest.mark.parametrize(("dense", "left", "published"), PAIRS)
def test_layer_speedups_are_those_of_the_paper(dense, left, published):
    speedup = cost.SparseHardware().speedup(1 - left / dense)
    assert speedup == pytest.approx(published, rel=0.02)


def test_speedup_rises_between_the_published_points_and_saturates():
    hardware = cost.SparseHardware()
    speedups = [hardware.speedup(p / 1000) for p in range(1000)]
    assert speedups == sorted(speedups)
    assert hardware.speedup(0) == pytest.approx(0.15)
    assert hardware.speedup(0.999) == pytest.approx(8.75)


def test_a_curve_of_ones_own_is_linear_in_logarithms():
    hardware = cost.SparseHardware(((1.0, 0.5), (4.0, 2.0)))
    assert hardware.speedup(0.5) == pytest.approx(1)
    assert hardware.break_even_ratio == pytest.approx(2)
    assert cost.SparseHardware(((1.0, 1.0), (2.0, 2.0))).break_even_ratio == 1
    assert cost.SparseHardware(((1.0, 0.1), (2.0, 0.2))).break_even_ratio == math.inf


def test_without_overhead_the_speedup_is_the_pruning_ratio():
    hardware = cost.SparseHardware.proportional(1)
    assert hardware.speedup(0.75) == pytest.approx(4)
    assert cost.SparseHardware.proportional(2.5).break_even_ratio == pytest.approx(2.5)


def pruned_model():
    model = keras.Sequential(
        [
            keras.Input((10,)),
            L.Dense(10, use_bias=False, name="a"),
            L.Dense(10, use_bias=False, name="b"),
            L.Dense(10, use_bias=False, name="c"),
        ]
    )
    for name, kept in (("a", 9), ("b", 1), ("c", 0)):
        kernel = np.zeros((10, 10), "float32")
        kernel[:, :kept] = 1
        model.get_layer(name).set_weights([kernel])
    return cost.count(model)


def test_layers_that_do_not_pay_are_seen_and_restored():
    hardware, counted = cost.SparseHardware.proportional(2), pruned_model()
    speedups = hardware.layers(counted)
    assert speedups == {
        "a": pytest.approx(1 / 1.8),
        "b": pytest.approx(5),
        "c": math.inf,
    }
    assert hardware.model(counted) == pytest.approx(3 / (1 + 0.2 + 0))
    assert hardware.model(counted, restore=False) == pytest.approx(3 / (1.8 + 0.2 + 0))


# Table 9: layer speed-ups of AlexNet's convolutions, and of all five together.
TABLE_8 = {"conv1": 211, "conv2": 448, "conv3": 299, "conv4": 224, "conv5": 150}
TABLE_9 = {
    "ours 1": ((1, 7, 7.5, 7.2, 7.1), 3.6),
    "ours 2": ((1, 8.6, 9.0, 8.8, 8.6), 3.9),
    "Han": ((0.16, 1.4, 1.6, 1.5, 1.5), 0.64),
    "Mao": ((0.17, 2.6, 3, 3, 3), 0.81),
    "Wen": ((0.15, 2.9, 4.6, 3.8, 2.9), 0.77),
}


@pytest.mark.parametrize(("layers", "published"), TABLE_9.values(), ids=TABLE_9)
def test_overall_speedups_of_table_9(layers, published):
    speedups = dict(zip(TABLE_8, layers, strict=True))
    overall = cost.overall_speedup(TABLE_8, speedups)
    decimals = len(str(published).split(".")[1])
    assert round(overall, decimals) == published


@pytest.mark.parametrize("ratio", [0.5, math.nan, math.inf])
def test_bad_break_even_ratios_are_refused(ratio):
    with pytest.raises(ValueError, match="break_even_ratio"):
        cost.SparseHardware.proportional(ratio)


@pytest.mark.parametrize(
    "curve",
    [
        (),
        ((1, 1),),
        ((0.5, 1), (2, 2)),
        ((2, 1), (2, 2)),
        ((1, 2), (2, 1)),
        ((1, 0), (2, 1)),
    ],
)
def test_bad_curves_are_refused(curve):
    with pytest.raises(ValueError, match="`curve`"):
        cost.SparseHardware(curve)


@pytest.mark.parametrize("pruned", [-0.1, 1, math.nan])
def test_bad_fractions_are_refused(pruned):
    with pytest.raises(ValueError, match="pruned"):
        cost.SparseHardware().speedup(pruned)
