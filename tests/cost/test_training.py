"""Training cost against the papers' tables."""

import keras
import pytest
from keras import layers as L

from tfcompress import cost


def model(units):
    return keras.Sequential([keras.Input((10,)), L.Dense(units, use_bias=False)])


def test_a_step_takes_three_times_the_forward_pass():
    sizes = [cost.count(model(8)), cost.count(model(4))]
    spent = cost.training_cost(sizes, samples=100)
    assert spent.forward_macs == spent.backward_macs == spent.update_macs == 100 * 120
    assert spent.macs == 3 * 12_000
    assert spent.flops == 2 * spent.macs
    assert spent.epochs == 2


def test_weights_are_read_once_for_each_batch():
    sizes = [cost.count(model(8))]
    alone = cost.training_cost(sizes, samples=100)
    together = cost.training_cost(sizes, samples=100, batch_size=30)
    data, weights = 3 * (10 + 8), 4 * 80
    assert alone.memory_accesses == 100 * (data + weights)
    assert together.memory_accesses == 100 * data + 4 * weights


def test_a_history_tells_macs_but_no_memory_accesses():
    spent = cost.training_cost({"loss": [1.0, 0.5], "macs": [80, 40]}, samples=100)
    sizes = [cost.count(model(8)), cost.count(model(4))]
    assert spent.macs == cost.training_cost(sizes, samples=100).macs
    assert spent.memory_accesses is None
    assert "unknown" in str(spent)
    history = keras.callbacks.History()
    history.history = {"macs": [80, 40]}
    assert cost.training_cost(history, samples=100) == spent


def test_bad_training_sizes_are_refused():
    with pytest.raises(ValueError, match="macs"):
        cost.training_cost({"loss": [1.0]}, samples=100)
    with pytest.raises(ValueError, match="at least one"):
        cost.training_cost([], samples=100)
    with pytest.raises(TypeError, match="`sizes`"):
        cost.training_cost([3], samples=100)
    with pytest.raises(ValueError, match="`samples`"):
        cost.training_cost([cost.count(model(8))], samples=0)
    with pytest.raises(ValueError, match="`batch_size`"):
        cost.training_cost([cost.count(model(8))], samples=1, batch_size=0)


# Activation density, Tables I, II and IV: reductions and epochs as printed there.
COMPLEXITY = [
    ([1, 6.0], [100, 210], 135.0),  # ResNet18, CIFAR-10, net 1
    ([1, 6.0, 23.2], [100, 70, 210], 120.8),  # net 2
    ([1, 5.1], [25, 210], 66.2),  # ResNet18, CIFAR-100
    ([1, 4.7], [25, 60], 37.7),  # ResNet18, TinyImageNet
    ([1, 5.6, 27.4], [100, 70, 210], 120.2),  # VGG-19, CIFAR-10
    ([1, 5.3], [25, 210], 64.6),  # VGG-19, CIFAR-100
]


@pytest.mark.parametrize(("reductions", "epochs", "published"), COMPLEXITY)
def test_training_complexity_of_table_ii(reductions, epochs, published):
    # The reductions are rounded to one decimal, which moves the result by 0.1.
    complexity = cost.training_complexity(reductions, epochs)
    assert complexity == pytest.approx(published, abs=0.11)


def test_training_memory_complexity_of_table_iv():
    # VGG-19: the published value takes 70 epochs for the last network too.
    complexity = cost.training_memory_complexity([1, 3.1, 10.3], [100, 70, 70])
    assert complexity == pytest.approx(129.4, abs=0.05)


@pytest.mark.parametrize(
    ("reductions", "epochs"), [([1, 2], [3]), ([], []), ([0], [1]), ([1], [-1])]
)
def test_bad_complexities_are_refused(reductions, epochs):
    with pytest.raises(ValueError, match="Invalid value"):
        cost.training_complexity(reductions, epochs)


def test_pruning_while_training_saves_the_published_41_percent():
    rates = [0.8 * (epoch + 0.5) / 80 for epoch in range(80)]
    saving = cost.pruning_while_training_saving(rates, final=0.8)
    assert saving == pytest.approx(1 - 0.6 / 1.025)
    assert int(100 * saving) == 41
    # One percent after every epoch, as the paper's algorithm prunes.
    stepwise = [0.01 * epoch for epoch in range(80)]
    saving = cost.pruning_while_training_saving(stepwise, final=0.8)
    assert round(100 * saving) == 41


def test_quadratic_counts_save_more():
    rates = [0.8 * (epoch + 0.5) / 80 for epoch in range(80)]
    saving = cost.pruning_while_training_saving(
        rates, final=0.8, size=lambda p: (1 - p) ** 2
    )
    # The integral of (1 - 0.8 t)² over [0, 1] is (1 - 0.2³) / 2.4.
    exact = 1 - (1 - 0.2**3) / 2.4 / (1 + 0.2**2 / 8)
    assert saving == pytest.approx(exact, abs=1e-4)


def test_bad_savings_are_refused():
    for arguments in (
        {"rates": [], "final": 0.8},
        {"rates": [1.2], "final": 0.8},
        {"rates": [0.1], "final": -1},
        {"rates": [0.1], "final": 0.8, "retraining_epochs": -1},
    ):
        with pytest.raises(ValueError, match="Invalid value"):
            cost.pruning_while_training_saving(**arguments)


def test_ten_epochs_of_retraining_take_21_hours():
    """Section V of the paper on pruning while training: 7,680 s an epoch."""
    hours = cost.training_latency(10, batches=1, batch_seconds=7680) / 3600
    assert round(hours, 1) == 21.3


def test_latency_is_that_of_batches_and_one_ranking_an_epoch():
    seconds = cost.training_latency(
        80, batches=391, batch_seconds=0.1, ranking_seconds=3.3
    )
    assert seconds == pytest.approx(80 * (39.1 + 3.3))
    with pytest.raises(ValueError, match="`ranking_seconds`"):
        cost.training_latency(1, batches=1, batch_seconds=1, ranking_seconds=-1)
