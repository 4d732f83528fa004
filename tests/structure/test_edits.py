"""The edits beyond removal: what they keep, what they refuse."""

import keras
import numpy as np
import pytest
from keras import layers as L

import tfcompress as tfc
from tests.structure import graphs

structure = tfc.structure


def small_network():
    i = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(8, 3, padding="same", name="conv1")(i)
    x = L.BatchNormalization(name="norm1")(x)
    x = L.ReLU(name="relu1")(x)
    y = L.Conv2D(8, 3, padding="same", name="branch1")(x)
    y = L.ReLU(name="branch_relu")(y)
    y = L.Conv2D(8, 3, padding="same", name="branch2")(y)
    x = L.Add(name="add")([x, y])
    x = L.GlobalAveragePooling2D(name="pool")(x)
    x = L.Dense(12, activation="relu", name="hidden")(x)
    return keras.Model(i, L.Dense(4, name="head")(x), name="small")


def resnet(blocks=3):
    i = keras.Input((8, 8, 3))
    x = L.Conv2D(6, 3, padding="same", name="stem")(i)
    for n in range(blocks):
        y = L.BatchNormalization(name=f"block{n}_norm1")(x)
        y = L.ReLU(name=f"block{n}_relu")(y)
        y = L.Conv2D(6, 3, padding="same", name=f"block{n}_conv")(y)
        x = L.Add(name=f"block{n}_add")([x, y])
    return keras.Model(i, L.Dense(4, name="head")(L.Flatten()(x)))


def trained(optimizer, model=None):
    model = model or small_network()
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 8, 8, 3)), rng.integers(0, 4, 32)
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, shuffle=False)
    return model, x, y


# What an edit keeps -----------------------------------------------------------


def test_names_types_dtypes_flags_and_compile_state_survive():
    keras.config.set_dtype_policy("mixed_float16")
    model = small_network()
    model.get_layer("branch1").trainable = False
    model.compile("adam", "mse", metrics=["mae"], steps_per_execution=2)
    small = structure.remove_channels(model, {"conv1": [0, 3], "hidden": [1]})
    assert [layer.name for layer in small.layers] == [x.name for x in model.layers]
    assert [type(x) for x in small.layers] == [type(x) for x in model.layers]
    assert small.name == model.name
    assert small.get_layer("conv1").dtype_policy.name == "mixed_float16"
    assert not small.get_layer("branch1").trainable
    assert small.get_layer("branch2").trainable
    assert small.steps_per_execution == 2
    assert small.loss == "mse"
    assert small.optimizer is not model.optimizer
    assert isinstance(small.optimizer.inner_optimizer, keras.optimizers.Adam)


def test_a_sequential_stays_sequential():
    model = graphs.nested_sequential()
    assert type(structure.shrink(model)) is keras.Sequential


def test_squeezing_all_axes_of_one_keeps_the_batch_and_a_single_channel():
    i = keras.Input((6,))
    x = keras.ops.squeeze(L.Reshape((1, 3))(L.Dense(3, name="few")(i)))
    model = keras.Model(i, L.Dense(2)(x))
    channels = {"few": [0, 2]}
    masked = structure.zero_channels(model, channels)
    # The self-check runs one sample, of which such a model squeezes the batch as well.
    small = structure.remove_channels(model, channels, verify=False)
    assert small.get_layer("few").units == 1
    x = np.random.default_rng(0).normal(size=(4, 6))
    np.testing.assert_allclose(small.predict(x), masked.predict(x), atol=1e-6)


