"""Small graphs, one for each thing that people do with channels.

Every entry of `CASES` maps a name to (builder, sizes of the prunable groups).
"""

import keras
import numpy as np
from keras import layers as L
from keras import ops


def _image(size=8, channels=3):
    return keras.Input((size, size, channels))


def _head(x, units=4):
    if len(x.shape) > 2:
        x = L.Flatten()(x)
    return L.Dense(units, name="head")(x)


def _conv(filters=8, size=3, **kwargs):
    return L.Conv2D(filters, size, padding="same", **kwargs)


def _model(i, x):
    return keras.Model(i, x)


def conv_stack():
    i = _image()
    x = L.BatchNormalization()(_conv(6, activation="relu")(i))
    return _model(i, _head(_conv(5, activation="tanh")(x)))


def conv1d():
    i = keras.Input((12, 3))
    x = L.Conv1D(6, 3, padding="causal", activation="relu")(i)
    x = L.SeparableConv1D(5, 3, depth_multiplier=2)(x)
    x = L.DepthwiseConv1D(3, depth_multiplier=2)(x)
    return _model(i, _head(L.GlobalAveragePooling1D()(x)))


def conv3d():
    i = keras.Input((4, 4, 4, 2))
    x = L.Conv3D(6, 2, activation="relu")(i)
    x = L.GlobalAveragePooling3D()(L.ZeroPadding3D(1)(x))
    return _model(i, _head(x))


def transposed():
    i = _image(4)
    x = L.Conv2DTranspose(6, 3, strides=2, padding="same", activation="relu")(i)
    x = L.Conv2DTranspose(5, 3, use_bias=False)(x)
    return _model(i, _head(L.GlobalMaxPooling2D()(x)))


def transposed_1d_3d():
    i = keras.Input((4, 2))
    x = L.Conv1DTranspose(4, 3)(i)
    x = L.Reshape((6, 1, 1, 4))(x)
    x = L.Conv3DTranspose(3, 2)(x)
    return _model(i, _head(x))


def depthwise_multiplier():
    i = _image()
    x = _conv(5)(i)
    x = L.DepthwiseConv2D(3, depth_multiplier=3, activation="relu")(x)
    return _model(i, _head(_conv(4)(x)))


def separable():
    i = _image()
    x = L.SeparableConv2D(6, 3, depth_multiplier=2, activation="relu")(_conv(5)(i))
    return _model(i, _head(x))


def grouped_conv():
    i = _image()
    x = _conv(8, activation="relu")(i)
    x = _conv(12, groups=4)(x)
    return _model(i, _head(L.BatchNormalization()(x)))


def grouped_like_depthwise():
    i = _image()
    x = _conv(6)(i)
    return _model(i, _head(_conv(12, groups=6)(x)))


def dense_ranks():
    i = keras.Input((5, 3))
    x = L.Dense(7, activation="relu")(i)
    return _model(i, _head(L.Dense(6)(x)))


def einsum_dense():
    i = keras.Input((5, 6))
    x = L.Dense(7)(i)
    x = L.EinsumDense("abc,cd->abd", (5, 8), bias_axes="d", activation="relu")(x)
    return _model(i, _head(x))


def einsum_dense_with_one_bias_for_many():
    i = keras.Input((5, 6))
    x = L.Dense(7)(i)
    a = L.EinsumDense("abc,cde->abde", (5, 4, 3), bias_axes="d")(x)
    b = L.EinsumDense("abc,cd->adb", (8, 5), bias_axes="b")(x)
    return _model(i, [_head(a), L.Dense(2)(L.Flatten()(b))])


def embedding():
    i = keras.Input((6,), dtype="int32")
    x = L.Embedding(20, 8)(i)
    return _model(i, _head(L.Conv1D(5, 3)(x)))


