"""What layers know beside their variables is in a packed file, or is named."""

import contextlib
import json
import os
import time
import warnings
import zlib

import keras
import numpy as np
import pytest
from keras import layers as L

from tests.export.test_tfcz import architecture_of, file_of, layer, record
from tfcompress.export import _layer_state, _tensors, tfcz
from tfcompress.export.tfcz import InvalidFileError, pack, unpack

register = keras.saving.register_keras_serializable(package="tests_of_packed_state")


@register
class Table(L.Layer):
    """Keeps an array in a file in a folder of its own."""

    table = np.zeros(4, "float32")

    def save_assets(self, inner_path):
        os.makedirs(f"{inner_path}/deep")
        np.save(f"{inner_path}/deep/table.npy", self.table)

    def load_assets(self, inner_path):
        self.table = np.load(f"{inner_path}/deep/table.npy")

    def call(self, x):
        return x + self.table


@register
class Hidden(L.Layer):
    """Saves an array beside its variable."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 40), initializer="normal")
        self.secret = np.ones(40, "float32")

    def save_own_variables(self, store):
        store["w"] = np.array(self.w)
        store["secret"] = self.secret

    def load_own_variables(self, store):
        self.w.assign(store["w"])
        self.secret = np.array(store["secret"])

    def call(self, x):
        return keras.ops.matmul(x, self.w) * self.secret


@register
class Noise(L.Layer):
    """Draws numbers at inference, too."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generator = keras.random.SeedGenerator(7)

    def call(self, x):
        return x + keras.random.normal((4,), seed=self.generator)


@register
class Forgetful(L.Layer):
    """Learns a factor that it does not save."""

    factor = 1.0

    def call(self, x):
        return x * self.factor


def normalization(rng):
    result = L.Normalization()
    result.adapt(rng.normal(3, 5, size=(50, 4)))
    return result


def in_time(rng):
    inner = L.TimeDistributed(normalization(rng))
    return lambda x: L.Reshape((4,))(inner(L.Reshape((1, 4))(x)))


def nested(rng):
    return keras.Sequential([keras.Input((4,)), normalization(rng), table(rng)])


def discretization(rng):
    result = L.Discretization(num_bins=3)
    result.adapt(rng.normal(size=(50,)))
    return result


def table(rng):
    result = Table()
    result.table = rng.normal(size=4).astype("float32")
    return result


def hidden(rng):
    result = Hidden()
    result.build((None, 4))
    result.secret = rng.normal(size=40).astype("float32")
    return result


def noise(rng):
    result = Noise()
    for _ in range(3):
        result(np.ones((1, 4)))
    return result


def dropout(rng):
    return L.Dropout(0.5)


KINDS = [normalization, in_time, nested, discretization, table, hidden, noise, dropout]


def random_network(seed):
    rng = np.random.default_rng(seed)
    i = keras.Input((4,))
    kinds = {seed % len(KINDS), *rng.choice(len(KINDS), 2)}
    parts = [keras.ops.cast(KINDS[n](rng)(i), "float32") for n in sorted(kinds)]
    x = parts[0] if len(parts) == 1 else L.Concatenate()(parts)
    return keras.Model(i, L.Dense(3)(L.Dense(8, activation="relu")(x)))


@pytest.mark.parametrize("seed", range(len(KINDS)))
def test_random_models_with_state_come_back(seed, tmp_path):
    model = random_network(seed)
    packed = pack(model, tmp_path / "model.tfcz")
    copy = unpack(tmp_path / "model.tfcz")
    x = np.random.default_rng(seed).normal(size=(5, 4)).astype("float32")
    for training in (False, True):  # dropout goes on with the same numbers
        expected, received = (np.array(m(x, training=training)) for m in (model, copy))
        np.testing.assert_allclose(received, expected, 1e-5, 1e-5)
    assert packed.bytes == (tmp_path / "model.tfcz").stat().st_size


def test_vocabularies_come_back(tmp_path):
    words = L.TextVectorization(output_mode="tf_idf", max_tokens=8)
    words.adapt(["a b c", "a b", "a"])
    number = L.IntegerLookup()
    number.adapt(np.array([3, 5, 5, 9]))
    text, count = keras.Input((), dtype="string"), keras.Input((1,), dtype="int64")
    lookup = keras.ops.cast(number(count), "float32")
    x = L.Concatenate()([words(text), lookup])
    model = keras.Model([text, count], L.Dense(2)(x))
    pack(model, tmp_path / "model.tfcz")
    copy = unpack(tmp_path / "model.tfcz")
    data = [
        keras.ops.convert_to_tensor(["a c", "b b x"]),
        keras.ops.convert_to_tensor([[5], [4]], "int64"),
    ]
    np.testing.assert_array_equal(copy(data), model(data))


def test_weights_that_a_layer_saves_itself_are_stored_once(tmp_path):
    def packed(kind):
        i = keras.Input((4,))
        keras.utils.set_random_seed(0)
        return pack(keras.Model(i, kind(i)), tmp_path / "model.tfcz")

    own = packed(Hidden())
    assert own.state_bytes < own.weight_bytes < 4 * 160 + 20
    assert packed(L.Dense(40)).state_bytes == 1


