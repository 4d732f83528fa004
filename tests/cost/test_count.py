"""What `count` counts, against closed forms and against TensorFlow's profiler."""

import json

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

from tfcompress import cost, structure, zoo
from tfcompress.cost._rules import layer_rule


def model_of(layer, *shapes, **kwargs):
    inputs = [keras.Input(shape) for shape in shapes]
    outputs = layer(*inputs, **kwargs)
    return keras.Model(inputs, keras.tree.flatten(outputs)[0])


# One row: layer, input shape, multiply–accumulates by hand.
LAYERS = {
    "conv1d": (L.Conv1D(8, 3), (12, 5), 10 * 3 * 5 * 8),
    "conv1d causal": (L.Conv1D(8, 3, padding="causal"), (12, 5), 12 * 3 * 5 * 8),
    "conv2d": (L.Conv2D(8, 3), (7, 9, 5), 5 * 7 * 9 * 5 * 8),
    "conv2d same": (L.Conv2D(8, 3, padding="same"), (7, 9, 5), 7 * 9 * 9 * 5 * 8),
    "conv2d strides": (
        L.Conv2D(8, (3, 2), strides=(2, 3), padding="same"),
        (7, 9, 5),
        4 * 3 * 6 * 5 * 8,
    ),
    "conv2d dilated": (L.Conv2D(8, 3, dilation_rate=2), (7, 9, 5), 3 * 5 * 9 * 5 * 8),
    "conv2d grouped": (L.Conv2D(8, 3, groups=2), (7, 9, 6), 5 * 7 * 9 * 3 * 8),
    "conv3d": (L.Conv3D(4, 2), (5, 6, 7, 3), 4 * 5 * 6 * 8 * 3 * 4),
    "conv2d channels first": (
        L.Conv2D(8, 3, data_format="channels_first"),
        (5, 7, 9),
        5 * 7 * 9 * 5 * 8,
    ),
    "conv1d transposed": (L.Conv1DTranspose(6, 4, strides=2), (5, 3), 5 * 4 * 3 * 6),
    "conv2d transposed": (
        L.Conv2DTranspose(6, 3, strides=2, padding="same"),
        (5, 4, 3),
        5 * 4 * 9 * 3 * 6,
    ),
    "conv2d transposed channels first": (
        L.Conv2DTranspose(6, 3, data_format="channels_first"),
        (3, 5, 4),
        5 * 4 * 9 * 3 * 6,
    ),
    "conv3d transposed": (L.Conv3DTranspose(2, 2), (3, 4, 5, 3), 60 * 8 * 3 * 2),
    "depthwise1d": (L.DepthwiseConv1D(3, depth_multiplier=2), (9, 4), 7 * 3 * 4 * 2),
    "depthwise2d": (
        L.DepthwiseConv2D(3, depth_multiplier=2, strides=2),
        (9, 9, 4),
        4 * 4 * 9 * 4 * 2,
    ),
    "separable1d": (
        L.SeparableConv1D(6, 3, depth_multiplier=2),
        (9, 4),
        7 * (3 * 4 * 2 + 8 * 6),
    ),
    "separable2d": (
        L.SeparableConv2D(6, 3, data_format="channels_first"),
        (4, 9, 9),
        49 * (9 * 4 + 4 * 6),
    ),
    "dense": (L.Dense(7), (5,), 35),
    "dense on rank 4": (L.Dense(7), (3, 2, 5), 6 * 35),
    "einsum dense": (
        L.EinsumDense("abc,cde->abde", output_shape=(None, 4, 6)),
        (3, 5),
        3 * 5 * 24,
    ),
    "einsum dense ellipsis": (
        L.EinsumDense("...x,xy->...y", output_shape=6, bias_axes="y"),
        (4, 5),
        4 * 5 * 6,
    ),
    "einsum dense over positions": (
        L.EinsumDense("abc,bcd->abd", output_shape=(3, 6)),
        (3, 5),
        3 * 5 * 6,
    ),
    "simple rnn": (L.SimpleRNN(4), (6, 5), 6 * (5 * 4 + 4 * 4)),
    "gru": (L.GRU(4), (6, 5), 6 * 3 * (5 * 4 + 4 * 4)),
    "lstm": (L.LSTM(4, return_sequences=True), (6, 5), 6 * 4 * (5 * 4 + 4 * 4)),
    "stacked cells": (
        L.RNN([L.LSTMCell(4), L.GRUCell(3)]),
        (6, 5),
        6 * (4 * (5 * 4 + 4 * 4) + 3 * (4 * 3 + 3 * 3)),
    ),
    "bidirectional": (L.Bidirectional(L.LSTM(4)), (6, 5), 2 * 6 * 4 * (20 + 16)),
    "time distributed": (
        L.TimeDistributed(L.Conv2D(8, 3)),
        (6, 5, 5, 3),
        6 * 9 * 9 * 3 * 8,
    ),
    "conv lstm": (
        L.ConvLSTM2D(4, 3, padding="valid"),
        (6, 7, 7, 2),
        6 * 25 * 9 * (2 + 4) * 16,
    ),
    "spectral normalization": (
        L.SpectralNormalization(L.Dense(7)),
        (5,),
        35,
    ),
    "embedding": (L.Embedding(100, 8), (5,), 0),
    "batch normalization": (L.BatchNormalization(), (5, 5, 3), 0),
    "prelu": (L.PReLU(), (5, 5, 3), 0),
    "max pooling": (L.MaxPooling2D(), (6, 6, 3), 0),
    "upsampling": (L.UpSampling2D(), (6, 6, 3), 0),
    "activation": (L.Activation("gelu"), (6, 6, 3), 0),
    "flatten": (L.Flatten(), (6, 6, 3), 0),
}


