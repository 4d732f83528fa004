"""One reader of data: every kind of source means the same for every argument."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfcompress as tfc
from tfcompress._samples import (
    call_model,
    fixed_batch,
    inputs_of,
    random_samples,
    read,
    reusable,
    take_samples,
)

X = np.random.default_rng(0).normal(size=(300, 4)).astype("float32")
Y = np.arange(300) % 3
W = np.linspace(0, 1, 300)


def single():
    return keras.Sequential([keras.Input((4,), name="x"), layers.Dense(3)])


def double(kind=list):
    a, b = keras.Input((4,), name="a"), keras.Input((2,), name="b")
    inputs = {"a": a, "b": b} if kind is dict else kind((a, b))
    return keras.Model(inputs, layers.Dense(3)(layers.Concatenate()([a, b])))


class Batches(keras.utils.PyDataset):
    """Three batches of a PyDataset, which counts how often an epoch ended."""

    ended = 0

    def __len__(self):
        return 3

    def __getitem__(self, index):
        rows = slice(100 * index, 100 * (index + 1))
        return X[rows], Y[rows], W[rows]

    def on_epoch_end(self):
        self.ended += 1


class Endless(Batches):
    __len__ = None

    @property
    def num_batches(self):
        return None

    def __getitem__(self, index):
        return X[:50], Y[:50]


class Loader:
    """What PyTorch's DataLoader looks like: tuples have become lists."""

    def __len__(self):
        return 3

    def __iter__(self):
        return ([X[i : i + 100], Y[i : i + 100]] for i in range(0, 300, 100))


def dataset(*parts, size=100):
    return tf.data.Dataset.from_tensor_slices(parts).batch(size)


def everything(source):
    batches = list(source)
    inputs = [np.concatenate(a) for a in zip(*(b.inputs for b in batches), strict=True)]
    labels = [b.labels for b in batches]
    return inputs, None if labels[0] is None else np.concatenate(labels)


SOURCES = {
    "array": lambda: X,
    "list of one": lambda: [X],
    "dict": lambda: {"x": X, "unused": Y},
    "tuple of one": lambda: (X,),
    "labels": lambda: (X, Y),
    "weights": lambda: (X, Y, W),
    "no labels": lambda: (X, None),
    "nested lists": lambda: X.tolist(),
    "tensor": lambda: tf.constant(X),
    "tf.data": lambda: dataset(X, Y),
    "tf.data of dicts": lambda: dataset({"x": X}, Y),
    "tf.data of unknown length": lambda: dataset(X, Y).filter(lambda *_: True),
    "PyDataset": Batches,
    "generator": lambda: ((X[i : i + 100], Y[i : i + 100]) for i in (0, 100, 200)),
    "loader": Loader,
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_kind_of_source_gives_the_same_samples(name):
    source = read(single(), SOURCES[name]())
    for _ in range(2):  # also a second time
        (inputs,), labels = everything(source)
        np.testing.assert_array_equal(inputs, X)
        if labels is not None:
            np.testing.assert_array_equal(labels, Y)
    unlabeled = ("array", "list of one", "dict", "tuple of one", "no labels")
    unlabeled += ("nested lists", "tensor")
    assert source.labeled == (name not in unlabeled)


def test_a_set_stands_for_one_of_its_splits():
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten()])
    digits = tfc.data.load("digits")
    for split in ("train", "validation", "test"):
        (images,), labels = everything(read(model, digits, split=split))
        np.testing.assert_array_equal(images, getattr(digits, split).images)
        np.testing.assert_array_equal(labels, getattr(digits, split).labels)
    (images,), _ = everything(read(model, digits.test))
    np.testing.assert_array_equal(images, digits.test.images)
    with pytest.raises(ValueError, match=r"`data`.*validation split has samples"):
        read(model, tfc.data.load("digits", validation=0), split="validation")


@pytest.mark.parametrize("kind", [list, tuple, dict])
def test_several_inputs_are_a_list_or_a_dict(kind):
    model = double(kind)
    a, b = X, X[:, :2]
    pairs = {
        "list": [a, b],
        "dict": {"b": b, "a": a},
        "list and labels": ([a, b], Y),
        "tuple and labels": ((a, b), Y),
        "tf.data": dataset((a, b), Y),
        "tf.data of dicts": dataset({"a": a, "b": b}, Y),
        "loader": iter([[[a, b], Y]]),
        "lists in a generator": iter([[a, b]]),
    }
    for data in pairs.values():
        inputs, _ = everything(read(model, data))
        np.testing.assert_array_equal(inputs[0], a)
        np.testing.assert_array_equal(inputs[1], b)
    expected = keras.ops.convert_to_numpy(
        model({"a": a, "b": b} if kind is dict else [a, b])
    )
    np.testing.assert_allclose(call_model(model, [a, b])[0], expected, rtol=1e-5)