def test_packing_leaves_generators_and_memories_alone(tmp_path):
    i = keras.Input(batch_shape=(2, 5, 4))
    x = L.LSTM(3, stateful=True, unroll=True)(i)
    inner = Noise()
    model = keras.Model(i, L.Dense(2)(inner(L.Dense(4)(x))))
    model(np.ones((2, 5, 4)))
    memory = np.array(model.layers[1].states[0])
    state = np.array(inner.generator.state.value)
    pack(model, tmp_path / "model.tfcz")
    np.testing.assert_array_equal(model.layers[1].states[0], memory)
    np.testing.assert_array_equal(inner.generator.state.value, state)
    assert np.abs(memory).max() > 0


def test_what_is_learned_and_not_saved_is_refused_by_name(tmp_path):
    i = keras.Input((4,))
    forgetful = Forgetful(name="forgetful")
    model = keras.Model(i, L.Dense(2)(forgetful(L.Dense(4)(i))))
    pack(model, tmp_path / "model.tfcz")
    (tmp_path / "model.tfcz").unlink()
    forgetful.factor = 2.0
    with pytest.raises(ValueError, match=r"argument `model`.*layer 'forgetful'"):
        pack(model, tmp_path / "model.tfcz")
    assert not list(tmp_path.iterdir())


def test_inputs_that_are_places_in_a_table_are_compared(tmp_path):
    model = keras.Sequential([keras.Input((6,)), L.Embedding(2, 3), L.Flatten()])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pack(model, tmp_path / "model.tfcz")


# Malice ----------------------------------------------------------------------------


def part(number=0, kind=_layer_state.FILE, name="a.txt", content=b""):
    text = name.encode()
    head = _tensors.varint(number) + bytes([kind]) + _tensors.varint(len(text)) + text
    return b"\1" + head + content


def deflated(data):
    squeezed = zlib.compress(data)
    return _tensors.varint(len(squeezed)) + squeezed


@pytest.mark.parametrize(
    "state, message",
    [
        (b"\xff\xff\xff\x7f", "parts of state are announced"),
        (part(name="../a", content=deflated(b"x")), "no name of a file"),
        (part(name="/etc/a", content=deflated(b"x")), "no name of a file"),
        (part(name="a\\b", content=deflated(b"x")), "no name of a file"),
        (part(name="x" * 2000), "too long"),
        (part(content=deflated(b"x" * (1 << 25))), "larger than"),
        (part(content=b"\3abc"), "inflated"),
        (part(kind=9), "unknown kind"),
        (part(content=deflated(b"x")), "has no files"),
        (part(number=99, content=deflated(b"x")), "not there"),
        (part(kind=_layer_state.WEIGHT, content=b"\x09"), "not there"),
        (part(kind=_layer_state.ARRAY, content=record(support=1)), "no variables"),
        (part(kind=_layer_state.GENERATOR, content=record(support=1)), "generators"),
        (part(kind=_layer_state.ARRAY, content=record(shape=(2**40,))), "limit"),
    ],
)
def test_lies_about_state_are_named(state, message, tmp_path):
    model = json.dumps(json.loads(architecture_of(layer("Flatten")))).encode()
    (tmp_path / "bad.tfcz").write_bytes(file_of(model, state=state))
    with pytest.raises(InvalidFileError, match=message):
        unpack(tmp_path / "bad.tfcz")


def nest(depth):
    inner = layer("Activation", activation="relu")
    for _ in range(depth):
        inner = json.loads(architecture_of(inner))
    return json.dumps(inner).encode()


@pytest.mark.parametrize(
    "architecture",
    [
        architecture_of(*[layer("Activation", activation="relu")] * 500),
        architecture_of(*[layer("Reshape", target_shape=(1000, 1))])[:-3]
        + b","
        + ",".join(
            [json.dumps(layer("LSTM", units=1, return_sequences=True))] * 200
        ).encode()
        + b"]}}",
        architecture_of(
            *[json.loads(architecture_of(*[layer("ReLU")] * 100)) for _ in range(100)]
        ),
        nest(60),
    ],
    ids=["activations", "recurrent", "blocks", "nested"],
)
def test_a_small_file_costs_little_time(architecture, tmp_path):
    (tmp_path / "bad.tfcz").write_bytes(file_of(architecture))
    assert (tmp_path / "bad.tfcz").stat().st_size < 3000
    start = time.process_time()
    with contextlib.suppress(InvalidFileError):
        unpack(tmp_path / "bad.tfcz")
    assert time.process_time() - start < 8


def test_paths_that_cannot_be_are_refused_before_any_work():
    for path in ("a\0b.tfcz", "x" * 300 + ".tfcz"):
        with pytest.raises(ValueError, match="argument `path`"):
            pack(random_network(0), path)
    with pytest.raises(ValueError, match="argument `path`"):
        unpack("a\0b.tfcz")


def test_models_beyond_the_bounds_are_not_written(tmp_path):
    deep = keras.Sequential([keras.Input((2,)), L.ReLU()])
    for _ in range(tfcz._MAX_SEQUENTIAL):
        deep._layers.append(L.ReLU())
    with pytest.raises(ValueError, match=r"argument `model`.*layers"):
        pack(deep, tmp_path / "model.tfcz")
    assert not list(tmp_path.iterdir())


def test_what_is_inflated_is_bounded_also_where_nothing_is_left():
    packed = zlib.compress(b"0" * 100)
    assert _layer_state.inflate(packed, 100, "it") == b"0" * 100
    for most in (99, 0):
        with pytest.raises(ValueError, match="larger than"):
            _layer_state.inflate(packed, most, "it")
    assert _layer_state.inflate(zlib.compress(b""), 0, "it") == b""