@pytest.mark.parametrize(("layer", "shape", "macs"), LAYERS.values(), ids=LAYERS)
def test_macs_of_a_layer_follow_their_closed_form(layer, shape, macs):
    model = keras.Sequential(
        [keras.Input(shape), type(layer).from_config(layer.get_config())]
    )
    (row,) = cost.count(model).rows
    assert row.macs == macs
    assert row.flops == 2 * macs
    assert row.parameters == model.count_params()
    assert not row.reason


def test_macs_of_two_input_layers():
    query, value = (6, 8), (5, 10)
    attention = model_of(L.MultiHeadAttention(2, 3, value_dim=4), query, value)
    assert cost.count(attention).macs == (
        6 * 8 * 6 + 5 * 10 * 6 + 5 * 10 * 8  # query, key, value
        + 2 * 6 * 5 * 3 + 2 * 6 * 5 * 4  # scores, context
        + 6 * 8 * 8  # output
    )  # fmt: skip
    grouped = model_of(L.GroupQueryAttention(3, 4, 2), query, (5, 8))
    assert cost.count(grouped).macs == (
        6 * 8 * 12 + 2 * 5 * 8 * 6 + 2 * 4 * 6 * 5 * 3 + 6 * 12 * 8
    )
    pair = [keras.Input((6, 8)), keras.Input((5, 8))]
    plain = keras.Model(pair, L.Attention()(pair))
    assert cost.count(plain).macs == 2 * 6 * 5 * 8
    additive = keras.Model(pair, L.AdditiveAttention()(pair))
    assert cost.count(additive).macs == 2 * 6 * 5 * 8
    dot = keras.Model(pair, L.Dot(axes=2)(pair))
    assert cost.count(dot).macs == 6 * 5 * 8


@pytest.mark.parametrize("layer", [L.Attention, L.AdditiveAttention])
def test_masks_are_no_keys_of_attention(layer):
    words = keras.Input((6,), dtype="int32")
    query = L.Embedding(20, 8, mask_zero=True)(words)
    value = L.Embedding(20, 8, mask_zero=True)(words)
    attended = layer(use_scale=False, name="attended")([query, value])
    rows = cost.count(keras.Model(words, attended)).rows
    (macs,) = (row.macs for row in rows if row.name == "attended")
    terms = 2 if layer is L.Attention else 1
    assert macs == terms * 6 * 6 * 8


def test_attention_finds_query_and_value_by_name():
    attention = L.MultiHeadAttention(2, 3)
    swapped = model_of(lambda q, v: attention(value=v, query=q), (6, 8), (5, 8))
    plain = model_of(L.MultiHeadAttention(2, 3), (6, 8), (5, 8))
    assert cost.count(swapped).macs == cost.count(plain).macs


