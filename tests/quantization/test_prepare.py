"""Preparing, training, saving and finalizing models with fake quantization."""

import keras
import numpy as np
import pytest

import tfcompress as tfc

L = keras.layers
RNG = np.random.default_rng(0)


def images(count=128, shape=(8, 8, 1)):
    x = RNG.random((count, *shape)).astype("float32")
    return x, (10 * x.mean((1, 2, 3))).astype(int).clip(0, 9)


def residual(dropout=0.0):
    inputs = keras.Input((8, 8, 1), name="image")
    x = L.Conv2D(8, 3, use_bias=False, name="conv")(inputs)
    x = L.BatchNormalization(name="norm")(x)
    x = L.ReLU(name="relu")(x)
    y = L.Conv2D(8, 3, padding="same", activation="relu", name="branch")(x)
    x = L.Dropout(dropout)(L.Add(name="add")([x, y]))
    x = L.AveragePooling2D(2, name="pool")(x)
    inner = keras.Sequential(
        [keras.Input((3, 3, 8)), L.DepthwiseConv2D(3, name="depth"), L.ReLU(6.0)],
        name="inner",
    )
    x = L.Flatten(name="flat")(inner(x))
    outputs = L.Dense(10, activation="softmax", name="logits")(x)
    return keras.Model(inputs, outputs)


class TestPlan:
    def test_says_which_bits_and_why_not(self):
        inputs = keras.Input((6, 4))
        x = L.Conv1D(4, 3, name="conv")(inputs)
        x = L.LSTM(5, name="lstm")(x)
        x = L.Lambda(lambda t: t * 2, name="own")(x)
        x = L.Dense(3, name="first")(x)
        model = keras.Model(inputs, L.Dense(3, activation="elu", name="last")(x))
        plan = tfc.quantization.plan(model, weights={"conv": 4}, exclude=["first"])
        assert (plan["conv"].weights, plan["conv"].activations) == (4, 8)
        assert plan["last"].weights == 8
        assert "elu" in plan["last"].note
        assert set(plan.in_float) == {"lstm", "own", "first"}
        assert "recurrent" in plan.in_float["lstm"]
        assert plan.in_float["first"] == "excluded by name"
        assert "4 bits" in str(plan)

    def test_folded_normalizations_are_gone(self):
        names = [row.name for row in tfc.quantization.plan(residual()).rows]
        assert "norm" not in names
        assert {"conv", "add", "inner/depth", "logits"} <= set(names)

    def test_unknown_layers_stay_in_float(self):
        class Strange(keras.Layer):
            def call(self, x):
                return x * 2.0

        inputs = keras.Input((4,))
        model = keras.Model(inputs, L.Dense(2)(Strange(name="strange")(inputs)))
        plan = tfc.quantization.plan(model)
        assert plan.in_float == {"strange": "class Strange is not known"}
        assert tfc.quantization.prepare(model)(np.zeros((1, 4))).shape == (1, 2)

    def test_functions_that_are_named_like_those_of_keras(self):
        def relu(x):
            return x * x

        inputs = keras.Input((4,))
        model = keras.Model(inputs, L.Dense(2, activation=relu, name="own")(inputs))
        assert "own" in tfc.quantization.plan(model)["own"].note

    @pytest.mark.parametrize(
        ("arguments", "name"),
        [
            ({"weights": 1}, "weights"),
            ({"weights": 9}, "weights"),
            ({"weights": {"nowhere": 4}}, "weights"),
            ({"weights": {"conv": 12}}, "weights"),
            ({"activations": 4}, "activations"),
            ({"layers": ["nowhere"]}, "layers"),
            ({"exclude": ["nowhere"]}, "exclude"),
            ({"layers": ["conv"], "exclude": ["conv"]}, "exclude"),
        ],
    )
    def test_arguments_are_checked(self, arguments, name):
        with pytest.raises(ValueError, match=f"`{name}`"):
            tfc.quantization.plan(residual(), **arguments)

    def test_nothing_to_quantize(self):
        inputs = keras.Input((4, 4))
        model = keras.Model(inputs, L.LSTM(3, name="lstm")(inputs))
        with pytest.raises(ValueError, match=r"lstm: recurrent"):
            tfc.quantization.prepare(model)