def test_a_tuple_is_never_several_inputs():
    with pytest.raises(ValueError, match=r"`data`.*\['a', 'b'\].*\(inputs, labels\)"):
        read(double(), (X, X[:, :2]))
    with pytest.raises(ValueError, match=r"list of 2 arrays of shapes.*tuple \(inputs"):
        read(single(), [X, X])
    with pytest.raises(ValueError, match="a tuple of 4 elements"):
        read(single(), (X, Y, W, W))


def test_labels_of_several_outputs_keep_their_structure():
    for labels in ((Y, W), [Y, W], {"one": Y, "two": W}):
        source = read(single(), (X, labels))
        first = source.first.labels
        assert type(first) is type(labels)
        assert [len(part) for part in keras.tree.flatten(first)] == [128, 128]
    _, labels = take_samples(single(), dataset(X, (Y, W)), limit=250)
    np.testing.assert_array_equal(labels[1], W[:250])


def test_nested_inputs_and_keys_that_are_not_the_names():
    a, b, c = (keras.Input((n,), name=f"i{n}") for n in (1, 2, 3))
    out = layers.Concatenate()([a, b, c])
    model = keras.Model([a, {"u": b, "v": c}], out)
    arrays = [X[:, :n] for n in (1, 2, 3)]
    for data in (
        [arrays[0], {"v": arrays[2], "u": arrays[1]}],
        arrays,
        {"i1": arrays[0], "i2": arrays[1], "i3": arrays[2]},
    ):
        inputs, _ = everything(read(model, data))
        for given, expected in zip(inputs, arrays, strict=True):
            np.testing.assert_array_equal(given, expected)


def test_a_last_axis_of_one_may_be_missing_or_left_over_as_in_fit():
    age, fare = keras.Input((1,), name="age"), keras.Input((), name="fare")
    outputs = layers.Concatenate()([age, layers.Reshape((1,))(fare)])
    table = keras.Model([age, fare], outputs)
    table.compile("sgd", "mse")
    columns = {"age": np.arange(8.0), "fare": np.arange(8.0)[:, None]}
    labels = np.zeros((8, 2))
    table.fit(columns, labels, verbose=0)
    batches = tf.data.Dataset.from_tensor_slices((columns, labels)).batch(4)
    for data in ((columns, labels), batches, (list(columns.values()), labels)):
        first, second = take_samples(table, data, limit=None)[0]
        np.testing.assert_array_equal(first, np.arange(8.0)[:, None])
        np.testing.assert_array_equal(second, np.arange(8.0))

    lone = keras.Sequential([keras.Input((1,), name="age"), layers.Dense(1)])
    for data in (
        np.arange(8.0),
        [np.arange(8.0)],
        iter([[np.arange(8.0), np.ones(8)]]),
    ):
        assert take_samples(lone, data, limit=None)[0][0].shape == (8, 1)
    # Samples one by one are still samples.
    assert read(lone, [np.ones(1), np.zeros(1)]).first.inputs[0].shape == (2, 1)
    with pytest.raises(ValueError, match=r"\(samples, 1\).*shape \(4, 2\)"):
        read(lone, np.ones((4, 2)))


def test_what_does_not_fit_is_named():
    cases = [
        (np.zeros((5, 3)), r"\(samples, 4\) for input 'x'.*\(5, 3\)"),
        ({"y": X}, r"Expected the inputs \['x'\].*\['unused', 'y'\]|\['y'\]"),
        ((X, Y[:5]), r"equally many"),
        (X[:0], "at least one sample"),
        (dataset(X).take(0), "at least one sample"),
        (iter([]), "at least one sample"),
    ]
    for data, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            read(single(), data, "calibration")
        assert "argument `calibration`" in str(error.value)
    for data in ("text", 3, None, object(), np.array(["a"] * 4), X.astype(complex)):
        with pytest.raises(TypeError, match="`data`"):
            read(single(), data)


def test_integer_inputs_take_whole_numbers_only():
    model = keras.Sequential([keras.Input((2,), dtype="int32"), layers.Embedding(9, 2)])
    (inputs,), _ = everything(read(model, np.array([[1.0, 2.0]])))
    assert inputs.dtype == np.int32
    with pytest.raises(ValueError, match=r"int32.*float64 with values that it cannot"):
        read(model, np.array([[1.5, 2.0]]))


