"""Projections against brute force on small tensors, and at scale."""

import itertools
import time

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfcompress import constraints
from tfcompress.constraints import (
    BlockSparsity,
    Cardinality,
    ChannelSparsity,
    Combined,
    Levels,
    NOfM,
)

finite = st.floats(-8, 8, width=32)


def arrays(shape):
    return hnp.arrays(np.float32, shape, elements=finite)


def nearest_by_support(weights, supports):
    """Least squared error over all ways to zero what a support leaves out."""
    return min(
        float(np.sum(np.square(weights[~support], dtype=float))) for support in supports
    )


def error(weights, projected):
    return float(np.sum(np.square(weights.astype(float) - projected)))


def supports_of(pieces, count):
    """All masks that keep `count` of the given boolean pieces."""
    for chosen in itertools.combinations(pieces, count):
        yield np.any(chosen, axis=0)


def tiles(shape, rows, columns):
    for top in range(0, shape[0], rows):
        for left in range(0, shape[1], columns):
            piece = np.zeros(shape, bool)
            piece[top : top + rows, left : left + columns] = True
            yield piece


@given(arrays(6), st.integers(1, 6))
def test_cardinality_is_the_nearest_point(weights, count):
    projected = Cardinality(count=count).project(weights)
    pieces = [np.arange(6) == i for i in range(6)]
    best = nearest_by_support(weights, supports_of(pieces, count))
    assert error(weights, projected) == pytest.approx(best)
    assert np.count_nonzero(projected) <= count


@given(arrays((3, 4)), st.integers(1, 4))
def test_channel_sparsity_is_the_nearest_point(weights, count):
    projected = ChannelSparsity(count=count).project(weights)
    pieces = list(tiles((3, 4), 3, 1))
    best = nearest_by_support(weights, supports_of(pieces, count))
    assert error(weights, projected) == pytest.approx(best, abs=1e-5)
    assert np.count_nonzero(projected.any(axis=0)) <= count


@given(arrays((3, 5)), st.integers(1, 6))
def test_block_sparsity_is_the_nearest_point_also_at_the_edges(weights, count):
    projected = BlockSparsity(2, 2, count=count).project(weights)
    pieces = list(tiles((3, 5), 2, 2))
    best = nearest_by_support(weights, supports_of(pieces, count))
    assert error(weights, projected) == pytest.approx(best, abs=1e-5)
    assert sum(bool(projected[piece].any()) for piece in pieces) <= count


@given(arrays(7), st.integers(1, 3))
def test_n_of_m_is_the_nearest_point_also_in_the_last_group(weights, n):
    projected = NOfM(n, 3, axis=0).project(weights)
    for group in (slice(0, 3), slice(3, 6), slice(6, 7)):
        part, kept = weights[group], projected[group]
        dropped = np.sort(np.abs(part))[: max(0, part.size - n)]
        assert error(part, kept) == pytest.approx(
            float(np.sum(dropped.astype(float) ** 2)), abs=1e-5
        )
        assert np.count_nonzero(kept) <= n


def test_n_of_m_groups_input_channels_by_default():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 8, 2)).astype("float32")
    projected = NOfM(2, 4).project(kernel)
    per_group = (projected.reshape(3, 3, 2, 4, 2) != 0).sum(axis=3)
    assert (per_group == 2).all()


@settings(deadline=None)
@given(
    hnp.arrays(np.float32, st.integers(1, 8), elements=finite),
    st.sampled_from([1, 2, 3]),
)
def test_levels_step_beats_every_step_of_a_fine_grid(weights, bits):
    projection = Levels(bits)
    projected = projection.project(weights)
    magnitude = np.abs(weights[weights != 0]).astype(float)
    if not magnitude.size:
        assert not projected.any()
        return
    top = 2 ** (bits - 1)
    grid = np.linspace(magnitude.max() / top / 100, magnitude.max() * 1.01, 4000)
    level = np.clip(np.rint(magnitude[:, None] / grid), 1, top)
    of_grid = np.square(magnitude[:, None] - level * grid).sum(axis=0)
    # Rounding the step to float32 costs up to one part in 2^24 of the weights.
    slack = 1e-6 * float(np.sum(magnitude**2))
    assert error(weights, projected) <= of_grid.min() + slack