def test_the_original_is_untouched():
    model, *_ = trained("adam")
    weights = [np.array(w) for w in model.weights]
    nodes = {layer.name: len(layer._inbound_nodes) for layer in model.layers}
    structure.remove_channels(model, {"conv1": [0]})
    for before, after in zip(weights, model.weights, strict=True):
        np.testing.assert_array_equal(before, after)
    assert nodes == {layer.name: len(layer._inbound_nodes) for layer in model.layers}


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
        lambda: keras.optimizers.Adam(0.01, amsgrad=True),
        lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
        lambda: keras.optimizers.RMSprop(0.01, momentum=0.5, centered=True),
    ],
    ids=["sgd", "adam", "adamw", "rmsprop"],
)
def test_training_goes_on_as_if_nothing_was_removed(optimizer):
    # A shrunk model takes the step that the masked model takes: the slots of
    # the optimizer are sliced along. Removed channels get no gradient.
    keras.config.set_dtype_policy("float64")
    model, x, y = trained(optimizer())
    channels = {"conv1": [1, 4], "branch1": [0, 2, 5], "hidden": [3]}
    masked = structure.zero_channels(model, channels)
    small = structure.remove_channels(model, channels)
    assert int(small.optimizer.iterations) == int(model.optimizer.iterations) == 8
    for network in (masked, small):
        network.fit(x[:8], y[:8], batch_size=8, verbose=0)
    keep = np.delete(np.arange(8), channels["conv1"])
    inside = np.delete(np.arange(8), channels["branch1"])
    expected = masked.get_layer("branch1").kernel.numpy()[:, :, keep][..., inside]
    np.testing.assert_allclose(
        small.get_layer("branch1").kernel.numpy(), expected, rtol=1e-9
    )


def test_without_carrying_the_optimizer_starts_anew():
    model, *_ = trained("adam")
    small = structure.remove_channels(model, {"conv1": [0]}, carry_optimizer=False)
    assert int(small.optimizer.iterations) == 0


def test_shrunk_models_save_reload_export_and_train(tmp_path):
    model, x, y = trained("adam")
    small = structure.remove_channels(model, {"conv1": [0, 1], "hidden": [0]})
    small.save(tmp_path / "small.keras")
    again = keras.models.load_model(tmp_path / "small.keras")
    expected = small.predict(x, verbose=0)
    np.testing.assert_allclose(again.predict(x, verbose=0), expected, rtol=1e-5)
    before = small.evaluate(x, y, verbose=0)[0]
    small.fit(x, y, epochs=5, verbose=0)
    assert small.evaluate(x, y, verbose=0)[0] < before
    artifact = tfc.export.to_tflite(again, tmp_path / "small.tflite")
    assert artifact.parity.max_difference < 1e-4


def test_custom_layers_and_functions_need_no_registration():
    class Twice(L.Layer):
        def call(self, x):
            return 2 * x

    i = keras.Input((5,))
    x = L.Dense(6, activation=lambda t: t * t)(i)
    x = Twice()(L.Lambda(lambda t: t + 0.0)(x))
    model = keras.Model(i, L.Dense(3)(x))
    small = structure.remove_channels(model, {model.layers[1].name: [2]})
    assert small.layers[1].units == 5


# Choosing channels ------------------------------------------------------------


def test_swapped_input_channels_are_detected():
    # Power of the comparison: two wrong rows of one kernel are seen.
    model = graphs.randomize(small_network())
    masked = structure.zero_channels(model, {"branch1": [0]})
    small = structure.remove_channels(model, {"branch1": [0]})
    inputs = graphs.random_inputs(model)
    assert graphs.largest_difference(masked, small, inputs) < 1e-5
    kernel = small.get_layer("branch2").kernel
    value = kernel.numpy()
    value[:, :, [0, 1]] = value[:, :, [1, 0]]
    kernel.assign(value)
    assert graphs.largest_difference(masked, small, inputs) > 1e-3


def test_layer_and_group_names_select_the_same_channels():
    model = graphs.randomize(small_network())
    groups = structure.channel_groups(model)
    group = groups.of("branch2")
    assert group is groups.of("conv1") is groups.of("add") is groups[group.name]
    assert group.producers == ("conv1", "branch2")
    assert set(group.consumers) == {"branch1", "hidden"}
    first = structure.remove_channels(model, {"branch2": [1, 2]})
    second = structure.remove_channels(model, {group.name: [1, 2]})
    inputs = graphs.random_inputs(model)
    assert graphs.largest_difference(first, second, inputs) == 0


