"""Gates on whole models: where they go, and what finalizing leaves of them."""

import functools
import re

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L

import tfcompress as tfc
from tests.structure import graphs
from tfcompress.structure._branches import branches

POSITIONS = ("before", "middle", "after")


@pytest.fixture
def float64():
    keras.config.set_dtype_policy("float64")


def resnet(blocks=2):
    """Plain and projecting blocks, as in the zoo, on 8×8 images."""
    x = i = keras.Input((8, 8, 3))
    x = L.Conv2D(6, 3, padding="same", activation="relu", name="stem")(x)
    for n in range(1, blocks + 1):
        filters, strides = 6 if n == 1 else 4, 2 if n == 2 else 1
        y = L.Conv2D(filters, 3, strides, padding="same", name=f"conv{n}_1")(x)
        y = L.ReLU(name=f"relu{n}")(L.BatchNormalization(name=f"bn{n}_1")(y))
        y = L.Conv2D(filters, 3, padding="same", name=f"conv{n}_2")(y)
        y = L.BatchNormalization(name=f"bn{n}_2")(y)
        if strides > 1:
            x = L.Conv2D(filters, 1, strides, name=f"shortcut{n}")(x)
        x = L.ReLU()(L.Add(name=f"add{n}")([y, x]))
    return keras.Model(i, L.Dense(3)(L.GlobalAveragePooling2D()(x)))


def mobilenet():
    """Inverted residuals with depthwise convolutions and ReLU6."""
    x = i = keras.Input((8, 8, 3))
    x = L.Conv2D(5, 3, padding="same", name="stem")(x)
    for n in range(1, 3):
        y = L.ReLU(6.0)(L.BatchNormalization()(L.Conv2D(9, 1, name=f"expand{n}")(x)))
        y = L.DepthwiseConv2D(3, padding="same", name=f"depthwise{n}")(y)
        y = L.ReLU(6.0)(L.BatchNormalization()(y))
        y = L.BatchNormalization()(L.Conv2D(5, 1, name=f"project{n}")(y))
        x = L.Add(name=f"add{n}")([x, y])
    return keras.Model(i, L.Dense(3)(L.Flatten()(x)))


def preactivated():
    """Normalization and activation come first; a sigmoid does not keep zero."""
    x = i = keras.Input((8, 8, 3))
    x = L.Conv2D(6, 3, padding="same", name="stem")(x)
    for n in range(1, 3):
        y = L.Activation("sigmoid")(L.BatchNormalization()(x))
        y = L.Conv2D(7, 3, padding="same", name=f"conv{n}_1")(y)
        y = L.Activation("sigmoid")(L.BatchNormalization()(y))
        y = L.Conv2D(6, 3, padding="same", name=f"conv{n}_2")(y)
        x = x + y
    return keras.Model(i, L.Dense(3)(L.GlobalAveragePooling2D()(x)))


def excited():
    """A branch whose channels are scaled by all of them (squeeze and excite)."""
    x = i = keras.Input((8, 8, 3))
    x = L.Conv2D(6, 3, padding="same", name="stem")(x)
    y = L.Conv2D(8, 3, padding="same", activation="relu", name="expand")(x)
    s = L.GlobalAveragePooling2D(keepdims=True)(y)
    s = L.Conv2D(8, 1, activation="sigmoid", name="excite")(s)
    y = L.Conv2D(6, 1, name="project")(L.Multiply()([y, s]))
    x = L.Add(name="add")([x, y])
    return keras.Model(i, L.Dense(3)(L.GlobalAveragePooling2D()(x)))


def nested():
    """The residual blocks are models inside a model, one of them used twice."""
    i = keras.Input((8, 8, 6))
    y = L.Conv2D(4, 3, padding="same", activation="relu", name="one")(i)
    y = L.Conv2D(6, 3, padding="same", name="two")(y)
    block = keras.Model(i, L.Add(name="add")([i, y]), name="block")
    i = keras.Input((8, 8, 3))
    x = L.Conv2D(6, 3, padding="same", name="stem")(i)
    x = block(block(x))
    return keras.Model(i, L.Dense(3)(L.GlobalAveragePooling2D()(x)))


def transformer():
    """Attention and a feed-forward part, on sequences."""
    i = keras.Input((6, 8))
    y = L.LayerNormalization()(i)
    x = L.Add(name="attended")([i, L.MultiHeadAttention(2, 4, name="mha")(y, y)])
    y = L.Dense(12, activation="gelu", name="wide")(L.LayerNormalization()(x))
    x = L.Add(name="fed")([x, L.Dense(8, name="narrow")(y)])
    return keras.Model(i, L.Dense(3)(L.GlobalAveragePooling1D()(x)))


