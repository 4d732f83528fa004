import os
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress as tfc
from tfcompress.export import _parity, _tflite


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ],
        name="small",
    )


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((50, 8, 8, 1)).astype("float32")


@pytest.fixture(scope="module")
def float_file(model, images, tmp_path_factory):
    path = tmp_path_factory.mktemp("float") / "model.tflite"
    return tfc.export.to_tflite(model, path, calibration=images)


@pytest.fixture(scope="module")
def int8_file(model, images, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "model.tflite"
    return tfc.export.to_tflite(model, path, quantization="int8", calibration=images)


def tensor_types(path):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    return {np.dtype(t["dtype"]).name for t in interpreter.get_tensor_details()}


class TestFloat32:
    def test_file_computes_what_the_model_computes(self, model, images, float_file):
        outputs = tfc.export.run(float_file.path, images)
        np.testing.assert_allclose(outputs, model(images), atol=1e-6)

    def test_artifact_describes_the_file(self, float_file):
        assert float_file.bytes == os.path.getsize(float_file.path)
        assert float_file.quantization is None
        assert float_file.parity.samples == 50
        assert float_file.parity.data == "given"
        assert float_file.parity.top1_agreement == 1.0
        assert float_file.parity.max_difference < 1e-6
        assert float_file.versions["keras"] == keras.__version__
        assert "float32" in str(float_file)
        assert f"{float_file.bytes:,} bytes" in str(float_file)

    def test_file_holds_the_weights_and_little_else(self, model, float_file):
        weights = 4 * model.count_params()
        assert weights * 0.95 < float_file.bytes < weights + 6000

    def test_without_data_parity_is_on_random_samples(self, model, tmp_path):
        artifact = tfc.export.to_tflite(model, tmp_path / "m.tflite")
        assert artifact.parity.data == "random"
        assert "random samples" in str(artifact)

    def test_model_is_left_as_it_was(self, images, tmp_path):
        model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
        model.add(keras.layers.Dense(3))
        model.compile("sgd", "mse")
        before = [w.copy() for w in model.get_weights()]
        optimizer = model.optimizer
        tfc.export.to_tflite(model, tmp_path / "m.tflite")
        assert model.optimizer is optimizer
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)