def recurrent():
    i = keras.Input((5, 3))
    x = L.LSTM(6, return_sequences=True)(i)
    x = L.GRU(5, return_sequences=True)(x)
    x = L.GRU(5, reset_after=False, return_sequences=True)(x)
    return _model(i, _head(L.SimpleRNN(4)(x)))


def recurrent_states():
    i = keras.Input((5, 3))
    sequence, *state = L.LSTM(6, return_sequences=True, return_state=True)(i)
    return _model(i, _head(L.LSTM(6)(sequence, initial_state=state)))


def attention():
    i = keras.Input((6, 4))
    x = L.Dense(8)(i)
    y = L.MultiHeadAttention(4, 3, value_dim=2)(x, x)
    x = L.Add()([x, y])
    return _model(i, _head(L.Dense(5, activation="gelu")(x)))


def cross_attention():
    i = keras.Input((6, 4))
    q, v, k = L.Dense(8)(i), L.Dense(7)(i), L.Dense(6)(i)
    x = L.MultiHeadAttention(4, 3, output_shape=5)(query=q, value=v, key=k)
    return _model(i, _head(x))


def grouped_attention():
    i = keras.Input((6, 4))
    x = L.Dense(8)(i)
    x = L.GroupQueryAttention(head_dim=3, num_query_heads=6, num_key_value_heads=3)(
        x, x
    )
    return _model(i, _head(x))


def residual():
    i = _image()
    x = L.BatchNormalization()(_conv(6)(i))
    y = L.ReLU()(L.BatchNormalization()(_conv(6, use_bias=False)(x)))
    x = L.Add()([x, y])
    return _model(i, _head(_conv(5)(x)))


def preactivated():
    i = _image()
    x = _conv(6)(i)
    y = L.Activation("relu")(L.BatchNormalization()(x))
    x = L.Add()([x, _conv(6)(y)])
    return _model(i, _head(L.BatchNormalization()(x)))


def densely_connected():
    i = _image()
    x = _conv(4)(i)
    for _ in range(2):
        x = L.Concatenate()([x, _conv(3, activation="relu")(x)])
    return _model(i, _head(x))


def squeeze_excite():
    i = _image()
    x = _conv(8, activation="swish")(i)
    s = L.GlobalAveragePooling2D(keepdims=True)(x)
    s = _conv(3, 1, activation="relu")(s)
    s = _conv(8, 1, activation="sigmoid")(s)
    return _model(i, _head(L.Multiply()([x, s])))


def squeeze_excite_dense():
    i = _image()
    x = _conv(8)(i)
    s = L.Reshape((1, 1, 8))(L.GlobalAveragePooling2D()(x))
    s = L.Dense(8, activation="hard_sigmoid")(L.Dense(3, activation="relu")(s))
    return _model(i, _head(x * s))


def spatial_attention():
    i = _image()
    x = _conv(8)(i)
    a = _conv(1, activation="sigmoid")(_conv(4, activation="relu")(x))
    return _model(i, _head(L.Multiply()([x, a])))


def spatial_attention_on_constants():
    i = _image()
    x, y = _conv(8, activation="sigmoid")(i), _conv(7)(i)
    a = _conv(1)(i)
    return _model(i, [_head(L.Conv2D(5, 3)(x * a)), L.Conv2D(3, 3)(y + a)])


def spatial_attention_by_mean():
    i = _image()
    x = _conv(8)(i)
    a = ops.mean(x, axis=-1, keepdims=True)
    return _model(i, _head(_conv(5)(x * ops.sigmoid(a))))


def sum_over_channels():
    i = _image()
    x = _conv(8, activation="relu")(i)
    return _model(i, _head(ops.sum(x, axis=-1)))


def nonzero_constants_folded():
    i = _image()
    x = L.Conv2D(8, 3, activation="sigmoid")(i)
    x = L.Conv2D(6, 1, activation="sigmoid")(x)
    x = L.Conv2D(5, 3, padding="valid", activation="softplus")(x)
    return _model(i, _head(x))


