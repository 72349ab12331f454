"""Audio on the host: log-mel spectrograms, and augmentation of audio and spectrograms.

Samples are float32 in -1..1, lengths are in samples or frames, frequencies in Hz. All random choices use the generator
that is passed in.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np

from research.spec import Spec, checks, field, invalid

NORMALISATIONS = ("utterance", "level", "whisper", "none")
PAD_MODES: dict[str, Literal["constant", "reflect"]] = {
    "silence": "constant",
    "reflect": "reflect",
}  # -> mode of np.pad
MIN_POWER = 1e-10  # lower clip of the power of a mel band, before the logarithm


class MelSpec(Spec):
    """The settings of `LogMel`."""

    sample_rate: int = field(
        default=16_000, check=checks.at_least(1000) & checks.at_most(768_000),
        doc="Hz; sounds at another rate are resampled",
    )  # fmt: skip
    window_ms: float = field(
        default=25.0, check=checks.at_least(1) & checks.at_most(10_000), doc="length of the Hann windows, in ms"
    )
    hop_ms: float = field(
        default=10.0, check=checks.at_least(1) & checks.at_most(10_000),
        doc="hop between frames, in ms; frame k is centred on k hops",
    )  # fmt: skip
    mels: int = field(
        default=80, check=checks.at_least(1) & checks.at_most(10_000),
        doc="mel bands: triangles of equal area, evenly spaced on Slaney's mel scale",
    )  # fmt: skip
    lowest_hz: float = field(default=0.0, check=checks.between(0, 1e6), doc="lower limit of the first band, in Hz")
    highest_hz: float = field(
        default=0.0, check=checks.between(0, 1e6), doc="upper limit of the last band, in Hz; 0: half the sample rate"
    )
    pre_emphasis: float = field(
        default=0.0, check=checks.from_up_to(0, 1), doc="pre-emphasis coefficient c of x[t] - c x[t - 1]; 0: off"
    )
    range_db: float = field(
        default=80.0, check=checks.above(0) & checks.at_most(1000),
        doc="dynamic range in dB: values are clipped to at most this much below the maximum; 0: off",
    )  # fmt: skip
    normalise: str = field(
        default="utterance", check=checks.one_of(*NORMALISATIONS),
        doc="utterance: mean 0 and standard deviation 1 of each band over the frames (independent of loudness and of "
        "the microphone's response); level: the same over all bands together (independent of loudness, but a short "
        "sound keeps its spectrum); whisper: (x + 4) / 4 (Radford et al., 2022); none",
    )  # fmt: skip
    pad_mode: str = field(
        default="silence", check=checks.one_of(*PAD_MODES), renamed="edges", formerly={"reflect": "mirror"},
        doc="padding of the first and last windows: silence (zeros), or reflect, as np.pad does",
    )  # fmt: skip

    @property
    def highest(self) -> float:
        """The upper limit of the last band, in Hz."""
        return self.highest_hz or self.sample_rate / 2

    def validate(self) -> None:
        """Raises FieldError for bands above half of the sample rate."""
        super().validate()
        if not self.lowest_hz < self.highest <= self.sample_rate / 2:
            limits = f"above lowest_hz={self.lowest_hz} and at most half of sample_rate={self.sample_rate}"
            raise invalid(self, "highest_hz", f"must be {limits}")


@dataclasses.dataclass(frozen=True)
class LogMel:
    """Computes log-mel spectrograms: samples [samples] -> log10 of the power in mel bands, float32 [frames, mels].

    Raises ValueError for settings that leave a band empty.
    """

    spec: MelSpec

    def __post_init__(self):
        if not self.filters.any(axis=0).all():
            raise ValueError(
                f"config.data.mels={self.spec.mels} is too many for windows of {self.window} samples: some bands "
                "contain no frequency; set fewer, or raise config.data.window_ms"
            )

    @property
    def rate(self) -> int:
        """The sample rate, in Hz."""
        return self.spec.sample_rate

    @property
    def window(self) -> int:
        """The length of a window in samples."""
        return round(self.spec.window_ms * self.rate / 1000)

    @property
    def hop(self) -> int:
        """The hop between frames in samples."""
        return round(self.spec.hop_ms * self.rate / 1000)

    @functools.cached_property
    def filters(self) -> np.ndarray:
        """The weight of each DFT frequency in each band, float32 [frequencies, mels]."""
        return mel_filters(self.rate, self.window, self.spec.mels, self.spec.lowest_hz, self.spec.highest)

    def warped(self, factor: float) -> np.ndarray:
        """`filters` with limits divided by `factor`, see `warp_frequencies`."""
        return mel_filters(self.rate, self.window, self.spec.mels, self.spec.lowest_hz, self.spec.highest, 1 / factor)

    def frames(self, samples: int) -> int:
        """The number of frames of `samples` samples."""
        return -(-samples // self.hop)

    def __call__(self, samples: np.ndarray, warp: float = 1.0) -> np.ndarray:
        """The features of a sound of at least one sample, of a vocal tract shorter by the factor `warp` if not 1."""
        samples = np.asarray(samples, np.float32)
        if self.spec.pre_emphasis:
            samples = np.append(samples[:1], samples[1:] - np.float32(self.spec.pre_emphasis) * samples[:-1])
        count, half = self.frames(len(samples)), self.window // 2
        after = max(0, (count - 1) * self.hop + self.window - half - len(samples))
        padded = np.pad(samples, (half, after), mode=PAD_MODES[self.spec.pad_mode])
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.window)[:: self.hop][:count]
        spectra = np.fft.rfft(windows * hann(self.window), axis=1)
        power = (spectra.real**2 + spectra.imag**2) @ (self.filters if warp == 1 else self.warped(warp))
        if self.spec.normalise in ("utterance", "level"):
            power /= power.max() or 1  # so that MIN_POWER does not limit the dynamic range of quiet sounds
        features = np.log10(np.maximum(power, MIN_POWER))
        if self.spec.range_db:
            features = np.maximum(features, features.max() - self.spec.range_db / 10)
        if self.spec.normalise == "whisper":
            return (features + 4) / 4
        if self.spec.normalise == "utterance":
            features = features - features.mean(axis=0)
            features /= features.std(axis=0) + 1e-5  # a constant band becomes 0
        if self.spec.normalise == "level":
            features = (features - features.mean()) / (features.std() + np.float32(1e-5))
        return features


@functools.cache
def hann(length: int) -> np.ndarray:
    """A periodic Hann window, float32."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)).astype(np.float32)