class TestPrepare:
    @pytest.fixture(scope="class")
    def trained(self):
        keras.utils.set_random_seed(0)
        model = residual(dropout=0.1)
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        qat = tfc.quantization.prepare(model, weights=4)
        history = qat.fit(*images(512), epochs=3, verbose=0)
        return qat, history.history["loss"]

    def test_trains_with_the_compile_state_of_the_model(self, trained):
        _, losses = trained
        assert losses[-1] < losses[0]

    def test_grids_lie_behind_fused_blocks_and_nowhere_else(self, trained):
        names = {x.name for x in trained[0]._flatten_layers()}
        assert {
            "image_quantize",
            "relu_quantize",
            "branch_quantize",
            "add_quantize",
        } <= names
        assert not {"conv_quantize", "flat_quantize", "pool_quantize"} & names

    def test_pooled_values_lie_on_the_grid_of_what_is_pooled(self, trained):
        qat, _ = trained
        (reader,) = qat.get_layer("pool")._outbound_nodes
        assert reader.operation is qat.get_layer("add_quantize")
        pooled = keras.Model(qat.inputs, reader.outputs)(images(8)[0])
        low, high = reader.operation.range
        steps = np.asarray(pooled) / ((high - low) / 255)
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)

    def test_losses_and_logs_go_by_the_names_of_the_outputs(self):
        inputs = keras.Input((6,))
        hidden = L.Dense(5, activation="relu")(inputs)
        outputs = [L.Dense(3, name="logits")(hidden), L.Dense(2, name="box")(hidden)]
        model = keras.Model(inputs, outputs)
        model.compile("adam", {"logits": "mse", "box": "mae"}, metrics={"box": ["mse"]})
        x = np.ones((8, 6), "float32")
        y = {"logits": np.ones((8, 3)), "box": np.ones((8, 2))}
        expected = set(model.fit(x, y, verbose=0).history)
        qat = tfc.quantization.calibrate(tfc.quantization.prepare(model), x)
        assert set(qat.fit(x, y, verbose=0).history) == expected
        assert tfc.finalize(qat).output_names == ["logits", "box"]

    @pytest.mark.parametrize("activation", ["relu", "tanh", "silu"])
    def test_regularizers_see_what_a_layer_returns(self, activation):
        inputs = keras.Input((6,))
        l1 = keras.regularizers.L1(1.0)
        layer = L.Dense(4, activation=activation, activity_regularizer=l1)
        model = keras.Model(inputs, layer(inputs))
        x = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")
        expected = np.abs(model(x)).sum() / 8
        qat = tfc.quantization.prepare(model)
        for copy in (qat, tfc.finalize(qat)):
            copy(x)
            assert float(sum(copy.losses)) == pytest.approx(expected, rel=0.02)

    def test_layers_as_activations(self):
        inputs = keras.Input((6,))
        x = L.Dense(5, activation=L.LeakyReLU(0.1), name="leaky")(inputs)
        x = L.Dense(4, activation=L.ReLU(), name="fused")(x)
        model = keras.Model(inputs, L.Dense(3, activation=L.ELU(), name="float")(x))
        plan = tfc.quantization.plan(model)
        assert [plan[name].note for name in ("leaky", "fused")] == ["", ""]
        assert "of your own" in plan["float"].note
        x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
        qat = tfc.quantization.calibrate(tfc.quantization.prepare(model), x)
        names = {layer.name for layer in qat.layers}
        assert "leaky_activation" in names and "fused_activation" not in names
        np.testing.assert_allclose(qat(x), model(x), atol=0.05)

    def test_the_given_model_is_untouched(self):
        model = residual()
        before = [w.copy() for w in model.get_weights()]
        qat = tfc.quantization.prepare(model)
        qat.compile("sgd", "sparse_categorical_crossentropy")
        qat.fit(*images(32), verbose=0)
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)

    def test_frozen_layers_stay_frozen(self):
        model = residual()
        model.get_layer("branch").trainable = False
        qat = tfc.quantization.prepare(model)
        assert not qat.get_layer("branch").trainable_variables
        assert qat.get_layer("conv").trainable_variables

    def test_saved_and_resumed(self, trained, tmp_path):
        qat, _ = trained
        x, y = images(64)
        qat.save(tmp_path / "qat.keras")
        loaded = keras.saving.load_model(tmp_path / "qat.keras")
        np.testing.assert_array_equal(loaded(x), qat(x))
        loaded.fit(x, y, verbose=0)
        assert loaded.optimizer.iterations == qat.optimizer.iterations + 2

    def test_finalize_leaves_a_plain_model_on_its_grid(self, trained):
        qat, _ = trained
        plain = tfc.finalize(qat)
        for layer in plain._flatten_layers():
            assert type(layer).__module__.startswith("keras.")
        for name in ("conv", "branch"):
            kernel = np.asarray(plain.get_layer(name).kernel)
            for channel in np.moveaxis(kernel, -1, 0):
                step = np.abs(channel).max() / 7
                np.testing.assert_allclose(
                    channel / step, np.rint(channel / step), atol=1e-4
                )
        # Only the rounding of activations is gone.
        x, _ = images(64)
        difference = np.abs(np.asarray(plain(x)) - np.asarray(qat(x)))
        assert difference.mean() < 0.02

    def test_a_prepared_model_is_refused(self, trained):
        with pytest.raises(ValueError, match="prepared already"):
            tfc.quantization.prepare(trained[0])

    def test_xla_computes_the_same(self):
        model = residual()
        losses = []
        for compiled in (False, True):
            qat = tfc.quantization.prepare(model, weights=4)
            qat.compile("sgd", "sparse_categorical_crossentropy", jit_compile=compiled)
            x = np.linspace(0, 1, 64 * 64).reshape(64, 8, 8, 1)
            history = qat.fit(x, np.arange(64) % 10, shuffle=False, verbose=0)
            losses.append(history.history["loss"][0])
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)

    def test_pruned_weights_stay_zero(self):
        model = residual()
        kernel = np.array(model.get_layer("branch").kernel)
        kernel[np.abs(kernel) < 0.05] = 0
        model.get_layer("branch").kernel.assign(kernel)
        qat = tfc.quantization.prepare(model)
        qat.compile("adam", "sparse_categorical_crossentropy")
        qat.fit(*images(64), verbose=0, callbacks=[tfc.callbacks.HoldWeights("zeros")])
        after = np.asarray(tfc.finalize(qat).get_layer("branch").kernel)
        assert not after[kernel == 0].any()
        assert (after != 0).sum() > 0.9 * (kernel != 0).sum()