def shared_layers_of_two_constants():
    i = keras.Input((6,))
    x, y = L.Dense(8)(i), L.Dense(7)(i)
    one, other = L.Dense(5), L.Dense(4)
    zero_first = [one(ops.relu(x)), one(ops.sigmoid(x))]
    zero_last = [other(ops.sigmoid(y)), other(ops.relu(y))]
    return _model(i, _head(L.Concatenate()([*zero_first, *zero_last])))


def shared_layers_on_frozen_channels():
    i = keras.Input((5, 6))
    prelu, einsum = L.PReLU(), L.EinsumDense("abc,cd->abd", (5, 8))
    read = [einsum(L.Dense(6)(i)), einsum(i)]
    x = L.Concatenate()([*read, prelu(i), prelu(L.Dense(6)(i))])
    return _model(i, _head(L.Dense(4)(x)))


def shared_reshape():
    i = keras.Input((6,))
    square = L.Reshape((2, 2, 5))
    a, b = square(L.Dense(20)(i)), square(L.Dense(20, activation="relu")(i))
    return _model(i, _head(L.Concatenate()([L.Conv2D(4, 1)(a), L.Conv2D(3, 1)(b)])))


def shared_attention_refused_at_one_call():
    i = keras.Input((5, 6))
    attend = L.MultiHeadAttention(4, 3)
    x = L.Dense(7)(i)
    masked = attend(x, x, attention_mask=np.tri(5, dtype=bool)[None])
    return _model(i, _head(L.Dense(5)(attend(x, x)) + L.Dense(5)(masked)))


def nested_on_two_constants():
    i = keras.Input((6,))
    x = L.Dense(8)(i)
    inside = keras.Input((8,))
    inner = keras.Model(inside, L.Dense(5)(inside))
    return _model(i, _head(L.Add()([inner(ops.relu(x)), inner(ops.sigmoid(x))])))


def nonzero_constant_padded():
    i = _image()
    return _model(i, _head(_conv(6)(_conv(8, activation="sigmoid")(i))))


def constant_through_batchnorm():
    i = _image()
    x = L.BatchNormalization()(_conv(8, activation="sigmoid")(i))
    return _model(i, _head(_conv(6)(x)))


def shifted_activation():
    i = _image()
    x = ops.relu(_conv(8)(i) + 3.0) / 6.0
    return _model(i, _head(L.Conv2D(6, 1)(x)))


def maximum_with_initial_value():
    i = _image()
    x = ops.max(_conv(8)(i), axis=(1, 2), initial=0.5)
    return _model(i, _head(L.Dense(5)(x)))


def resized_with_fill_value():
    i = _image()
    x = ops.image.resize(
        _conv(8)(i), (10, 20), pad_to_aspect_ratio=True, fill_value=2.0
    )
    return _model(i, _head(L.Conv2D(5, 3)(x)))


def scaled_by_array_of_one_value():
    i = _image()
    x = _conv(8)(i) * np.full((1, 1, 1, 1), 0.5)
    y = L.Dense(7)(L.GlobalMaxPooling2D()(i)) * np.full((1, 1, 1), 0.5)
    return _model(i, [_head(_conv(5)(x)), L.Dense(3)(y)])


def cast_constant():
    i = keras.Input((6,))
    x = ops.cast(3 * L.Dense(8, activation="sigmoid")(i), "int32")
    return _model(i, _head(L.Dense(5)(ops.cast(x, i.dtype))))


def reciprocal():
    i = keras.Input((6,))
    return _model(i, _head(L.Dense(5)(1.0 / L.Dense(8)(i))))


def hard_swish_by_ops():
    i = _image()
    x = _conv(8)(i)
    x = x * (ops.relu6(x + 3.0) * (1.0 / 6.0))
    return _model(i, _head(_conv(6)(x)))