def mel_filters(
    rate: int, window: int, mels: int, lowest_hz: float, highest_hz: float, warp: float = 1.0
) -> np.ndarray:
    """Triangles [window // 2 + 1 frequencies, mels] of height 2 / width, as in Slaney's Auditory Toolbox (1998).

    With `warp`, the limits of the triangles are warped, see `warp_frequencies`.
    """
    edges = _mel_to_hz(np.linspace(_hz_to_mel(lowest_hz), _hz_to_mel(highest_hz), mels + 2))
    edges = edges if warp == 1 else warp_frequencies(edges, warp, highest_hz)
    frequencies = np.arange(window // 2 + 1)[:, None] * (rate / window)
    below, centre, above = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (frequencies - below) / (centre - below), (above - frequencies) / (above - centre)
    return (np.maximum(0, np.minimum(rising, falling)) * 2 / (above - below)).astype(np.float32)


def warp_frequencies(hz: np.ndarray, factor: float, highest_hz: float) -> np.ndarray:
    """Frequencies times `factor`, except near `highest_hz`, which stays: piecewise linear.

    Vocal tract length perturbation (Jaitly and Hinton, 2013), whose boundary is 4.8 of 8 kHz.
    """
    boundary = 0.6 * highest_hz * min(factor, 1)
    slope = (highest_hz - boundary) / (highest_hz - boundary / factor)
    return np.where(hz <= boundary / factor, hz * factor, highest_hz - slope * (highest_hz - hz))


# Slaney's scale: 200 / 3 Hz a mel up to 1 kHz, then 27 mels for each factor of 6.4.
_LINEAR_HZ, _KNEE_HZ, _GROWTH = 200 / 3, 1000.0, np.log(6.4) / 27


def _hz_to_mel(hz: float) -> float:
    return hz / _LINEAR_HZ if hz < _KNEE_HZ else _KNEE_HZ / _LINEAR_HZ + np.log(hz / _KNEE_HZ) / _GROWTH


def _mel_to_hz(mels: np.ndarray) -> np.ndarray:
    knee = _KNEE_HZ / _LINEAR_HZ
    return np.where(mels < knee, mels * _LINEAR_HZ, _KNEE_HZ * np.exp((mels - knee) * _GROWTH))


def resample(samples: np.ndarray, rate: float, to: float) -> np.ndarray:
    """Resamples from `rate` to `to` Hz with soxr; returns `samples` if both are equal."""
    if rate == to:
        return samples
    import soxr

    return soxr.resample(samples, rate, to)


_MASKS, _FRAMES, _BANDS = checks.between(0, 1000), checks.between(0, 1_000_000), checks.between(0, 10_000)


class AugmentSpec(Spec):
    """The settings of `Augment`."""

    speed: float = field(
        default=0.0, check=checks.between(0, 0.5),
        doc="speed perturbation, which changes the pitch too: factor uniform in 1 +- speed (Ko et al., 2015)",
    )  # fmt: skip
    vocal_tract: float = field(
        default=0.0, check=checks.between(0, 0.5), absent=0.0,
        doc="vocal tract length perturbation: frequencies times a factor uniform in 1 +- vocal_tract (Jaitly and "
        "Hinton, 2013)",
    )  # fmt: skip
    noise: float = field(default=0.0, check=checks.between(0, 1), doc="probability that noise is added")
    noise_db: tuple[float, ...] = field(
        default=(5.0, 40.0), check=checks.each(checks.between(-1000, 1000)),
        doc="range of the signal-to-noise ratio, in dB",
    )  # fmt: skip
    frequency_masks: int = field(
        default=0, check=_MASKS, doc="number of frequency masks, m_F of SpecAugment (Park et al., 2019)"
    )
    frequency_width: int = field(default=0, check=_BANDS, doc="widest frequency mask in bands, F of SpecAugment")
    time_masks: int = field(default=0, check=_MASKS, doc="number of time masks, m_T of SpecAugment")
    time_width: int = field(default=0, check=_FRAMES, doc="widest time mask in frames, T of SpecAugment; capped at 1/5")

    def validate(self) -> None:
        """Raises FieldError for an invalid range of noise_db."""
        super().validate()
        if len(self.noise_db) != 2 or self.noise_db[0] > self.noise_db[1]:
            raise invalid(self, "noise_db", "must be a lower and an upper limit, in dB")


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random augmentation of a sound and of its spectrogram."""

    spec: AugmentSpec

    def sound(self, samples: np.ndarray, rng: np.random.Generator, longest: int) -> np.ndarray:
        """`samples` with speed perturbation, limited to `longest` samples, and noise."""
        if self.spec.speed:
            factor = max(rng.uniform(1 - self.spec.speed, 1 + self.spec.speed), len(samples) / longest)
            samples = change_speed(samples, factor)[:longest]
        if self.spec.noise and rng.random() < self.spec.noise:
            low, high = self.spec.noise_db
            samples = add_noise(samples, rng.uniform(low, high), rng, colour=rng.uniform(0, 1.5))
        return samples

    def warp(self, rng: np.random.Generator) -> float:
        """The random factor of all frequencies, for `LogMel`; 1 without vocal tract length perturbation."""
        return rng.uniform(1 - self.spec.vocal_tract, 1 + self.spec.vocal_tract) if self.spec.vocal_tract else 1.0

    def spectrogram(self, features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """`features` [frames, mels] with frequency and time masks, which are filled with the mean."""
        if not (self.spec.frequency_masks or self.spec.time_masks):
            return features
        features, mean = features.copy(), features.mean()
        frames, mels = features.shape
        for _ in range(self.spec.frequency_masks):
            features[:, _random_span(mels, min(mels, self.spec.frequency_width), rng)] = mean
        for _ in range(self.spec.time_masks):
            features[_random_span(frames, min(frames // 5, self.spec.time_width), rng)] = mean
        return features


def _random_span(length: int, widest: int, rng: np.random.Generator) -> slice:
    width = int(rng.integers(0, widest + 1))
    start = int(rng.integers(0, length - width + 1))
    return slice(start, start + width)


def change_speed(samples: np.ndarray, factor: float) -> np.ndarray:
    """`samples` at `factor` times the speed: about len / factor samples at the same rate."""
    if factor == 1:
        return samples
    import soxr

    return soxr.resample(samples, factor, 1.0, quality="MQ")


def add_noise(samples: np.ndarray, snr_db: float, rng: np.random.Generator, colour: float = 0.0) -> np.ndarray:
    """`samples` with Gaussian noise at a signal-to-noise ratio of `snr_db`, over the nonzero samples.

    The power of the noise falls with frequency ** -colour: 0 is white, 1 pink. Silence stays silent.
    """
    signal = samples[samples != 0]
    if not len(signal):
        return samples
    noise = rng.standard_normal(len(samples), np.float32)
    if colour:
        size = 1 << (len(samples) - 1).bit_length()  # a power of two, for a fast FFT
        spectrum = np.fft.rfft(noise, size)
        spectrum *= np.maximum(np.arange(len(spectrum), dtype=np.float32), 1) ** np.float32(-colour / 2)
        noise = np.fft.irfft(spectrum, size)[: len(samples)]
    power = np.mean(np.square(signal), dtype=np.float64) * 10 ** (-snr_db / 10)
    scale = np.sqrt(power / max(np.mean(np.square(noise), dtype=np.float64), MIN_POWER))
    return samples + np.float32(scale) * noise.astype(np.float32)


def pieces(samples: np.ndarray, longest: int, hop: int) -> Sequence[np.ndarray]:
    """Splits `samples` at quiet points into as few parts of at most `longest` samples as possible, of similar length.

    A quiet point is one with the least energy in `hop` samples.
    """
    parts = []
    for left in range(-(-len(samples) // longest), 1, -1):
        even = len(samples) / left  # a quarter more or less, limited by what the remaining parts can hold
        start = max(len(samples) - (left - 1) * longest, int(0.75 * even))
        hops = max(1, (min(longest, int(1.25 * even)) - start) // hop)
        energies = [np.square(samples[start + index * hop :][:hop]).sum() for index in range(hops)]
        end = min(longest, start + int(np.argmin(energies)) * hop + hop // 2)
        parts.append(samples[:end])
        samples = samples[end:]
    return [*parts, samples]
