"""How pruning is divided among the layers, and how little of it suffices."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

from tests.compression.conftest import network
from tfcompress import export
from tfcompress.compression import Budget, _search
from tfcompress.compression._measure import Meter
from tfcompress.compression._plan import (
    Filters,
    smallest_cut,
    smallest_share,
    spread_zeros,
    with_zeros,
)
from tfcompress.compression._sensitivity import Sensitivity, measure
from tfcompress.cost import count


@pytest.fixture(scope="module")
def filters():
    return Filters(network())


def test_every_group_keeps_two_channels_at_most_everything_else_goes(filters):
    assert filters.counts(0.0) == dict.fromkeys(filters.sizes, 0)
    everything = filters.counts(1.0)
    assert everything == {name: size - 2 for name, size in filters.sizes.items()}


def test_tilt_moves_pruning_to_later_layers(filters):
    first, last = filters.sizes
    even, tilted = filters.counts(0.5), filters.counts(0.5, 0.5)
    assert even[first] == even[last] == 8
    assert tilted[first] == 4 and tilted[last] == 12


@pytest.mark.parametrize("macs", [0.9, 0.5, 0.2, 0.05])
def test_the_smallest_cut_fits_and_one_channel_less_does_not(filters, macs):
    limit = macs * count(filters.without({})).macs

    def fits(counts):
        return count(filters.without(counts)).macs <= limit

    counts, reached = smallest_cut(filters, 0.0, fits)
    assert reached and fits(counts)
    fewer = {name: max(0, number - 1) for name, number in counts.items()}
    assert not fits(fewer)


def test_what_cannot_fit_is_said(filters):
    counts, reached = smallest_cut(filters, 0.0, lambda counts: False)
    assert not reached
    assert counts == filters.counts(1.0)


def test_savings_are_those_of_the_counts(filters):
    """c1: 64·9 for its own products, and 16·9·16 for those that read it."""
    own, readers = 64 * 9, 16 * 9 * 16
    total = 64 * 9 * 16 + 16 * 9 * 256 + 4 * 4 * 16 * 4
    savings = filters.savings({"macs": 1.0})
    assert savings["c1"] == pytest.approx((own + readers) / total)


def test_at_one_price_a_cheap_harmless_group_goes_first():
    filters = Filters(network())
    a, b = filters.sizes
    rising = np.linspace(0, 1, 16) ** 2
    filters.sensitivity = Sensitivity(
        {a: rising, b: 0.01 * rising}, {a: 1 / 16, b: 1 / 16}
    )
    # The price at which the harm of one more channel equals what it saves:
    # d/dk harm = 2k/225 (a), a hundredth of that (b), against price / 16.
    strength = (np.log10(0.01) + 6) / 12
    counts = filters.counts(strength)
    assert counts[a] == round(0.01 / 16 * 225 / 2)
    assert counts[b] == round(100 * 0.01 / 16 * 225 / 2)


def test_sensitivity_sees_what_matters(trained, data):
    """Filters of zeros do no harm; all else does, and the model is as before."""
    model = network()
    model.set_weights(trained.get_weights())
    model.compile("adam", "sparse_categorical_crossentropy")
    layer = model.get_layer("c2")
    kernel, bias = (np.array(w) for w in layer.get_weights())
    kernel[..., :8], bias[:8] = 0.0, 0.0
    layer.set_weights([kernel, bias])
    before = model.get_weights()
    result = measure(model, {"c1": 16, "c2": 16}, data, "l1", {})
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert result.harm["c2"].shape == (16,)
    np.testing.assert_allclose(result.harm["c2"][:9], 0.0, atol=1e-5)
    assert result.harm["c2"][15] > 0.1
    assert all((np.diff(curve) >= -1e-9).all() for curve in result.harm.values())
    assert keras.ops.all(keras.ops.isfinite(model(data[0])))


def test_the_smallest_share_fits_and_one_step_less_does_not():
    for limit in (0.0, 0.005, 0.37, 0.98):
        share, reached = smallest_share(0.98, 0.01, lambda s, least=limit: s >= least)
        assert reached and share >= limit > share - 0.0101
    assert smallest_share(0.98, 0.01, lambda share: False) == (0.98, False)


def test_zeros_go_where_weights_are_small():
    """The second kernel is a hundred times smaller: it loses its weights first."""
    model = network()
    small = model.get_layer("c2")
    small.kernel.assign(small.kernel * 0.01)
    even = spread_zeros(model, 0.3, uniform=True)
    assert even == {"c1": 0.3, "c2": 0.3, "out": 0.3}
    ranked = spread_zeros(model, 0.3, uniform=False)
    sizes = {name: model.get_layer(name).kernel.shape for name in ranked}
    counts = {name: int(np.prod(shape)) for name, shape in sizes.items()}
    zeros = sum(ranked[name] * count for name, count in counts.items())
    assert zeros == pytest.approx(0.3 * sum(counts.values()), abs=1)
    assert ranked["c2"] > 0.3 > ranked["c1"]
    sparse = with_zeros(model, ranked)
    for name, size in counts.items():
        kernel = keras.ops.convert_to_numpy(sparse.get_layer(name).kernel)
        assert (kernel == 0).sum() == round(ranked[name] * size)
    assert keras.ops.all(model.get_layer("c2").kernel != 0)


def test_a_target_that_counts_nothing_has_no_figure(tmp_path, monkeypatch):
    """Vela says 0 bytes of flash for a file of floats, all of which runs elsewhere."""
    budget = Budget(flash="40kB", target="ethos-u55-128")
    meter = Meter(budget, None, "horowitz_45nm", "computed")
    told = SimpleNamespace(flash=0.0, ram=0.0, latency=None)
    monkeypatch.setattr(export, "target", lambda file, target: told)
    file = tmp_path / "m.tflite"
    file.write_bytes(b"1234")
    assert meter.file_figures(file, strict=False) == {"size": 4.0}
    with pytest.raises(ValueError, match=r"argument `budget`.*'flash'"):
        meter.file_figures(file)


def test_a_database_that_another_process_is_making_is_opened_again(
    tmp_path, monkeypatch
):
    optuna = pytest.importorskip("optuna")
    from sqlalchemy.exc import IntegrityError

    real, failures = optuna.storages.get_storage, [1, 2]

    def busy(url):
        if failures:
            raise IntegrityError("INSERT", {}, Exception(f"made by {failures.pop()}"))
        return real(url)

    monkeypatch.setattr(optuna.storages, "get_storage", busy)
    monkeypatch.setattr(_search, "_PAUSE", 0.0)
    url = f"sqlite:///{tmp_path / 'search.db'}"
    arguments = {"seed": 0, "defaults": {"x": 1.0}, "ranges": {"x": (0.5, 2.0, False)}}
    engine = _search.optuna_engine(
        count=2, storage=url, folder=tmp_path, name="study", **arguments
    )
    first = engine.next({}, ())
    assert first.settings == {"x": 1.0}
    # What runs already is not handed out again; what is done is told.
    second = engine.next({}, {first.number})
    assert second.number == 1 and engine.next({}, {0, 1}) is None
    done = {0: {"worth": 0.5, "excess": 1.0}}
    assert engine.next(done, ()).number == 1