def test_multiple_of_rounds_what_is_kept_and_stays_exact():
    model = graphs.randomize(small_network())
    channels = {"branch1": [0, 1, 2], "hidden": [4]}
    masked = structure.zero_channels(model, channels)
    small = structure.remove_channels(model, channels, multiple_of=4)
    assert small.get_layer("branch1").filters == 8
    assert small.get_layer("hidden").units == 12
    inputs = graphs.random_inputs(model)
    assert graphs.largest_difference(masked, small, inputs) < 1e-5
    again = structure.shrink(masked, multiple_of=2)
    assert again.get_layer("branch1").filters == 6
    assert graphs.largest_difference(masked, again, inputs) < 1e-5


def test_dropout_that_is_on_at_inference_does_not_fail_the_self_check():
    i = keras.Input((6,))
    x = L.Dropout(0.5)(L.Dense(8, name="hidden")(i), training=True)
    model = keras.Model(i, L.Dense(4)(x))
    small = structure.remove_channels(model, {"hidden": [1, 2]})
    assert small.get_layer("hidden").units == 6


def test_shrink_keeps_a_branch_of_zeros_with_a_bias_that_channels_share():
    i = keras.Input((5, 6))
    x = L.Dense(6)(i)
    y = L.EinsumDense("abc,cd->abd", (5, 6), bias_axes="b", name="branch")(x)
    model = graphs.randomize(keras.Model(i, L.Add()([x, y])))
    branch = model.get_layer("branch")
    branch.kernel.assign(np.zeros(branch.kernel.shape))
    small = structure.shrink(model)
    inputs = graphs.random_inputs(model)
    assert graphs.largest_difference(model, small, inputs) < 1e-6


def test_multiple_of_keeps_the_constants_that_went_into_a_bias():
    i = keras.Input((6,))
    x = L.Dense(16, activation="sigmoid", name="first")(i)
    x = L.Dense(16, activation="relu", name="second")(x)
    model = graphs.randomize(keras.Model(i, L.Dense(4)(x)))
    channels = {"first": range(10), "second": range(3, 13)}
    masked = structure.zero_channels(model, channels)
    small = structure.remove_channels(model, channels, multiple_of=8)
    assert small.get_layer("second").kernel.shape == (8, 8)
    inputs = graphs.random_inputs(model)
    assert graphs.largest_difference(masked, small, inputs) < 1e-5


def test_shrink_leaves_one_channel_of_a_dead_layer():
    model = graphs.randomize(small_network())
    masked = model
    hidden = model.get_layer("hidden")
    hidden.kernel.assign(hidden.kernel * 0)
    hidden.bias.assign(hidden.bias * 0)
    small = structure.shrink(masked)
    assert small.get_layer("hidden").units == 1
    assert graphs.largest_difference(masked, small, graphs.random_inputs(model)) < 1e-6


def test_shrink_drops_a_residual_branch_of_zeros():
    model = graphs.randomize(small_network())
    last = model.get_layer("branch2")
    last.kernel.assign(last.kernel * 0)
    last.bias.assign(last.bias * 0)
    small = structure.shrink(model)
    assert "branch1" not in [layer.name for layer in small.layers]
    assert "add" not in [layer.name for layer in small.layers]
    assert graphs.largest_difference(model, small, graphs.random_inputs(model)) < 1e-5


def _branch(kind):
    i = keras.Input((8, 8, 3))
    c = L.Conv2D(8, 3, padding="same", name="stem")(i)
    if kind == "depthwise":
        branch = L.DepthwiseConv2D(3, padding="same")(c)
    elif kind == "norm":
        branch = L.BatchNormalization(scale=False)(L.Conv2D(8, 1)(c))
    elif kind == "sigmoid":
        branch = L.Dense(8, activation="sigmoid", kernel_initializer="zeros")(c)
    elif kind == "gate":
        branch = c * (1.0 + L.Dense(8, kernel_initializer="zeros")(c))
    elif kind == "array":
        branch = L.Dense(8, kernel_initializer="zeros")(c) + np.ones(8, "float32")
    return keras.Model(i, L.Dense(2)(L.Flatten()(L.Add()([c, branch]))))


@pytest.mark.parametrize("kind", ["depthwise", "norm", "sigmoid", "gate", "array"])
def test_shrink_keeps_branches_that_only_look_dead(kind):
    # Every bias is zero here, and every normalization at its initial state.
    model = _branch(kind)
    small = structure.shrink(model)
    assert graphs.largest_difference(model, small, graphs.random_inputs(model)) < 1e-5