def channel_shuffle():
    i = _image()
    x = _conv(18, activation="relu")(i)
    x = L.Reshape((8, 8, 3, 6))(x)
    x = L.Permute((1, 2, 4, 3))(x)
    x = L.Reshape((8, 8, 18))(x)
    return _model(i, _head(_conv(6, groups=3)(x)))


def pixel_shuffle():
    i = _image(4)
    x = _conv(12, activation="relu")(i)
    x = ops.reshape(x, (-1, 4, 4, 2, 2, 3))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
    x = ops.reshape(x, (-1, 8, 8, 3))
    return _model(i, _head(_conv(5)(x)))


def reshaped_over_open_size():
    i = keras.Input((None, 6))
    x = L.Reshape((8, -1))(L.Dense(8)(i))
    x = L.Dense(7)(L.Permute((2, 1))(x))
    x = L.Reshape((-1, 2, 5))(L.Dense(10)(x))
    return _model(i, _head(L.GlobalAveragePooling2D()(x)))


def dense_to_image():
    i = keras.Input((7,))
    x = L.Dense(4 * 4 * 5, activation="relu")(i)
    x = L.Reshape((4, 4, 5))(x)
    return _model(i, _head(L.Conv2DTranspose(6, 3, strides=2)(x)))


def slices():
    i = _image()
    x = _conv(9)(i)
    a, b = x[..., :4], x[..., 4:]
    b = _conv(4)(b)
    return _model(i, _head(a + b))


def slices_of_open_size():
    i = keras.Input((None, 6))
    x = L.Dense(8)(i)
    x, last = L.Dense(7)(x[:, 1:] - x[:, :-1]), x[:, -2]
    x = L.Concatenate()([L.GlobalMaxPooling1D()(x), last[:, 2:]])
    return _model(i, _head(x))


def split():
    i = _image()
    a, b, c = ops.split(_conv(9)(i), 3, axis=-1)
    return _model(i, _head(L.Concatenate()([_conv(5)(a), b * ops.sigmoid(c)])))


def uneven_split():
    i = _image()
    a, b = ops.split(_conv(9)(i), [2], axis=-1)
    return _model(i, _head(L.Concatenate()([_conv(4)(b), a])))


def stacked():
    i = _image()
    x = ops.stack([_conv(6)(i), _conv(6)(i)], axis=1)
    return _model(i, _head(L.Conv3D(5, 2)(x)))


def unet():
    i = _image()
    a = _conv(5, activation="relu")(i)
    b = _conv(6, activation="relu")(L.AveragePooling2D(2)(a))
    c = L.Concatenate()([L.UpSampling2D(interpolation="bilinear")(b), a])
    c = L.ZeroPadding2D(1)(L.Cropping2D(1)(c))
    return _model(i, _head(_conv(4)(c)))


def joined_in_time():
    i = keras.Input((6, 3))
    x = L.Concatenate(axis=1)([L.Dense(5)(i), L.Dense(5)(i)])
    return _model(i, _head(L.Conv1D(4, 3)(x)))


def shared_layer():
    a, b = _image(), _image()
    conv = _conv(6, activation="relu")
    other = _conv(5)
    return _model([a, b], _head(L.Concatenate()([other(conv(a)), other(conv(b))])))


def nested():
    i = _image()
    x = _conv(5, activation="relu")(i)
    j = keras.Input((8, 8, 5))
    inner = keras.Model(j, L.BatchNormalization()(_conv(6)(j)), name="inner")
    return _model(i, _head(_conv(4)(inner(x))))


def nested_twice():
    i = _image()
    a, b = _conv(5)(i), _conv(5)(i)
    j = keras.Input((8, 8, 5))
    inner = keras.Model(j, L.ReLU()(_conv(6)(j)), name="inner")
    return _model(i, _head(inner(a) + inner(b)))


def nested_sequential():
    inner = keras.Sequential([L.Input((8, 8, 3)), _conv(6), L.PReLU()], name="inner")
    return keras.Sequential([L.Input((8, 8, 3)), inner, L.Flatten(), L.Dense(4)])


