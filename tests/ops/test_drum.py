"""DRUM's operands: against hand-made integers, each other, and the published errors."""

import contextlib
import os
import subprocess
import sys
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

import tfcompress as tfc
from tfcompress.ops import _build, _native, _reference

NATIVE = _native.library()[0] is not None
needs_native = pytest.mark.skipif(not NATIVE, reason="the C++ operation is not built")
RNG = np.random.default_rng(0)


def model_of_the_hardware(number, bits):
    """The truncation of a Python integer, on its binary digits."""
    digits = f"{abs(number):b}"
    if len(digits) > bits:
        kept = digits[:bits] if bits == 1 else digits[: bits - 1] + "1"
        digits = kept + "0" * (len(digits) - bits)
    return int(digits, 2) * (-1 if number < 0 else 1)


def table(bits, numbers=range(65536)):
    return np.array([model_of_the_hardware(n, bits) for n in numbers])


def pairs_of_bits(x):
    return np.ascontiguousarray(x).view(np.uint8)


def assert_forms_agree(x, bits, fraction_bits=None):
    expected = _reference.drum_truncate(x, bits, fraction_bits)
    received = tfc.ops.drum_truncate(x, bits, fraction_bits).numpy()
    with tfc.ops.portable():
        portable = tfc.ops.drum_truncate(x, bits, fraction_bits).numpy()
    np.testing.assert_array_equal(pairs_of_bits(received), pairs_of_bits(expected))
    np.testing.assert_array_equal(pairs_of_bits(portable), pairs_of_bits(expected))


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_16_bit_operand_is_truncated_as_by_the_hardware(bits):
    expected = table(bits)
    unsigned = np.arange(65536, dtype="int32")
    np.testing.assert_array_equal(tfc.ops.drum_truncate(unsigned, bits), expected)
    np.testing.assert_array_equal(tfc.ops.drum_truncate(-unsigned, bits), -expected)
    # On the grid of the integers floats are truncated as they are.
    floats = tfc.ops.drum_truncate(unsigned.astype("float32"), bits, 0)
    np.testing.assert_array_equal(floats, expected)
    scaled = tfc.ops.drum_truncate(unsigned.astype("float32") / 2**10, bits, 10)
    np.testing.assert_array_equal(scaled * 2.0**10, expected)
    signed = np.arange(-32768, 32768, dtype="int16")
    received = tfc.ops.drum_truncate(signed, bits).numpy()
    assert received[0] == -32768
    np.testing.assert_array_equal(received[1:], table(bits, range(-32767, 32768)))


@pytest.mark.parametrize("bits", range(2, 9))
def test_products_are_those_of_the_hardware(bits):
    a, b = RNG.integers(-32767, 32768, (2, 1 << 20), dtype="int16")
    known = table(bits, range(-32767, 32768))
    expected = known[a.astype(int) + 32767] * known[b.astype(int) + 32767]
    received = tfc.ops.drum_multiply(a, b, (bits, bits))
    assert received.dtype == tf.int32
    np.testing.assert_array_equal(received, expected)


# Percent: mean, mean absolute and standard deviation of the relative error over
# all pairs of 16-bit operands.
ERRORS = {
    (3, 3): (2.080, 11.902, 14.747),
    (4, 4): (0.532, 5.891, 7.258),
    (5, 5): (0.142, 2.938, 3.614),
    (6, 6): (0.043, 1.468, 1.805),
    (7, 7): (0.018, 0.733, 0.902),
    (8, 8): (0.011, 0.366, 0.450),
    (1, 5): (-30.63, 30.66, 14.11),
}


def mean_distance(first, second):
    """Mean of |r·s - 1| over all pairs, by sorting one of the two factors.

    Σ_s |r·s - 1| needs, for each r, only how many s are above 1/r and their sum.
    """
    ordered = np.sort(second)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    below = np.searchsorted(ordered, 1 / first)
    above_sum = first * (sums[-1] - sums[below]) - (len(ordered) - below)
    below_sum = below - first * sums[below]
    return (above_sum + below_sum).sum() / len(first) / len(second)