def test_adapted_preprocessing_keeps_what_it_learned():
    rng = np.random.default_rng(0)
    norm = L.Normalization(name="norm")
    norm.adapt(rng.normal(3, 5, size=(50, 4)))
    i = keras.Input((4,))
    x = L.Dense(6, activation="relu", name="hidden")(norm(i))
    model = graphs.randomize(keras.Model(i, L.Dense(2)(x)))
    norm.adapt(rng.normal(3, 5, size=(50, 4)))
    same = structure.wrap(model, {})
    assert graphs.largest_difference(model, same, graphs.random_inputs(model)) < 1e-6
    small = structure.remove_channels(model, {"hidden": [0]})
    assert small.get_layer("hidden").units == 5


def test_vocabularies_are_kept():
    lookup = L.StringLookup(name="lookup")
    lookup.adapt(["cat", "dog", "cow"])
    i = keras.Input((1,), dtype="string")
    x = L.Flatten()(L.Embedding(5, 6, name="table")(lookup(i)))
    model = keras.Model(i, L.Dense(2)(x))
    small = structure.remove_channels(model, {"table": [1]})
    assert small.get_layer("lookup").get_vocabulary() == lookup.get_vocabulary()


def test_compile_state_without_configs_is_carried():
    class Warmup(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.01

    class Counted(keras.metrics.Mean):
        def __init__(self, threshold):
            super().__init__(name="counted")

        def update_state(self, y, p, sample_weight=None):
            super().update_state(p)

    model = small_network()
    model.compile(keras.optimizers.Adam(Warmup()), "mse", metrics=[Counted(0.5)])
    x = np.zeros((4, 8, 8, 3))
    model.fit(x, np.zeros((4, 4)), verbose=0)
    small = structure.remove_channels(model, {"conv1": [0]})
    assert int(small.optimizer.iterations) == 1
    assert "counted" in small.fit(x, np.zeros((4, 4)), verbose=0).history


def test_register_channelwise():
    class Scale(L.Layer):
        def __init__(self, dim, **kwargs):
            super().__init__(**kwargs)
            self.dim = dim

        def build(self, shape):
            self.gamma = self.add_weight(shape=(self.dim,), name="gamma")

        def call(self, x):
            return x * self.gamma

        def get_config(self):
            return {**super().get_config(), "dim": self.dim}

    i = keras.Input((5,))
    x = Scale(6, name="scale")(L.Dense(6, name="dense")(i))
    model = graphs.randomize(keras.Model(i, L.Dense(3)(x)))
    reason = structure.channel_groups(model).of("dense").reason
    assert "no rule for Scale, which has weights" in reason
    structure.register_channelwise(Scale, "gamma", config="dim")
    masked = structure.zero_channels(model, {"dense": [1, 5]})
    small = structure.remove_channels(model, {"dense": [1, 5]})
    assert small.get_layer("scale").dim == 4
    assert graphs.largest_difference(masked, small, graphs.random_inputs(model)) < 1e-6


def test_a_wrong_registration_is_caught_and_named():
    class Shift(L.Layer):
        def build(self, shape):
            self.offset = self.add_weight(shape=(shape[-1],), initializer="ones")

        def call(self, x):
            return x + self.offset

    i = keras.Input((5,))
    x = Shift(name="shift")(L.Dense(6, name="dense")(i))
    model = keras.Model(i, L.Dense(3, name="out")(x))
    structure.register_channelwise(Shift, "offset")
    with pytest.raises(structure.VerificationError, match="'out'"):
        structure.remove_channels(model, {"dense": [1]})


def test_inexact_prunes_through_layer_normalization():
    model = graphs.layer_norm()
    groups = structure.channel_groups(model, inexact=("layer_norm",))
    assert sorted(g.size for g in groups if g.prunable) == [7, 8]
    name = next(g.name for g in groups if g.size == 8)
    small = structure.remove_channels(
        model, {name: [0]}, inexact=("layer_norm",), verify=False
    )
    assert small.get_layer("norm").gamma.shape == (7,)
    small(graphs.random_inputs(model))


def test_channels_first_models_are_analyzed():
    i = keras.Input((3, 8, 8))
    x = L.Conv2D(6, 3, data_format="channels_first")(i)
    x = L.BatchNormalization(axis=1)(x)
    x = L.MaxPooling2D(2, data_format="channels_first")(x)
    x = L.Flatten(data_format="channels_first")(x)
    groups = structure.channel_groups(keras.Model(i, L.Dense(4)(x)))
    assert [g.size for g in groups if g.prunable] == [6]


# The other edits --------------------------------------------------------------


def test_resize_keeps_the_filters_with_the_largest_norm():
    model = graphs.randomize(small_network())
    kernel = model.get_layer("branch1").kernel.numpy()
    order = np.argsort(np.abs(kernel).sum((0, 1, 2)))
    small = structure.resize(model, {"branch1": 3, "hidden": 5})
    kept = np.sort(order[-3:])
    assert small.get_layer("hidden").units == 5
    np.testing.assert_array_equal(
        small.get_layer("branch1").kernel.numpy(), kernel[..., kept]
    )


def test_resize_at_random_is_reproducible_and_new():
    model = graphs.randomize(small_network())
    first = structure.resize(model, {"conv1": 4}, weights="random", seed=1)
    second = structure.resize(model, {"conv1": 4}, weights="random", seed=1)
    third = structure.resize(model, {"conv1": 4}, weights="random", seed=2)
    assert first.get_layer("branch2").filters == 4
    for a, b in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    kernels = [m.get_layer("conv1").kernel.numpy() for m in (first, third)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0
    assert (
        first.get_layer("conv1").get_config()["kernel_initializer"]["config"]["seed"]
        is None
    )


def test_wrap_keeps_weights_and_names():
    class Scaled(L.Wrapper):
        def call(self, x):
            return 2.0 * self.layer(x)

        def build(self, shape=None):
            if not self.layer.built:
                self.layer.build(shape)
            self.built = True

    model = graphs.randomize(small_network())
    wrapped = structure.wrap(model, {"hidden": Scaled})
    assert isinstance(wrapped.get_layer("hidden"), Scaled)
    np.testing.assert_array_equal(
        wrapped.get_layer("hidden").layer.kernel, model.get_layer("hidden").kernel
    )
    x = graphs.random_inputs(model)
    head, bias = (v.numpy() for v in model.get_layer("head").weights)
    inside = keras.Model(model.inputs, model.get_layer("hidden").output)
    expected = 2 * inside(x).numpy() @ head + bias
    np.testing.assert_allclose(wrapped(x).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_insert_after():
    model = graphs.randomize(small_network())
    noise = L.Rescaling(3.0, name="triple")
    longer = structure.insert_after(model, {"pool": noise})
    names = [layer.name for layer in longer.layers]
    assert names.index("triple") == names.index("pool") + 1
    assert graphs.largest_difference(model, longer, graphs.random_inputs(model)) > 0.01
    sequential = graphs.nested_sequential()
    longer = structure.insert_after(sequential, {"inner": L.Identity(name="same")})
    assert [layer.name for layer in longer.layers][1] == "same"


def test_rewire_replaces_what_all_readers_get():
    model = graphs.randomize(small_network(), 1)
    relu = model.get_layer("relu1").output
    halved = structure.Edit(relu, (relu,), L.Rescaling(0.5, name="half"))
    edited = structure.rewire(model, [halved])
    names = {layer.name for layer in edited.layers}
    assert names == {layer.name for layer in model.layers} | {"half"}
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3))
    tail = keras.Model(relu, model.output)
    head = keras.Model(model.input, relu)
    np.testing.assert_allclose(edited(x), tail(0.5 * head(x)), atol=1e-6)


def test_rewire_for_one_reader_and_from_several_tensors():
    model = graphs.randomize(small_network(), 1)
    relu = model.get_layer("relu1").output
    branch = model.get_layer("branch2").output
    add = model.get_layer("add")._inbound_nodes[0]
    difference = structure.Edit(branch, (relu, branch), lambda a, b: a - b, add)
    edited = structure.rewire(model, [difference])
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3))
    # relu + (relu - branch)
    parts = keras.Model(model.input, [relu, branch])(x)
    tail = keras.Model(model.get_layer("add").output, model.output)
    np.testing.assert_allclose(edited(x), tail(2 * parts[0] - parts[1]), atol=1e-6)