OPERATIONS = {
    "matmul": (ops.matmul, (6, 5), (5, 4), 6 * 5 * 4),
    "einsum": (lambda x, y: ops.einsum("bij,bjk->bik", x, y), (6, 5), (5, 4), 120),
    "einsum ellipsis": (
        lambda x, y: ops.einsum("...ij,...jk->...ik", x, y),
        (2, 6, 5),
        (2, 5, 4),
        2 * 120,
    ),
    "attention": (
        lambda x, y: ops.dot_product_attention(x, y, y),
        (6, 2, 3),
        (5, 2, 3),
        2 * 6 * 5 * 2 * 3,
    ),
    "addition": (ops.add, (6, 5), (6, 5), 0),
}


@pytest.mark.parametrize(
    ("operation", "first", "second", "macs"), OPERATIONS.values(), ids=OPERATIONS
)
def test_macs_of_operations_in_the_graph(operation, first, second, macs):
    counted = cost.count(model_of(operation, first, second))
    assert counted.macs == macs
    assert not counted.uncounted


def test_convolution_operations_use_their_constant_kernels():
    kernel = keras.Variable(np.zeros((3, 3, 4, 8), "float32"))
    model = model_of(lambda x: ops.conv(x, kernel, padding="same"), (6, 6, 4))
    counted = cost.count(model)
    assert counted.macs == 36 * 9 * 4 * 8
    assert counted.effective_macs == 0


def test_an_operation_that_folds_the_batch_axis_is_counted_in_full():
    x = keras.Input((6, 5))
    folded = ops.reshape(x, (-1, 5))
    model = keras.Model(x, L.Dense(7)(folded))
    assert cost.count(model).macs == 6 * 5 * 7


def test_a_custom_layer_that_folds_the_batch_axis_is_seen():
    class Fold(L.Layer):
        def call(self, x):
            return ops.reshape(x, (-1, 5))

    x = keras.Input((6, 5))
    model = keras.Model(x, L.Dense(7)(Fold()(x)))
    with pytest.warns(UserWarning, match="Fold"):
        assert cost.count(model).macs == 6 * 5 * 7


def test_a_fixed_batch_counts_as_one_sample():
    free = keras.Sequential([keras.Input((6, 5)), L.Dense(7)])
    fixed = keras.Sequential([keras.Input(batch_shape=(8, 6, 5)), L.Dense(7)])
    assert cost.count(fixed).macs == cost.count(free).macs == 6 * 5 * 7


def test_shared_layers_count_by_use_and_their_weights_once():
    x, y = keras.Input((5,)), keras.Input((5,))
    shared = L.Dense(7, name="shared")
    model = keras.Model([x, y], L.Add()([shared(x), shared(y)]))
    counted = cost.count(model)
    assert counted.macs == 2 * 35
    assert counted.parameters == model.count_params()
    assert [row.name for row in counted.rows][:2] == ["shared", "shared#2"]
    assert counted.rows[1].weight_reads == 42


def test_nested_models_count_by_use():
    inner = keras.Sequential(
        [keras.Input((5,)), L.Dense(5, name="dense")], name="inner"
    )
    x = keras.Input((5,))
    model = keras.Model(x, inner(inner(x)))
    counted = cost.count(model)
    assert counted.macs == 50
    assert counted.parameters == model.count_params()
    assert [row.name for row in counted.rows] == ["inner/dense", "inner/dense#2"]


def test_a_nested_model_is_counted_with_the_shape_it_is_called_with():
    inner = keras.Sequential([keras.Input((None, None, 3)), L.Conv2D(4, 3)])
    x = keras.Input((8, 8, 3))
    model = keras.Model(x, inner(x))
    assert cost.count(model).macs == 36 * 9 * 3 * 4


def test_open_sizes_are_asked_for_and_then_counted():
    model = keras.Sequential([keras.Input((None, None, 3)), L.Conv2D(4, 3)])
    with pytest.raises(ValueError, match="input_shape"):
        cost.count(model)
    assert cost.count(model, input_shape=(8, 8, 3)).macs == 36 * 9 * 3 * 4
    for wrong in ((8, 8, 4), (8, 8), [(8, 8, 3)] * 2, (8, 0, 3), 8, ("8", 8, 3)):
        with pytest.raises(ValueError, match="input_shape"):
            cost.count(model, input_shape=wrong)