class TestQuantized:
    def test_int8_is_integers_from_input_to_output(self, int8_file):
        assert tensor_types(int8_file.path) <= {"int8", "int32"}

    def test_int8_is_about_a_quarter_of_float32(self, float_file, int8_file):
        # 4 bytes a weight become 1; the rest of the file does not shrink.
        assert int8_file.bytes < float_file.bytes / 2

    def test_int8_is_run_in_real_units(self, model, images, int8_file):
        outputs = tfc.export.run(int8_file.path, images)
        # A softmax output has a step of 1/256.
        np.testing.assert_allclose(outputs, model(images), atol=8 / 256)
        assert int8_file.parity.max_difference == pytest.approx(
            np.abs(outputs - model(images)).max()
        )

    @pytest.mark.parametrize("quantization", ["float16", "dynamic"])
    def test_weights_shrink_and_inputs_stay_float(
        self, model, images, float_file, tmp_path, quantization
    ):
        artifact = tfc.export.to_tflite(
            model, tmp_path / "m.tflite", quantization=quantization
        )
        assert artifact.bytes < float_file.bytes
        outputs = tfc.export.run(artifact.path, images)
        np.testing.assert_allclose(outputs, model(images), atol=0.02)

    def test_loops_are_refused_before_they_crash_the_calibration(self, tmp_path):
        inputs = keras.Input((6, 4))
        model = keras.Model(inputs, keras.layers.LSTM(3)(inputs))
        with pytest.raises(ValueError, match="loop"):
            tfc.export.to_tflite(
                model,
                tmp_path / "m.tflite",
                quantization="int8",
                calibration=np.zeros((4, 6, 4)),
            )

    @pytest.mark.parametrize("io", ["uint8", "float32"])
    def test_ends_of_the_file_are_what_was_asked_for(
        self, model, images, int8_file, tmp_path, io
    ):
        artifact = tfc.export.to_tflite(
            model, tmp_path / "m.tflite", quantization="int8", calibration=images, io=io
        )
        (name,) = tensor_types(artifact.path) - tensor_types(int8_file.path)
        assert name == io
        np.testing.assert_allclose(
            tfc.export.run(artifact.path, images),
            tfc.export.run(int8_file.path, images),
            atol=1 / 256 + 1e-6,
        )

    def test_fixed_batches_are_calibrated_as_such(self, tmp_path):
        inputs = keras.Input((4, 4, 1), batch_size=4)
        model = keras.Model(
            inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs))
        )
        data = np.random.default_rng(0).random((10, 4, 4, 1)).astype("float32")
        artifact = tfc.export.to_tflite(
            model, tmp_path / "m.tflite", quantization="int8", calibration=data
        )
        outputs = tfc.export.run(artifact.path, data)
        expected = model.predict(data[:8], batch_size=4, verbose=0)
        np.testing.assert_allclose(outputs[:8], expected, atol=0.05)

    @pytest.mark.parametrize("policy", ["mixed_float16", "float16", "mixed_bfloat16"])
    def test_half_precision_models_are_exported_in_float32(
        self, model, images, tmp_path, policy
    ):
        half = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                keras.layers.Conv2D(4, 3, activation="relu", dtype=policy),
                keras.layers.Flatten(dtype=policy),
                keras.layers.Dense(10, dtype=policy),
            ]
        )
        artifact = tfc.export.to_tflite(half, tmp_path / "m.tflite", calibration=images)
        assert tensor_types(artifact.path) <= {"float32", "int32"}
        # The same weights in float32, computed without TFLite.
        single = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                keras.layers.Conv2D(4, 3, activation="relu"),
                keras.layers.Flatten(),
                keras.layers.Dense(10),
            ]
        )
        single.set_weights([np.asarray(w, "float32") for w in half.get_weights()])
        np.testing.assert_allclose(
            tfc.export.run(artifact.path, images), single(images), atol=1e-5
        )
        assert half.layers[0].compute_dtype == policy.removeprefix("mixed_")


class TestFourBits:
    """Weights of 4 bits; those on a grid already are stored as they are."""

    @pytest.fixture(scope="class")
    def levels(self):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((8, 8, 3))
        x = keras.layers.Conv2D(16, 3, activation="relu", name="conv")(inputs)
        x = keras.layers.GlobalAveragePooling2D()(x)
        model = keras.Model(inputs, keras.layers.Dense(10, name="dense")(x))
        constraint = tfc.constraints.Levels(3)
        for name in ("conv", "dense"):
            kernel = model.get_layer(name).kernel
            kernel.assign(constraint.project(np.asarray(kernel)))
        return model

    @pytest.fixture(scope="class")
    def data(self):
        return np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("float32")

    @pytest.mark.parametrize("quantization", ["int4", "dynamic_int4"])
    def test_kernels_on_a_grid_are_not_rounded(
        self, levels, data, tmp_path, quantization
    ):
        exact = {}
        for kind in ("int8", quantization):
            artifact = tfc.export.to_tflite(
                levels, tmp_path / "m.tflite", quantization=kind, calibration=data
            )
            (output,) = artifact.parity.outputs
            exact[kind] = output.mean_difference
        # Only activations are rounded, as they are with 8 bits.
        assert exact[quantization] < 1.5 * exact["int8"]

    @pytest.mark.parametrize("quantization", ["int4", "dynamic_int4"])
    def test_weights_take_half_a_byte(self, images, tmp_path, quantization):
        inputs = keras.Input((8, 8, 1))
        x = keras.layers.Dense(128, activation="relu")(keras.layers.Flatten()(inputs))
        model = keras.Model(inputs, keras.layers.Dense(128)(x))
        weights = 64 * 128 + 128 * 128
        artifact = tfc.export.to_tflite(
            model, tmp_path / "m.tflite", quantization=quantization, calibration=images
        )
        assert weights / 2 < artifact.bytes < weights / 2 + 6000
        (output,) = artifact.parity.outputs
        assert output.mean_difference < 0.1 * output.output_range

    def test_static_ones_are_integers_only(self, levels, data, tmp_path):
        artifact = tfc.export.to_tflite(
            levels, tmp_path / "m.tflite", quantization="int4", calibration=data
        )
        assert tensor_types(artifact.path) <= {"int8", "int32"}

    def test_nothing_to_store_in_four_bits(self, tmp_path):
        inputs = keras.Input((8, 8, 1))
        model = keras.Model(inputs, keras.layers.DepthwiseConv2D(3)(inputs))
        with pytest.raises(ValueError, match="4 bits"):
            tfc.export.to_tflite(
                model, tmp_path / "m.tflite", quantization="dynamic_int4"
            )