def test_rewire_drops_what_nothing_reads_any_more():
    model, x, y = trained(keras.optimizers.SGD(0.1, 0.9))
    relu, branch = (model.get_layer(n).output for n in ("relu1", "branch2"))
    edited = structure.rewire(model, [structure.Edit(branch, (relu,), lambda t: t)])
    assert not any("branch" in layer.name for layer in edited.layers)
    again = structure.Edit(model.inputs[0], (model.inputs[0],), L.Rescaling(2.0))
    doubled = structure.rewire(edited, [])
    np.testing.assert_array_equal(doubled(x), edited(x))
    doubled = structure.rewire(model, [again])
    np.testing.assert_allclose(doubled(x), model(2 * x), rtol=1e-4, atol=1e-5)
    assert int(edited.optimizer.iterations) == int(model.optimizer.iterations)
    edited.fit(x, y, verbose=0)


def test_rewire_inside_a_nested_sequential():
    inner = keras.Sequential(
        [keras.Input((4,)), L.Dense(3, name="one"), L.Dense(2, name="two")], name="in"
    )
    i = keras.Input((4,))
    model = keras.Model(i, inner(inner(i)[:, :1] + i))
    x = np.random.default_rng(0).normal(size=(2, 4))
    one = inner.get_layer("one").output
    assert structure.rewire(model, []).get_layer("in").__class__ is keras.Sequential
    edited = structure.rewire(model, [structure.Edit(one, (one,), L.ReLU())])
    nested = keras.Model(inner.inputs, inner.get_layer("two")(keras.ops.relu(one)))
    expected = nested(np.asarray(nested(x))[:, :1] + x)
    np.testing.assert_allclose(edited(x), expected, atol=1e-6)


