"""Spectrograms against librosa; augmentation by its definitions; files of every kind, and bad ones by their names."""

import io
import struct

import numpy as np
import pytest
import soundfile

from research.data import pipeline
from research.data.sound import audio
from research.data.sound import files as sound_files

librosa = pytest.importorskip("librosa", reason="librosa, of the extra [test], is not installed")


def voice(samples, rate=8000, seed=0):
    """Tones that glide under an envelope, with a little noise."""
    rng, time = np.random.default_rng(seed), np.arange(samples) / rate
    tone = sum(np.sin(2 * np.pi * (120 * k * time + 30 * np.sin(3 * time))) / k for k in range(1, 9))
    return (0.1 * tone * np.sin(2 * np.pi * 1.5 * time) ** 2 + 1e-3 * rng.normal(size=samples)).astype(np.float32)


def make(rate, **settings):
    return audio.LogMel(audio.MelSpec(sample_rate=rate, **settings))


CASES = [
    {"rate": 8000, "mels": 40},
    {"rate": 16000, "mels": 80},
    {"rate": 16000, "mels": 64, "window_ms": 32.0, "hop_ms": 8.0, "lowest_hz": 50.0, "highest_hz": 7000.0},
    {"rate": 11025, "mels": 30, "pre_emphasis": 0.97},
]


@pytest.mark.parametrize("settings", CASES)
@pytest.mark.parametrize("samples", [8000, 12_345, 150])
def test_log_mel_is_that_of_librosa(settings, samples):
    mel = make(**settings, normalise="none", range_db=80.0)
    sound = voice(samples, mel.rate)
    given = (
        sound if not mel.spec.pre_emphasis else librosa.effects.preemphasis(sound, coef=mel.spec.pre_emphasis, zi=[0.0])
    )
    power = librosa.feature.melspectrogram(
        y=given, sr=mel.rate, n_fft=mel.window, hop_length=mel.hop, window="hann", center=True, pad_mode="constant",
        power=2.0, n_mels=mel.spec.mels, fmin=mel.spec.lowest_hz, fmax=mel.spec.highest,
    )  # fmt: skip
    power = power[:, : mel.frames(samples)]  # librosa has one more where the hop divides the length
    expected = librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=80.0).T / 10
    found = mel(sound)
    assert found.shape == expected.shape == (mel.frames(samples), mel.spec.mels) and found.dtype == np.float32
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_normalisations():
    sound = voice(8000)
    plain = make(8000, mels=40, normalise="none")(sound)
    np.testing.assert_allclose(make(8000, mels=40, normalise="whisper")(sound), (plain + 4) / 4, rtol=1e-6)
    each = make(8000, mels=40)(sound)
    np.testing.assert_allclose(each.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(each.std(0), 1, atol=1e-3)
    np.testing.assert_allclose(make(8000, mels=40)(0.05 * sound), each, atol=2e-4)  # whatever the gain
    level = make(8000, mels=40, normalise="level")(sound)
    np.testing.assert_allclose(level, (plain - plain.mean()) / plain.std(), atol=1e-4)
    np.testing.assert_allclose(make(8000, mels=40, normalise="level")(0.05 * sound), level, atol=2e-4)
    assert plain.max() - plain.min() <= 8 + 1e-5
    for normalise in audio.NORMALISATIONS:
        assert np.isfinite(make(8000, mels=40, normalise=normalise)(np.zeros(800))).all()


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"mels": 200}, "mels"), ({"normalise": "loud"}, "normalise"), ({"pre_emphasis": 1.0}, "pre_emphasis"),
        ({"highest_hz": 5000.0}, "highest_hz"), ({"hop_ms": 0.0}, "hop_ms"), ({"rate": 10}, "sample_rate"),
    ],
)  # fmt: skip
def test_invalid_settings_are_named(settings, field):
    with pytest.raises(ValueError, match=f"{field}="):
        make(**({"rate": 8000, "mels": 40} | settings))


def test_speed_moves_a_tone_and_the_length():
    tone = np.sin(2 * np.pi * 400 * np.arange(16000) / 8000).astype(np.float32)
    for factor in (0.8, 1.1):
        faster = audio.change_speed(tone, factor)
        assert abs(len(faster) - 16000 / factor) <= 2
        peak = np.argmax(np.abs(np.fft.rfft(faster))) * 8000 / len(faster)
        assert peak == pytest.approx(400 * factor, abs=1)
    rng = np.random.default_rng(0)
    slowed = [len(audio.Augment(audio.AugmentSpec(speed=0.2)).sound(tone, rng, longest=17000)) for _ in range(50)]
    assert min(slowed) < 14000 and max(slowed) == 17000  # as long as there is room


