"""What is trained is what the file computes."""

import keras
import numpy as np
import pytest

import tfcompress as tfc

L = keras.layers
SQUARE, LINE = (8, 8, 4), (9, 4)
BIAS = {"bias_initializer": "normal"}


def network(function, *shapes):
    inputs = [keras.Input(shape) for shape in shapes]
    return keras.Model(inputs, function(*inputs))


def noise(model, count=64):
    rng = np.random.default_rng(0)
    data = [
        rng.normal(size=(count, *x.shape[1:])).astype("float32") for x in model.inputs
    ]
    return data if len(data) > 1 else data[0]


def exported(model, folder, **bits):
    """The prepared model, its file and what both compute."""
    x = noise(model)
    qat = tfc.quantization.calibrate(tfc.quantization.prepare(model, **bits), x)
    artifact = tfc.export.to_tflite(qat, folder / "m.tflite", calibration=x)
    expected = qat(x, training=False)
    return artifact, [np.asarray(y) for y in keras.tree.flatten(expected)], x


def operations(path):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    types = {t["index"]: np.dtype(t["dtype"]) for t in interpreter.get_tensor_details()}
    return {
        operation["op_name"]: {types[i] for i in operation["outputs"] if i >= 0}
        for operation in interpreter._get_ops_details()
    }


def is_integer(path):
    types = set().union(*operations(path).values())
    return all(dtype.kind == "i" for dtype in types)


def squeeze_excite(x):
    s = L.GlobalAveragePooling2D(keepdims=True)(x)
    s = L.Dense(4, activation="sigmoid")(L.Dense(2, activation="relu")(s))
    return L.Multiply()([x, s])