MODELS = {
    f.__name__: f
    for f in (resnet, mobilenet, preactivated, excited, nested, transformer)
}


def gated(model, kind):
    if kind == "layer":
        return tfc.gates.add_layer_gates(model)
    return tfc.gates.add_channel_gates(model, kind, depth=0)


@functools.cache
def randomly_weighted(name, kind):
    """A gated model in float64 with random weights, built once."""
    keras.config.set_dtype_policy("float64")
    return gated(graphs.randomize(MODELS[name](), 3), kind)


def decide(model, decisions):
    """Makes every gate decide the same for all inputs."""
    for gate, keep in zip(tfc.gates.gates_of(model).values(), decisions, strict=True):
        gate._logits.kernel.assign(0.0 * gate._logits.kernel)
        gate._logits.bias.assign(np.where(keep, 1.0, -1.0))


def widths(model):
    return [gate._logits.units for gate in tfc.gates.gates_of(model).values()]


def samples(model, n=3):
    return np.random.default_rng(1).normal(size=(n, *model.input_shape[1:]))


def openings_of(model, decisions):
    """What `measure` would say of gates that decide so."""
    names = tfc.gates.gates_of(model)
    ratios = (np.asarray(keep, "float64") for keep in decisions)
    return tfc.gates.Openings(dict(zip(names, ratios, strict=True)), samples=1)


def check_finalized(model, decisions, measured=True):
    """Finalized and gated models agree, and no gate is left."""
    decide(model, decisions)
    x = samples(model)
    if measured:
        small = tfc.finalize(model, x)
    else:
        small = tfc.gates.resolve(model, openings_of(model, decisions), verify=False)
    np.testing.assert_allclose(small(x), model(x), rtol=0, atol=1e-10)
    modules = {type(layer).__module__ for layer in small._flatten_layers()}
    assert not any(module.startswith("tfcompress") for module in modules)
    assert not any("gate" in layer.name for layer in small._flatten_layers())
    return small


# What is finalized -----------------------------------------------------------------


def test_branches_that_do_not_train_get_a_gate_by_name_only():
    model = resnet()
    model.get_layer("conv1_1").trainable = False
    assert list(tfc.gates.gates_of(tfc.gates.add_layer_gates(model))) == [
        "add2_layer_gate"
    ]
    gated = tfc.gates.add_channel_gates(model, layers=["add1"])
    assert list(tfc.gates.gates_of(gated)) == ["add1_channel_gate"]
    model.trainable = False
    with pytest.raises(ValueError, match="add1: does not train"):
        tfc.gates.add_layer_gates(model)


@pytest.mark.parametrize("kind", ["layer", *POSITIONS])
@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=2)
@given(data=st.data())
def test_finalized_equals_gated_for_random_decisions(name, kind, data):
    model = randomly_weighted(name, kind)
    keras.config.set_dtype_policy("float64")
    decisions = [
        np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
        for n in widths(model)
    ]
    check_finalized(model, decisions, measured=False)


@pytest.mark.parametrize("kind", ["layer", *POSITIONS])
@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
@pytest.mark.parametrize("open_", [False, True])
def test_all_gates_open_and_all_gates_closed(float64, name, kind, open_):
    plain = graphs.randomize(MODELS[name](), 3)
    model = gated(plain, kind)
    small = check_finalized(model, [np.full(n, open_) for n in widths(model)])
    macs = tfc.cost.count(plain).macs
    if open_:
        assert small.to_json() == plain.to_json()
        np.testing.assert_allclose(small(samples(model)), plain(samples(model)))
    elif kind in ("layer", "after"):
        assert not any(isinstance(layer, L.Add) for layer in small.layers)
        assert tfc.cost.count(small).macs < 0.5 * macs
    else:
        assert tfc.cost.count(small).macs < macs


@pytest.mark.parametrize("kind", ["layer", *POSITIONS])
def test_all_gates_of_a_stage_closed(float64, kind):
    # The second stage of four blocks: one that halves the image, and two more.
    model = gated(graphs.randomize(resnet(blocks=4), 3), kind)
    decisions = [np.full(n, n_th == 0) for n_th, n in enumerate(widths(model))]
    small = check_finalized(model, decisions)
    left = {layer.name for layer in small.layers}
    assert {"conv1_1", "conv1_2", "add1", "shortcut2"} <= left
    if kind in ("layer", "after"):
        assert not any(re.match(r"(conv|bn|add)[234]", name) for name in left)