@pytest.mark.parametrize("factor", [0.85, 1.15])
def test_a_warped_spectrogram_of_a_tone_is_that_of_a_warped_tone(factor):
    mel, time = make(8000, mels=40, normalise="none"), np.arange(8000) / 8000
    tone = lambda hz: np.sin(2 * np.pi * hz * time).astype(np.float32)
    for hz in (300.0, 900.0, 1800.0):
        warped = mel(tone(hz), factor)[10:-10].mean(0)
        assert abs(int(warped.argmax()) - int(mel(tone(hz * factor))[10:-10].mean(0).argmax())) <= 1
    np.testing.assert_array_equal(mel(tone(300), 1.0), mel(tone(300)))


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.2])
def test_warped_frequencies_are_continuous_and_keep_the_highest(factor):
    hz = np.linspace(0, 4000, 100_001)
    warped = audio.warp_frequencies(hz, factor, 4000)
    assert warped[0] == 0 and warped[-1] == pytest.approx(4000)
    steps = np.diff(warped) / np.diff(hz)
    assert steps.min() > 0 and steps.max() < 2.5  # monotonic, no jump
    low = hz <= 0.6 * 4000 * min(factor, 1) / factor
    np.testing.assert_allclose(warped[low], hz[low] * factor)
    augment = audio.Augment(audio.AugmentSpec(vocal_tract=0.2))
    drawn = [augment.warp(np.random.default_rng(seed)) for seed in range(200)]
    assert 0.8 <= min(drawn) < 0.82 and 1.18 < max(drawn) <= 1.2


@pytest.mark.parametrize("colour", [0.0, 1.0])
def test_noise_has_the_power_and_the_colour_that_is_asked_for(colour):
    sound = np.concatenate([np.zeros(8000), voice(40_000), np.zeros(17_000)]).astype(np.float32)
    noise = audio.add_noise(sound, 12.0, np.random.default_rng(1), colour) - sound
    ratio = np.mean(sound[sound != 0] ** 2) / np.mean(noise**2)
    assert 10 * np.log10(ratio) == pytest.approx(12, abs=0.1)
    power = np.abs(np.fft.rfft(noise)) ** 2
    octaves = [power[2**k : 2 ** (k + 1)].mean() for k in range(6, 14)]
    np.testing.assert_allclose(np.diff(np.log2(octaves)).mean(), -colour, atol=0.1)
    assert not audio.add_noise(np.zeros(10, np.float32), 0.0, np.random.default_rng(1)).any()


def test_masks_cover_consecutive_bands_and_frames():
    augment = audio.Augment(audio.AugmentSpec(frequency_masks=1, frequency_width=9, time_masks=1, time_width=30))
    rng, features = np.random.default_rng(0), np.random.default_rng(1).normal(size=(200, 40)).astype(np.float32)
    widths = []
    for _ in range(300):
        masked = augment.spectrogram(features, rng) != features
        bands, frames = masked.all(axis=0), masked.all(axis=1)
        assert np.array_equal(masked, bands[None] | frames[:, None])
        for lines in (bands, frames):
            assert np.count_nonzero(np.diff(np.flatnonzero(lines)) != 1) == 0  # one stretch
        widths.append((bands.sum(), frames.sum()))
    assert np.max(widths, axis=0).tolist() == [9, 30] and np.min(widths, axis=0).tolist() == [0, 0]
    few = [(augment.spectrogram(features[:50], rng) != features[:50]).all(axis=1).sum() for _ in range(100)]
    assert max(few) == 10  # a fifth


