"""Runs that are resumed read the passes that come next, also without TensorFlow."""

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress.constraints import Cardinality
from tfcompress.data._pipeline import _Batches
from tfcompress.training import AdmmPhase, admm_compress, fit_shrinking

EPOCHS = 4


class Seen(_Batches):
    """What `Dataset.pipeline` makes without TensorFlow; notes the passes."""

    def __init__(self):
        images = np.random.default_rng(0).random((12, 8, 8, 1)).astype("float32")
        super().__init__(images, np.arange(12) % 3, 4, "shift", True, 1, 0, False)
        self.seen = set()

    def __getitem__(self, index):
        self.seen.add(self._epoch)
        return super().__getitem__(index)


class Stop(keras.callbacks.Callback):
    """Ends a run after some epochs."""

    def __init__(self, left):
        super().__init__()
        self.left = left

    def on_epoch_begin(self, epoch, logs=None):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1


def network():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(3, name="out")]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    return model


def shrinking(**options):
    def run(data, folder, epochs=EPOCHS):
        model = fit_shrinking(
            network(),
            data,
            epochs=EPOCHS,
            callbacks=[Stop(epochs)],
            backup_dir=folder,
            verbose=0,
            **options,
        )
        return model.get_weights()

    return run


def admm(data, folder, epochs=EPOCHS):
    phase = AdmmPhase(Cardinality(fraction=0.5), admm_epochs=2, retrain_epochs=2)
    result = admm_compress(
        network(),
        [phase],
        data,
        callbacks=[Stop(epochs)],
        backup_dir=folder,
        shuffle=False,
        verbose=0,
    )
    return result.model.get_weights()


RUNS = {
    "in order": shrinking(shuffle=False),
    "in another order": shrinking(),
    "two passes in three epochs": shrinking(shuffle=False, steps_per_epoch=2),
    "admm_compress": admm,
}


@pytest.mark.filterwarnings("ignore:The training data ended")
@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_sees_the_passes_that_follow(name, tmp_path):
    data = Seen()
    whole = RUNS[name](data, None)
    assert len(data.seen) > 1  # different passes, so that it matters
    with pytest.raises(KeyboardInterrupt):
        RUNS[name](Seen(), tmp_path, epochs=EPOCHS - 1)
    resumed = RUNS[name](Seen(), tmp_path)
    for one, two in zip(resumed, whole, strict=True):
        np.testing.assert_array_equal(one, two)