@given(arrays((4, 3)), st.integers(1, 4))
def test_levels_keeps_zeros_and_uses_only_its_levels(weights, bits):
    projection = Levels(bits)
    projected = projection.project(weights)
    assert np.array_equal(projected == 0, weights == 0)
    step = projection.best_step(weights)
    codes = projection.codes(weights, step)
    assert np.abs(codes).max() <= 2 ** (bits - 1)
    assert np.array_equal(projected, codes.astype("float32") * np.float32(step))


def test_levels_of_the_papers_figure_3():
    # Interval 0.5 and 3 bits: levels ±0.5 … ±2.
    projected = Levels(bits=3, step=0.5).project(np.array([0.0, 0.1, -0.8, 1.6, 9.0]))
    assert projected.tolist() == [0.0, 0.5, -1.0, 1.5, 2.0]


def test_levels_in_bins_agree_with_the_exact_search(monkeypatch):
    weights = np.random.default_rng(1).normal(size=4000)
    exact = Levels(bits=3).best_step(weights)
    monkeypatch.setattr(constraints, "_MAX_CANDIDATES", 100)
    assert Levels(bits=3).best_step(weights) == pytest.approx(exact, rel=1e-3)


def test_combined_prunes_first_then_quantizes_the_rest():
    weights = np.array([0.1, -1.0, 2.2, 0.2, 0.9])
    projected = Combined([Cardinality(count=3), Levels(bits=2)]).project(weights)
    assert np.array_equal(projected, Levels(bits=2).project(weights * [0, 1, 1, 0, 1]))
    assert np.count_nonzero(projected) == 3


@pytest.mark.parametrize(
    "weights, percentage, kept",
    [
        (34_800, 81, 28_190),
        (307_200, 20, 61_440),
        (884_700, 19, 168_090),
        (663_500, 20, 132_700),
        (442_400, 20, 88_480),
        (37_700_000, 2.8, 1_060_000),
        (16_800_000, 5.9, 990_000),
        (4_100_000, 9.3, 380_000),
    ],
)
def test_fractions_give_the_counts_of_the_papers_table_7(weights, percentage, kept):
    constraint = Cardinality(fraction=percentage / 100)
    assert constraint.kept(weights) == pytest.approx(kept, rel=0.006)


def test_network_scope_lets_layers_compete():
    small, large = np.array([0.1, 0.2]), np.array([[1.0, 2.0], [3.0, 0.15]])
    projected = Cardinality(count=4, scope="network").project_jointly([small, large])
    assert projected[0].tolist() == [0.0, 0.2]
    assert projected[1].tolist() == [[1.0, 2.0], [3.0, 0.0]]


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(200_000),
        np.ones(200_000),
        np.repeat([0.0, 0.5, 1.0], 70_000),
        np.random.default_rng(0).normal(size=200_000).astype("float32"),
        np.random.default_rng(0).normal(size=200_000).astype("float16"),
        np.sort(np.random.default_rng(0).normal(size=200_000)),
        np.r_[np.full(199_999, 1e-30), 1e30],
    ],
    ids=["zeros", "ones", "three-values", "normal", "half", "sorted", "outlier"],
)
@pytest.mark.parametrize("count", [1, 17, 70_000, 150_001, 199_999, 200_000])
def test_count_is_exact_whatever_the_distribution(values, count):
    projected = Cardinality(count=count).project(values)
    order = np.argsort(-np.abs(values), kind="stable")[:count]
    expected = np.zeros_like(values)
    expected[order] = values[order]
    assert np.array_equal(projected, expected)


def test_ties_go_to_the_first_weights():
    projected = Cardinality(count=2).project(np.array([1.0, -1.0, 1.0]))
    assert projected.tolist() == [1.0, -1.0, 0.0]


@pytest.mark.parametrize("projection", [Cardinality(count=1), NOfM(1, 3, axis=-1)])
def test_infinite_weights_that_go_become_zero(projection):
    weights = np.array([-np.inf, np.inf, 1.0])
    np.testing.assert_array_equal(projection.project(weights), [-np.inf, 0.0, 0.0])