def test_augmentation_is_a_function_of_seed_example_and_epoch():
    augment = audio.Augment(
        audio.AugmentSpec(speed=0.1, noise=0.5, frequency_masks=2, frequency_width=5, time_masks=1, time_width=5)
    )
    mel, sounds = make(8000, mels=20), [voice(1600, seed=seed) for seed in range(3)]

    def transform(sound, rng):
        features = augment.spectrogram(mel(augment.sound(sound, rng, 1600)), rng)
        return {"features": np.pad(features, [(0, 20 - len(features)), (0, 0)])}

    def epochs(seed, start=0):
        batches = pipeline.train_batches(sounds, transform, seed, batch_size=1, start=start)
        found = {}
        for step, batch in zip(range(start, 6), batches, strict=False):
            found[int(batch["index"][0]), step // 3] = batch["features"]
        return found

    once, again, later, other = epochs(0), epochs(0), epochs(0, start=4), epochs(1)
    assert all(np.array_equal(once[key], again[key]) for key in once) and len(once) == 6
    assert all(np.array_equal(once[key], later[key]) for key in later)
    assert not any(np.array_equal(once[key], other[key]) for key in once)
    assert not any(np.array_equal(once[index, 0], once[index, 1]) for index in range(3))


def test_a_long_sound_is_cut_where_it_is_quiet():
    sound = np.ones(1000, np.float32)
    sound[280:290] = sound[560:570] = 0
    parts = audio.pieces(sound, 300, hop=10)
    first, second = np.cumsum([len(part) for part in parts])[:2]
    assert 280 <= first <= 290 and 560 <= second <= 570
    assert len(parts) == 4 and all(len(part) <= 300 for part in parts)
    np.testing.assert_array_equal(np.concatenate(parts), sound)
    assert len(audio.pieces(sound, 1000, hop=10)) == 1
    for length in (301, 599, 600, 601, 899, 900, 901):  # nothing is left that is too long or next to nothing
        sizes = [len(part) for part in audio.pieces(sound[:length], 300, hop=10)]
        assert len(sizes) == -(-length // 300) and sum(sizes) == length and 70 < min(sizes) <= max(sizes) <= 300


# ---- Files.


def encoded(samples, rate=8000, **options):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, **({"format": "WAV", "subtype": "PCM_16"} | options))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [({}, 2**-15), ({"subtype": "PCM_24"}, 2**-23), ({"subtype": "FLOAT"}, 0), ({"subtype": "DOUBLE"}, 1e-9),
     ({"subtype": "PCM_U8"}, 2**-7), ({"format": "FLAC"}, 2**-15), ({"format": "FLAC", "subtype": "PCM_24"}, 2**-23)],
)  # fmt: skip
def test_files_of_all_widths_are_read(options, tolerance):
    sound = voice(3000)
    found = sound_files.decode(encoded(sound, **options), "a.wav")
    assert found.rate == 8000 and found.samples.dtype == np.float32
    np.testing.assert_allclose(found.samples, sound, atol=tolerance)


def test_stereo_becomes_the_mean_and_16_bits_are_kept(tmp_path):
    left, right = voice(500), voice(500, seed=1)
    stereo = np.stack([left, right], 1)
    soundfile.write(tmp_path / "a.wav", stereo, 8000, subtype="FLOAT")
    np.testing.assert_allclose(sound_files.read(tmp_path / "a.wav").samples, stereo.mean(1), atol=1e-7)
    stored = np.random.default_rng(0).integers(-32768, 32768, 1000).astype(np.int16)
    again = sound_files.decode(encoded(stored), "a.wav").samples
    np.testing.assert_array_equal(sound_files.to_int16(again), stored)
    np.testing.assert_array_equal(sound_files.to_float(stored), again)
    loud = np.array([0.5, -4.0, 2.0], np.float32)
    np.testing.assert_array_equal(sound_files.to_int16(loud), [4096, -32768, 16384])


def bad_files():
    whole, flac = encoded(voice(3000)), encoded(voice(30000), format="FLAC")
    rate = bytearray(whole)
    struct.pack_into("<I", rate, 24, 7)
    nan = np.array([0.0, np.nan, 1.0], np.float32)
    return {
        "empty: it has no bytes": b"",
        "empty: it has no samples": encoded(np.zeros(0, np.float32)),
        "truncated: it holds 2,000 of the 6,000": whole[: 44 + 2000],
        "truncated: ": whole[:30],
        "silent": encoded(np.zeros(100)),
        "silent: all its samples": encoded(np.array([[0.5, -0.5]] * 9), subtype="FLOAT"),
        "has the rate 7 Hz": bytes(rate),
        "not finite": encoded(nan, subtype="FLOAT"),
        "cannot be decoded": b"this is no sound at all",
        "(is truncated|cannot be decoded)": flac[: len(flac) // 2],
    }


@pytest.mark.parametrize("message", bad_files())
def test_bad_files_are_named_in_one_line(message, tmp_path):
    path = tmp_path / "bad.wav"
    path.write_bytes(bad_files()[message])
    with pytest.raises(ValueError, match=f"sound '{path}' .*{message}") as caught:
        sound_files.read(path)
    assert "\n" not in str(caught.value)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.wav' cannot be read: No such file"):
        sound_files.read(tmp_path / "nothing.wav")


def test_resampling_keeps_a_tone():
    tone = np.sin(2 * np.pi * 440 * np.arange(44_100) / 44_100).astype(np.float32)
    found = audio.resample(tone, 44_100, 8000)
    expected = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    assert len(found) == 8000
    np.testing.assert_allclose(found[200:-200], expected[200:-200], atol=1e-3)
    assert audio.resample(tone, 8000, 8000) is tone