@pytest.mark.parametrize("estimator", ["gumbel", "bernoulli"])
@pytest.mark.parametrize("add", ["add_layer_gates", "add_channel_gates"])
def test_gates_with_other_heads_are_finalized(float64, estimator, add):
    plain = graphs.randomize(resnet(), 3)
    model = getattr(tfc.gates, add)(plain, estimator=estimator)
    check_finalized(model, [np.arange(n) % 2 == 1 for n in widths(model)])


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("kind", ["layer", *POSITIONS])
def test_finalized_equals_gated_in_mixed_precision(policy, kind):
    keras.config.set_dtype_policy(policy)
    model = gated(graphs.randomize(resnet(), 3), kind)
    decide(model, [np.arange(n) % 2 == 1 for n in widths(model)])
    x = samples(model).astype("float32")
    small = tfc.finalize(model, x)
    assert {layer.dtype_policy.name for layer in small.layers} == {policy}
    one, two = (np.asarray(m(x), "float32") for m in (small, model))
    # Five sums of a few dozen terms, of which each has half an ulp.
    ulp = 2.0**-10 if policy == "mixed_float16" else 2.0**-7
    np.testing.assert_allclose(one, two, atol=5 * ulp * np.abs(two).max())


def conv_macs(size, inputs, outputs, kernel=3):
    return size * size * kernel * kernel * inputs * outputs


@pytest.mark.parametrize(
    "position, saved",
    [
        ("before", conv_macs(8, 2, 6) - conv_macs(8, 6, 4, kernel=1)),
        ("middle", conv_macs(8, 6, 2) + conv_macs(8, 2, 6)),
        ("after", conv_macs(8, 6, 2) - conv_macs(8, 4, 6, kernel=1)),
    ],
)
def test_closed_channels_are_multiplied_no_more(float64, position, saved):
    plain = graphs.randomize(resnet(blocks=1), 3)
    model = tfc.gates.add_channel_gates(plain, position)
    keep = np.array([True, False, True, True, False, True])
    small = check_finalized(model, [keep])
    assert tfc.cost.count(plain).macs - tfc.cost.count(small).macs == saved
    selected = [layer for layer in small.layers if "selection" in layer.name]
    assert len(selected) == (0 if position == "middle" else 1)
    assert not any(layer.trainable_variables for layer in selected)


def test_closed_layers_are_gone(float64):
    model = tfc.gates.add_layer_gates(graphs.randomize(resnet(), 3))
    small = check_finalized(model, [[True], [False]])
    left = {layer.name for layer in small.layers}
    assert {"conv1_1", "conv1_2", "shortcut2"} <= left
    assert not {"conv2_1", "bn2_1", "relu2", "conv2_2", "bn2_2", "add2"} & left


def test_a_gate_that_is_used_twice_and_one_in_a_sequential(float64):
    gate = tfc.layers.ChannelGate(depth=0, name="gate")
    i = keras.Input((5, 3))
    x = gate(L.Dense(3)(gate(L.Dense(3, name="one")(i))))
    shared = graphs.randomize(keras.Model(i, L.Dense(2)(x)), 3)
    chain = [L.Dense(3, name="one"), tfc.layers.ChannelGate(name="gate"), L.Dense(2)]
    chain = graphs.randomize(keras.Sequential([keras.Input((5, 3)), *chain]), 3)
    for model in (shared, chain):
        small = check_finalized(model, [[True, False, True]])
    assert small.get_layer("one").units == 2


def test_layer_and_channel_gates_work_together(float64):
    model = graphs.randomize(resnet(), 3)
    model = tfc.gates.add_channel_gates(model, "middle")
    model = tfc.gates.add_layer_gates(model)
    assert len(tfc.gates.gates_of(model)) == 4
    by_width = [[False], [True]]
    decisions = []
    for gate in tfc.gates.gates_of(model).values():
        layer = isinstance(gate, tfc.layers.LayerGate)
        keep = by_width.pop() if layer else np.arange(gate._logits.units) % 2 == 0
        decisions.append(keep)
    check_finalized(model, decisions)