def test_projection_may_write_over_its_input():
    weights = np.random.default_rng(0).normal(size=(40, 30))
    for projection in EXAMPLES:
        if not projection.joint:
            expected = projection.project(weights)
            scratch = weights.copy()
            projection.project_into(scratch, scratch)
            assert np.array_equal(scratch, expected)


EXAMPLES = [
    Cardinality(fraction=0.25),
    Cardinality(count=7, scope="network"),
    ChannelSparsity(count=2, axis=0),
    BlockSparsity(2, 3, fraction=0.5),
    NOfM(2, 4),
    Levels(3),
    Levels(2, step=0.25),
    Combined([NOfM(2, 4), Levels(2)]),
]


@pytest.mark.parametrize("projection", EXAMPLES, ids=repr)
def test_projection_is_idempotent_and_leaves_its_input_alone(projection):
    weights = np.random.default_rng(3).normal(size=(8, 6)).astype("float32")
    before = weights.copy()
    once = projection.project_jointly([weights])[0]
    assert np.array_equal(weights, before)
    assert np.array_equal(projection.project_jointly([once])[0], once)
    assert once.dtype == weights.dtype and once.shape == weights.shape


@pytest.mark.parametrize("projection", EXAMPLES, ids=repr)
def test_configuration_survives_serialization(projection):
    stored = keras.saving.serialize_keras_object(projection)
    restored = keras.saving.deserialize_keras_object(stored)
    assert restored == projection and hash(restored) == hash(projection)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Cardinality(), "exactly one"),
        (lambda: Cardinality(fraction=0.5, count=3), "exactly one"),
        (lambda: Cardinality(fraction=0.0), "fraction"),
        (lambda: Cardinality(fraction=1.5), "fraction"),
        (lambda: Cardinality(count=0), "count"),
        (lambda: Cardinality(count=3, scope="model"), "scope"),
        (lambda: NOfM(5, 4), "`n`"),
        (lambda: BlockSparsity(0, 4, count=1), "rows"),
        (lambda: Levels(0), "bits"),
        (lambda: Levels(9), "bits"),
        (lambda: Levels(2, step=-1.0), "step"),
        (lambda: Combined([Levels(2), Cardinality(count=1)]), "last"),
        (lambda: Combined([Levels(2)]), "two"),
        (lambda: ChannelSparsity(count=1, axis=3).project(np.ones((2, 2))), "axis"),
        (lambda: Cardinality(count=1).project(np.array([1.0, np.nan])), "NaN"),
        (lambda: Levels(2).project(np.array([1.0, np.nan])), "NaN"),
        (lambda: Levels(2).project(np.array([1.0, np.inf])), "infinity"),
        (lambda: Levels(2, step=1.0).project(np.array([1.0, -np.inf])), "infinity"),
        (lambda: ChannelSparsity(count=1).project(np.array([[np.nan]])), "NaN"),
        (lambda: Cardinality(count=1).project(np.ones(0)), "non-empty"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Cardinality(count="1"),
        lambda: Levels("2"),
        lambda: Levels(2).project(np.array([1, 2])),
        lambda: Levels(2).project([1.0]),
        lambda: Combined([Cardinality(count=1), "levels"]),
    ],
)
def test_bad_types_are_refused(make):
    with pytest.raises(TypeError, match="Invalid value"):
        make()


@pytest.mark.slow
def test_projection_of_138_million_weights_is_as_fast_as_a_partition():
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(138_000_000, dtype=np.float32)
    out = np.empty_like(weights)
    projection = Cardinality(fraction=0.05)
    kept = projection.kept(weights.size)
    ratios = []
    for _ in range(3):
        start = time.perf_counter()
        np.partition(np.abs(weights), weights.size - kept)
        middle = time.perf_counter()
        projection.project_into(weights, out)
        ratios.append((time.perf_counter() - middle) / (middle - start))
    assert np.count_nonzero(out) == kept
    assert min(ratios) <= 1.5
