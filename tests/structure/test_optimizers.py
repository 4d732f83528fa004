"""Training goes on in an edited model exactly as it would have in the original."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import optimizers as O

import tfcompress as tfc
from tfcompress.structure._edit import shrink_recorded

structure = tfc.structure


def network():
    i = keras.Input((6,))
    x = L.Dense(8, activation="relu", name="first")(i)
    x = L.BatchNormalization(name="norm")(x)
    return keras.Model(i, L.Dense(3, name="second")(x))


def gradients(model, seed):
    rng = np.random.default_rng(seed)
    return [
        keras.ops.convert_to_tensor(rng.normal(size=v.shape), "float32")
        for v in model.trainable_variables
    ]


def steps(model, seeds):
    for seed in seeds:
        model.optimizer.apply(gradients(model, seed), model.trainable_variables)


def values(model):
    everything = [*model.variables, *model.optimizer.variables]
    return [np.array(v) for v in everything]


def compiled(optimizer, model=None):
    model = model or network()
    optimizer = optimizer(model) if callable(optimizer) else optimizer
    model.compile(optimizer, "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def excluded(model):
    optimizer = O.AdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(
        var_list=[model.get_layer("first").kernel], var_names=["bias"]
    )
    return optimizer


def rate_changed(model):
    optimizer = O.SGD(0.1, momentum=0.9)
    optimizer.learning_rate = 0.025
    return optimizer


def by_function(model):
    first, second = O.Adam(0.1), O.SGD(0.2, momentum=0.9)
    return O.MultiOptimizer(lambda v: first if "first" in v.path else second)


def new_at_each_call(model):
    return O.MultiOptimizer(lambda v: O.Adam(0.1 if "kernel" in v.path else 0.01))


def by_pattern(model):
    chosen = {"first/.*": O.RMSprop(0.1), "norm/.*": O.Lion(0.01)}
    return O.MultiOptimizer(O.OptimizerMap(O.SGD(0.1, momentum=0.5), chosen))


class Dicts(O.Optimizer):
    """Keeps its slots in a dict, as optimizers of others do."""

    def __init__(self, learning_rate=0.1, **kwargs):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.boost = 1.0

    def build(self, variables):
        super().build(variables)
        self.slots = {
            self._var_key(v): self.add_variable_from_reference(v, name="slot")
            for v in variables
        }

    def update_step(self, gradient, variable, learning_rate):
        slot = self.slots[self._var_key(variable)]
        self.assign(slot, slot * 0.5 + gradient)
        self.assign_sub(variable, self.boost * learning_rate * slot)


def boosted(model):
    optimizer = Dicts(0.1)
    optimizer.boost = 3.0
    return optimizer


OPTIMIZERS = {
    "sgd": lambda m: O.SGD(0.1),
    "momentum": lambda m: O.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda m: O.Adam(0.1, amsgrad=True, clipnorm=0.5),
    "adamw": lambda m: O.AdamW(0.1, use_ema=True, ema_overwrite_frequency=2),
    "accumulation": lambda m: O.Adam(0.1, gradient_accumulation_steps=2),
    "adafactor": lambda m: O.Adafactor(0.1),
    "adadelta": lambda m: O.Adadelta(0.5),
    "adagrad": lambda m: O.Adagrad(0.1, global_clipnorm=1.0),
    "adamax": lambda m: O.Adamax(0.1, clipvalue=0.1),
    "ftrl": lambda m: O.Ftrl(0.1, l1_regularization_strength=0.01),
    "lamb": lambda m: O.Lamb(0.1),
    "lion": lambda m: O.Lion(0.01),
    "muon": lambda m: O.Muon(0.1, exclude_layers=["second"]),
    "nadam": lambda m: O.Nadam(0.1),
    "rmsprop": lambda m: O.RMSprop(0.1, momentum=0.5, centered=True),
    "schedule_free": lambda m: O.ScheduleFreeAdamW(0.1, warmup_steps=2),
    "schedule": lambda m: O.SGD(O.schedules.CosineDecay(0.1, 10), momentum=0.9),
    "function": lambda m: O.SGD(lambda: 0.05, momentum=0.9),
    "loss_scale": lambda m: O.LossScaleOptimizer(
        O.Adam(O.schedules.CosineDecay(0.1, 10)), 8.0, dynamic_growth_steps=2
    ),
    "excluded": excluded,
    "scaled_excluded": lambda m: O.LossScaleOptimizer(excluded(m)),
    "rate_changed": rate_changed,
    "by_function": by_function,
    "new_at_each_call": new_at_each_call,
    "by_pattern": by_pattern,
    "boosted": boosted,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.filterwarnings("error::UserWarning")
def test_a_copy_continues_bit_by_bit(name):
    model = compiled(OPTIMIZERS[name])
    steps(model, [1, 2, 3])
    copy = structure.wrap(model, {})
    assert copy.optimizer is not model.optimizer
    assert type(copy.optimizer) is type(model.optimizer)
    for before, after in zip(values(model), values(copy), strict=True):
        np.testing.assert_array_equal(before, after)
    kept = values(model)
    steps(copy, [4, 5, 6])
    for before, after in zip(kept, values(model), strict=True):
        np.testing.assert_array_equal(before, after)  # nothing is shared
    steps(model, [4, 5, 6])
    for before, after in zip(values(model), values(copy), strict=True):
        np.testing.assert_array_equal(before, after)
    assert any((a != b).any() for a, b in zip(kept, values(model), strict=True))


def test_every_optimizer_of_keras_is_here():
    tried = {type(make(network())) for make in OPTIMIZERS.values()}
    tried |= {O.Optimizer}
    public = [getattr(O, name) for name in dir(O)]
    kinds = {x for x in public if isinstance(x, type) and issubclass(x, O.Optimizer)}
    assert kinds <= tried


# Whose step looks at a variable as a whole, so that a narrower one differs.
_WHOLE = {"adam", "adagrad", "lamb", "muon", "adafactor"}


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - _WHOLE))
@pytest.mark.filterwarnings("error::UserWarning")
def test_a_smaller_model_takes_the_step_of_what_is_left(name):
    model = compiled(OPTIMIZERS[name])
    steps(model, [1, 2, 3])
    removed = structure.zero_channels(model, {"first": [1, 4]})
    shrunk = shrink_recorded(removed)
    assert shrunk.model.get_layer("first").units == 6
    small = shrunk.model
    given = gradients(removed, 4)
    cut = [
        keras.ops.convert_to_tensor(shrunk.cut(v, g), "float32")
        for v, g in zip(removed.trainable_variables, given, strict=True)
    ]
    removed.optimizer.apply(given, removed.trainable_variables)
    small.optimizer.apply(cut, small.trainable_variables)
    for variable in removed.trainable_variables:
        expected = shrunk.cut(variable, variable)
        np.testing.assert_allclose(shrunk.variable(variable), expected, rtol=1e-5)


def test_factored_slots_are_cut():
    model = compiled(lambda m: O.Adafactor(0.1))
    steps(model, [1, 2])
    small = structure.remove_channels(model, {"first": [1, 4]})
    old, new = model.optimizer, small.optimizer
    keep = [0, 2, 3, 5, 6, 7]
    # The kernel (6, 8): means over its rows and over its columns.
    np.testing.assert_array_equal(np.array(new._r[0]), np.array(old._r[0]))
    np.testing.assert_array_equal(np.array(new._c[0]), np.array(old._c[0])[keep])
    np.testing.assert_array_equal(np.array(new._r[-2]), np.array(old._r[-2])[keep])


def test_what_cannot_be_carried_is_named():
    class Odd(O.SGD):
        def build(self, variables):
            super().build(variables)
            self.pairs = [self.add_variable((2,), name="pair") for _ in range(7)]
            self.memory = object()

    model = compiled(Odd(0.1))
    with pytest.warns(UserWarning, match="'memory'.*'pairs'"):
        structure.wrap(model, {})

    class Stubborn(O.SGD):
        def __init__(self, must):
            super().__init__(0.1)

    model = compiled(Stubborn(1))
    with pytest.warns(UserWarning, match=r"not compiled.*Stubborn.*config"):
        assert not structure.wrap(model, {}).compiled


def test_settings_stay_where_the_optimizer_starts_anew():
    model = compiled(excluded)
    steps(model, [1])
    copy = structure.wrap(model, {}, carry_optimizer=False)
    copy.optimizer.build(copy.trainable_variables)
    assert int(copy.optimizer.iterations) == 0
    assert not copy.optimizer._use_weight_decay(copy.get_layer("first").kernel)
    assert copy.optimizer._use_weight_decay(copy.get_layer("norm").beta)
    assert not copy.optimizer._use_weight_decay(copy.get_layer("second").bias)
    assert copy.optimizer._use_weight_decay(copy.get_layer("second").kernel)