def several_inputs_and_outputs():
    inputs = {
        "image": keras.Input((8, 8, 3), name="image"),
        "vector": keras.Input((5,), name="vector"),
    }
    x = L.GlobalAveragePooling2D()(_conv(6, activation="relu")(inputs["image"]))
    x = L.Concatenate()([x, L.Dense(7, activation="elu")(inputs["vector"])])
    x = L.Dense(6, activation="relu")(x)
    return keras.Model(inputs, {"a": L.Dense(2)(x), "b": L.Dense(3)(x)})


def noise_and_dropout():
    i = _image()
    x = L.SpatialDropout2D(0.2)(L.GaussianNoise(0.1)(_conv(6)(i)))
    x = L.Rescaling(0.5)(L.LeakyReLU()(L.Dropout(0.5)(x)))
    return _model(i, _head(x))


def identity_of_several():
    i = keras.Input((6,))
    x, y = L.Identity()([L.Dense(5)(i), L.Dense(5)(i)])
    return _model(i, _head(x + y))


def lambda_channelwise():
    i = _image()
    x = L.Lambda(lambda t: t * t, name="square")(_conv(6)(i))
    return _model(i, _head(x))


def lambda_with_output_shape():
    i = _image()
    x = L.Lambda(lambda t: 2 * t, output_shape=(8, 8, 6))(_conv(6)(i))
    return _model(i, _head(_conv(5)(x)))


def lambda_mixing():
    i = _image()
    x = L.Lambda(lambda t: t[..., ::-1], name="flip")(_conv(6)(i))
    return _model(i, _head(_conv(5)(x)))


def layer_norm():
    i = keras.Input((6, 4))
    x = L.LayerNormalization(name="norm")(L.Dense(8)(i))
    return _model(i, _head(L.Dense(7, activation="gelu")(x)))


def group_norm():
    i = _image()
    x = L.GroupNormalization(2, name="norm")(_conv(8)(i))
    return _model(i, _head(_conv(5)(x)))


def softmax_inside():
    i = keras.Input((6,))
    return _model(i, _head(L.Dense(5, activation="softmax", name="gate")(i)))


def matmul_inside():
    i = keras.Input((6, 4))
    x = L.Dense(5)(i)
    return _model(i, _head(L.Dense(3)(ops.matmul(x, ops.transpose(x, (0, 2, 1))))))


def refused_wrappers():
    i = keras.Input((6, 4))
    x = L.Bidirectional(L.LSTM(3, return_sequences=True), name="both")(L.Dense(5)(i))
    x = L.TimeDistributed(L.Dense(4), name="each")(x)
    return _model(i, _head(L.Dense(7)(x)))


def normalization_options():
    i = _image()
    x = L.BatchNormalization(scale=False)(_conv(6)(i))
    x = L.BatchNormalization(center=False)(_conv(5)(L.ReLU()(x)))
    return _model(i, _head(x))


def any_size():
    i = keras.Input((None, None, 3))
    x = _conv(6, strides=2, activation="relu")(i)
    x = L.GlobalAveragePooling2D()(L.SeparableConv2D(5, 3)(x))
    return _model(i, _head(x))


def maximum_minimum():
    i = _image()
    x = L.Maximum()([_conv(6)(i), L.Minimum()([_conv(6)(i), _conv(6)(i)])])
    return _model(i, _head(L.Average()([x, L.Subtract()([x, _conv(6)(i)])])))


def masked_sequence():
    i = keras.Input((6,), dtype="int32")
    x = L.Embedding(20, 8, mask_zero=True)(i)
    return _model(i, _head(L.LSTM(5)(x)))


def masked_by_units():
    i = keras.Input((5, 6))
    mask = L.Dense(5)(L.GlobalMaxPooling1D()(i)) > 0
    x = L.LSTM(4, return_sequences=True)(L.Dense(7)(i), mask=mask)
    return _model(i, _head(L.GRU(3)(x, None, mask)))