BLOCKS = {
    "conv": (lambda x: L.Conv2D(5, 3, activation="relu", **BIAS)(x), SQUARE),
    "conv1d": (lambda x: L.Conv1D(5, 3, padding="causal", **BIAS)(x), LINE),
    "grouped": (lambda x: L.Conv2D(8, 3, groups=2, **BIAS)(x), SQUARE),
    "depthwise": (lambda x: L.DepthwiseConv2D(3, strides=2, **BIAS)(x), SQUARE),
    "depthwise pairs": (lambda x: L.DepthwiseConv1D(3, 2, "same", 2)(x), LINE),
    "separable": (lambda x: L.SeparableConv2D(5, 3, **BIAS)(x), SQUARE),
    "transposed": (lambda x: L.Conv2DTranspose(5, 3, strides=2, **BIAS)(x), SQUARE),
    "dense": (lambda x: L.Dense(5, **BIAS)(x), LINE),
    "tanh": (lambda x: L.Dense(3)(L.Activation("tanh")(x)), LINE),
    "norm alone": (
        lambda x: L.Conv2D(3, 1)(
            L.BatchNormalization(
                gamma_initializer="normal", moving_mean_initializer="normal"
            )(x)
        ),
        SQUARE,
    ),
    "squeeze-excite": (lambda x: squeeze_excite(L.Conv2D(4, 1)(x)), SQUARE),
    "swish": (lambda x: L.Conv2D(3, 1, activation="swish")(x), SQUARE),
    "hard swish": (lambda x: L.Conv2D(3, 1, activation="hard_swish")(x), SQUARE),
    "prelu": (
        lambda x: L.PReLU(alpha_initializer="normal", shared_axes=[1, 2])(
            L.Conv2D(3, 1)(x)
        ),
        SQUARE,
    ),
    "pooling": (
        lambda x: L.Conv2D(3, 1)(L.AveragePooling2D(2)(L.MaxPooling2D(2)(x))),
        SQUARE,
    ),
    "rescaling": (lambda x: L.Conv2D(3, 1)(L.Rescaling(0.5, -1.0)(x)), SQUARE),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_integers_and_differ_by_single_steps(name, tmp_path):
    function, shape = BLOCKS[name]
    artifact, (expected,), x = exported(network(function, shape), tmp_path)
    assert artifact.quantization == "trained"
    assert is_integer(artifact.path)
    (output,) = artifact.parity.outputs
    # Rounding of ties and of the bias; two layers in a row may add up.
    assert output.max_difference <= 2.01 * output.step
    assert output.mean_difference < 0.05 * output.step
    outputs = tfc.export.run(artifact.path, x)
    assert np.abs(outputs - expected).max() == pytest.approx(output.max_difference)


def test_two_inputs_and_two_outputs(tmp_path):
    def function(a, b):
        joined = L.Concatenate()([a, b, L.Average()([a, b, a])])
        return [L.Dense(3)(joined), L.Subtract()([a, b])]

    artifact, _, _ = exported(network(function, (8,), (8,)), tmp_path)
    assert is_integer(artifact.path)
    assert len(artifact.parity.outputs) == 2
    for output in artifact.parity.outputs:
        assert output.max_difference <= 1.01 * output.step


def test_shared_and_nested_layers(tmp_path):
    shared = L.Dense(8, activation="relu")
    inner = keras.Sequential([keras.Input((8,)), shared, L.Dense(8)])

    def function(x):
        return L.Dense(4)(inner(inner(shared(x))))

    artifact, _, _ = exported(network(function, (8,)), tmp_path)
    (output,) = artifact.parity.outputs
    assert output.max_difference <= 3.01 * output.step


def test_pooling_on_either_side_of_a_nested_model(tmp_path):
    inner = keras.Sequential(
        [keras.Input((8, 8, 4)), L.AveragePooling2D(2), L.Conv2D(4, 1, **BIAS)]
    )

    def function(x):
        y = L.Conv2D(4, 1, **BIAS)(x)
        z = L.AveragePooling2D(2)(inner(L.ReLU()(y)))
        return [z, L.Flatten()(L.AveragePooling2D(4)(inner(y)))]

    model = network(function, (8, 8, 4))
    reasons = tfc.quantization.plan(model).in_float
    assert len(reasons) == 3 and all("border" in text for text in reasons.values())
    artifact, _, _ = exported(model, tmp_path)
    for output in artifact.parity.outputs:
        assert output.max_difference <= 3.01 * output.step


def test_pooling_in_float_is_not_cut_off(tmp_path):
    def function(x):
        x = L.AveragePooling1D(2, name="one")(L.Reshape((16, 1))(x))
        return L.AveragePooling1D(2, name="two")(x)

    inputs = keras.Input((16,))
    model = keras.Model(inputs, [function(inputs), L.Dense(2)(inputs)])
    artifact, _, _ = exported(model, tmp_path, exclude=["one", "two"])
    for output in artifact.parity.outputs:
        assert output.max_difference <= 1.01 * output.step


def test_fixed_grids_are_joined_in_sixteen_bits(tmp_path):
    def function(x):
        y = L.Dense(6, activation="tanh")(x)
        return L.Dense(3)(L.Concatenate()([x, L.Maximum()([x, y]), y]))

    model = network(function, (6,))
    artifact, _, _ = exported(model, tmp_path, activations=16)
    (output,) = artifact.parity.outputs
    assert output.max_difference <= 20 * output.step


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 7])
def test_kernels_of_every_width_are_exact_in_the_file(bits, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    model = network(lambda x: L.Dense(6, use_bias=False)(x), (32,))
    x = noise(model)
    qat = tfc.quantization.calibrate(tfc.quantization.prepare(model, weights=bits), x)
    artifact = tfc.export.to_tflite(qat, tmp_path / "m.tflite")
    wrapper = qat.get_layer(model.layers[-1].name)
    (kernel,) = wrapper.kernels
    levels, step = wrapper.grid(kernel, kernel.value)
    interpreter = Interpreter(
        str(artifact.path), experimental_preserve_all_tensors=True
    )
    interpreter.allocate_tensors()
    (stored,) = [
        t for t in interpreter.get_tensor_details() if list(t["shape"]) == [6, 32]
    ]
    np.testing.assert_allclose(
        stored["quantization_parameters"]["scales"], step.item(), rtol=1e-6
    )
    (output,) = artifact.parity.outputs
    assert output.max_difference <= 1.01 * output.step
    assert len(np.unique(levels)) <= 2**bits - 1


WIDE = [
    "conv",
    "conv1d",
    "depthwise",
    "separable",
    "squeeze-excite",
    "swish",
    "pooling",
]


@pytest.mark.parametrize("name", [*WIDE, "norm alone", "rescaling", "tanh"])
def test_sixteen_bits_for_activations(name, tmp_path):
    function, shape = BLOCKS[name]
    artifact, _, _ = exported(network(function, shape), tmp_path, activations=16)
    types = set().union(*operations(artifact.path).values())
    assert types <= {np.dtype("int16"), np.dtype("int32")}
    (output,) = artifact.parity.outputs
    assert output.step < 1e-3
    # LiteRT looks sigmoid and tanh up in tables of 513 entries.
    assert output.max_difference <= 20 * output.step


def test_residual_and_joined_tensors_of_sixteen_bits(tmp_path):
    def function(a, b):
        x = L.ReLU()(L.Add()([L.Dense(8)(a), b]))
        return L.Dense(4)(L.Concatenate()([x, L.Subtract()([a, b])]))

    model = network(function, (8,), (8,))
    artifact, _, _ = exported(model, tmp_path, activations=16)
    (output,) = artifact.parity.outputs
    assert output.max_difference <= 3 * output.step


def test_four_bits_take_half_the_space(tmp_path):
    model = network(lambda x: L.Dense(256)(x), (128,))
    sizes = {bits: exported(model, tmp_path, weights=bits)[0].bytes for bits in (4, 8)}
    assert 128 * 256 / 2 * 0.95 < sizes[8] - sizes[4] < 128 * 256 / 2 * 1.05


def test_two_bits_take_a_quarter_of_the_space_in_dense_layers(tmp_path):
    def function(x):
        return L.Dense(256, name="last")(L.Flatten()(L.Conv2D(2, 3)(x)))

    model = network(function, (10, 10, 4))
    x = noise(model)
    (conv,) = (y.name for y in model.layers if isinstance(y, L.Conv2D))
    prepared = tfc.quantization.prepare(model, weights={conv: 2, "last": 2})
    qat = tfc.quantization.calibrate(prepared, x)
    results, sizes = [], []
    for quantization in (None, "int2"):
        path = tmp_path / f"{quantization}.tflite"
        artifact = tfc.export.to_tflite(qat, path, quantization=quantization)
        results.append(tfc.export.run(path, x))
        sizes.append(artifact.bytes)
        (output,) = artifact.parity.outputs
        assert output.max_difference <= 2.01 * output.step
    assert sizes[0] - sizes[1] == pytest.approx(128 * 256 / 4, rel=0.05)
    # The runtime's kernels for 4 and for 2 bits round some ties differently.
    assert np.abs(results[0] - results[1]).max() <= 1.01 * output.step

    # A plain model is rounded to two bits, or stays on the grid that it has.
    plain = tfc.finalize(qat)
    path = tmp_path / "plain.tflite"
    artifact = tfc.export.to_tflite(
        plain, path, quantization="int2", calibration=x, tolerance=0.05
    )
    assert artifact.bytes == pytest.approx(sizes[1], rel=0.05)


def test_two_bits_are_refused_where_the_runtime_has_no_product(tmp_path):
    model = network(lambda x: L.Conv2D(4, 3)(x), SQUARE)
    x = noise(model)
    qat = tfc.quantization.calibrate(tfc.quantization.prepare(model, weights=2), x)
    for given in (qat, model):
        with pytest.raises(ValueError, match="no Dense layer with weights of 2 bits"):
            tfc.export.to_tflite(
                given,
                tmp_path / "m.tflite",
                quantization="int2",
                calibration=x,
                tolerance=10,
            )
    with pytest.raises(ValueError, match="`calibration`"):
        tfc.export.to_tflite(model, tmp_path / "m.tflite", quantization="int2")
    assert not list(tmp_path.iterdir())


def test_every_layer_differs_by_a_step_from_the_same_inputs(tmp_path):
    def function(x):
        for _ in range(3):
            y = L.Conv2D(8, 3, padding="same", activation="relu", **BIAS)(x)
            y = L.DepthwiseConv2D(3, padding="same", **BIAS)(y)
            x = L.Concatenate()([squeeze_excite(L.Conv2D(4, 1)(y)), x])
        return L.Dense(5)(L.GlobalAveragePooling2D()(x))

    model = network(function, SQUARE)
    artifact, _, x = exported(model, tmp_path)
    qat = tfc.quantization.calibrate(tfc.quantization.prepare(model), x)
    rows = tfc.export.debug(qat, artifact.path, x).rows
    assert len(rows) > 15
    assert all(row.own_difference <= 1.01 * row.step for row in rows if row.step)
    # One layer computes something else; those behind it do not by themselves.
    wrong = next(y for y in qat.layers if y.name.startswith("depthwise"))
    wrong.core.bias.assign_add(np.ones(8))
    rows = tfc.export.debug(qat, artifact.path, x).rows
    apart = [r.name for r in rows if r.step and r.own_difference > 1.01 * r.step]
    assert apart == [wrong.name]
    assert sum(r.max_difference > 2 * r.step for r in rows) > 3


@pytest.mark.parametrize("activations", [8, 16])
def test_layers_that_are_always_zero_run(activations, tmp_path):
    def function(x):
        dead = L.Dense(3, activation="relu", bias_initializer="zeros")
        kernel = {"kernel_initializer": keras.initializers.Constant(-1.0)}
        x = L.Dense(4, activation="relu", **kernel)(L.ReLU()(x))
        return L.Dense(2, **BIAS)(dead(x))

    model = network(function, (6,))
    artifact, (expected,), x = exported(model, tmp_path, activations=activations)
    assert (expected == expected[0]).all()
    assert is_integer(artifact.path)
    np.testing.assert_allclose(tfc.export.run(artifact.path, x), expected, atol=1e-2)


@pytest.mark.parametrize("shape", [(8, 8, 3), (3,)])
def test_pictures_of_integers_are_normalized(shape, tmp_path):
    inputs = keras.Input(shape, dtype="uint8")
    norm = L.Normalization(mean=[90.0, 110, 120], variance=[3000.0, 4000, 5000])
    rescale = L.Rescaling([0.5, 1.0, 2.0], name="rescale")
    x = L.Concatenate()([norm(inputs), rescale(inputs)])
    model = keras.Model(inputs, L.Dense(4)(x))
    x = np.random.default_rng(0).integers(0, 256, (32, *shape), "uint8")
    qat = tfc.quantization.calibrate(tfc.quantization.prepare(model), x)
    np.testing.assert_allclose(qat(x), model(x), atol=0.03 * np.abs(model(x)).max())
    artifact = tfc.export.to_tflite(qat, tmp_path / "m.tflite", calibration=x)
    (output,) = artifact.parity.outputs
    assert output.max_difference <= 2.01 * output.step


def test_augmentation_is_no_part_of_the_file(tmp_path):
    def function(x):
        x = L.RandomContrast(0.2)(L.RandomZoom(0.1)(L.RandomFlip()(x)))
        return L.Conv2D(3, 3)(x)

    model = network(function, (8, 8, 3))
    assert not tfc.quantization.plan(model).in_float
    artifact, _, _ = exported(model, tmp_path)
    assert set(operations(artifact.path)) - {"DELEGATE"} == {"CONV_2D"}


@pytest.mark.parametrize("activations", [8, 16])
def test_biases_fit_beside_weights_that_are_almost_nothing(activations, tmp_path):
    """As pruning and weight decay leave them: |b| / (s · t) is beyond 32 bits."""
    conv = L.Conv2D(4, 3, **BIAS)
    inner = keras.Sequential([keras.Input((6, 6, 4)), conv])
    dense = L.Dense(3, bias_initializer="ones")
    model = network(lambda x: dense(L.Flatten()(inner(x))), (6, 6, 4))
    conv.kernel.assign(conv.kernel * np.array([1e-4, 1e-9, 0, 1], "float32"))
    conv.bias.assign([1.0, -2.0, 3.0, 0.5])
    dense.kernel.assign(dense.kernel * 1e-8)
    artifact, _, x = exported(model, tmp_path, activations=activations)
    (output,) = artifact.parity.outputs
    assert output.max_difference <= 1.01 * output.step
    rows = {
        row.name: row
        for row in tfc.export.debug(
            tfc.quantization.calibrate(
                tfc.quantization.prepare(model, activations=activations), x
            ),
            artifact.path,
            x,
        ).rows
    }
    row = rows[f"{inner.name}/{conv.name}"]
    assert row.own_difference <= 2.01 * row.step


FLOAT = {
    "lstm": (lambda x: L.Dense(3)(L.LSTM(6)(x)), (5, 4), "lstm"),
    "attention": (
        lambda x: L.Dense(3)(L.LayerNormalization()(L.MultiHeadAttention(2, 4)(x, x))),
        (5, 8),
        "attention",
    ),
    "three axes": (lambda x: L.Dense(3)(L.Conv3D(4, 3)(x)), (5, 5, 5, 2), "conv3d"),
    "own": (lambda x: L.Dense(3)(L.Lambda(lambda t: t * t)(x)), (6,), "lambda"),
}


@pytest.mark.parametrize("name", FLOAT)
def test_what_stays_in_float_is_computed_in_float(name, tmp_path):
    function, shape, layer = FLOAT[name]
    model = network(function, shape)
    reasons = tfc.quantization.plan(model).in_float
    assert any(layer in key.replace("_", "") for key in reasons)
    if name == "attention":
        assert "lie inside the layer" in next(iter(reasons.values()))
    artifact, _, _ = exported(model, tmp_path)
    found = operations(artifact.path)
    assert found["FULLY_CONNECTED"] or found["BATCH_MATMUL"]
    assert not is_integer(artifact.path)
    (output,) = artifact.parity.outputs
    assert output.max_difference <= 1.01 * output.step


def test_excluded_layers_keep_their_weights(tmp_path):
    model = network(lambda x: L.Dense(4, name="last")(L.Dense(64)(x)), (64,))
    x = noise(model)
    qat = tfc.quantization.prepare(model, exclude=["last"])
    artifact = tfc.export.to_tflite(
        tfc.quantization.calibrate(qat, x), tmp_path / "m.tflite"
    )
    assert np.dtype("float32") in operations(artifact.path)["FULLY_CONNECTED"]


def test_ranges_must_be_known(tmp_path):
    model = network(lambda x: L.Dense(4)(x), (8,))
    with pytest.raises(ValueError, match=r"learned.*ranges"):
        tfc.export.to_tflite(tfc.quantization.prepare(model), tmp_path / "m.tflite")


def test_another_quantization_is_refused(tmp_path):
    model = tfc.quantization.prepare(network(lambda x: L.Dense(4)(x), (8,)))
    with pytest.raises(ValueError, match="`quantization`"):
        tfc.export.to_tflite(model, tmp_path / "m.tflite", quantization="float16")


@pytest.mark.parametrize("io", ["int8", "uint8"])
def test_files_of_sixteen_bits_have_no_ends_of_eight(io, tmp_path):
    model = network(lambda x: L.Dense(4)(x), (8,))
    wide = tfc.quantization.prepare(model, activations=16)
    with pytest.raises(ValueError, match="`io`"):
        tfc.export.to_tflite(wide, tmp_path / "m.tflite", io=io)


def test_masked_kernels_are_masked_in_the_file(tmp_path):
    model = network(lambda x: L.Dense(6, name="dense")(x), (16,))
    x = noise(model)
    qat = tfc.layers.wrap_kernels(
        tfc.quantization.prepare(model), tfc.layers.MaskedKernel
    )
    mask = qat.get_layer("dense").masks[0].mask
    mask.assign(np.random.default_rng(0).random(mask.shape) < 0.5)
    qat = tfc.quantization.calibrate(qat, x)
    artifact = tfc.export.to_tflite(qat, tmp_path / "m.tflite", calibration=x)
    (output,) = artifact.parity.outputs
    assert output.max_difference <= 1.01 * output.step
    plain = np.asarray(tfc.finalize(qat).get_layer("dense").kernel)
    assert not plain[~np.asarray(mask.value, bool)].any()


def test_debug_takes_no_part_of_a_separable_convolution_for_the_whole(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.SeparableConv2D(6, 3, name="separable")(inputs)
    x = keras.layers.ReLU(name="relu")(x)
    x = keras.layers.SeparableConv2D(4, 3, name="alone")(x)
    model = keras.Model(inputs, keras.layers.Flatten(name="flat")(x))
    data = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("float32")
    qat = tfc.quantization.calibrate(tfc.quantization.prepare(model), data)
    file = tfc.export.to_tflite(qat, tmp_path / "file.tflite", tolerance=10.0)
    errors = tfc.export.debug(qat, file.path, data)
    # The depthwise part of the first has a tensor, and it ends inside of its ReLU's.
    assert "separable" in errors.merged
    for row in errors.rows:
        if row.step and row.own_difference is not None:
            assert row.own_difference <= 1.01 * row.step, row.name
