"""Size, work and energy in the logs of a training."""

import csv
import time

import keras
import numpy as np
import pytest
from keras import layers as L

import tfcompress as tfc


def network():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            L.Conv2D(8, 3, name="conv1"),
            L.ReLU(),
            L.Conv2D(8, 3, name="conv2"),
            L.Flatten(),
            L.Dense(3, activation="softmax"),
        ]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def data(samples=16):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(samples, 8, 8, 1)).astype("float32")
    return x, generator.integers(0, 3, samples)


def test_logs_follow_the_pruning():
    model = network()
    pruning = tfc.callbacks.FilterPruning({"conv1": tfc.schedules.OneShot(0.5, at=1)})
    metrics = tfc.callbacks.CompressionMetrics()
    history = model.fit(
        *data(), epochs=2, verbose=0, callbacks=[pruning, metrics]
    ).history
    small = tfc.cost.count(tfc.structure.shrink(model))
    # 4 of the first 8 filters, 9 elements each.
    weights = 9 * 8 + 9 * 8 * 8 + 16 * 8 * 3
    assert history["sparsity"] == pytest.approx([0, 4 * 9 / weights])
    assert history["macs"] == [tfc.cost.count(network()).macs, small.macs]
    assert history["parameters"] == [model.count_params(), small.parameters]
    energies = [tfc.cost.energy(cost).total for cost in metrics.costs]
    assert history["energy"] == pytest.approx(energies)
    assert energies[1] == pytest.approx(tfc.cost.energy(small).total)


def test_training_cost_follows_from_the_epochs():
    model, metrics = network(), tfc.callbacks.CompressionMetrics()
    history = model.fit(*data(), epochs=3, verbose=0, callbacks=[metrics])
    spent = tfc.cost.training_cost(metrics.costs, samples=16)
    assert spent.macs == 3 * 16 * 3 * tfc.cost.count(model).macs
    assert tfc.cost.training_cost(history, samples=16).macs == spent.macs


def test_a_model_that_shrinks_on_the_way_is_followed():
    pruning = tfc.callbacks.FilterPruning(tfc.schedules.Linear(0, 0.5, begin=0, end=2))
    metrics = tfc.callbacks.CompressionMetrics()
    small = tfc.training.fit_shrinking(
        network(), *data(), epochs=3, callbacks=[pruning, metrics], verbose=0
    )
    macs = small.history.history["macs"]
    assert macs[0] > macs[1] > macs[2] == tfc.cost.count(small).macs
    assert [cost.macs for cost in metrics.costs] == macs
    again = tfc.callbacks.CompressionMetrics()
    again.set_state(metrics.get_state())
    again.set_model(small)
    again.on_train_begin()
    assert again.costs == metrics.costs


def test_csv_files_get_the_figures(tmp_path):
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    metrics = tfc.callbacks.CompressionMetrics(hardware=None)
    network().fit(*data(), verbose=0, callbacks=[metrics, logger])
    (row,) = csv.DictReader((tmp_path / "log.csv").open())
    assert {"sparsity", "parameters", "macs"} <= row.keys()
    assert "energy" not in row


def test_an_epoch_loses_less_than_one_percent():
    model, samples = network(), data(1024)
    metrics = tfc.callbacks.CompressionMetrics()
    model.fit(*samples, batch_size=1, verbose=0, callbacks=[metrics])
    metrics.on_train_begin()

    def seconds(function, times):
        begin = time.process_time()
        for _ in range(times):
            function()
        return (time.process_time() - begin) / times

    epoch = seconds(lambda: model.fit(*samples, batch_size=1, verbose=0), 1)
    assert seconds(lambda: metrics.on_epoch_end(0, {}), 5) < 0.01 * epoch


def test_the_callback_round_trips():
    metrics = tfc.callbacks.CompressionMetrics("cross_stack_65nm")
    again = type(metrics).from_config(metrics.get_config())
    assert again.get_config() == {"hardware": "cross_stack_65nm"}


def test_bad_arguments_are_refused_before_training():
    with pytest.raises(ValueError, match="horowitz_45nm"):
        tfc.callbacks.CompressionMetrics("abacus")
    with pytest.raises(TypeError):
        tfc.callbacks.CompressionMetrics(45)

    class Subclassed(keras.Model):
        def call(self, x):
            raise AssertionError("no step may run")

    model = Subclassed()
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="subclassed"):
        model.fit(*data(), verbose=0, callbacks=[tfc.callbacks.CompressionMetrics()])
