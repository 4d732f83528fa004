import sys

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress as tfc
from tfcompress.analysis import layer_energy, sensitivity, sweep


@keras.saving.register_keras_serializable(package="test_analysis")
class Half(layers.Layer):
    """A layer of the user's own."""

    def call(self, inputs):
        return 0.5 * inputs


@pytest.fixture(scope="module")
def model():
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, activation="relu", name="hidden"),
            Half(name="half"),
            layers.Dense(3, name="logits"),
        ],
        name="small",
    )


@pytest.fixture(scope="module")
def data(model):
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    labels = model.predict(x, verbose=0).argmax(-1)
    labels[:8] = (labels[:8] + 1) % 3
    return x, labels


def expected(model, data, name, keep):
    """Accuracy with the kernel entries where `keep` is False at zero."""
    kernel = model.get_layer(name).kernel
    before = kernel.numpy()
    kernel.assign(before * keep)
    accuracy = np.mean(model(data[0]).numpy().argmax(-1) == data[1])
    kernel.assign(before)
    return accuracy


def test_one_layer_is_pruned_at_a_time(model, data):
    before = model.get_weights()
    found = sensitivity(model, data, [0.75, 0.25], workers=1, verbose=False)
    assert found.kind == "rate" and found.amounts == (0.25, 0.75)
    assert found.baseline == 56 / 64
    for name in ("hidden", "logits"):
        sizes = np.abs(model.get_layer(name).kernel.numpy())
        for index, rate in enumerate(found.amounts):
            order = np.sort(sizes, axis=None)
            keep = sizes >= order[round(rate * sizes.size)]
            assert found.accuracy[name][index] == expected(model, data, name, keep)
            assert found.pruned[name][index] == pytest.approx(1 - keep.mean())
    assert min(found.accuracy["hidden"]) < found.baseline
    assert all(map(np.array_equal, before, model.get_weights()))


def test_factors_are_those_of_dynamic_surgery(model, data):
    found = sensitivity(model, data, factors=[0.8], workers=1, verbose=False)
    sizes = np.abs(model.get_layer("hidden").kernel.numpy())
    keep = sizes > 0.9 * (sizes.mean() + 0.8 * sizes.std())
    assert found.pruned["hidden"] == (pytest.approx(1 - keep.mean()),)
    assert found.accuracy["hidden"] == (expected(model, data, "hidden", keep),)


def test_processes_find_the_same(model, data, capsys):
    here = sensitivity(model, data, [0.5, 0.9], workers=1)
    assert "4/4" in capsys.readouterr().out
    assert sensitivity(model, data, [0.5, 0.9], workers=2, verbose=False) == here


def test_a_dataset_and_one_hot_labels_do_as_well(model, data):
    import tensorflow as tf

    arrays = sensitivity(model, data, [0.5], workers=1, verbose=False)
    batches = tf.data.Dataset.from_tensor_slices((data[0], np.eye(3)[data[1]])).batch(5)
    assert sensitivity(model, batches, [0.5], workers=1, verbose=False) == arrays


@pytest.fixture(scope="module")
def ray_cluster():
    """A cluster of two nodes that is there before the program connects to it."""
    ray = pytest.importorskip("ray", reason="tfcompress[ray] is not installed")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    yield ray
    ray.shutdown()
    cluster.shutdown()


def test_a_ray_cluster_finds_the_same(model, data, ray_cluster):
    assert len(ray_cluster.nodes()) == 2
    found = sensitivity(model, data, [0.5], engine="ray", verbose=False)
    assert found == sensitivity(model, data, [0.5], workers=1, verbose=False)


def test_a_ray_cluster_sweeps(ray_cluster):
    settings = {"rate": [0.2, 0.6], "seed": [0, 1, 2]}
    found = sweep(trainer(), settings, engine="ray", verbose=False)
    assert found == sweep(trainer(), settings, workers=1, verbose=False)