class TestCalibrate:
    def test_ranges_are_those_of_the_data(self):
        x, _ = images(200)
        model = residual()
        qat = tfc.quantization.calibrate(tfc.quantization.prepare(model), x)
        low, high = qat.get_layer("image_quantize").range
        assert (low, high) == (0.0, pytest.approx(x.max()))
        inner = keras.Model(model.input, model.get_layer("relu").output)
        _, high = qat.get_layer("relu_quantize").range
        assert high == pytest.approx(np.asarray(inner(x)).max(), rel=0.01)

    def test_a_model_that_is_not_prepared(self):
        with pytest.raises(ValueError, match="`model`"):
            tfc.quantization.calibrate(residual(), images(4)[0])

    def test_numbers_that_overflow(self):
        inputs = keras.Input((2,))
        model = keras.Model(inputs, L.Dense(1, kernel_initializer="ones")(inputs))
        qat = tfc.quantization.prepare(model)
        with pytest.raises(ValueError, match="`data`"):
            tfc.quantization.calibrate(qat, np.full((2, 2), 3e38, "float32"))


def shared_normalization(length):
    inputs = keras.Input((length, 4))
    norm = L.BatchNormalization(name="norm")
    x = norm(L.Conv1D(4, 3, activation="relu", padding="same", name="conv")(inputs))
    y = norm(L.MaxPooling1D(2)(x[:, :6]))
    means = [L.GlobalAveragePooling1D()(tensor) for tensor in (x, y)]
    return keras.Model(inputs, L.Dense(2, name="logits")(L.Concatenate()(means)))


def test_a_normalization_may_be_shared_by_tensors_of_two_lengths():
    model = shared_normalization(8)
    model.get_layer("norm").moving_variance.assign([0.5, 1.0, 2.0, 4.0])
    x = RNG.normal(size=(32, 8, 4)).astype("float32")
    prepared = tfc.quantization.calibrate(tfc.quantization.prepare(model), x)
    expected, received = (m.predict(x, verbose=0) for m in (model, prepared))
    assert np.abs(expected - received).max() < 0.05 * np.abs(expected).max()


def test_a_shared_normalization_stays_in_float_where_one_call_needs_it():
    # The length is open in the first call only, or in the second one only.
    for order in (1, -1):
        inputs = [keras.Input((None, 4)), keras.Input((6, 4))][::order]
        norm = L.BatchNormalization(name="norm")
        means = [L.GlobalAveragePooling1D()(norm(tensor)) for tensor in inputs]
        model = keras.Model(inputs, L.Dense(2)(L.Concatenate()(means)))
        assert "fixed axes" in tfc.quantization.plan(model).in_float["norm"]
        assert tfc.quantization.prepare(model).get_layer("norm")


class OwnChain(keras.Sequential):
    def train_step(self, data):
        return {"loss": 1.0}


class OwnModel(keras.Model):
    def __init__(self, width):
        inputs = keras.Input((6,))
        super().__init__(inputs, L.Dense(width)(inputs))

    def train_step(self, data):
        return {"loss": 1.0}


def test_a_model_that_would_lose_how_it_trains_is_refused():
    chain = OwnChain([keras.Input((6,)), L.Dense(4, activation="relu"), L.Dense(2)])
    for model in (chain, OwnModel(4)):
        with pytest.raises(ValueError, match=r"`model`.*train_step"):
            tfc.quantization.prepare(model)


def test_a_mean_that_is_shared_by_calls_with_different_numbers_of_operands():
    mean = keras.layers.Average(name="mean")
    i = keras.Input((8,))
    a, b, c = (keras.layers.Dense(4, name=name)(i) for name in "abc")
    model = keras.Model(i, keras.layers.Concatenate()([mean([a, b]), mean([a, b, c])]))
    x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    prepared = tfc.quantization.calibrate(tfc.quantization.prepare(model), x)
    largest = np.abs(model(x)).max()
    np.testing.assert_allclose(prepared(x), model(x), atol=0.03 * largest)