def test_time_distributed_models_count_once_for_each_step():
    inner = keras.Sequential([keras.Input((5,)), L.Dense(7), L.Dense(3)])
    model = keras.Sequential([keras.Input((6, 5)), L.TimeDistributed(inner)])
    assert cost.count(model).macs == 6 * (35 + 21)


def test_low_rank_adapters_are_multiplied_out():
    model = keras.Sequential([keras.Input((6,)), L.Dense(7)])
    model.layers[0].enable_lora(2)
    assert cost.count(model).macs == 6 * 7 + 6 * 2 * 7


def test_a_wrapped_layer_keeps_its_operands_in_time():
    model = keras.Sequential(
        [keras.Input((6, 5)), L.TimeDistributed(Wrapped(L.Dense(7)))]
    )
    (row,) = cost.count(model).rows
    assert (row.macs, row.effective_macs) == (6 * 35, 0)
    assert row.operands.multiplier_bits == (1, 5)


def test_a_custom_cell_is_not_counted():
    class Cell(L.SimpleRNNCell):
        pass

    model = keras.Sequential([keras.Input((6, 5)), L.RNN(Cell(4))])
    with pytest.warns(UserWarning, match="no rule for the cell Cell"):
        assert cost.count(model).uncounted


def test_zero_weights_do_not_count_as_effective():
    model = keras.Sequential([keras.Input((6, 6, 4)), L.Conv2D(8, 3)])
    kernel = np.ones((3, 3, 4, 8), "float32")
    kernel[..., :6] = 0
    model.layers[0].set_weights([kernel, np.zeros(8, "float32")])
    counted = cost.count(model)
    assert counted.effective_macs * 4 == counted.macs
    assert counted.nonzero == 72
    assert counted.sparsity == 0.75


def test_activations_are_what_layers_write():
    model = keras.Sequential(
        [keras.Input((6, 6, 4)), L.Conv2D(8, 3), L.ReLU(), L.Flatten(), L.Dense(3)]
    )
    assert cost.count(model).activations == 128 + 128 + 0 + 3


def test_other_arithmetic_is_counted_apart():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            L.Conv2D(8, 3, activation="relu"),  # bias and activation
            L.BatchNormalization(),  # scale and offset
            L.MaxPooling2D(),  # three comparisons
            L.Flatten(),
            L.Dense(3, use_bias=False, activation="softmax"),
        ]
    )
    expected = 2 * 128 + 2 * 128 + 3 * 32 + 5 * 3
    assert cost.count(model).operations == expected


def test_table_i_of_pruning_while_training():
    """FP, BP and WU of one convolution, 8×8×4 to 4×4×6 with a 3×3 kernel."""
    model = keras.Sequential(
        [keras.Input((8, 8, 4)), L.Conv2D(6, 3, 2, padding="same", use_bias=False)]
    )
    (row,) = cost.count(model).rows
    reads_in, made, kernel = 64 * 4, 16 * 6, 9 * 4 * 6
    assert row.macs == row.backward_macs == row.update_macs == 16 * kernel
    assert row.accesses.forward.total == reads_in + kernel + made
    assert row.accesses.backward.total == made + kernel + reads_in
    assert row.accesses.update.total == reads_in + made + 2 * kernel
    assert row.accesses.total == 3 * (reads_in + made) + 4 * kernel


def test_frozen_layers_take_no_update():
    model = keras.Sequential([keras.Input((5,)), L.Dense(7, trainable=False)])
    counted = cost.count(model)
    assert counted.training_macs == 2 * counted.macs
    assert counted.accesses.update.total == 0


def test_products_of_data_have_two_gradients_and_no_update():
    model = model_of(ops.matmul, (6, 5), (5, 4))
    counted = cost.count(model)
    assert counted.training_macs == 3 * counted.macs
    assert counted.rows[0].update_macs == 0


def test_everything_that_the_engine_knows_is_counted():
    from tfcompress.cost import _operations, _rules
    from tfcompress.structure.rules import _table as engine

    without = set(engine._LAYERS) - set(_rules._RULES)
    # Activations without weights; the cells are counted by their RNN layer.
    assert without == {L.ReLU, L.LeakyReLU, L.ELU, L.StackedRNNCells}
    counted = {"MaxPool", "AveragePool"}.union(
        *(
            getattr(_operations, name)
            for name in ("_VIEWS", "_COPIES", "_ELEMENTWISE", "_REDUCTIONS")
        ),
        _operations._PER_ELEMENT,
        _operations._PRODUCTS,
    )
    assert not set(engine._OPS) - counted


