"""Models of classes of one's own, distillers, models of a distribution strategy."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import tfcompress as tfc
from tests.structure import graphs
from tfcompress.structure._graph import require_editable
from tfcompress.structure._rebuild import Rebuild
from tfcompress.structure._verify import verify
from tfcompress.structure._walk import trace

structure = tfc.structure
fit_shrinking = tfc.training.fit_shrinking


class Backbone(keras.Model):
    """Passes inputs and outputs to the constructor of `keras.Model`."""

    def __init__(self, width, **kwargs):
        i = keras.Input((6,))
        x = L.Dense(width, activation="relu", name="hidden")(i)
        super().__init__(inputs=i, outputs=L.Dense(3, name="out")(x), **kwargs)
        self.width = width


class Trained(Backbone):
    def train_step(self, data):
        return super().train_step(data)


class Doubled(Backbone):
    def call(self, inputs, training=None, mask=None):
        return 2.0 * super().call(inputs)


class Loss(keras.Model):
    def compute_loss(self, *args, **kwargs):
        return 2.0 * super().compute_loss(*args, **kwargs)


class Stack(keras.Sequential):
    def __init__(self, width):
        super().__init__([keras.Input((6,)), L.Dense(width, name="hidden"), L.Dense(3)])


@pytest.mark.parametrize(("kind", "plain"), [(Backbone, keras.Model), (Stack, None)])
def test_functional_subclasses_are_edited_and_become_plain(kind, plain):
    model = graphs.randomize(kind(8))
    small = structure.remove_channels(model, {"hidden": [0, 3]})
    assert small.get_layer("hidden").units == 6
    assert type(small).__module__.startswith("keras.")
    assert isinstance(small, plain or keras.Sequential)
    masked = structure.zero_channels(model, {"hidden": [0, 3]})
    inputs = graphs.random_inputs(model)
    assert graphs.largest_difference(masked, small, inputs) < 1e-6
    require_editable(model)


def test_functional_subclasses_inside_of_a_model_are_entered():
    i = keras.Input((6,))
    task = keras.Model(i, L.Dense(2)(Backbone(8, name="backbone")(i)))
    model = graphs.randomize(task)
    small = structure.remove_channels(model, {"hidden": [1], "out": [0]})
    inner = small.get_layer("backbone")
    assert inner.get_layer("hidden").units == 7 and inner.get_layer("out").units == 2
    masked = structure.zero_channels(model, {"backbone/hidden": [1], "out": [0]})
    inputs = graphs.random_inputs(model)
    assert graphs.largest_difference(masked, small, inputs) < 1e-6


def test_classes_without_a_constructor_stay():
    i = keras.Input((6,))
    model = Loss(i, L.Dense(3)(L.Dense(8, name="hidden")(i)))
    require_editable(model)
    assert type(structure.remove_channels(model, {"hidden": [0]})) is Loss


def test_a_graph_that_is_not_what_a_model_computes_is_refused():
    with pytest.raises(ValueError, match=r"Doubled, whose `call` is its own"):
        structure.shrink(Doubled(8))
    # Inside of a model it is a layer like others of unknown classes.
    i = keras.Input((6,))
    model = keras.Model(i, L.Dense(2)(Doubled(8, name="doubled")(i)))
    groups = structure.channel_groups(model)
    assert "Doubled" in groups.of("doubled").reason


def test_a_class_that_would_lose_how_it_trains_is_refused_for_training_only():
    model = Trained(8)
    with pytest.raises(ValueError, match=r"`net`.*Trained.*defines train_step"):
        require_editable(model, "net")
    small = structure.remove_channels(model, {"hidden": [0]})
    assert small.get_layer("hidden").units == 7
    with pytest.raises(TypeError, match="`net`"):
        require_editable("model", "net")


class Chain(keras.Sequential):
    def train_step(self, data):
        return super().train_step(data)


def test_a_chain_that_would_lose_how_it_trains_is_refused():
    first = L.Dense(8, activation="relu", name="hidden")
    chain = Chain([keras.Input((6,)), first, L.Dense(3)])
    assert type(structure.remove_channels(chain, {"hidden": [0]})) is Chain
    double = structure.Edit(first.output, (first.output,), L.Rescaling(2.0))
    with pytest.raises(ValueError, match=r"`model`.*Chain.*defines train_step"):
        structure.rewire(chain, [double])
    # Inside of another model its steps are not used.
    inputs = keras.Input((6,))
    around = keras.Model(inputs, L.Dense(2)(chain(inputs)))
    rewired = structure.rewire(around, [double])
    assert not isinstance(rewired.get_layer(chain.name), keras.Sequential)


class Sampling(L.Layer):
    """Draws from a normal distribution, as in a variational autoencoder."""

    def call(self, inputs):
        mean, variance = inputs
        return mean + tf.exp(0.5 * variance) * tf.random.normal(tf.shape(mean))


class Twice(L.Layer):
    def call(self, x):
        return 2.0 * x


def autoencoder():
    i = keras.Input((6,))
    hidden = L.Dense(8, activation="relu", name="hidden")(i)
    draw = Sampling(name="draw")([L.Dense(2, name=name)(hidden) for name in "mv"])
    middle = L.Dense(4, activation="relu", name="middle")(Twice()(draw))
    return graphs.randomize(keras.Model(i, L.Dense(6, name="out")(middle)))


def test_models_that_draw_random_numbers_are_edited():
    model = autoencoder()
    small = structure.remove_channels(model, {"hidden": [0, 3], "middle": [1]})
    assert small.get_layer("hidden").units == 6
    zeroed = structure.zero_channels(model, {"hidden": [0, 3]})
    assert tfc.finalize(zeroed).get_layer("hidden").units == 6
    assert tfc.quantization.prepare(model).get_layer("draw")


@pytest.mark.parametrize("name", ["m", "middle", "out"])
def test_what_is_not_random_is_checked_before_and_behind_what_is(name):
    model = autoencoder()
    rebuild = Rebuild(model, trace(model))
    verify(model, rebuild)
    bias = rebuild.model.get_layer(name).bias
    bias.assign_add(np.full(bias.shape, 10.0))
    with pytest.raises(structure.VerificationError, match=f"at '{name}'"):
        verify(model, rebuild)


def test_of_a_distiller_the_student_is_edited():
    teacher, student = Backbone(16, name="teacher"), Backbone(8, name="student")
    distiller = keras.distillation.Distiller(
        teacher, student, keras.distillation.LogitsDistillation()
    )
    assert structure.channel_groups(distiller).of("hidden").size == 8
    small = structure.remove_channels(distiller, {"hidden": [2]})
    assert small.get_layer("hidden").units == 7 and small.name == "student"
    assert student.get_layer("hidden").units == 8
    with pytest.raises(ValueError, match=r"Distiller.*edit its student"):
        require_editable(distiller)


STRATEGY = """
import json, keras, numpy as np, tensorflow as tf, tfcompress as tfc
from keras import layers as L
(cpu,) = tf.config.list_physical_devices("CPU")
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = keras.Sequential([keras.Input((6,)), L.Dense(8, name="hidden"),
                              L.BatchNormalization(), L.ReLU(), L.Dense(3)])
    model.compile(keras.optimizers.Adam(0.1), "mse")
