"""Sound on the host: log-mel spectrograms, and what training does to sounds and spectrograms.

Samples are float32 in -1..1, lengths are in samples or frames, frequencies in Hz. Random choices come from the
generator that is passed in and from nothing else.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np

from research.spec import Spec, checks, field, invalid

NORMALISATIONS = ("utterance", "level", "whisper", "none")
# -> what NumPy calls it
EDGES: dict[str, Literal["constant", "reflect"]] = {"silence": "constant", "mirror": "reflect"}
LEAST_POWER = 1e-10  # of a mel band; what is less counts as this much


class MelSpec(Spec):
    """What becomes of samples in `LogMel`."""

    sample_rate: int = field(
        default=16_000, check=checks.at_least(1000) & checks.at_most(768_000),
        doc="Hz; sounds at another rate are resampled",
    )  # fmt: skip
    window_ms: float = field(
        default=25.0, check=checks.at_least(1) & checks.at_most(10_000), doc="length of the Hann windows, in ms"
    )
    hop_ms: float = field(
        default=10.0, check=checks.at_least(1) & checks.at_most(10_000),
        doc="from one frame to the next, in ms; frame k is centred on k hops",
    )  # fmt: skip
    mels: int = field(
        default=80, check=checks.at_least(1) & checks.at_most(10_000),
        doc="triangular bands of equal area, evenly spaced on Slaney's mel scale",
    )  # fmt: skip
    lowest_hz: float = field(default=0.0, check=checks.between(0, 1e6), doc="where the first band begins, in Hz")
    highest_hz: float = field(
        default=0.0, check=checks.between(0, 1e6), doc="where the last band ends, in Hz; 0 is half the rate"
    )
    pre_emphasis: float = field(default=0.0, check=checks.from_up_to(0, 1), doc="c of x[t] - c x[t - 1]; 0 is off")
    range_db: float = field(
        default=80.0, check=checks.above(0) & checks.at_most(1000),
        doc="what is weaker than the strongest value by more, in dB, is raised to that",
    )  # fmt: skip
    normalise: str = field(
        default="utterance", check=checks.one_of(*NORMALISATIONS),
        doc="utterance: each band has mean 0 and standard deviation 1 over the frames, so that neither loudness nor a "
        "microphone's response matters; level: all bands together have, so that loudness does not, but a short sound "
        "keeps its spectrum; whisper: (x + 4) / 4 (Radford et al., 2022); none",
    )  # fmt: skip
    edges: str = field(
        default="silence", check=checks.one_of(*EDGES),
        doc="what windows see before and after the sound: silence, or mirror: the sound itself, turned around",
    )  # fmt: skip

    @property
    def highest(self) -> float:
        """Where the last band ends, in Hz."""
        return self.highest_hz or self.sample_rate / 2

    def validate(self) -> None:
        """Raises FieldError for bands beyond what the rate can hold."""
        super().validate()
        if not self.lowest_hz < self.highest <= self.sample_rate / 2:
            limits = f"above lowest_hz={self.lowest_hz} and at most at half of sample_rate={self.sample_rate}"
            raise invalid(self, "highest_hz", f"must lie {limits}")


@dataclasses.dataclass(frozen=True)
class LogMel:
    """Samples [samples] to the logarithm, base 10, of the power in mel bands: float32 [frames, mels].

    Raises ValueError for settings that leave a band empty.
    """

    spec: MelSpec

    def __post_init__(self):
        if not self.filters.any(axis=0).all():
            raise ValueError(
                f"config.data.mels={self.spec.mels} is too many for windows of {self.window} samples: some bands are "
                "empty; have fewer, or raise data.window_ms"
            )

    @property
    def rate(self) -> int:
        """Of the samples, in Hz."""
        return self.spec.sample_rate

    @property
    def window(self) -> int:
        """Samples in a window."""
        return round(self.spec.window_ms * self.rate / 1000)

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return round(self.spec.hop_ms * self.rate / 1000)

    @functools.cached_property
    def filters(self) -> np.ndarray:
        """The weight of each frequency of the transform in each band, float32 [frequencies, mels]."""
        return mel_filters(self.rate, self.window, self.spec.mels, self.spec.lowest_hz, self.spec.highest)

    def frames(self, samples: int) -> int:
        """Frames of so many samples."""
        return -(-samples // self.hop)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """The features of at least one sample; see the class."""
        samples = np.asarray(samples, np.float32)
        if self.spec.pre_emphasis:
            samples = np.append(samples[:1], samples[1:] - np.float32(self.spec.pre_emphasis) * samples[:-1])
        count, half = self.frames(len(samples)), self.window // 2
        after = max(0, (count - 1) * self.hop + self.window - half - len(samples))
        padded = np.pad(samples, (half, after), mode=EDGES[self.spec.edges])
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.window)[:: self.hop][:count]
        spectra = np.fft.rfft(windows * hann(self.window), axis=1)
        power = (spectra.real**2 + spectra.imag**2) @ self.filters
        if self.spec.normalise in ("utterance", "level"):
            power /= power.max() or 1  # so that a quiet sound keeps its range
        features = np.log10(np.maximum(power, LEAST_POWER))
        if self.spec.range_db:
            features = np.maximum(features, features.max() - self.spec.range_db / 10)
        if self.spec.normalise == "whisper":
            return (features + 4) / 4
        if self.spec.normalise == "utterance":
            features = features - features.mean(axis=0)
            features /= features.std(axis=0) + 1e-5  # 0 in a band that never changes
        if self.spec.normalise == "level":
            features = (features - features.mean()) / (features.std() + np.float32(1e-5))
        return features


@functools.cache
def hann(length: int) -> np.ndarray:
    """A periodic Hann window, float32."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)).astype(np.float32)