# Unknown layers ---------------------------------------------------------------


class Twice(keras.layers.Layer):
    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], input_shape[-1]))

    def call(self, x):
        return x @ self.kernel


class Priced(Twice):
    def cost_macs(self, input_shapes, output_shapes):
        return input_shapes[0][-1] * output_shapes[0][-1]


class Wrapped(keras.layers.Wrapper):
    def call(self, x):
        return self.layer(x)

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)

    def cost_layer(self):
        return self.layer, {
            "weight_bits": 4,
            "activation_bits": 8,
            "multiplier_bits": (1, 5),
            "values": lambda variable: np.zeros(variable.shape),
        }


def test_an_unknown_layer_is_named_and_never_silently_zero():
    model = keras.Sequential([keras.Input((5,)), Twice(name="twice"), L.Dense(3)])
    with pytest.warns(UserWarning, match=r"lower bound.*twice.*no rule for Twice"):
        counted = cost.count(model)
    (row,) = counted.uncounted
    assert row.name == "twice" and "register" in row.reason
    assert counted.parameters == model.count_params()
    assert "≥" in str(counted) and "? twice" in str(counted)


def test_a_spectrogram_is_not_free():
    layer = L.MelSpectrogram(sampling_rate=16000, sequence_length=256, name="mel")
    with pytest.warns(UserWarning, match="lower bound.*mel.*no rule for MelSpectro"):
        counted = cost.count(model_of(layer, (16000,)))
    assert [row.name for row in counted.uncounted] == ["mel"]


@pytest.mark.parametrize(
    "kind", [L.JaxLayer, L.FlaxLayer, L.TorchModuleWrapper, L.TFSMLayer]
)
def test_code_of_other_libraries_is_not_free(kind):
    # Their libraries may be absent, so that nothing is made: the class decides.
    layer = object.__new__(kind)
    vars(layer).update(_trainable_variables=[], _non_trainable_variables=[])
    vars(layer).update(_layers=[], _seed_generators=[], _losses=[])
    assert "no rule for" in layer_rule(layer)(layer, None).reason


def test_a_layer_may_tell_its_own_cost():
    model = keras.Sequential([keras.Input((5,)), Priced()])
    assert cost.count(model).macs == 25


def test_a_registered_layer_is_counted(monkeypatch):
    from tfcompress.cost import _rules

    monkeypatch.setattr(_rules, "_RULES", dict(_rules._RULES))
    cost.register(Twice, lambda layer, inputs, outputs: layer.kernel.shape[0] ** 2)
    model = keras.Sequential([keras.Input((5,)), Twice()])
    assert cost.count(model).macs == 25
    cost.register(Twice, lambda layer, inputs, outputs: "many")
    with pytest.raises(ValueError, match="number of multiply"):
        cost.count(model)


def test_bad_registrations_are_refused():
    with pytest.raises(TypeError, match="`layer`"):
        cost.register("Dense", lambda layer, inputs, outputs: 1)
    with pytest.raises(TypeError, match="`macs`"):
        cost.register(Twice, 3)


def test_a_wrapper_tells_its_inner_layer_and_operands():
    model = keras.Sequential([keras.Input((5,)), Wrapped(L.Dense(7))])
    (row,) = cost.count(model).rows
    assert (row.kind, row.macs, row.effective_macs) == ("Dense", 35, 0)
    assert row.operands == cost.Operands("int", 4, 8, (1, 5))
    assert row.nonzero == 0


def test_operand_widths_follow_dtypes():
    for policy, bits in (("float32", 32), ("mixed_bfloat16", 16), ("float16", 16)):
        model = keras.Sequential([keras.Input((5,)), L.Dense(7, dtype=policy)])
        assert cost.count(model).rows[0].operands.activation_bits == bits
    model = keras.Sequential([keras.Input((6,)), L.Dense(7)])
    model.quantize("int4")
    with pytest.warns(UserWarning, match="packed in the int4 format"):
        assert cost.count(model).uncounted
    model = keras.Sequential([keras.Input((5,)), L.Dense(7)])
    model.quantize("int8")
    (row,) = cost.count(model).rows
    assert row.operands == cost.Operands("int", 8, 8)
    assert row.macs == 35