@pytest.mark.parametrize("bits", ERRORS)
def test_errors_over_all_operand_pairs_are_the_published_ones(bits):
    numbers = np.arange(1, 65536)
    a, b = (tfc.ops.drum_truncate(numbers, k).numpy() / numbers for k in bits)
    mean = a.mean() * b.mean() - 1  # pairs are independent
    spread = np.sqrt((a**2).mean() * (b**2).mean() - (a.mean() * b.mean()) ** 2)
    digits = [len(str(value).split(".")[1]) for value in ERRORS[bits]]
    received = [100 * v for v in (mean, mean_distance(a, b), spread)]
    for value, expected in zip(received, ERRORS[bits], strict=True):
        assert value == pytest.approx(expected, abs=0.0051 if min(digits) < 3 else 6e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_all_forms_agree_on_every_number_of_two_bytes(dtype):
    kind = np.dtype("float16" if dtype == "float16" else ml_dtypes.bfloat16)
    numbers = np.arange(65536, dtype="uint16").view(kind)
    for bits in range(1, 12 if dtype == "float16" else 9):
        for fraction_bits in (None, 3, -4, 14):
            assert_forms_agree(numbers, bits, fraction_bits)


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 8, 24])
def test_all_forms_agree_on_random_float32(bits):
    # Random bits: every exponent, with infinities, NaN and subnormals among them.
    numbers = RNG.integers(0, 2**32, 2_000_000, dtype="uint64").astype("uint32")
    special = [0, 1, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x7F800000, 0x7F800001]
    numbers = np.concatenate([numbers, special, np.array(special) | 1 << 31])
    numbers = numbers.astype("uint32").view("float32")
    assert_forms_agree(numbers, bits)
    assert_forms_agree(numbers[:100_000], bits, fraction_bits=10)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [1, 5])
def test_all_forms_agree_on_ten_million_float32(bits):
    for _ in range(10):
        words = RNG.integers(0, 2**32, 1_000_000, dtype="uint64").astype("uint32")
        assert_forms_agree(words.view("float32"), bits)
        assert_forms_agree(words.view("float32"), bits, fraction_bits=8)


@pytest.mark.parametrize("bits", [1, 5, 8])
@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_xla_agrees_on_every_number_of_two_bytes(kind, bits):
    numbers = np.arange(65536, dtype="uint16").view(kind)
    for fraction_bits in (None, 3):
        compiled = tf.function(
            lambda x, f=fraction_bits: tfc.ops.drum_truncate(x, bits, f),
            jit_compile=True,
        )
        expected = _reference.drum_truncate(numbers, bits, fraction_bits)
        received = compiled(tf.constant(numbers)).numpy()
        np.testing.assert_array_equal(pairs_of_bits(received), pairs_of_bits(expected))


@pytest.mark.parametrize("bits", [1, 4, 7, 15, 31, 40])
def test_all_forms_agree_on_integers_and_doubles(bits):
    words = RNG.integers(0, 2**64, 50_000, dtype="uint64")
    for dtype in ("int8", "int16", "int32", "int64"):
        lowest = np.iinfo(dtype).min
        numbers = np.concatenate([words.view(dtype), np.array([lowest, 0], dtype)])
        assert_forms_agree(numbers, bits)
    assert_forms_agree(words.view("float64"), bits)


def test_special_values_of_floats():
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40], "float32")
    y = tfc.ops.drum_truncate(x, 5).numpy()
    np.testing.assert_array_equal(y[:4], x[:4])
    assert np.isnan(y[4])
    np.testing.assert_array_equal(y[5:], [0, 0])
    np.testing.assert_array_equal(np.signbit(y), np.signbit(x))
    assert tfc.ops.drum_truncate(1.0, 5).numpy() == 1.0625
    assert tfc.ops.drum_truncate(1.0, 5, 4).numpy() == 1.0


MODES = {"eager": {}, "graph": {"jit_compile": False}, "xla": {"jit_compile": True}}


@pytest.mark.parametrize("mode", MODES)
def test_gradients(mode):
    a, b = tf.constant([[1.0, 2.0, 3.0]]), tf.constant([[1.5], [2.5]])
    first, second = tfc.ops.drum_truncate(a, 2), tfc.ops.drum_truncate(b, 3)

    def both(a, b, gradient):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch((a, b))
            product = tfc.ops.drum_multiply(a, b, (2, 3), gradient=gradient)
            operand = tfc.ops.drum_truncate(a, 2) * 3.0
        return product, *tape.gradient(product, (a, b)), tape.gradient(operand, a)

    run = both if mode == "eager" else tf.function(both, **MODES[mode])
    for gradient, (x, w) in {"exact": (a, b), "approximate": (first, second)}.items():
        product, of_a, of_b, straight = run(a, b, gradient)
        np.testing.assert_array_equal(product, first * second)
        np.testing.assert_array_equal(of_a, [[np.sum(w)] * 3])
        np.testing.assert_array_equal(of_b, [[np.sum(x)]] * 2)
        np.testing.assert_array_equal(straight, [[3.0] * 3])


def test_what_is_compiled_by_xla_uses_tensorflow_and_has_the_same_bits():
    seen = []

    def truncate(x):
        seen.append(tfc.ops.implementation())
        return tfc.ops.drum_truncate(x, 5)

    x = tf.constant(RNG.normal(size=1000), tf.float32)
    plain = tf.function(truncate, jit_compile=False)(x)
    compiled = tf.function(truncate, jit_compile=True)(x)
    inner = tf.function(truncate)
    nested = tf.function(lambda x: inner(x), jit_compile=True)(x)
    assert seen == ["c++" if NATIVE else "tensorflow", "tensorflow", "tensorflow"]
    np.testing.assert_array_equal(plain, compiled)
    np.testing.assert_array_equal(plain, nested)


