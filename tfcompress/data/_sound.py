"""Features of sounds, which a device computes before the network."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfcompress._checks import invalid, number, whole

__all__ = ["mfcc"]

# Sounds transformed at once: the spectra of one second take 100 kB.
_AT_ONCE = 256
# Keeps the logarithm of silence finite.
_OFFSET = 1e-6


def mfcc(
    sounds: Any,
    coefficients: int = 10,
    *,
    rate: int = 16_000,
    frame: int = 480,
    step: int = 320,
    bands: int = 40,
    lowest: float = 20.0,
    highest: float = 4000.0,
) -> np.ndarray:
    """Mel-frequency cepstral coefficients, what networks that spot keywords take.

    The defaults are MLPerf Tiny's: frames of 30 ms every 20 ms. Each frame is weighted
    by a Hann window and transformed, with zeros up to the next power of two. The
    magnitudes are summed in bands of the mel scale. The coefficients are the first of
    the cosine transform of the logarithms of these sums (`tf.signal`, in float32).

    Example:

    ```python
    x = tfc.data.mfcc(sounds)  # (count, 16000) to (count, 49, 10, 1)
    model = tfc.zoo.ds_cnn(input_shape=x.shape[1:])
    ```

    Args:
        sounds: array (count, samples) of real numbers, usually from −1 to 1.
        coefficients: how many to keep, at most `bands`. Defaults to 10.
        rate: samples in a second. Defaults to 16,000.
        frame: samples in a frame. Defaults to 480.
        step: samples from the beginning of a frame to that of the next. Defaults to
            320.
        bands: bands of the mel scale. Defaults to 40.
        lowest: where the lowest band begins, in hertz. Defaults to 20.0.
        highest: where the highest band ends, in hertz, at most half of `rate`.
            Defaults to 4000.0.

    Returns:
        float32 array (count, 1 + (samples − frame) // step, coefficients, 1).

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if an argument is out of range, or the sounds are shorter than a
            frame.
        ImportError: if TensorFlow is not installed.
    """
    for name, value in (("rate", rate), ("frame", frame), ("step", step)):
        whole(name, value)
    whole("bands", bands)
    if whole("coefficients", coefficients) > bands:
        expected = f"a whole number up to the number of bands, {bands}"
        raise ValueError(invalid("coefficients", expected, coefficients))
    lowest, highest = number("lowest", lowest), number("highest", highest)
    if not 0 <= lowest < rate / 2:
        expected = f"a frequency from 0 to half of the rate, {rate / 2:g}"
        raise ValueError(invalid("lowest", expected, lowest))
    if not lowest < highest <= rate / 2:
        expected = f"a frequency above `lowest`, and at most {rate / 2:g}"
        raise ValueError(invalid("highest", expected, highest))
    sounds = np.asarray(sounds)
    if sounds.dtype.kind != "f":
        expected = "real numbers (divide 16-bit samples by 32768)"
        raise TypeError(invalid("sounds", expected, f"dtype {sounds.dtype}"))
    if sounds.ndim != 2 or sounds.shape[1] < frame:
        expected = f"an array (count, samples) of at least {frame} samples"
        raise ValueError(invalid("sounds", expected, f"shape {sounds.shape}"))
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError(
            "Expected TensorFlow, whose `tf.signal` transforms sounds. Install it "
            "with `pip install tensorflow`."
        ) from error

    length = 1 << (frame - 1).bit_length()
    weights = tf.signal.linear_to_mel_weight_matrix(
        bands, length // 2 + 1, rate, lowest, highest
    )
    frames = 1 + (sounds.shape[1] - frame) // step
    result = np.empty((len(sounds), frames, coefficients, 1), "float32")
    for start in range(0, len(sounds), _AT_ONCE):
        part = sounds[start : start + _AT_ONCE].astype("float32")
        spectra = tf.abs(tf.signal.stft(part, frame, step, length))
        logarithms = tf.math.log(tf.matmul(spectra, weights) + _OFFSET)
        cepstra = tf.signal.mfccs_from_log_mel_spectrograms(logarithms)
        result[start : start + len(part), ..., 0] = cepstra[..., :coefficients]
    return result
