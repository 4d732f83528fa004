"""What is checked before any work."""

import dataclasses

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tests.compression.conftest import network
from tfcompress.compression._compress import _check_model, checked_options
from tfcompress.compression._training import Lesson


def checked(**options):
    return checked_options(budget={"macs": 0.5}, **options)


def test_numbers_of_numpy_are_plain_ones_afterwards():
    options = checked(learning_rate=np.float32(0.5), epochs=np.int64(3), distillation=0)
    assert type(options.learning_rate) is float and type(options.epochs) is int
    assert options.distillation == 0


def test_a_criterion_is_a_name():
    with pytest.raises(TypeError, match="argument `criterion`"):
        checked(criterion=tfc.criteria.L2Norm())


def test_callbacks_are_a_list():
    model = network()
    model.compile("adam", "sparse_categorical_crossentropy")
    x = np.zeros((8, 8, 8, 1), "float32")
    with pytest.raises(TypeError, match="argument `callbacks`"):
        tfc.compress(
            model,
            (x, np.zeros(8)),
            budget={"macs": 0.5},
            callbacks=keras.callbacks.TerminateOnNaN(),
        )


class NotSaved(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 1e-3


def test_a_model_that_cannot_be_saved_is_refused_before_it_trains():
    model = network()
    model.compile(keras.optimizers.Adam(NotSaved()), "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=r"that Keras can save.*get_config"):
        _check_model(model)


def test_the_first_rate_is_that_of_the_optimizer():
    def lesson(**given):
        values = dict.fromkeys(field.name for field in dataclasses.fields(Lesson))
        return Lesson(**{**values, "rate_factor": 0.5, "callbacks": (), **given})

    decay = keras.optimizers.schedules.CosineDecay(
        0.0, 500, warmup_target=4e-2, warmup_steps=100
    )
    for rate in (4e-2, lambda: 4e-2, decay):
        optimizer = keras.optimizers.SGD(rate)
        assert lesson().first_rate(optimizer) == pytest.approx(2e-2)
    assert lesson(learning_rate=1.0).first_rate(optimizer) == 0.5
    several = keras.optimizers.MultiOptimizer(lambda variable: keras.optimizers.SGD())
    student = network()
    student.compile(several, "mse")
    assert lesson().cosine(student) == []