def mel_filters(rate: int, window: int, mels: int, lowest_hz: float, highest_hz: float) -> np.ndarray:
    """Triangles [window // 2 + 1 frequencies, mels] of height 2 / width, as in Slaney's Auditory Toolbox (1998)."""
    edges = _mel_to_hz(np.linspace(_hz_to_mel(lowest_hz), _hz_to_mel(highest_hz), mels + 2))
    frequencies = np.arange(window // 2 + 1)[:, None] * (rate / window)
    below, centre, above = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (frequencies - below) / (centre - below), (above - frequencies) / (above - centre)
    return (np.maximum(0, np.minimum(rising, falling)) * 2 / (above - below)).astype(np.float32)


# Slaney's scale: 200 / 3 Hz a mel up to 1 kHz, then 27 mels for each factor of 6.4.
_LINEAR_HZ, _KNEE_HZ, _GROWTH = 200 / 3, 1000.0, np.log(6.4) / 27


def _hz_to_mel(hz: float) -> float:
    return hz / _LINEAR_HZ if hz < _KNEE_HZ else _KNEE_HZ / _LINEAR_HZ + np.log(hz / _KNEE_HZ) / _GROWTH


def _mel_to_hz(mels: np.ndarray) -> np.ndarray:
    knee = _KNEE_HZ / _LINEAR_HZ
    return np.where(mels < knee, mels * _LINEAR_HZ, _KNEE_HZ * np.exp((mels - knee) * _GROWTH))


def resample(samples: np.ndarray, rate: float, to: float) -> np.ndarray:
    """Samples at `rate` as samples at `to`, by soxr; as they are where both are the same."""
    if rate == to:
        return samples
    import soxr

    return soxr.resample(samples, rate, to)


_MASKS, _FRAMES, _BANDS = checks.between(0, 1000), checks.between(0, 1_000_000), checks.between(0, 10_000)


class AugmentSpec(Spec):
    """What training does to a sound and to its spectrogram: `Augment`."""

    speed: float = field(
        default=0.0, check=checks.between(0, 0.5),
        doc="played up to so much faster or slower, pitch and all: 0.1 is 0.9 to 1.1 times (Ko et al., 2015)",
    )  # fmt: skip
    noise: float = field(default=0.0, check=checks.between(0, 1), doc="share of the sounds that noise is added to")
    noise_db: tuple[float, ...] = field(
        default=(5.0, 40.0), check=checks.each(checks.between(-1000, 1000)),
        doc="least and most of the signal-to-noise ratio, in dB",
    )  # fmt: skip
    frequency_masks: int = field(
        default=0, check=_MASKS, doc="stretches of bands that become the mean (SpecAugment; Park et al., 2019)"
    )
    frequency_width: int = field(default=0, check=_BANDS, doc="bands in each, at most")
    time_masks: int = field(default=0, check=_MASKS, doc="stretches of frames that become the mean")
    time_width: int = field(default=0, check=_FRAMES, doc="frames in each, at most; never over a fifth of all")

    def validate(self) -> None:
        """Raises FieldError for ratios that are no range."""
        super().validate()
        if len(self.noise_db) != 2 or self.noise_db[0] > self.noise_db[1]:
            raise invalid(self, "noise_db", "must be the least and the most, in dB")


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random changes of a sound, and of its spectrogram."""

    spec: AugmentSpec

    def sound(self, samples: np.ndarray, rng: np.random.Generator, longest: int) -> np.ndarray:
        """`samples` at another speed, but not more than `longest` of them, with noise."""
        if self.spec.speed:
            factor = max(rng.uniform(1 - self.spec.speed, 1 + self.spec.speed), len(samples) / longest)
            samples = change_speed(samples, factor)[:longest]
        if self.spec.noise and rng.random() < self.spec.noise:
            low, high = self.spec.noise_db
            samples = add_noise(samples, rng.uniform(low, high), rng, colour=rng.uniform(0, 1.5))
        return samples

    def spectrogram(self, features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """`features` [frames, mels] with stretches masked."""
        if not (self.spec.frequency_masks or self.spec.time_masks):
            return features
        features, mean = features.copy(), features.mean()
        frames, mels = features.shape
        for _ in range(self.spec.frequency_masks):
            features[:, _stretch(mels, min(mels, self.spec.frequency_width), rng)] = mean
        for _ in range(self.spec.time_masks):
            features[_stretch(frames, min(frames // 5, self.spec.time_width), rng)] = mean
        return features


def _stretch(length: int, widest: int, rng: np.random.Generator) -> slice:
    width = int(rng.integers(0, widest + 1))
    start = int(rng.integers(0, length - width + 1))
    return slice(start, start + width)


def change_speed(samples: np.ndarray, factor: float) -> np.ndarray:
    """`samples` played `factor` times as fast: about len / factor of them, at the same rate."""
    if factor == 1:
        return samples
    import soxr

    return soxr.resample(samples, factor, 1.0, quality="MQ")


def add_noise(samples: np.ndarray, snr_db: float, rng: np.random.Generator, colour: float = 0.0) -> np.ndarray:
    """`samples` with Gaussian noise whose power is theirs, over the samples that are not 0, less `snr_db`.

    The power of the noise falls with frequency ** -colour: 0 is white, 1 pink. Silence stays silent.
    """
    heard = samples[samples != 0]
    if not len(heard):
        return samples
    noise = rng.standard_normal(len(samples), np.float32)
    if colour:
        size = 1 << (len(samples) - 1).bit_length()  # whose transform is fast
        spectrum = np.fft.rfft(noise, size)
        spectrum *= np.maximum(np.arange(len(spectrum), dtype=np.float32), 1) ** np.float32(-colour / 2)
        noise = np.fft.irfft(spectrum, size)[: len(samples)]
    power = np.mean(np.square(heard), dtype=np.float64) * 10 ** (-snr_db / 10)
    scale = np.sqrt(power / max(np.mean(np.square(noise), dtype=np.float64), LEAST_POWER))
    return samples + np.float32(scale) * noise.astype(np.float32)


def pieces(samples: np.ndarray, longest: int, hop: int) -> Sequence[np.ndarray]:
    """`samples` as few parts of at most `longest`, of about one length, cut where the quietest `hop` samples are."""
    parts = []
    for left in range(-(-len(samples) // longest), 1, -1):
        even = len(samples) / left  # a quarter more or less, but not more than the parts after it can hold
        start = max(len(samples) - (left - 1) * longest, int(0.75 * even))
        hops = max(1, (min(longest, int(1.25 * even)) - start) // hop)
        energies = [np.square(samples[start + index * hop :][:hop]).sum() for index in range(hops)]
        end = min(longest, start + int(np.argmin(energies)) * hop + hop // 2)
        parts.append(samples[:end])
        samples = samples[end:]
    return [*parts, samples]