def test_rewire_refuses_what_is_not_of_the_model():
    model, other = small_network(), small_network()
    branch, foreign = (m.get_layer("branch2").output for m in (model, other))
    edit = structure.Edit(branch, (branch,), L.ReLU())
    with pytest.raises(ValueError, match=r"`edits`.*symbolic tensors of 'small'"):
        structure.rewire(model, [structure.Edit(branch, (foreign,), L.ReLU())])
    with pytest.raises(ValueError, match=r"`edits`.*one edit for each"):
        structure.rewire(model, [edit, edit])


def test_bypass_keeps_the_skip():
    model = graphs.randomize(resnet())
    shorter = structure.bypass(model, ["block1_conv"])
    names = [layer.name for layer in shorter.layers]
    assert not [name for name in names if name.startswith("block1")]
    zeroed = structure.wrap(model, {})
    for variable in zeroed.get_layer("block1_conv").weights:
        variable.assign(variable * 0)
    x = graphs.random_inputs(model)
    assert graphs.largest_difference(zeroed, shorter, x) < 1e-6
    assert structure.channel_groups(shorter).of("stem").prunable


def test_bypass_of_every_branch_leaves_the_skip_alone():
    model = graphs.randomize(resnet())
    shorter = structure.bypass(model, [f"block{n}_conv" for n in range(3)])
    assert [layer.name for layer in shorter.layers if layer.weights] == [
        "stem",
        "head",
    ]


def test_bypass_inside_a_nested_model():
    inner = resnet()
    body = keras.Model(inner.inputs, inner.get_layer("block2_add").output, name="body")
    i = keras.Input((8, 8, 3))
    model = graphs.randomize(keras.Model(i, L.Dense(2)(L.Flatten()(body(i)))))
    shorter = structure.bypass(model, ["body/block1_conv"])
    assert shorter.count_params() < model.count_params()
    names = [layer.name for layer in shorter.get_layer("body").layers]
    assert "block1_conv" not in names and "block0_conv" in names


