"""What each kind of Keras layer takes.

A rule is a function of the layer and of its use. Multiply-accumulates are
counted as the plain algorithm performs them: products with padding included, no
skipping, no transforms such as Winograd's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras

from tfcompress.cost._operands import unwrap
from tfcompress.cost._operations import operation_work
from tfcompress.cost._uses import Shape, Use, elements, uses
from tfcompress.cost._work import SOFTMAX_OPERATIONS, Product, Work, spatial_size
from tfcompress.structure._facts import IDENTITY_LAYERS
from tfcompress.structure._graph import is_nested_model
from tfcompress.structure.rules import (
    Registered,
    RegisteredProducer,
    counts_as,
    rule_for,
)

__all__ = ["Rule", "layer_rule", "register"]

Rule = Callable[[Any, Use], Work]

# Scale and offset; the statistics are constants.
_BATCH_NORM_OPERATIONS = 2
# Mean 1, centring 1, variance 2, scaling 1, gamma 1, beta 1.
_LAYER_NORM_OPERATIONS = 7
# Mean square 2, scaling 1, gain 1.
_RMS_NORM_OPERATIONS = 4


def register(
    layer: type[keras.Layer], macs: Callable[[Any, list[Shape], list[Shape]], int]
) -> None:
    """Tells `count` how many multiply-accumulates a custom layer takes.

    Example:

    ```python
    tfc.cost.register(LowRank, lambda layer, inputs, outputs: layer.a.size)
    ```

    Args:
        layer: the layer class; its subclasses need their own registration.
        macs: function of the layer, the shapes of its inputs and the shapes of
            its outputs, all at batch 1, that returns the number of
            multiply-accumulates of one use.

    Raises:
        TypeError: if `layer` is not a layer class or `macs` is not callable.
        ValueError: from `count`, if `macs` does not return a whole number.
    """
    if not (isinstance(layer, type) and issubclass(layer, keras.Layer)):
        raise TypeError(
            "Invalid value for argument `layer`. Expected a keras.layers.Layer class. "
            f"Received: layer={layer!r}"
        )
    if not callable(macs):
        raise TypeError(
            "Invalid value for argument `macs`. Expected a function of the layer, its "
            f"input shapes and its output shapes. Received: macs={macs!r}"
        )
    _RULES[layer] = lambda op, use: _custom(macs, op, use)


def layer_rule(layer: keras.Layer) -> Rule:
    """The rule of `layer`."""
    # From the most specific knowledge to the least: a rule for the class (the table
    # below, or `register`), a registered producer, what the layer says of itself, its
    # graph. Elementwise are Keras layers without weights, and what was registered as
    # channel-wise. No other class is guessed at: its row gives a reason, and `count`
    # warns that the total is a lower bound.
    rule = _RULES.get(type(layer)) or _RULES.get(counts_as(type(layer)))
    if rule is not None:
        return rule
    known = rule_for(layer, ())
    if isinstance(known, RegisteredProducer):
        return _producer(known)
    if hasattr(layer, "cost_layer"):
        inner = unwrap(layer)[0]
        return lambda _, use: layer_rule(inner)(inner, use)
    if hasattr(layer, "cost_macs"):
        return lambda op, use: _custom(
            lambda _, inputs, outputs: op.cost_macs(inputs, outputs), op, use
        )
    if is_nested_model(layer):
        return _model
    plain = type(layer).__module__.startswith("keras.") and not layer.weights
    if plain or isinstance(known, Registered):
        return _elementwise
    return _unknown


def _custom(
    macs: Callable[[Any, list[Shape], list[Shape]], int], layer: Any, use: Use
) -> Work:
    number = macs(
        layer,
        [tuple(tensor.shape) for tensor in use.inputs],
        [tuple(tensor.shape) for tensor in use.outputs],
    )
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise ValueError(
            f"The cost of {use.path!r} ({type(layer).__name__}) must be a number of "
            f"multiply-accumulates, an int of at least 0. Received: {number!r}"
        )
    return Work((Product(number),))


def _producer(known: RegisteredProducer) -> Rule:
    """The rule of a layer that is registered with `structure.register_producer`."""
    macs = known.macs
    if macs is not None:
        return lambda op, use: _custom(macs, op, use)

    def rule(layer: Any, use: Use) -> Work:
        kernel = getattr(layer, known.kernel)
        made = elements(use.outputs[0])
        positions = made // kernel.shape[known.axes[1]]
        bias = None if known.bias is None else getattr(layer, known.bias)
        finish = activation_operations(getattr(layer, "activation", None), made)
        finish += 0 if bias is None else made
        return Work((Product(positions * _size(kernel), kernel),), finish)

    return rule


def _unknown(layer: Any, use: Use) -> Work:
    weights = ", which has weights" if layer.weights else ""
    return Work(
        reason=f"no rule for {type(layer).__name__}{weights}; "
        "tell tfcompress.cost.register what it takes"
    )


def _model(layer: Any, use: Use) -> Work:
    """A model inside a wrapper: everything in it."""
    shapes = [tuple(tensor.shape[1:]) for tensor in use.inputs]
    total = Work()
    for inner in uses(layer, shapes):
        operation = inner.operation
        if isinstance(operation, keras.Layer):
            total += layer_rule(operation)(operation, inner)
        else:
            total += operation_work(inner)
    return total


# Helpers --------------------------------------------------------------------


def activation_operations(activation: Any, number: int) -> int:
    """Arithmetic of an activation function on `number` elements."""
    name = getattr(activation, "__name__", type(activation).__name__)
    if activation is None or name == "linear":
        return 0
    if name in ("softmax", "log_softmax"):
        return SOFTMAX_OPERATIONS * number
    return number


def _kernel(layer: Any, name: str = "kernel") -> keras.Variable:
    """The variable behind `layer.kernel`, which may be computed from several."""
    variable = getattr(layer, f"_{name}", None)
    return getattr(layer, name) if variable is None else variable


def _weighted(layer: Any, positions: int, made: int, name: str = "kernel") -> Work:
    """A kernel that is used at `positions`, then bias and activation."""
    mode = getattr(layer, "quantization_mode", None)
    if mode not in (None, "int8"):
        return Work(reason=f"the weights are packed in the {mode} format")
    kernel = _kernel(layer, name)
    products = [Product(positions * _size(kernel), kernel)]
    if getattr(layer, "lora_enabled", False):
        low, high = layer.lora_kernel_a, layer.lora_kernel_b
        # The kernel is assembled at every call.
        products.append(Product(_size(low) * high.shape[-1]))
    return Work(tuple(products), _finish(layer, made))


def _finish(layer: Any, made: int) -> int:
    """Operations of bias and activation on the `made` elements."""
    bias = made if getattr(layer, "bias", None) is not None else 0
    return bias + activation_operations(getattr(layer, "activation", None), made)


def _size(variable: Any) -> int:
    return math.prod(variable.shape)


# Weighted layers ------------------------------------------------------------


def _conv(layer: Any, use: Use) -> Work:
    """Every weight is used once for each output position, with groups too."""
    positions = spatial_size(use.outputs[0], layer.data_format)
    return _weighted(layer, positions, elements(use.outputs[0]))


def _conv_transpose(layer: Any, use: Use) -> Work:
    """Every weight is used once for each input position."""
    # The mirror image of a convolution: each input value is multiplied by the kernel
    # and added into the output at k × k places.
    positions = spatial_size(use.inputs[0], layer.data_format)
    return _weighted(layer, positions, elements(use.outputs[0]))


def _depthwise(layer: Any, use: Use) -> Work:
    positions = spatial_size(use.outputs[0], layer.data_format)
    product = Product(positions * _size(layer.kernel), layer.kernel)
    return Work((product,), _finish(layer, elements(use.outputs[0])))


def _separable(layer: Any, use: Use) -> Work:
    positions = spatial_size(use.outputs[0], layer.data_format)
    products = tuple(
        Product(positions * _size(kernel), kernel)
        for kernel in (layer.depthwise_kernel, layer.pointwise_kernel)
    )
    return Work(products, _finish(layer, elements(use.outputs[0])))


def _dense(layer: Any, use: Use) -> Work:
    positions = math.prod(use.inputs[0].shape[:-1])
    return _weighted(layer, positions, elements(use.outputs[0]))


def _einsum_dense(layer: Any, use: Use) -> Work:
    return _projection(layer, elements(use.inputs[0]))


def _projection(layer: Any, size: int) -> Work:
    """EinsumDense on an input of `size` elements.

    Every weight is used once for each combination of the input's other axes.
    """
    # "abc,cde->abde": c is in both, and summed over. An input of a · b · c elements has
    # size // c = a · b positions, at each of which all c · d · e weights are used once;
    # the output has a · b · d · e elements.
    data, kernel = layer.equation.replace(" ", "").split("->")[0].split(",")
    lengths = dict(zip(kernel.replace("...", ""), layer.kernel.shape, strict=True))
    shared = math.prod(lengths[letter] for letter in lengths if letter in data)
    positions = size // shared
    made = positions * _size(layer.kernel) // shared
    return _weighted(layer, positions, made * _kept(layer.equation, lengths))


def _kept(equation: str, lengths: dict[str, int]) -> int:
    """Product of the lengths that data, kernel and output have in common."""
    data, output = equation.replace(" ", "").split(",")[0], equation.split("->")[1]
    return math.prod(n for c, n in lengths.items() if c in data and c in output)


def _embedding(layer: Any, use: Use) -> Work:
    """A look-up: only the rows that are asked for are read."""
    return Work(weight_reads=elements(use.outputs[0]))


def _reversible_embedding(layer: Any, use: Use) -> Work:
    if not use.argument(1, "reverse"):
        return _embedding(layer, use)
    tied = layer.tie_weights
    kernel = layer.embeddings if tied else layer.reverse_embeddings
    positions = math.prod(use.inputs[0].shape[:-1])
    return Work((Product(positions * _size(kernel), kernel),))


def _prelu(layer: Any, use: Use) -> Work:
    return Work(operations=2 * elements(use.outputs[0]))


def _per_element(operations: int) -> Rule:
    return lambda layer, use: Work(operations=operations * elements(use.outputs[0]))


# Recurrent layers -----------------------------------------------------------


def _cell(cell: Any) -> Work:
    """One step of a recurrent cell for one sample."""
    if type(cell) is keras.layers.StackedRNNCells:
        total = Work()
        for inner in cell.cells:
            total += _cell(inner)
        return total
    steps = _CELL_OPERATIONS.get(type(cell))
    if steps is None:
        return Work(reason=f"no rule for the cell {type(cell).__name__}")
    kernels = (cell.kernel, cell.recurrent_kernel)
    products = tuple(Product(_size(kernel), kernel) for kernel in kernels)
    bias = 0 if cell.bias is None else _size(cell.bias)
    return Work(products, steps * cell.units + bias)


# Operations of one unit and step, without the bias. LSTM: 4 sums, 4 gate
# functions, c = f*c + i*g (3), h = o*tanh(c) (2). GRU: 3 sums, 3 functions, r*h
# (1), z*h + (1 - z)*g (4). SimpleRNN: one sum, one function.
_CELL_OPERATIONS = {
    keras.layers.SimpleRNNCell: 2,
    keras.layers.GRUCell: 11,
    keras.layers.LSTMCell: 13,
}


def _recurrent(layer: Any, use: Use) -> Work:
    """One step of the cell for each time step, of (batch, time, features)."""
    batch, time = use.inputs[0].shape[:2]
    return _cell(layer.cell).times(batch * time)


def _conv_lstm(layer: Any, use: Use) -> Work:
    """Two convolutions for each of four gates and each time step."""
    cell = layer.cell
    batch, time = use.inputs[0].shape[:2]
    frame = cell.compute_output_shape((batch, *use.inputs[0].shape[2:]))[0]
    state = math.prod(frame)
    positions = state // cell.filters
    kernels = (cell.kernel, cell.recurrent_kernel)
    products = tuple(Product(positions * _size(kernel), kernel) for kernel in kernels)
    bias = 0 if cell.bias is None else 4 * state
    steps = _CELL_OPERATIONS[keras.layers.LSTMCell] * state
    return Work(products, steps + bias).times(time)


def _bidirectional(layer: Any, use: Use) -> Work:
    total = Work()
    for inner in (layer.forward_layer, layer.backward_layer):
        total += layer_rule(inner)(inner, use)
    merge = 0 if layer.merge_mode in (None, "concat") else elements(use.outputs[0])
    name = f"Bidirectional({type(layer.forward_layer).__name__})"
    return (total + Work(operations=merge)).renamed(name)


def _time_distributed(layer: Any, use: Use) -> Work:
    """The inner layer, once for each time step."""
    batch, time, *rest = use.inputs[0].shape
    made = use.outputs[0].shape
    step = use.within(layer.layer, [(batch, *rest)], [(made[0], *made[2:])])
    work = layer_rule(layer.layer)(layer.layer, step).times(time)
    return _named(work, layer)


def _inner(layer: Any, use: Use) -> Work:
    """A wrapper that costs nothing at inference."""
    return _named(layer_rule(layer.layer)(layer.layer, use), layer)


def _named(work: Work, wrapper: Any) -> Work:
    inner = work.kind or type(wrapper.layer).__name__
    return work.renamed(f"{type(wrapper).__name__}({inner})")


# Attention ------------------------------------------------------------------


def _attention(layer: Any, use: Use) -> Work:
    """MultiHeadAttention and GroupedQueryAttention.

    Projections, query·key for every pair of positions, softmax, weights·value.
    """
    query = use.argument(0, "query")
    value = use.argument(1, "value")
    key = use.argument(2, "key")
    key = value if key is None else key
    gate = getattr(layer, "_gate_dense", None)
    projections = [
        (layer._query_dense, query),
        (layer._key_dense, key),
        (layer._value_dense, value),
        *([(gate, query)] if gate is not None else []),
    ]
    total = Work()
    for dense, tensor in projections:
        total += _projection(dense, elements(tensor))
    attended = _attended(layer, query)
    heads = layer._query_dense.kernel.shape[1]
    pairs = heads * _positions(query) * attended(key)
    dim_key = layer._query_dense.kernel.shape[-1]
    dim_value = layer._value_dense.kernel.shape[-1]
    along = (_kernel(layer._query_dense), 1)
    total += Work(
        tuple(Product(pairs * dim, along=along) for dim in (dim_key, dim_value)),
        (1 + SOFTMAX_OPERATIONS) * pairs,  # scaling, softmax
    )
    context = _positions(query) * heads * dim_value
    if gate is not None:
        total += Work(operations=context)
    return total + _projection(layer._output_dense, context)


def _positions(tensor: Any) -> int:
    return math.prod(tensor.shape[:-1])


def _attended(layer: Any, query: Any) -> Callable[[Any], int]:
    """How many positions of a tensor one query attends to."""
    rank = len(query.shape)
    axes = getattr(layer, "_attention_axes", None) or tuple(range(1, rank - 1))
    return lambda tensor: math.prod(tensor.shape[axis] for axis in axes)


def _query_value_key(use: Use) -> tuple[Any, Any, Any]:
    # Not from `use.inputs`, in which masks follow.
    query, value, *rest = use.argument(0, "inputs")
    return query, value, rest[0] if rest else value


def _dot_attention(layer: Any, use: Use) -> Work:
    """Attention: scores query·key, softmax, weights·value, for (batch, time, dim)."""
    query, value, key = _query_value_key(use)
    pairs = query.shape[0] * query.shape[1] * value.shape[1]
    scaled = pairs if getattr(layer, "scale", None) is not None else 0
    return Work(
        (Product(pairs * key.shape[-1]), Product(pairs * value.shape[-1])),
        SOFTMAX_OPERATIONS * pairs + scaled,
    )


def _additive_attention(layer: Any, use: Use) -> Work:
    """AdditiveAttention: scores are sums of tanh(query + key), maybe scaled."""
    query, value, key = _query_value_key(use)
    pairs = query.shape[0] * query.shape[1] * value.shape[1]
    terms = pairs * key.shape[-1]
    products = [Product(pairs * value.shape[-1])]
    scale = getattr(layer, "scale", None)
    if scale is not None:
        products.append(Product(terms, scale))
    additions = 0 if scale is not None else terms
    return Work(tuple(products), 2 * terms + additions + SOFTMAX_OPERATIONS * pairs)


def _dot(layer: Any, use: Use) -> Work:
    """Dot: products of two tensors, summed over one axis of each."""
    axes = layer.axes
    axis = axes[0] if isinstance(axes, list | tuple) else axes
    length = use.inputs[0].shape[axis]
    normalize = sum(map(elements, use.inputs)) * 3 if layer.normalize else 0
    return Work((Product(elements(use.outputs[0]) * length),), normalize)


# Weightless layers ----------------------------------------------------------


def _elementwise(layer: Any, use: Use) -> Work:
    return Work(operations=sum(map(elements, use.outputs)))


def _activation(layer: Any, use: Use) -> Work:
    made = elements(use.outputs[0])
    return Work(operations=activation_operations(layer.activation, made))


def _softmax(layer: Any, use: Use) -> Work:
    return Work(operations=SOFTMAX_OPERATIONS * elements(use.outputs[0]))


def _view(layer: Any, use: Use) -> Work:
    return Work(writes=False)


def _copy(layer: Any, use: Use) -> Work:
    return Work()


def _merge(layer: Any, use: Use) -> Work:
    """Add and the like: one operation less than inputs, for every output."""
    return Work(operations=(len(use.inputs) - 1) * elements(use.outputs[0]))


def _average(layer: Any, use: Use) -> Work:
    return Work(operations=len(use.inputs) * elements(use.outputs[0]))


def _max_pooling(layer: Any, use: Use) -> Work:
    window = math.prod(layer.pool_size)
    return Work(operations=(window - 1) * elements(use.outputs[0]))


def _average_pooling(layer: Any, use: Use) -> Work:
    """Sum and one division for every output."""
    window = math.prod(layer.pool_size)
    return Work(operations=window * elements(use.outputs[0]))


def _reduction(layer: Any, use: Use) -> Work:
    return Work(operations=sum(map(elements, use.inputs)))


def _up_sampling(layer: Any, use: Use) -> Work:
    if getattr(layer, "interpolation", "nearest") == "nearest":
        return Work()
    return _elementwise(layer, use)


# The table ------------------------------------------------------------------

_K = keras.layers

_RULES: dict[type, Rule] = {
    **dict.fromkeys((_K.Conv1D, _K.Conv2D, _K.Conv3D), _conv),
    **dict.fromkeys(
        (_K.Conv1DTranspose, _K.Conv2DTranspose, _K.Conv3DTranspose), _conv_transpose
    ),
    **dict.fromkeys((_K.SeparableConv1D, _K.SeparableConv2D), _separable),
    **dict.fromkeys((_K.DepthwiseConv1D, _K.DepthwiseConv2D), _depthwise),
    _K.Dense: _dense,
    _K.EinsumDense: _einsum_dense,
    _K.Embedding: _embedding,
    _K.ReversibleEmbedding: _reversible_embedding,
    **dict.fromkeys((_K.SimpleRNN, _K.GRU, _K.LSTM, _K.RNN), _recurrent),
    **dict.fromkeys((_K.ConvLSTM1D, _K.ConvLSTM2D, _K.ConvLSTM3D), _conv_lstm),
    _K.Bidirectional: _bidirectional,
    _K.TimeDistributed: _time_distributed,
    _K.SpectralNormalization: _inner,
    **dict.fromkeys((_K.MultiHeadAttention, _K.GroupQueryAttention), _attention),
    _K.Attention: _dot_attention,
    _K.AdditiveAttention: _additive_attention,
    _K.Dot: _dot,
    _K.BatchNormalization: _per_element(_BATCH_NORM_OPERATIONS),
    _K.LayerNormalization: _per_element(_LAYER_NORM_OPERATIONS),
    _K.GroupNormalization: _per_element(_LAYER_NORM_OPERATIONS),
    _K.RMSNormalization: _per_element(_RMS_NORM_OPERATIONS),
    _K.UnitNormalization: _per_element(3),
    **dict.fromkeys((_K.Normalization, _K.Rescaling), _per_element(2)),
    _K.PReLU: _prelu,
    _K.Activation: _activation,
    _K.Softmax: _softmax,
    **dict.fromkeys((_K.Add, _K.Subtract, _K.Multiply, _K.Maximum, _K.Minimum), _merge),
    _K.Average: _average,
    **dict.fromkeys((_K.MaxPooling1D, _K.MaxPooling2D, _K.MaxPooling3D), _max_pooling),
    **dict.fromkeys(
        (_K.AveragePooling1D, _K.AveragePooling2D, _K.AveragePooling3D),
        _average_pooling,
    ),
    **dict.fromkeys(
        (
            *(_K.GlobalAveragePooling1D, _K.GlobalAveragePooling2D),
            *(_K.GlobalAveragePooling3D, _K.GlobalMaxPooling1D),
            *(_K.GlobalMaxPooling2D, _K.GlobalMaxPooling3D),
            *(_K.AdaptiveAveragePooling1D, _K.AdaptiveAveragePooling2D),
            *(_K.AdaptiveAveragePooling3D, _K.AdaptiveMaxPooling1D),
            *(_K.AdaptiveMaxPooling2D, _K.AdaptiveMaxPooling3D),
        ),
        _reduction,
    ),
    **dict.fromkeys(
        (_K.Flatten, _K.Reshape, _K.Masking, _K.InputLayer, *IDENTITY_LAYERS), _view
    ),
    **dict.fromkeys(
        (
            *(_K.Permute, _K.RepeatVector, _K.Concatenate),
            *(_K.ZeroPadding1D, _K.ZeroPadding2D, _K.ZeroPadding3D),
            *(_K.Cropping1D, _K.Cropping2D, _K.Cropping3D, _K.CenterCrop),
        ),
        _copy,
    ),
    **dict.fromkeys(
        (_K.UpSampling1D, _K.UpSampling2D, _K.UpSampling3D, _K.Resizing), _up_sampling
    ),
    # A Fourier transform and a matrix; code of the user's or of another library. All of
    # them are layers of Keras without weights, which would pass for elementwise.
    **dict.fromkeys((_K.MelSpectrogram, _K.Lambda), _unknown),
    **dict.fromkeys(
        (_K.JaxLayer, _K.FlaxLayer, _K.TorchModuleWrapper, _K.TFSMLayer), _unknown
    ),
}