def masked_sequential():
    return keras.Sequential(
        [
            L.Input((6,), dtype="int32"),
            L.Embedding(20, 8, mask_zero=True),
            L.GlobalAveragePooling1D(),
            L.Dense(5, activation="relu"),
            L.Dense(3),
        ]
    )


def nested_on_masked():
    i = keras.Input((6,), dtype="int32")
    x = L.Embedding(20, 8, mask_zero=True)(i)
    j = keras.Input((6, 8))
    inner = keras.Model(j, L.Conv1D(5, 3)(j), name="inner")
    return _model(i, _head(inner(x)))


def nested_called_by_name():
    i = keras.Input((7,))
    a, b = keras.Input((6,), name="a"), keras.Input((5,), name="b")
    inner = keras.Model([b, a], L.Dense(4)(L.Concatenate()([a, L.Dense(3)(b)])))
    return _model(i, _head(inner({"a": L.Dense(6)(i), "b": L.Dense(5)(i)})))


def softmax_over_time():
    i = keras.Input((6, 4))
    x = L.Dense(7)(i)
    w = L.Dense(1, activation=lambda t: keras.activations.softmax(t, axis=1))(x)
    return _model(i, _head(L.Multiply()([x, w])))


def subclass_with_own_constructor():
    i = _image()
    x = _Block(3)(_conv(6)(i))
    return _model(i, _head(_conv(5)(x)))