def test_the_papers_counts_follow_from_its_opening_ratios():
    # Table 2 on CIFAR-10, as "FLOPs" of convolutions and normalizations: 255.3 M.
    model = tfc.zoo.resnet110()
    assert len(dict(branches(model))) == 54
    cost = tfc.cost.count(model)
    rows = cost.rows

    def work(names):
        return 1e-6 * sum(
            row.macs + row.operations * (row.kind == "BatchNormalization")
            for row in rows
            if re.fullmatch(names, row.name)
        )

    # Layers, 53.70 % open: 29 of 54. One of the closed ones halves the image.
    assert round(54 * 0.5370) == 29
    closed = 24 * work(r"(conv|bn)2_2_[12]") + work(r"(conv|bn)2_1_[12]")
    assert round(work(".*"), 1) == 255.3
    assert abs(work(".*") - closed - 137.7) < 0.1
    # On CIFAR-100, 66.67 % open: 36 of 54, and again one block at a border is closed.
    assert round(54 * 0.6667) == 36
    closed = 17 * work(r"(conv|bn)2_2_[12]") + work(r"(conv|bn)2_1_[12]")
    more = 1e-6 * (tfc.cost.count(tfc.zoo.resnet110(classes=100)).macs - cost.macs)
    assert abs(work(".*") + more - closed - 171.1) < 0.2
    # Channels behind the second convolution, half of a block: 48.76 % open.
    assert abs(work(r"conv\d_\d+_2") / work(".*") - 0.5) < 0.01
    assert round(255.3 * (1 - (1 - 0.4876) / 2), 1) == 189.9


def test_training_state_goes_along_and_the_model_stays_as_it_was():
    model = gated(resnet(), "layer")
    model.compile(keras.optimizers.SGD(0.1, 0.9), "mse", metrics=["mae"])
    x, y = samples(model, 8), np.zeros((8, 3))
    model.fit(x, y, epochs=2, verbose=0)
    decide(model, [[True], [False]])
    before = [w.numpy() for w in model.variables]
    small = tfc.finalize(model, x)
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, new)
    assert int(small.optimizer.iterations) == int(model.optimizer.iterations)
    small.fit(x, y, verbose=0)


def test_finalized_models_load_without_the_library_and_convert(tmp_path):
    model = gated(graphs.randomize(resnet(), 3), "after")
    decide(model, [np.arange(6) % 3 != 0, np.arange(4) > 0])
    x = samples(model).astype("float32")
    small = tfc.finalize(model, x)
    small.save(tmp_path / "small.keras")
    again = keras.saving.load_model(tmp_path / "small.keras", custom_objects={})
    np.testing.assert_allclose(again(x), model(x), atol=1e-5)
    artifact = tfc.export.to_tflite(small, tmp_path / "small.tflite")
    assert artifact.parity.max_difference < 1e-4


# What is measured ------------------------------------------------------------------


def by_sign(model, gate=0):
    """Makes one layer gate open where the sum of its features is positive."""
    gate = list(tfc.gates.gates_of(model).values())[gate]
    for dense in (gate._dense[0], gate._logits):
        dense.kernel.assign(0.0 * dense.kernel)
        dense.bias.assign(0.0 * dense.bias)
    first = np.zeros(gate._dense[0].kernel.shape)
    first[:, 0] = 1.0
    gate._dense[0].kernel.assign(first)
    gate._logits.kernel.assign(np.eye(16, 1))
    return gate


def partly_open():
    """One gate that decides from the image, one that is always open; 8 images."""
    model = graphs.randomize(resnet(), 3)
    model = tfc.gates.add_layer_gates(model)
    decide(model, [[True], [True]])
    gate = by_sign(model)
    x = samples(model, 8).astype("float32")
    probe = keras.Model(model.input, model.get_layer("add1_layer_gate").input[0])
    sums = probe.predict(x, verbose=0).mean((1, 2)).sum(1)
    gate._dense[0].bias.assign(np.eye(16)[0] * -np.sort(sums)[2:4].mean())
    return model, x


def test_measure_reads_ratios_and_penalties_off_the_data():
    model, x = partly_open()
    openings = tfc.gates.measure(model, x)
    assert openings.samples == 8
    first, second = openings.ratios.values()
    assert first == 5 / 8 and second == 1
    np.testing.assert_allclose(openings.activation, (5 / 8 + 1) / 2)
    np.testing.assert_allclose(openings.polarization, (5 / 8 * 3 / 8) / 2)
    assert list(openings.undecided) == ["add1_layer_gate"]
    assert "add1_layer_gate: open for 62.5 % of the samples" in str(openings)
    import tensorflow as tf

    y = np.zeros(8)
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(3)
    for data in ((x, y), batches, batches.map(lambda x, y: x)):
        assert tfc.gates.measure(model, data).ratios == openings.ratios