x, y = np.ones((8, 6), "float32"), np.ones((8, 3), "float32")
model.fit(x, y, batch_size=4, verbose=0)
edits = {
    "zero": tfc.structure.zero_channels(model, {"hidden": [0]}),
    "remove": tfc.structure.remove_channels(model, {"hidden": [0]}),
    "random": tfc.structure.resize(model, {"hidden": 4}, weights="random"),
    "wrap": tfc.structure.wrap(model, {}),
    "fold": tfc.structure.fold_batch_norm(model),
}
found = {}
for name, edited in edits.items():
    kernel = edited.get_layer("hidden").kernel.value
    slots = [v for v in edited.optimizer.variables if "momentum" in v.path]
    found[name] = [edited.distribute_strategy.num_replicas_in_sync,
                   len(getattr(kernel, "values", [0])),
                   len(getattr(slots[0].value, "values", [0])) if slots else 2]
    if name == "remove":
        edited.fit(x, y, batch_size=4, verbose=0)
        iterations = keras.ops.convert_to_numpy(edited.optimizer.iterations)
        found["iterations"] = int(iterations)
print(json.dumps(found))
"""


def test_edited_models_stay_under_the_strategy_of_the_original():
    result = subprocess.run(
        [sys.executable, "-c", STRATEGY], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found.pop("iterations") == 4
    assert found == {key: [2, 2, 2] for key in found} and len(found) == 5


def halved(weights):
    return 0.5 * keras.ops.sum(weights**2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: L.Dense(3, kernel_regularizer=halved, name="first"),
        lambda: L.Dense(3, kernel_regularizer=lambda w: keras.ops.sum(w), name="first"),
        lambda: L.Dense(3, kernel_constraint=lambda w: 0.9 * w, name="first"),
        lambda: L.LSTM(3, activation=lambda x: keras.ops.tanh(x), name="first"),
    ],
)
def test_functions_that_nobody_registered_are_handed_over(make):
    first = make()
    i = keras.Input((5, 4) if isinstance(first, L.LSTM) else (4,))
    model = keras.Model(i, L.Dense(2)(first(i)))
    small = structure.shrink(structure.wrap(model, {}))
    x = np.random.default_rng(0).normal(size=(6, *i.shape[1:])).astype("float32")
    np.testing.assert_allclose(small(x), model(x), 1e-5, 1e-6)
    assert len(small.losses) == len(model.losses)


def test_what_cannot_be_copied_is_refused_before_training():
    class Inner(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(3)

        def call(self, x):
            return self.dense(x)

        def get_config(self):
            raise NotImplementedError("no configuration")

    i = keras.Input((4,))
    model = keras.Model(i, L.Dense(2)(Inner()(i)))
    model.compile("sgd", "mse")
    x = np.zeros((4, 4), "float32")
    with pytest.raises(ValueError, match="Inner cannot be created from its get_config"):
        fit_shrinking(model, x, x[:, :2], verbose=0)


def test_the_features_in_a_noise_shape_are_cut():
    i = keras.Input((3, 4))
    x = L.Dropout(0.5, noise_shape=(None, 1, 8))(L.Dense(8, name="first")(i))
    model = keras.Model(i, L.Dense(2)(x))
    small = structure.remove_channels(model, {"first": [0, 1]})
    small.compile("sgd", "mse")
    x = np.zeros((4, 3, 4), "float32")
    small.fit(x, x[..., :2], verbose=0)