def test_ray_that_is_missing_is_named(model, data, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install tfcompress\[ray\]"):
        sensitivity(model, data, engine="ray")


def found(kind="rate"):
    return tfc.analysis.Sensitivity(
        model="net",
        baseline=0.9,
        kind=kind,
        amounts=(0.1, 0.5, 0.8),
        accuracy={"a": (0.9, 0.89, 0.6), "b": (0.5, 0.9, 0.9), "c": (0.9, 0.9, 0.9)},
        pruned=dict.fromkeys("abc", (0.1, 0.5, 0.8)),
    )


def test_the_largest_amount_within_a_loss():
    assert found().largest(0.011) == {"a": 0.5, "b": None, "c": 0.8}


def test_a_report_shows_it():
    curves, heatmap = found().curves(), found().heatmap()
    assert list(curves.series["a"]) == [(0.0, 0.9), (0.1, 0.9), (0.5, 0.89), (0.8, 0.6)]
    assert found("factor").curves().series["a"][0] == (0.1, 0.9)
    assert (heatmap.rows, heatmap.columns) == (["a", "b", "c"], ["0.1", "0.5", "0.8"])
    assert list(heatmap.values[0]) == [0.9, 0.89, 0.6]
    assert "rate 0.8" in str(found()) and "60.00" in str(found())


# Sweeps ---------------------------------------------------------------------------


def trainer(calls=None, *, fails=()):
    """Stands for a training function; local, so that it travels as it is."""

    def train(rate, seed):
        if calls is not None:
            calls.append((rate, seed))
        if rate in fails:
            raise RuntimeError(f"no luck\nat {rate}")
        return {"accuracy": 1 - rate**2 + 0.01 * seed, "macs": 100 * (1 - rate)}

    return train


def test_a_sweep_runs_every_combination(capsys):
    calls = []
    settings = {"rate": [0.5, 0.2], "seed": np.arange(2)}
    found = sweep(trainer(calls), settings, workers=1)
    assert calls == [(0.5, 0), (0.5, 1), (0.2, 0), (0.2, 1)]
    assert [tuple(setting.values()) for setting in found.settings] == calls
    assert found.errors == (None,) * 4
    assert found.best("accuracy") == 3 and found.best("macs", mode="min") == 0
    points = found.curves("macs", "accuracy").series["runs"]
    assert points[0] == (50.0, 0.75) and points[-1][0] == 80.0
    assert found.curves("rate", "accuracy").series["runs"][0][0] == 0.2
    assert "0.75" in str(found) and "4/4" in capsys.readouterr().out


def test_processes_sweep_alike():
    settings = {"rate": [0.2, 0.6], "seed": [1]}
    here = sweep(trainer(), settings, workers=1, verbose=False)
    assert sweep(trainer(), settings, workers=2, verbose=False) == here


def test_a_run_that_fails_does_not_stop_a_sweep(tmp_path):
    log = tmp_path / "runs.json"
    settings = {"rate": [0.2, 0.6], "seed": [0]}
    failing = trainer(fails=[0.6])
    found = sweep(failing, settings, workers=1, log_path=log, verbose=False)
    assert found.figures[0] is not None and found.figures[1] is None
    assert found.errors == (None, "RuntimeError: no luck")
    assert "RuntimeError: no luck" in str(found)
    assert found.best("accuracy") == 0
    # It is run again, the other one not; a new setting is.
    calls = []
    settings["seed"].append(1)
    again = sweep(trainer(calls), settings, workers=1, log_path=log, verbose=False)
    assert calls == [(0.2, 1), (0.6, 0), (0.6, 1)]
    assert again == sweep(trainer(), settings, workers=1, verbose=False)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"settings": {}}, ValueError, "`settings`"),
        ({"settings": {"rate": []}}, ValueError, "`settings`"),
        ({"settings": {"rate": 0.5}}, TypeError, "`settings`"),
        ({"settings": [0.5]}, TypeError, "`settings`"),
        ({"train": 0.5}, TypeError, "`train`"),
        ({"engine": "dask"}, ValueError, "`engine`"),
        ({"workers": 0}, ValueError, "`workers`"),
        ({"gpus": 1}, ValueError, "`gpus`"),
        ({"gpus": -1}, ValueError, "`gpus`"),
        ({"log_path": "runs.txt"}, ValueError, "`log_path`"),
    ],
)
def test_bad_arguments_of_a_sweep_are_refused(arguments, error, message):
    calls = []
    defaults = {"train": trainer(calls), "settings": {"rate": [0.1], "seed": [0]}}
    with pytest.raises(error, match=message):
        sweep(**defaults | arguments)
    assert not calls


def test_a_figure_that_no_run_returns_is_named():
    found = sweep(trainer(), {"rate": [0.1], "seed": [0]}, workers=1, verbose=False)
    with pytest.raises(ValueError, match=r"accuracy.*macs.*'loss'"):
        found.best("loss")


# Energy ---------------------------------------------------------------------------


def test_layer_energy_has_the_shares_of_the_paper():
    model = tfc.zoo.cross_stack("cifar10")
    shares = list(layer_energy(model, normalized=True).values())
    published = [0.023, 1, 0.5, 1, 0.5, 1, 0.125, 0.000]
    np.testing.assert_allclose(shares, published, atol=6e-4)


def test_layer_energy_of_pruned_and_approximated_layers(model):
    model = tfc.structure.wrap(model, {"half": lambda layer: layers.ReLU()})
    dense = layer_energy(model)
    assert list(dense) == ["hidden", "logits"]
    approximated = tfc.layers.wrap_kernels(
        model, lambda layer: tfc.layers.DrumMultiply(layer, 1, 5), layers=["hidden"]
    )
    energy = layer_energy(approximated)
    # 320 pJ against 961 pJ for a multiply–accumulate.
    assert energy["hidden"] / dense["hidden"] == pytest.approx(320 / 961, abs=1e-3)
    assert energy["logits"] == dense["logits"]
    masked = tfc.layers.wrap_kernels(model, tfc.layers.MaskedKernel)
    mask = masked.get_layer("hidden").masks[0].mask
    mask.assign(np.arange(32).reshape(4, 8) % 4 == 0)
    assert layer_energy(masked)["hidden"] == pytest.approx(dense["hidden"] / 4)
    whole = layer_energy(masked, products="computed")
    assert whole["hidden"] == pytest.approx(dense["hidden"])


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"rates": [1.5]}, ValueError, r"`rates`.*\[0, 1\]"),
        ({"rates": []}, ValueError, "at least one"),
        ({"rates": "0.5"}, TypeError, "`rates`"),
        ({"rates": [0.5], "factors": [0.5]}, ValueError, "`factors`"),
        ({"factors": [np.inf]}, ValueError, "`factors`"),
        ({"layers": ["hiden"]}, ValueError, "hiden"),
        ({"layers": ["half"]}, ValueError, "no trainable kernel"),
        ({"engine": "dask"}, ValueError, "`engine`"),
        ({"workers": 0}, ValueError, "`workers`"),
    ],
)
def test_bad_arguments_are_refused(model, data, arguments, error, message):
    with pytest.raises(error, match=message):
        sensitivity(model, data, **arguments)


def test_data_without_labels_are_refused(model, data):
    with pytest.raises(ValueError, match="inputs without labels"):
        sensitivity(model, data[0])


def test_models_that_do_not_choose_a_class_are_refused(data):
    one = keras.Sequential([keras.Input((4,)), layers.Dense(1, activation="sigmoid")])
    with pytest.raises(ValueError, match="two classes or more"):
        sensitivity(one, (data[0], data[1] > 0))