def scaled(model, first, last):
    """The same function with other scales of the two kernels, channel by channel."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    kernel = np.array(model.get_layer("first").kernel) * first
    copy.get_layer("first").kernel.assign(kernel)
    kernel = np.array(model.get_layer("last").kernel) * np.reshape(last, (-1, 1))
    copy.get_layer("last").kernel.assign(kernel)
    return copy


class TestTolerance:
    """Files that compute something else are refused, whatever their kind."""

    @pytest.fixture(scope="class")
    def twice(self):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((8, 8, 1))
        x = keras.layers.Conv2D(8, 3, activation="relu", name="first")(inputs)
        x = keras.layers.Conv2D(10, 1, name="last")(x)
        return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))

    # 1e-9 is 0 in float16, 1e6 is infinite.
    @pytest.mark.parametrize("factor", [1e-9, 1e6])
    def test_float16(self, twice, images, tmp_path, factor):
        model = scaled(twice, factor, np.full(8, 1 / factor))
        with pytest.raises(RuntimeError, match="does not compute"):
            tfc.export.to_tflite(
                model, tmp_path / "m.tflite", quantization="float16", calibration=images
            )
        assert not list(tmp_path.iterdir())

    def test_int8_with_the_layer_that_is_to_blame(self, twice, images, tmp_path):
        # One channel takes the whole range of the tensor between the layers.
        model = scaled(twice, [1e4, *[1] * 7], [1e-4, *[1] * 7])
        with pytest.raises(RuntimeError, match=r"difference is .* Layer 'last'"):
            tfc.export.to_tflite(
                model, tmp_path / "m.tflite", quantization="int8", calibration=images
            )

    def test_every_output_has_its_own_range(self, twice, images, tmp_path):
        inputs = keras.Input((8, 8, 1))
        bad = scaled(twice, 1e-9, np.full(8, 1e9))
        large = keras.layers.Rescaling(1e4)(keras.layers.Flatten()(inputs))
        model = keras.Model(inputs, [large, bad(inputs)])
        with pytest.raises(RuntimeError, match="output 1"):
            tfc.export.to_tflite(
                model, tmp_path / "m.tflite", quantization="float16", calibration=images
            )

    def test_is_the_users(self, model, images, tmp_path):
        with pytest.raises(RuntimeError, match="does not compute"):
            tfc.export.to_tflite(
                model,
                tmp_path / "m.tflite",
                quantization="dynamic",
                calibration=images,
                tolerance=1e-6,
            )

    @pytest.mark.parametrize("value", [0.0, 0.7])
    def test_constant_calibration_is_refused(self, model, tmp_path, value):
        with pytest.raises(ValueError, match="everywhere"):
            tfc.export.to_tflite(
                model,
                tmp_path / "m.tflite",
                quantization="int8",
                calibration=np.full((8, 8, 8, 1), value),
            )


class TestApproximateMultipliers:
    @pytest.fixture(scope="class")
    def residual(self):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((8, 8, 4))
        x = inputs
        for _ in range(5):
            y = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(x)
            x = keras.layers.Add()([x, y])
        outputs = keras.layers.Dense(6)(keras.layers.Flatten()(x))
        model = keras.Model(inputs, outputs)
        return tfc.layers.wrap_kernels(
            model, lambda layer: tfc.layers.DrumMultiply(layer, 4, 3)
        )

    @pytest.fixture(scope="class")
    def data(self):
        return np.random.default_rng(0).normal(size=(64, 8, 8, 4)).astype("float32")

    def test_steps_are_no_fault(self, residual, data, tmp_path):
        artifact = tfc.export.to_tflite(
            residual, tmp_path / "m.tflite", calibration=data
        )
        (output,) = artifact.parity.outputs
        # More than float32 rounds, less than a step of three bits.
        assert output.max_difference < 0.25 * output.output_range
        assert output.mean_difference < 1e-3 * output.output_range

    def test_other_truncation_is_a_fault_of_the_layer(
        self, residual, data, tmp_path, monkeypatch
    ):
        convert = _tflite._convert

        def wrong(model, *rest):
            for layer in model._flatten_layers():
                if isinstance(layer, tfc.layers.DrumMultiply):
                    layer.activation_bits = 6
            try:
                return convert(model, *rest)
            finally:
                for layer in model._flatten_layers():
                    if isinstance(layer, tfc.layers.DrumMultiply):
                        layer.activation_bits = 3

        monkeypatch.setattr(_tflite, "_convert", wrong)
        with pytest.raises(RuntimeError, match="truncates its inputs to other"):
            tfc.export.to_tflite(residual, tmp_path / "m.tflite", calibration=data)


class TestDebug:
    def test_table_of_layers(self, model, images, int8_file):
        errors = tfc.export.debug(model, int8_file.path, images)
        named = {row.name for row in errors.rows} | set(errors.merged)
        assert named == {layer.name for layer in model.layers}
        assert {model.layers[4].name, model.layers[5].name} <= {
            row.name for row in errors.rows
        }
        assert all(row.error < 0.05 for row in errors.rows)
        assert "max difference" in str(errors)

    def test_the_layer_with_other_weights_stands_first(self, model, images, float_file):
        other = keras.models.clone_model(model)
        other.set_weights(model.get_weights())
        layer = other.layers[-2]
        layer.kernel.assign(-np.array(layer.kernel))
        errors = tfc.export.debug(other, float_file.path, images)
        assert errors.rows[0].name == layer.name
        assert errors.rows[0].added > 0.5

    def test_file_of_another_model(self, images, float_file):
        inputs = keras.Input((8, 8, 1))
        other = keras.Model(inputs, keras.layers.Flatten(name="nothing")(inputs))
        with pytest.raises(ValueError, match="`path`"):
            tfc.export.debug(other, float_file.path, images)


class TestSeveralInputsAndOutputs:
    @pytest.mark.parametrize("quantization", [None, "int8"])
    def test_order_is_that_of_the_model(self, tmp_path, quantization):
        # Names in an order that sorting would change.
        names = ["zeta", "alpha", "mid"]
        inputs = [keras.Input((3 + i % 2,), name=name) for i, name in enumerate(names)]
        outputs = [
            keras.layers.Dense(4)(keras.layers.Concatenate()(inputs)),
            keras.layers.Subtract()([inputs[0], inputs[2]]),
        ]
        model = keras.Model(inputs, outputs)
        rng = np.random.default_rng(0)
        data = [rng.random((20, x.shape[1])).astype("float32") for x in inputs]
        artifact = tfc.export.to_tflite(
            model,
            tmp_path / "m.tflite",
            quantization=quantization,
            calibration=dict(zip(names, data, strict=True)),
        )
        assert [len(artifact.parity.outputs)] == [2]
        for got, expected in zip(
            tfc.export.run(artifact.path, data), model(data), strict=True
        ):
            np.testing.assert_allclose(got, expected, atol=0.05)

    def test_keys_of_outputs_are_in_the_order_of_the_model(self, tmp_path):
        inputs = keras.Input((4,))
        heads = {f"head{n}": keras.layers.Dense(n)(inputs) for n in (2, 10)}
        model = keras.Model(inputs, heads)
        artifact = tfc.export.to_tflite(model, tmp_path / "m.tflite")
        found = tfc.export.run(artifact.path, np.ones((1, 4), "float32"))
        assert [y.shape for y in found] == [(1, 10), (1, 2)]
        assert [tuple(y.shape[1:]) for y in model.outputs] == [(10,), (2,)]


class TestCalibrationData:
    def test_dataset_with_labels_and_array_give_the_same_file(
        self, model, images, int8_file, tmp_path
    ):
        dataset = tf.data.Dataset.from_tensor_slices((images, np.zeros(50))).batch(16)
        artifact = tfc.export.to_tflite(
            model, tmp_path / "m.tflite", quantization="int8", calibration=dataset
        )
        assert artifact.path.read_bytes() == int8_file.path.read_bytes()

    @pytest.mark.parametrize(
        ("calibration", "message"),
        [
            (None, "needs"),
            (np.zeros((5, 8, 7)), re.escape("(samples, 8, 8, 1)")),
            (np.zeros((5, 28, 28, 1)), re.escape("(5, 28, 28, 1)")),
            (np.zeros((0, 8, 8, 1)), "at least one"),
            (np.full((2, 8, 8, 1), np.nan), "finite"),
            ((np.zeros((5, 8, 8, 1)), np.zeros(4)), "equally many"),
            ([], "Received"),
        ],
    )
    def test_what_does_not_fit_is_refused_before_conversion(
        self, model, tmp_path, monkeypatch, calibration, message
    ):
        monkeypatch.setattr(_tflite, "_convert", pytest.fail)
        with pytest.raises(ValueError, match=message) as error:
            tfc.export.to_tflite(
                model,
                tmp_path / "m.tflite",
                quantization="int8",
                calibration=calibration,
            )
        assert "`calibration`" in str(error.value)

    @pytest.mark.parametrize("calibration", ["images", 3, object()])
    def test_other_kinds_are_refused(self, model, tmp_path, calibration):
        with pytest.raises(TypeError, match="`calibration`"):
            tfc.export.to_tflite(
                model,
                tmp_path / "m.tflite",
                quantization="int8",
                calibration=calibration,
            )

    def test_arrays_are_sampled_evenly(self, model):
        from tfcompress._samples import take_samples

        sorted_by_class = np.repeat(np.arange(10), 100)
        inputs = np.zeros((1000, 8, 8, 1))
        _, labels = take_samples(model, (inputs, sorted_by_class), limit=50)
        assert set(labels) == set(range(10))
        assert len(labels) == 50


class TestBadInput:
    @pytest.fixture(autouse=True)
    def no_conversion(self, monkeypatch):
        monkeypatch.setattr(_tflite, "_convert", pytest.fail)

    def test_text_inputs_are_named(self, tmp_path):
        inputs = keras.Input((1,), dtype="string", name="words")
        model = keras.Model(inputs, keras.layers.StringLookup(vocabulary=["a"])(inputs))
        with pytest.raises(ValueError, match="text at input 'words'"):
            tfc.export.to_tflite(model, tmp_path / "m.tflite")

    def test_ends_of_float_files(self, model, tmp_path):
        with pytest.raises(ValueError, match="`io`"):
            tfc.export.to_tflite(model, tmp_path / "m.tflite", io="int8")

    def test_unknown_quantization(self, model, tmp_path):
        with pytest.raises(ValueError, match=r"`quantization`.*'int3'"):
            tfc.export.to_tflite(model, tmp_path / "m.tflite", quantization="int3")

    def test_other_ending(self, model, tmp_path):
        with pytest.raises(ValueError, match=r"`path`.*\.tflite"):
            tfc.export.to_tflite(model, tmp_path / "model.bin")

    def test_folder(self, model, tmp_path):
        (tmp_path / "m.tflite").mkdir()
        with pytest.raises(ValueError, match="folder"):
            tfc.export.to_tflite(model, tmp_path / "m.tflite")

    def test_unwritable_place(self, model, tmp_path):
        (tmp_path / "file").write_text("not a folder")
        with pytest.raises(ValueError, match="can be written"):
            tfc.export.to_tflite(model, tmp_path / "file" / "m.tflite")

    def test_subclassed_and_unbuilt_models(self, tmp_path):
        class Subclassed(keras.Model):
            pass

        for model in (Subclassed(), keras.Sequential([keras.layers.Dense(1)])):
            with pytest.raises(ValueError, match="`model`"):
                tfc.export.to_tflite(model, tmp_path / "m.tflite")

    def test_no_model(self, tmp_path):
        with pytest.raises(TypeError, match="`model`"):
            tfc.export.to_tflite("model.keras", tmp_path / "m.tflite")

    def test_free_dimensions(self, tmp_path):
        inputs = keras.Input((None, 4))
        model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
        with pytest.raises(ValueError, match="fixed input shapes"):
            tfc.export.to_tflite(model, tmp_path / "m.tflite")


class TestFailure:
    def test_unsupported_operation_is_named_and_nothing_is_left(self, tmp_path):
        inputs = keras.Input((4,))
        model = keras.Model(inputs, keras.ops.erfinv(inputs))
        with pytest.raises(RuntimeError, match="Erfinv"):
            tfc.export.to_tflite(model, tmp_path / "m.tflite")
        assert list(tmp_path.iterdir()) == []

    def test_file_that_computes_something_else_is_not_written(
        self, model, float_file, tmp_path, monkeypatch
    ):
        path = tmp_path / "m.tflite"
        path.write_bytes(b"the file of yesterday")
        monkeypatch.setattr(
            _tflite, "_convert", lambda *_: float_file.path.read_bytes()
        )
        other = keras.models.clone_model(model)
        other.set_weights([-w for w in model.get_weights()])
        with pytest.raises(RuntimeError, match="does not compute"):
            tfc.export.to_tflite(other, path)
        assert path.read_bytes() == b"the file of yesterday"

    def test_interrupted_write_leaves_the_old_file(
        self, model, float_file, tmp_path, monkeypatch
    ):
        path = tmp_path / "m.tflite"
        path.write_bytes(b"the file of yesterday")
        monkeypatch.setattr(
            _tflite, "_convert", lambda *_: float_file.path.read_bytes()
        )

        def full_disk(descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space"):
            tfc.export.to_tflite(model, path)
        assert path.read_bytes() == b"the file of yesterday"
        assert [p.name for p in tmp_path.iterdir()] == ["m.tflite"]


def test_conversion_is_quiet(model, tmp_path, capfd):
    tfc.export.to_tflite(model, tmp_path / "m.tflite")
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


class TestRun:
    def test_wrong_shape(self, float_file):
        with pytest.raises(ValueError, match=re.escape("(samples, 8, 8, 1)")):
            tfc.export.run(float_file.path, np.zeros((1, 9, 9, 1)))

    def test_no_samples_give_no_outputs(self, float_file):
        assert tfc.export.run(float_file.path, np.zeros((0, 8, 8, 1))).shape == (0, 10)

    def test_missing_file(self, tmp_path):
        with pytest.raises(ValueError, match="No such file"):
            tfc.export.run(tmp_path / "absent.tflite", np.zeros((1, 8, 8, 1)))

    def test_broken_file(self, tmp_path):
        (tmp_path / "m.tflite").write_bytes(b"not a flatbuffer")
        with pytest.raises(ValueError, match="Expected a TFLite file"):
            tfc.export.run(tmp_path / "m.tflite", np.zeros((1, 8, 8, 1)))

    def test_text_instead_of_numbers(self, float_file):
        with pytest.raises(TypeError, match="`inputs`"):
            tfc.export.run(float_file.path, np.array(["a"]))


class TestParity:
    def test_agreement_counts_equal_decisions(self, model, images, int8_file):
        parity = tfc.export.parity(model, int8_file.path, images)
        outputs = tfc.export.run(int8_file.path, images)
        expected = np.mean(outputs.argmax(-1) == np.argmax(model(images), -1))
        assert parity.top1_agreement == expected
        assert parity.samples == 50

    def test_all_samples_are_compared(self, model, float_file):
        data = np.zeros((1200, 8, 8, 1), "float32")
        assert tfc.export.parity(model, float_file.path, data).samples == 1200

    def test_what_floats_round_is_no_decision(self):
        rows = np.array([[0.5, np.nextafter(np.float32(0.5), 1)], [0.5, 0.51]])
        found = _parity._compare(rows, rows[:, ::-1], 0.0)
        assert found.top1_agreement == 0.0
        assert found.changed == 1.0  # of the second row alone
        assert _parity._compare(rows[:1], rows[:1, ::-1], 0.0).changed is None

    @pytest.mark.parametrize("io", [None, "float32"])
    def test_close_calls_of_an_integer_file_that_answers_in_float(self, tmp_path, io):
        # All ten classes are within a few steps of 0.1.
        keras.utils.set_random_seed(0)
        start = keras.initializers.RandomNormal(stddev=0.02)
        last = keras.layers.Dense(10, activation="softmax", kernel_initializer=start)
        hidden = keras.layers.Dense(8, activation="relu")
        model = keras.Sequential([keras.Input((4,)), hidden, last])
        data = np.random.default_rng(0).normal(size=(200, 4)).astype("float32")
        artifact = tfc.export.to_tflite(
            model, tmp_path / "m.tflite", quantization="int8", calibration=data, io=io
        )
        assert artifact.parity.top1_agreement < 0.75  # most are close calls
        assert artifact.parity.outputs[0].step == 1 / 256


class TestBenchmark:
    def test_percentiles_are_in_order(self, int8_file):
        latency = tfc.export.benchmark(int8_file.path, warmup=1, runs=20)
        assert 0 < latency.p10 <= latency.median <= latency.p90
        assert (latency.runs, latency.threads, latency.batch) == (20, 1, 1)
        assert "ms" in str(latency)

    @pytest.mark.parametrize(
        ("settings", "error"),
        [
            ({"threads": 0}, ValueError),
            ({"runs": 0}, ValueError),
            ({"warmup": -1}, ValueError),
            ({"runs": 1.5}, ValueError),
            ({"threads": True}, TypeError),
        ],
    )
    def test_numbers_are_checked(self, float_file, settings, error):
        with pytest.raises(error, match=f"`{next(iter(settings))}`"):
            tfc.export.benchmark(float_file.path, **settings)


class TestFixedBatch:
    @pytest.mark.parametrize("quantization", [None, "int8"])
    def test_a_model_of_a_fixed_batch_keeps_it(self, tmp_path, quantization):
        inputs = keras.Input(batch_shape=(4, 5))
        model = keras.Model(inputs, keras.ops.reshape(inputs, (4, 5, 1)))
        data = np.random.default_rng(0).random((10, 5)).astype("float32")
        artifact = tfc.export.to_tflite(
            model, tmp_path / "m.tflite", quantization=quantization, calibration=data
        )
        assert artifact.parity.samples == 10
        np.testing.assert_allclose(
            tfc.export.run(artifact.path, data)[..., 0], data, atol=1 / 255
        )

    def test_a_file_with_memory_goes_on_where_the_model_is(self, tmp_path):
        inputs = keras.Input(batch_shape=(2, 3, 5))
        rnn = keras.layers.GRU(4, stateful=True, unroll=True)
        model = keras.Model(inputs, rnn(inputs))
        data = np.random.default_rng(0).normal(size=(8, 3, 5)).astype("float32")
        model(data[:2])
        memory = np.array(rnn.states[0])
        assert memory.any()
        artifact = tfc.export.to_tflite(model, tmp_path / "m.tflite", calibration=data)
        assert artifact.parity.max_difference < 1e-6
        np.testing.assert_array_equal(rnn.states[0], memory)
