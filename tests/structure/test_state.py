"""State that is neither in configs nor in variables goes along with every edit."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers as L

import tfcompress as tfc

structure = tfc.structure


class Scale(L.Layer):
    """Learns a factor that its config does not tell."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.factor = 1.0
        self.memory = {}

    def adapt(self, value):
        self.factor = value
        self.memory = {"mean": np.array([value, 1.0])}
        self.object = lambda x: x + value

    def call(self, x):
        return self.object(x * self.factor) + self.memory["mean"][1]


class Table(L.Layer):
    """Keeps an array as an asset."""

    table = np.zeros(4, "float32")

    def save_assets(self, inner_path):
        np.save(f"{inner_path}/table.npy", self.table)

    def load_assets(self, inner_path):
        self.table = np.load(f"{inner_path}/table.npy")

    def call(self, x):
        return x + self.table


class Hidden(L.Layer):
    """Saves and loads an array beside its variables."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1],), name="w")
        self.secret = np.ones(shape[-1], "float32")

    def save_own_variables(self, store):
        store["w"] = np.array(self.w)
        store["secret"] = self.secret

    def load_own_variables(self, store):
        self.w.assign(store["w"])
        self.secret = np.array(store["secret"])

    def call(self, x):
        return x * self.w * keras.ops.convert_to_tensor(self.secret)


class Built(L.Layer):
    """Is built with more than the shapes of its inputs."""

    def build(self, shape, width=3):
        self.width = width
        self.w = self.add_weight(shape=(shape[-1], width), name="w")
        self.built = True

    def get_build_config(self):
        return {"shape": (None, self.w.shape[0]), "width": self.width}

    def build_from_config(self, config):
        self.build(config["shape"], config["width"])

    def call(self, x):
        return x @ self.w


def normalization(rng):
    layer = L.Normalization()
    layer.adapt(rng.normal(3, 5, size=(50, 4)))
    return layer


def in_time(rng):
    layer = L.TimeDistributed(normalization(rng))
    return lambda x: L.Reshape((4,))(layer(L.Reshape((1, 4))(x)))


def discretization(rng):
    layer = L.Discretization(num_bins=3)
    layer.adapt(rng.normal(size=(50,)))
    return lambda x: keras.ops.cast(layer(x), "float32")


def lookup(rng):
    layer = L.IntegerLookup(vocabulary=None, num_oov_indices=1)
    layer.adapt(np.array([0, 1, 2, 3, 3]))
    number = L.Lambda(lambda x: keras.ops.cast(keras.ops.abs(x * 2), "int64"))
    return lambda x: keras.ops.cast(layer(number(x)), "float32")


def scale(rng):
    layer = Scale()
    layer.adapt(2.5)
    return layer


def table(rng):
    layer = Table()
    layer.table = rng.normal(size=4).astype("float32")
    return layer


def hidden(rng):
    layer = Hidden()
    layer.build((None, 4))
    layer.secret = rng.normal(size=4).astype("float32")
    return layer


def built(rng):
    layer = Built()
    layer.build((None, 4), 5)
    return layer


def dropout(rng):
    return L.Dropout(0.5, seed=3)


def random_network(seed):
    """Inputs through layers with state, then two layers that can be pruned."""
    rng = np.random.default_rng(seed)
    kinds = [normalization, in_time, discretization, lookup, scale, table, hidden]
    kinds += [built, dropout]
    i = keras.Input((4,))
    parts = [kinds[n](rng)(i) for n in {seed % 9, *rng.choice(9, 2, replace=False)}]
    x = parts[0] if len(parts) == 1 else L.Concatenate()(parts)
    x = L.Dense(8, activation="relu", name="first")(x)
    x = L.BatchNormalization()(L.Dense(6, name="second")(x))
    model = keras.Model(i, L.Dense(3)(x))
    for layer in model.layers[-4:]:
        for variable in layer.weights:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


EDITS = {
    "wrap": lambda m: structure.wrap(m, {"first": lambda layer: layer}),
    "zero": lambda m: structure.zero_channels(m, {}),
    "remove": lambda m: structure.remove_channels(m, {"first": []}),
    "shrink": structure.shrink,
    "finalize": tfc.finalize,
    "fold": structure.fold_batch_norm,
    "insert": lambda m: structure.insert_after(m, {"first": L.Identity()}),
    "rewire": lambda m: structure.rewire(m, []),
}


@pytest.mark.parametrize("seed", range(9))
def test_every_edit_carries_state(seed):
    model = random_network(seed)
    x = np.random.default_rng(seed).normal(size=(5, 4)).astype("float32")
    expected = np.array(model(x))
    for name, edit in EDITS.items():
        edited = edit(model)
        np.testing.assert_allclose(edited(x), expected, 1e-4, 1e-4, err_msg=name)
    small = structure.remove_channels(model, {"first": [1], "second": [0, 5]})
    masked = structure.zero_channels(model, {"first": [1], "second": [0, 5]})
    assert small.get_layer("first").units == 7
    np.testing.assert_allclose(small(x), masked(x), 1e-4, 1e-4)
    narrow = structure.resize(model, {"first": 8, "second": 6})
    np.testing.assert_allclose(narrow(x), expected, 1e-4, 1e-4)


def test_vocabularies_with_weights():
    layer = L.TextVectorization(output_mode="tf_idf", max_tokens=8)
    layer.adapt(["a b c", "a b", "a"])
    i = keras.Input((1,), dtype="string")
    x = L.Dense(4, name="first")(layer(i))
    model = keras.Model(i, L.Dense(2)(x))
    text = keras.ops.convert_to_tensor([["a c"], ["b b x"]])
    np.testing.assert_array_equal(structure.wrap(model, {})(text), model(text))


def test_new_weights_keep_what_layers_adapted_to():
    words = L.StringLookup(output_mode="multi_hot")
    words.adapt(["a", "b"])
    numbers = L.Normalization()
    numbers.adapt(np.array([[90.0, 1.0], [110.0, 3.0]], "float32"))
    text, value = keras.Input((1,), dtype="string"), keras.Input((2,))
    read = L.Concatenate(name="read")([words(text), numbers(value)])
    x = L.Dense(4, activation="relu", name="first")(read)
    model = keras.Model([text, value], [read, L.Dense(2)(x)])
    small = structure.resize(model, {"first": 2}, weights="random")
    given = [
        keras.ops.convert_to_tensor([["a"], ["c"]]),
        keras.ops.convert_to_tensor([[110.0, 1.0], [100.0, 5.0]], "float32"),
    ]
    assert small.get_layer("first").units == 2
    np.testing.assert_array_equal(small(given)[0], model(given)[0])
    np.testing.assert_allclose(small(given)[0][:, -2:], [[1, -1], [0, 3]], 1e-5, 1e-5)


def test_activations_may_hold_a_tensor_of_float32():
    half = keras.ops.convert_to_tensor(0.5, "float32")
    i = keras.Input((4,))
    x = L.Dense(3, activation=lambda x: keras.ops.sigmoid(x) * half, name="first")(i)
    model = keras.Model(i, L.Dense(2)(x))
    small = structure.remove_channels(model, {"first": [1]})
    masked = structure.zero_channels(model, {"first": [1]})
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    np.testing.assert_allclose(small(x), masked(x), 1e-5, 1e-6)


def test_generators_of_noise_continue():
    i = keras.Input((4,))
    model = keras.Model(i, L.Dropout(0.5, seed=1)(L.GaussianNoise(1.0, seed=2)(i)))
    x = np.ones((64, 4))
    model(x, training=True)
    copy = structure.wrap(model, {})
    for _ in range(2):
        np.testing.assert_array_equal(copy(x, training=True), model(x, training=True))


def test_state_that_does_not_fit_a_narrower_copy_is_refused_by_name():
    class Narrowed(Hidden):
        pass

    i = keras.Input((4,))
    layer = Narrowed(name="hidden_state")
    model = keras.Model(i, L.Dense(2)(layer(L.Dense(6, name="first")(i))))
    structure.register_channelwise(Narrowed, "w")
    structure.wrap(model, {})
    with pytest.raises(ValueError, match="'hidden_state' of class Narrowed"):
        structure.remove_channels(model, {"first": [0]})


class Recorded(keras.layers.Layer):
    """Keeps its variables in a tuple and in records, as some layers do."""

    @dataclasses.dataclass(frozen=True)
    class Record:
        scale: keras.Variable

    def build(self, shape):
        self.both = tuple(self.add_weight(shape=(shape[-1],)) for _ in range(2))
        self.records = (self.Record(self.both[0]),)

    def call(self, x):
        return x * self.records[0].scale + self.both[1]


def test_variables_in_tuples_and_records_are_those_of_the_copy():
    model = keras.Sequential([keras.Input((4,)), Recorded(name="own")])
    for each in (tfc.structure.wrap(model, {"own": lambda layer: layer}), model):
        own = each.get_layer("own")
        assert len(own.variables) == 2
        held = [*own.both, own.records[0].scale]
        assert all(any(v is w for w in own.variables) for v in held)


class Tied(L.Layer):
    """Multiplies by the transposed weights of an embedding that it holds."""

    def __init__(self, to, **kwargs):
        super().__init__(**kwargs)
        self.to = to

    def call(self, x):
        return keras.ops.matmul(x, keras.ops.transpose(self.to.embeddings))

    def get_config(self):
        return {
            **super().get_config(),
            "to": keras.saving.serialize_keras_object(self.to),
        }

    @classmethod
    def from_config(cls, config):
        config["to"] = keras.saving.deserialize_keras_object(config["to"])
        return cls(**config)


def test_weights_that_two_layers_share_are_refused_by_name():
    def model(table, last):
        tokens = keras.Input((5,), dtype="int32")
        return keras.Model(tokens, last(L.Dense(4, name="hidden")(table(tokens))))

    table = L.Embedding(7, 4, name="table")
    tied = model(table, Tied(table, name="tied"))
    for inherit in ("inherit", "random"):
        with pytest.raises(ValueError, match=r"'table' and 'tied', which share"):
            structure.resize(tied, {}, weights=inherit, verify=False)
    # A method that trains asks before it does.
    tied.compile("sgd", "mse")
    pruning = tfc.callbacks.FilterPruning(0.5)
    with pytest.raises(ValueError, match=r"'table' and 'tied', which share"):
        tied.fit(np.zeros((2, 5), "int32"), np.zeros((2, 5, 7)), callbacks=[pruning])
    assert int(tied.optimizer.iterations) == 0
    # What the advice says: one layer, called twice, stays one layer.
    both = L.ReversibleEmbedding(7, 4, name="both")
    copy = structure.wrap(model(both, lambda x: both(x, reverse=True)), {})
    assert copy.count_params() == 7 * 4 + 5 * 4