def test_two_devices_compute_what_one_does():
    code = """
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
halves = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, halves)
import keras, tfcompress as tfc
def train(strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        layer = tfc.layers.DrumMultiply(keras.layers.Dense(3), 3, 5)
        model = keras.Sequential([keras.Input((4,)), layer])
        model.compile("sgd", "mse", jit_compile=False)
    x = np.random.default_rng(0).normal(size=(8, 4))
    model.fit(x, x[:, :3], batch_size=8, epochs=3, shuffle=False, verbose=0)
    return model.get_weights()
one = train(tf.distribute.get_strategy())
two = train(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
for a, b in zip(one, two):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


LOAD = (
    "import tensorflow as tf; print(tf.saved_model.load({0!r}).f(tf.ones(3)).numpy())"
)


@pytest.mark.parametrize("portable", [False, True])
def test_saved_models(tmp_path, portable):
    if not portable and not NATIVE:
        pytest.skip("the C++ operation is not built")
    module = tf.Module()
    module.f = tf.function(
        lambda x: tfc.ops.drum_truncate(x, 5), [tf.TensorSpec([None], tf.float32)]
    )
    with tfc.ops.portable() if portable else contextlib.nullcontext():
        tf.saved_model.save(module, str(tmp_path))

    def load(before):
        code = before + LOAD.format(str(tmp_path))
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True
        )

    knowing = load("import tfcompress.ops; ")
    assert knowing.returncode == 0 and "1.0625" in knowing.stdout
    plain = load("")
    if portable:
        assert plain.returncode == 0 and plain.stdout == knowing.stdout
    else:
        assert "Op type not registered 'Tfcompress>DrumTruncate'" in plain.stderr


def test_without_the_library_there_is_one_warning_and_the_same_result(
    monkeypatch, tmp_path
):
    x = RNG.normal(size=100).astype("float32")
    expected = tfc.ops.drum_truncate(x, 3).numpy()
    (tmp_path / _build.library_name("1.0")).touch()
    monkeypatch.setattr(_native, "FOLDER", tmp_path)
    _native.warn_missing.cache_clear()
    monkeypatch.setattr(_native, "library", _native.library.__wrapped__)
    with pytest.warns(UserWarning, match=r"not built for TensorFlow.*_drum-tf1\.0"):
        received = tfc.ops.drum_truncate(x, 3).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tfc.ops.implementation() == "tensorflow"
        tfc.ops.drum_truncate(x, 3)
    np.testing.assert_array_equal(received, expected)


def test_a_library_that_does_not_load_is_named(monkeypatch, tmp_path):
    (tmp_path / _build.library_name(tf.__version__)).write_text("no library")
    monkeypatch.setattr(_native, "FOLDER", tmp_path)
    module, reason = _native.library.__wrapped__()
    assert module is None and "does not load" in reason


def test_a_failing_compiler_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(RuntimeError, match="The compiler failed"):
        _build.build(tmp_path)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match="no C\\+\\+ compiler"):
        _build.build(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_installation_without_a_compiler_succeeds(tmp_path):
    root = Path(tfc.__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-lib", str(tmp_path)],
        cwd=root, capture_output=True, text=True,
        env={**os.environ, "CXX": "no-such-compiler"},
    )  # fmt: skip
    assert run.returncode == 0
    assert "no C++ compiler" in run.stderr
    assert "works without the compiled DRUM operation" in run.stdout
    assert not list(tmp_path.rglob("*.so"))


@needs_native
def test_the_compiled_operation_knows_its_shape():
    truncate = tf.function(lambda x: tfc.ops.drum_truncate(x, 5))
    spec = tf.TensorSpec([None, 3, None])
    assert truncate.get_concrete_function(spec).output_shapes == spec.shape


@pytest.mark.parametrize(
    ("x", "bits", "fraction_bits", "error", "match"),
    [
        (1.0, 0, None, ValueError, "`bits`"),
        (1.0, True, None, TypeError, "`bits`"),
        (1.0, 2.0, None, ValueError, "`bits`"),
        (1.0, 25, None, ValueError, "at most 24"),
        (1.0, 5, 0.5, ValueError, "`fraction_bits`"),
        (1.0, 5, 200, ValueError, "normal range"),
        (1, 5, 3, ValueError, "integers"),
        (True, 5, None, TypeError, "dtypes"),
    ],
)
def test_bad_arguments(x, bits, fraction_bits, error, match):
    with pytest.raises(error, match=match):
        tfc.ops.drum_truncate(x, bits, fraction_bits)


def test_bad_products():
    with pytest.raises(ValueError, match="`bits`"):
        tfc.ops.drum_multiply(1.0, 1.0, 5)
    with pytest.raises(ValueError, match="`gradient`"):
        tfc.ops.drum_multiply(1.0, 1.0, (5, 5), gradient="none")
    with pytest.raises(TypeError, match="`b`"):
        tfc.ops.drum_multiply(tf.constant(1.0), tf.constant(1), (5, 5))