def test_comparisons_are_integer_arithmetic():
    x = keras.Input((5,))
    model = keras.Model(x, ops.greater(x, 0))
    counted = cost.count(model)
    assert counted.rows[0].operands.number == "int"
    assert cost.energy(counted).total > 0


# Against TensorFlow's profiler -------------------------------------------------

_PRODUCTS = {
    *("Conv2D", "Conv3D", "DepthwiseConv2dNative", "Conv2DBackpropInput"),
    *("MatMul", "BatchMatMul", "BatchMatMulV2"),
}


def profiled_flops(model):
    """Floating-point operations of all products, as TensorFlow counts them."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    (symbol,) = model.inputs
    sample = tf.TensorSpec([1, *symbol.shape[1:]], symbol.dtype)
    function = tf.function(lambda x: model(x, training=False))
    graph = convert_variables_to_constants_v2(function.get_concrete_function(sample))
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    pending = [tf.compat.v1.profiler.profile(graph.graph, cmd="op", options=options)]
    total = 0
    while pending:
        node = pending.pop()
        pending.extend(node.children)
        total += node.float_ops if node.name in _PRODUCTS else 0
    return total


def transposed():
    x = inputs = keras.Input((16, 16, 4))
    x = L.Conv2DTranspose(6, 3, strides=2, padding="same")(x)
    x = L.SeparableConv2D(8, 3, depth_multiplier=2)(x)
    x = L.Conv2D(8, 3, dilation_rate=2)(x)
    return keras.Model(inputs, x)


def recurrent():
    x = inputs = keras.Input((12, 5))
    x = L.Conv1D(8, 3, padding="causal")(x)
    x = L.LSTM(7, unroll=True, return_sequences=True)(x)
    x = L.GRU(6, unroll=True, return_sequences=True)(x)
    x = L.Bidirectional(L.SimpleRNN(4, unroll=True, return_sequences=True))(x)
    return keras.Model(inputs, L.TimeDistributed(L.Dense(3))(x))


NETWORKS = {
    "lenet5": zoo.lenet5,
    "vgg16": lambda: zoo.vgg16(width=0.25),
    "resnet20": zoo.resnet20,
    "resnet18": lambda: zoo.resnet18(width=0.25),
    "alexnet": lambda: zoo.alexnet(grouped=False, width=0.125),
    "mobilenet": lambda: keras.applications.MobileNetV2(
        weights=None, input_shape=(96, 96, 3), alpha=0.35
    ),
    "transposed": transposed,
    "recurrent": recurrent,
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_flops_agree_with_the_profiler_of_tensorflow(network):
    model = network()
    counted = cost.count(model)
    assert counted.flops == profiled_flops(model)
    assert counted.parameters == model.count_params()


# Results ------------------------------------------------------------------------


def test_a_cost_survives_json():
    counted = cost.count(zoo.lenet5())
    assert (
        cost.ModelCost.from_dict(json.loads(json.dumps(counted.to_dict()))) == counted
    )


def test_the_table_names_every_layer_and_both_units():
    model = zoo.lenet5()
    text = str(cost.count(model))
    assert all(layer.name in text for layer in model.layers[1:])
    assert "FLOPs = 2 × MACs" in text


def test_counting_does_not_change_the_model():
    model = zoo.lenet5()
    before = model.get_weights(), model.to_json()
    cost.count(model)
    assert model.to_json() == before[1]
    assert all(map(np.array_equal, model.get_weights(), before[0]))


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(TypeError, match="Functional or Sequential"):
        cost.count("model")
    with pytest.raises(ValueError, match="built"):
        cost.count(keras.Sequential([L.Dense(3)]))


def test_channelwise_registrations_of_the_engine_hold_here_too(monkeypatch):
    class Gain(keras.layers.Layer):
        def build(self, input_shape):
            self.gain = self.add_weight(shape=(input_shape[-1],))

        def call(self, x):
            return x * self.gain

    from tfcompress.structure.rules import _table

    monkeypatch.setattr(_table, "_LAYERS", dict(_table._LAYERS))
    structure.register_channelwise(Gain, "gain")
    counted = cost.count(keras.Sequential([keras.Input((5,)), Gain()]))
    assert (counted.macs, counted.operations) == (0, 5)
