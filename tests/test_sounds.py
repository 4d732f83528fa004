"""Cepstral coefficients against the sums that define them."""

import numpy as np
import pytest

import tfcompress as tfc

RATE = 16_000


def spectra(sounds, frame, step, length):
    """Magnitudes (count, frames, length // 2 + 1) by the sum of Fourier."""
    starts = range(0, sounds.shape[1] - frame + 1, step)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frame) / frame)
    frames = np.stack([sounds[:, s : s + frame] * window for s in starts], axis=1)
    turns = np.outer(np.arange(frame), np.arange(length // 2 + 1)) / length
    return np.abs(frames @ np.exp(-2j * np.pi * turns))


def mel(hertz):
    return 1127 * np.log1p(np.asarray(hertz) / 700)


def bands_of(magnitudes, bands, lowest, highest, length):
    """Sums over triangles that are as wide as each other on the mel scale."""
    edges = np.linspace(mel(lowest), mel(highest), bands + 2)
    bins = mel(np.arange(length // 2 + 1) * RATE / length)
    sums = []
    for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
        rise = (bins - low) / (middle - low)
        fall = (high - bins) / (high - middle)
        weights = np.clip(np.minimum(rise, fall), 0, None)
        weights[0] = 0  # the constant part of a sound is no tone
        sums.append(magnitudes @ weights)
    return np.stack(sums, axis=-1)


def cosines(values, count):
    """The first coefficients of the cosine transform (DCT-II, scaled as in HTK)."""
    size = values.shape[-1]
    turns = np.outer(np.arange(size) + 0.5, np.arange(count)) * np.pi / size
    return values @ np.cos(turns) * np.sqrt(2 / size)


def test_the_defaults_are_those_of_mlperf_tiny():
    sounds = np.random.default_rng(0).normal(0, 0.1, (2, RATE))
    features = tfc.data.mfcc(sounds)
    assert features.shape == (2, 49, 10, 1)
    assert features.dtype == np.float32
    # 30 ms every 20 ms, zeros up to 512 samples, 40 bands from 20 to 4000 Hz.
    sums = bands_of(spectra(sounds, 480, 320, 512), 40, 20, 4000, 512)
    expected = cosines(np.log(sums + 1e-6), 10)
    np.testing.assert_allclose(features[..., 0], expected, rtol=1e-3, atol=2e-3)


def test_every_argument_matters():
    sounds = np.random.default_rng(1).normal(0, 0.1, (3, 2000)).astype("float32")
    features = tfc.data.mfcc(
        sounds, 5, frame=256, step=100, bands=12, lowest=100, highest=8000
    )
    sums = bands_of(spectra(sounds, 256, 100, 256), 12, 100, 8000, 256)
    expected = cosines(np.log(sums + 1e-6), 5)
    assert features.shape == (3, 18, 5, 1)
    np.testing.assert_allclose(features[..., 0], expected, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("hertz", [300, 1000, 2500])
def test_a_tone_is_loudest_in_the_band_around_it(hertz):
    sounds = np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE)[None]
    # All coefficients, turned back: the logarithms of the bands' sums.
    cepstra = tfc.data.mfcc(sounds, 40)[0, 20, :, 0]
    turns = np.outer(np.arange(40), np.arange(40) + 0.5) * np.pi / 40
    halved = cepstra * np.where(np.arange(40), 1, 0.5)
    loudest = np.argmax(halved @ np.cos(turns))
    edges = np.linspace(mel(20), mel(4000), 42)
    assert edges[loudest] < mel(hertz) < edges[loudest + 2]


def test_many_sounds_are_transformed_as_one_is():
    sounds = np.random.default_rng(2).normal(0, 0.1, (300, 480))
    features = tfc.data.mfcc(sounds)
    np.testing.assert_allclose(features[299:], tfc.data.mfcc(sounds[299:]), atol=1e-4)
    assert tfc.data.mfcc(sounds[:0]).shape == (0, 1, 10, 1)


@pytest.mark.parametrize(
    ("change", "error", "argument"),
    [
        ({"sounds": np.zeros((1, 16000), "int16")}, TypeError, "sounds"),
        ({"sounds": np.zeros(16000)}, ValueError, "sounds"),
        ({"sounds": np.zeros((1, 479))}, ValueError, "sounds"),
        ({"coefficients": 41}, ValueError, "coefficients"),
        ({"coefficients": 0}, ValueError, "coefficients"),
        ({"rate": 16e3}, ValueError, "rate"),
        ({"step": 0}, ValueError, "step"),
        ({"frame": "30 ms"}, TypeError, "frame"),
        ({"lowest": -1.0}, ValueError, "lowest"),
        ({"lowest": 5000.0}, ValueError, "highest"),
        ({"highest": 9000.0}, ValueError, "highest"),
    ],
)
def test_bad_arguments_are_named(change, error, argument):
    with pytest.raises(error, match=f"argument `{argument}`"):
        tfc.data.mfcc(**{"sounds": np.zeros((1, 16000)), **change})