@keras.saving.register_keras_serializable(package="tests")
class _Block(keras.Model):
    def __init__(self, width, **kwargs):
        self.width = width
        i = keras.Input((8, 8, 6))
        super().__init__(i, _conv(width, name="inside")(i), **kwargs)

    def get_config(self):
        return {"width": self.width, "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


CASES = {
    conv_stack: [6, 5],
    conv1d: [6, 5],
    conv3d: [6],
    transposed: [6, 5],
    transposed_1d_3d: [4, 3],
    depthwise_multiplier: [5, 4],
    separable: [5, 6],
    grouped_conv: [2, 3],
    grouped_like_depthwise: [6],
    dense_ranks: [7, 6],
    einsum_dense: [7, 8],
    embedding: [8, 5],
    recurrent: [6, 5, 5, 4],
    recurrent_states: [6],
    attention: [8, 4, 5],
    cross_attention: [8, 7, 6, 4, 5],
    grouped_attention: [8, 3],
    residual: [6, 5],
    preactivated: [6],
    densely_connected: [4, 3, 3],
    squeeze_excite: [8, 3],
    squeeze_excite_dense: [8, 3],
    spatial_attention: [8, 4],
    spatial_attention_on_constants: [5],
    spatial_attention_by_mean: [5],
    sum_over_channels: [8],
    nonzero_constants_folded: [8, 6, 5],
    nonzero_constant_padded: [6],
    constant_through_batchnorm: [8, 6],
    shifted_activation: [8, 6],
    maximum_with_initial_value: [5],
    resized_with_fill_value: [5],
    scaled_by_array_of_one_value: [8, 5],
    cast_constant: [8, 5],
    reciprocal: [5],
    hard_swish_by_ops: [8, 6],
    channel_shuffle: [2, 2],
    pixel_shuffle: [3, 5],
    reshaped_over_open_size: [7, 5],
    dense_to_image: [5, 6],
    slices: [4, 5],
    slices_of_open_size: [2, 6, 7],
    split: [3, 3, 5],
    uneven_split: [2, 4, 7],
    stacked: [6, 5],
    unet: [5, 6, 4],
    joined_in_time: [5, 4],
    shared_layer: [6, 5],
    einsum_dense_with_one_bias_for_many: [7],
    shared_layers_of_two_constants: [5, 4],
    shared_layers_on_frozen_channels: [8, 4],
    shared_reshape: [5, 4, 3],
    shared_attention_refused_at_one_call: [5],
    nested_on_two_constants: [5],
    nested: [5, 6, 4],
    nested_twice: [5, 6],
    nested_sequential: [6],
    several_inputs_and_outputs: [6, 7, 6],
    noise_and_dropout: [6],
    identity_of_several: [5],
    lambda_channelwise: [6],
    lambda_with_output_shape: [6, 5],
    lambda_mixing: [5],
    layer_norm: [7],
    group_norm: [5],
    softmax_inside: [],
    matmul_inside: [3],
    refused_wrappers: [7],
    normalization_options: [6, 5],
    any_size: [6, 5],
    maximum_minimum: [6],
    masked_sequence: [8, 5],
    masked_by_units: [7, 4, 3],
    masked_sequential: [8, 5],
    nested_on_masked: [8, 5],
    nested_called_by_name: [3, 4, 5, 6],
    softmax_over_time: [7],
    subclass_with_own_constructor: [6, 3, 5],
}

REASONS = {
    spatial_attention_by_mean: "reduces over the channels",
    spatial_attention_on_constants: "would not be constant",
    nonzero_constant_padded: "non-zero constant",
    reciprocal: "would not be constant",
    scaled_by_array_of_one_value: "combines with an array",
    maximum_with_initial_value: "would not be constant",
    resized_with_fill_value: "would not be constant",
    reshaped_over_open_size: "depends on an unknown size",
    shared_layers_of_two_constants: "carries different constants at the calls",
    shared_layers_on_frozen_channels: "also reads frozen channels",
    shared_attention_refused_at_one_call: "has a mask input",
    nested_on_two_constants: "carries different constants at the calls",
    einsum_dense_with_one_bias_for_many: "share one bias",
    lambda_mixing: "not channel-wise",
    layer_norm: "'norm' normalizes over the channels",
    group_norm: "normalizes over groups",
    masked_by_units: "is a mask of",
    softmax_inside: "'softmax' of 'gate' mixes channels",
    matmul_inside: "multiplies tensors of the graph",
    refused_wrappers: "'both': applies another layer",
}


def randomize(model, seed=0):
    """Random weights, with statistics of normalization away from 0 and 1."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if variable.path.endswith(("gamma", "moving_variance")):
            value = rng.uniform(0.5, 1.5, variable.shape)
        elif variable.path.endswith("seed_generator_state"):
            continue
        elif variable.path.endswith(("beta", "bias", "moving_mean", "alpha", "scale")):
            value = rng.uniform(-0.5, 0.5, variable.shape)
        else:
            fan_in = max(1, int(np.prod(variable.shape[:-1])))
            value = rng.normal(size=variable.shape) * (2 / fan_in) ** 0.5
        variable.assign(value)
    return model


def random_inputs(model, batch=2, seed=0):
    """Arrays in the structure that the model takes."""
    rng = np.random.default_rng(seed)

    def make(tensor):
        shape = (batch, *(16 if n is None else n for n in tensor.shape[1:]))
        if "int" in tensor.dtype:
            return rng.integers(0, 20, shape)
        return rng.normal(size=shape)

    graph = model._functional if isinstance(model, keras.Sequential) else model
    return keras.tree.map_structure(make, graph._inputs_struct)


def some_channels(groups, rate=0.4, seed=0):
    """A random part of the channels of every prunable group, never all."""
    rng = np.random.default_rng(seed)
    chosen = {}
    for group in groups:
        count = min(group.size - 1, max(1, round(rate * group.size)))
        if group.prunable and count:
            chosen[group.name] = rng.choice(group.size, count, replace=False)
    return chosen


def largest_difference(first, second, inputs):
    """Largest difference of two models' outputs, relative to the values."""
    a = [np.asarray(t) for t in keras.tree.flatten(first(inputs, training=False))]
    b = [np.asarray(t) for t in keras.tree.flatten(second(inputs, training=False))]
    return max(np.abs(x - y).max() / np.abs(x).max() for x, y in zip(a, b, strict=True))
