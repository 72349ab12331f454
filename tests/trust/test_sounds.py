"""Corrupted sounds: the measured signal-to-noise ratio and reverberation time."""

import numpy as np
import pytest

from research.trust import corruptions, sounds

RATE = 8000


@pytest.fixture(scope="module")
def tone():
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)).astype(np.float32) + 1e-6


@pytest.mark.parametrize("kind", ["white_noise", "pink_noise"])
@pytest.mark.parametrize("severity", [1, 3, 5])
def test_noise_has_its_signal_to_noise_ratio(tone, kind, severity):
    noise = sounds.corrupt(tone, RATE, kind, severity, 7).astype(float) - tone
    ratio = 10 * np.log10(np.square(tone.astype(float)).sum() / np.square(noise).sum())
    assert ratio == pytest.approx(sounds.SNR_DB[severity - 1], abs=0.01)
    power = np.square(np.abs(np.fft.rfft(noise)))
    low, high = power[100:1000].mean(), power[7000:7900].mean()
    assert low / high == pytest.approx(1, abs=0.3) if kind == "white_noise" else low / high > 10


@pytest.mark.parametrize("rt60", [0.3, 1.0])
def test_the_energy_of_a_room_decays_by_60_db_in_its_time(rt60):
    """Schroeder's (1965) backward integration, and a line through its decay from -5 to -35 dB (T30 of ISO 3382)."""
    response = sounds.impulse_response(rt60, RATE, np.random.default_rng(0))
    tail = np.square(response[1:])
    decay = 10 * np.log10(tail[::-1].cumsum()[::-1] / tail.sum())
    inside = (decay < -5) & (decay > -35)
    slope = np.polyfit(np.flatnonzero(inside) / RATE, decay[inside], 1)[0]
    assert -60 / slope == pytest.approx(rt60, rel=0.05)
    assert tail.sum() == pytest.approx(response[0] ** 2)


def test_a_reverberant_sound_is_a_convolution_of_the_same_energy(tone):
    response = np.array([1.0, 0.0, 0.5])
    expected = np.convolve(tone[:50], response)[:50]
    expected *= np.linalg.norm(tone[:50]) / np.linalg.norm(expected)
    np.testing.assert_allclose(sounds.reverberate(tone[:50], response), expected, rtol=1e-4, atol=1e-6)


def test_a_sound_is_corrupted_by_its_index_and_severity(tone):
    made = lambda *given: sounds.corrupt(tone, RATE, *given)
    for kind in sounds.KINDS:
        np.testing.assert_array_equal(made(kind, 2, 5), made(kind, 2, 5))
        assert (made(kind, 2, 5) != made(kind, 2, 6)).any() and made(kind, 2, 5).dtype == np.float32
        assert made(kind, 2, 5).shape == tone.shape
    assert not sounds.corrupt(np.zeros(10, np.float32), RATE, "reverberation", 5, 0).any()
    with pytest.raises(ValueError, match="unknown corruption 'fog' of severity 1; choose from white_noise"):
        sounds.corrupt(tone, RATE, "fog", 1, 0)
    draws = [corruptions.generator(*given).integers(2**60) for given in ((0, "a", 1), (0, "b", 1), (1, "a", 1))]
    assert len(set(draws)) == 3