def test_open_sizes_and_text():
    model = keras.Sequential([keras.Input((None, None, 1)), layers.Conv2D(2, 1)])
    stream = iter([np.zeros((2, 5, 4, 1)), np.zeros((1, 3, 3, 1))])
    source = read(model, stream)
    assert [batch.inputs[0].shape for batch in source] == [(2, 5, 4, 1), (1, 3, 3, 1)]
    with pytest.raises(ValueError, match="samples of one size"):
        take_samples(
            model, iter([np.zeros((2, 5, 4, 1)), np.zeros((1, 3, 3, 1))]), limit=9
        )
    text = keras.Input((1,), dtype="string", name="words")
    words = layers.TextVectorization(output_sequence_length=3, vocabulary=["cat"])
    model = keras.Model(text, words(text))
    for given in (np.array([["a cat"]]), tf.constant([["a cat"]]), [["a cat"]]):
        ((array,),) = call_model(model, read(model, given).first.inputs)
        np.testing.assert_array_equal(array, [1, 2, 0])
    with pytest.raises(TypeError, match=r"string for input 'words'.*float"):
        read(model, np.zeros((3, 1)))


def test_endless_sources_are_refused_or_bounded(monkeypatch):
    unknown = (np.zeros((10, 4)) for _ in itertools.count())
    wrapped = tf.data.Dataset.from_generator(
        lambda: (np.zeros((10, 4)) for _ in itertools.count()),
        output_signature=tf.TensorSpec((None, 4)),
    )
    for data in (dataset(X, Y).repeat(), Endless()):
        with pytest.raises(ValueError, match=r"`data`.*repeats for ever"):
            read(single(), data)
        inputs, labels = take_samples(single(), data, limit=350)
        assert len(inputs[0]) == len(labels) == 350
    monkeypatch.setattr(tfc._samples, "_MOST_SAMPLES", 200)
    with pytest.raises(ValueError, match="goes on"):
        read(single(), unknown)
    with pytest.raises(ValueError, match="200 samples and no end"):
        list(read(single(), wrapped))
    unknown = (np.zeros((10, 4)) for _ in itertools.count())
    assert len(take_samples(single(), unknown, limit=25)[0][0]) == 25
    monkeypatch.setattr(tfc._samples, "_MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="goes on"):
        reusable(iter([X[:100]]))


def test_the_end_of_an_epoch_belongs_to_fit():
    data = Batches()
    everything(read(single(), data))
    assert data.ended == 0


def test_a_model_of_a_fixed_batch_gets_whole_batches():
    inputs = keras.Input(batch_shape=(8, 4))
    model = keras.Model(inputs, keras.ops.reshape(inputs, (8, 2, 2)))
    assert fixed_batch(model) == 8
    with pytest.warns(UserWarning, match="last 4 samples of `data` are left out"):
        sizes = [len(batch) for batch in read(model, iter([X[:30], X[30:60]]))]
    assert sizes == [8] * 7
    with pytest.raises(ValueError, match=r"at least 8 samples.*3 samples"):
        read(model, X[:3])
    np.testing.assert_array_equal(
        call_model(model, [X[:11]])[0], X[:11].reshape(11, 2, 2)
    )


def test_running_a_model_leaves_its_memory_alone():
    inputs = keras.Input(batch_shape=(2, 3, 4))
    rnn = layers.GRU(5, stateful=True)
    model = keras.Model(inputs, rnn(inputs))
    data = np.random.default_rng(0).normal(size=(2, 3, 4))
    model(data)
    memory = np.array(rnn.states[0])
    (first,) = call_model(model, [np.concatenate([data, data])])
    np.testing.assert_array_equal(first[:2], first[2:])
    np.testing.assert_array_equal(rnn.states[0], memory)


def test_random_samples_fit():
    model = double(dict)
    inputs = random_samples(model, 7)
    assert [a.shape for a in inputs] == [(7, *spec.shape) for spec in inputs_of(model)]
    assert [spec.name for spec in inputs_of(model)] == ["a", "b"]


def test_inputs_and_labels_mean_the_same_to_every_method():
    """An autoencoder's labels are not a second batch."""
    inputs = keras.Input((4,))
    hidden = layers.Dense(6, activation="relu", name="code")(inputs)
    model = keras.Model(inputs, layers.Dense(4)(hidden))
    model.compile("sgd", "mse")
    targets = X + 1.0
    for data in ((X, targets), (X, targets, W), X, dataset(X, targets, size=77)):
        density = tfc.callbacks.ActivationDensity(data)
        model.fit(X, targets, callbacks=[density], epochs=1, verbose=0)
        code = keras.Model(inputs, hidden).predict(X, verbose=0)
        assert density.curve == [np.count_nonzero(code) / code.size]