# Bad input --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ({"conv2": [0]}, "`channels`. Unknown name 'conv2'.*conv1"),
        ({"conv1": [8]}, "Expected indices from 0 to 7 for 'conv1'"),
        ({"conv1": [-1]}, "Expected indices from 0 to 7"),
        ({"head": [0]}, "cannot be removed: model output"),
        ({"branch1": range(8)}, "all channels of .*branch1"),
    ],
)
def test_bad_channels(channels, message):
    with pytest.raises(ValueError, match=message):
        structure.remove_channels(small_network(), channels)


@pytest.mark.parametrize("channels", [[0, 1], {"conv1": [0.5]}, {"conv1": [True]}])
def test_channels_of_the_wrong_type(channels):
    with pytest.raises(TypeError, match="argument `channels`"):
        structure.remove_channels(small_network(), channels)


def test_models_without_a_graph():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="Subclassed, a subclassed model"):
        structure.channel_groups(Subclassed())
    with pytest.raises(ValueError, match="whose input shape is not known"):
        structure.channel_groups(keras.Sequential([L.Dense(3)]))
    with pytest.raises(TypeError, match=r"Expected a keras\.Model"):
        structure.channel_groups("model.keras")


@pytest.mark.parametrize(
    ("widths", "error", "message"),
    [
        ({"branch1": 0}, ValueError, "Expected 1 to 8"),
        ({"branch1": 9}, ValueError, "Expected 1 to 8"),
        ({"branch1": 2.5}, TypeError, "Expected an integer"),
        ({"head": 2}, ValueError, "model output"),
        ({"conv1": 4, "branch2": 5}, ValueError, "coupled"),
        ({"nowhere": 4}, ValueError, "`widths`. Unknown name"),
    ],
)
def test_bad_widths(widths, error, message):
    with pytest.raises(error, match=message):
        structure.resize(small_network(), widths)


def test_other_bad_arguments():
    model = small_network()
    with pytest.raises(ValueError, match="argument `multiple_of`"):
        structure.shrink(model, multiple_of=0)
    with pytest.raises(ValueError, match="argument `weights`"):
        structure.resize(model, {}, weights="keep")
    with pytest.raises(ValueError, match="argument `inexact`"):
        structure.channel_groups(model, inexact=("batch_norm",))
    with pytest.raises(ValueError, match=r"`layers`\. Unknown name 'convx'"):
        structure.wrap(model, {"convx": lambda layer: layer})
    with pytest.raises(TypeError, match="return a keras"):
        structure.wrap(model, {"conv1": lambda layer: None})
    with pytest.raises(TypeError, match="list of layer names"):
        structure.bypass(model, "branch2")
    with pytest.raises(ValueError, match=r"no skip connection|does not simplify"):
        structure.bypass(model, ["hidden"])
    keras.backend.clear_session()  # for the name "concatenate"
    with pytest.raises(ValueError, match="whose output channels belong to"):
        structure.channel_groups(graphs.densely_connected()).of("concatenate")


def test_print_shows_a_table():
    text = str(structure.channel_groups(small_network()))
    assert "group" in text.splitlines()[0]
    assert "no: model output" in text
    assert "conv1, branch2" in text


def test_a_model_may_begin_at_the_input_of_one_that_it_calls():
    """As the tasks of KerasHub do: `x = backbone(backbone.input)`."""
    image = keras.Input((8, 8, 4))
    x = L.Conv2D(6, 3, padding="same", activation="relu", name="c1")(image)
    backbone = keras.Model(image, L.Conv2D(4, 3, padding="same", name="c2")(x))
    # Called on another tensor, too, so that one symbolic tensor has two meanings.
    scaled = L.Rescaling(2.0)(backbone.input)
    joined = L.Concatenate()(
        [backbone(backbone.input), backbone(scaled), backbone.input]
    )
    outputs = L.Dense(3)(L.Flatten()(joined))
    model = keras.Model(backbone.input, outputs)
    masked = structure.zero_channels(model, {"c1": [0, 3], "c2": [1]})
    small = structure.remove_channels(model, {"c1": [0, 3], "c2": [1]})
    x = np.random.default_rng(0).normal(size=(5, 8, 8, 4)).astype("float32")
    assert small.count_params() < model.count_params()
    assert not np.allclose(masked(x), model(x), atol=1e-3)
    np.testing.assert_allclose(small(x), masked(x), 1e-4, 1e-5)