def test_gates_that_are_not_polarized_are_refused_by_name():
    model, x = partly_open()
    message = r"polarized gates.*add1_layer_gate: open for 62\.5 % of.*threshold"
    with pytest.raises(ValueError, match=message) as error:
        tfc.finalize(model, x)
    assert "add2" not in str(error.value)


def test_a_threshold_decides_and_tells_what_that_costs():
    model, x = partly_open()
    labels = model.predict(x, verbose=0).argmax(1)
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    with pytest.warns(UserWarning, match=r"1 of 2 gates.*add1.*accuracy 1 to") as told:
        small = tfc.finalize(model, (x, labels), threshold=0.9)
    after = small.evaluate(x, labels, verbose=0, return_dict=True)["accuracy"]
    (message,) = (str(w.message) for w in told if w.category is UserWarning)
    assert f"accuracy 1 to {after:.4g}" in message
    assert not any(layer.name == "conv1_1" for layer in small.layers)
    with pytest.warns(UserWarning, match="not measured"):
        small = tfc.finalize(model, x, threshold=0.5)
    assert small.get_layer("conv1_1")


def test_gates_need_data():
    model = gated(resnet(), "layer")
    with pytest.raises(ValueError, match=r"`data`.*samples"):
        tfc.finalize(model)
    with pytest.raises(ValueError, match=r"`data`.*at least one sample"):
        tfc.finalize(model, np.zeros((0, 8, 8, 3)))
    with pytest.raises(ValueError, match=r"`model`.*with gates"):
        tfc.gates.measure(resnet(), samples(model))
    for threshold, kind in ((0.0, ValueError), (1.5, ValueError), ("half", TypeError)):
        with pytest.raises(kind, match="`threshold`"):
            tfc.finalize(model, samples(model), threshold=threshold)


# Where gates go --------------------------------------------------------------------


def where(model, kind):
    """What every gate reads and who reads it, by names."""
    found = {}
    for name, gate in tfc.gates.gates_of(gated(model, kind)).items():
        inputs = keras.tree.flatten(gate.input)
        sources = [t._keras_history.operation.name for t in inputs]
        (reader,) = gate._outbound_nodes
        found[name] = (*sources, reader.operation.name)
    return found


def test_positions_in_a_basic_block():
    expected = {
        "layer": ("stem", "bn1_2", "add1"),
        "before": ("stem", "conv1_1"),
        "middle": ("relu1", "conv1_2"),
        "after": ("bn1_2", "add1"),
    }
    for kind, names in expected.items():
        suffix = "layer_gate" if kind == "layer" else "channel_gate"
        assert where(resnet(), kind)[f"add1_{suffix}"] == names


def test_the_branch_is_the_side_with_more_kernels():
    found = where(resnet(), "layer")["add2_layer_gate"]
    assert found[1:] == ("bn2_2", "add2")  # not the projection "shortcut2"


@pytest.mark.parametrize(
    "build, size, branches",
    [
        (lambda: tfc.zoo.resnet20(width=0.25), 9, r"add\d_\d"),
        (
            lambda: keras.applications.MobileNetV2(
                (32, 32, 3), alpha=0.35, weights=None, classes=4
            ),
            10,
            r"block_\d+_add",
        ),
    ],
)
def test_gates_find_the_blocks_of_real_networks(build, size, branches):
    model = tfc.gates.add_layer_gates(build())
    names = list(tfc.gates.gates_of(model))
    assert len(names) == size
    assert all(re.fullmatch(f"{branches}_layer_gate", name) for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["layer", *POSITIONS])
@pytest.mark.parametrize("name, size", [("ResNet50", 16), ("MobileNetV2", 10)])
def test_networks_of_keras_applications(float64, name, size, kind):
    build = getattr(keras.applications, name)
    model = build(
        input_shape=(32, 32, 3), weights=None, classes=4, classifier_activation=None
    )
    model = gated(graphs.randomize(model, 3), kind)
    assert len(tfc.gates.gates_of(model)) == size
    rng = np.random.default_rng(0)
    check_finalized(model, [rng.random(n) < 0.6 for n in widths(model)])


def test_layers_and_exclude_choose_additions():
    model = tfc.gates.add_layer_gates(resnet(3), layers=["add1", "add3"])
    assert list(tfc.gates.gates_of(model)) == ["add1_layer_gate", "add3_layer_gate"]
    model = tfc.gates.add_layer_gates(resnet(3), exclude=["add1"])
    assert list(tfc.gates.gates_of(model)) == ["add2_layer_gate", "add3_layer_gate"]


def test_a_model_with_open_gates_computes_the_same():
    model = graphs.randomize(resnet(), 3)
    x = samples(model)
    for kind in ("layer", *POSITIONS):
        with_gates = gated(model, kind)
        decide(with_gates, [np.ones(n) for n in widths(with_gates)])
        np.testing.assert_array_equal(with_gates(x), model(x))


def chain(*tail):
    i = keras.Input((8, 8, 3))
    x = L.Conv2D(4, 3, padding="same", name="stem")(i)
    return keras.Model(i, tail[0](i, x))


def conv(x, **kwargs):
    return L.Conv2D(4, 3, padding="same", **kwargs)(x)


def read_twice(i, x):
    y = conv(x)
    return L.Concatenate()([L.Add(name="add")([x, y]), y])


REFUSED = {
    "has no Add": lambda i, x: x,
    "adds 3 tensors": lambda i, x: L.Add(name="add")([x, conv(x), conv(x)]),
    "both sides have 1 layers": lambda i, x: L.Add(name="add")([conv(x), conv(x)]),
    "both sides have 0 layers": lambda i, x: L.Add(name="add")([x, L.ReLU()(x)]),
    "broadcasts": lambda i, x: L.Add(name="add")(
        [x, L.Conv2D(1, 3, padding="same")(x)]
    ),
    "something else reads": read_twice,
}


@pytest.mark.parametrize("reason", REFUSED)
def test_models_without_a_residual_branch_are_refused_with_a_reason(reason):
    with pytest.raises(ValueError, match=f"argument `model`.*{reason}"):
        tfc.gates.add_layer_gates(chain(REFUSED[reason]))


def test_channels_must_come_last():
    x = i = keras.Input((3, 8, 8))
    y = L.Conv2D(3, 3, padding="same", data_format="channels_first", name="conv")(x)
    model = keras.Model(i, L.Add(name="add")([x, y]))
    with pytest.raises(ValueError, match="add: 'conv' has its channels first"):
        tfc.gates.add_layer_gates(model)


def test_additions_of_separate_inputs_have_no_skip():
    a, b = keras.Input((4,)), keras.Input((4,))
    x = L.Add(name="add")([L.Dense(4)(a), b])
    with pytest.raises(ValueError, match=r"add: .*nothing in common"):
        tfc.gates.add_layer_gates(keras.Model([a, b], x))


def test_channel_positions_that_do_not_exist_are_refused():
    one = chain(lambda i, x: L.Add(name="add")([x, conv(x)]))
    with pytest.raises(ValueError, match=r"add: .*no middle"):
        tfc.gates.add_channel_gates(one, "middle")
    assert tfc.gates.gates_of(tfc.gates.add_channel_gates(one, "before"))

    def parallel(i, x):
        y = L.Concatenate()([conv(x), conv(x)])
        return L.Add(name="add")([x, conv(y)])

    with pytest.raises(ValueError, match=r"add: .*follow each other"):
        tfc.gates.add_channel_gates(chain(parallel), "before")
    assert tfc.gates.gates_of(tfc.gates.add_channel_gates(chain(parallel), "middle"))


def test_other_bad_arguments():
    with pytest.raises(ValueError, match=r"`position`.*'middle'"):
        tfc.gates.add_channel_gates(resnet(), "between")
    with pytest.raises(ValueError, match="`depth`"):
        tfc.gates.add_channel_gates(resnet(), depth=3)
    with pytest.raises(ValueError, match=r"`layers`.*add1"):
        tfc.gates.add_layer_gates(resnet(), layers=["conv1_1"])
    with pytest.raises(TypeError, match="`exclude`"):
        tfc.gates.add_layer_gates(resnet(), exclude="add1")
    with pytest.raises(ValueError, match=r"`model`.*without LayerGate"):
        tfc.gates.add_layer_gates(gated(resnet(), "layer"))
    with pytest.raises(TypeError, match="`model`"):
        tfc.gates.add_layer_gates("resnet20")
