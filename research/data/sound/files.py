"""Decodes sound files of the formats of libsndfile and PyAV to one channel, with checks for damage."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

from research.data.sound import headers as sound_headers
from research.data.sound import streams as sound_streams

RATES = (1_000, 768_000)  # Hz: lower rates cannot represent speech, higher ones do not occur
MIN_SECONDS = 0.05  # words are longer
SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".caf", ".m4a", ".aac")
SUFFIXES += (".amr", ".wma")
VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".3gp")  # containers that may hold sound
_PART = 1 << 20  # samples decoded at a time
_CANCELLED = 0.1  # see `downmix`


class Sound(NamedTuple):
    """Samples float32 [samples] in -1..1, and the sample rate in Hz."""

    samples: np.ndarray
    rate: int


def read(path: Path | str) -> Sound:
    """The sound in a file, see `decode`. Raises ValueError also if it is shorter than MIN_SECONDS."""
    sound = decode(_content(path), str(path))
    if problem := short(sound):
        raise ValueError(f"sound {str(path)!r} {problem}")
    return sound


def read_any_length(path: Path | str) -> Sound:
    """As `read`, without a minimum duration."""
    return decode(_content(path), str(path))


def short(sound: Sound) -> str:
    """If a sound is shorter than MIN_SECONDS, the problem as the end of a sentence, else ""."""
    if len(sound.samples) >= MIN_SECONDS * sound.rate:
        return ""
    duration = 1000 * len(sound.samples) / sound.rate
    return f"is too short: it lasts {duration:.0f} ms; at least {1000 * MIN_SECONDS:.0f} are needed"


def decode(content: bytes, name: str) -> Sound:
    """Decodes a sound file to one channel, see `downmix`.

    A WAV file whose header has no size, as written to a pipe, is read to its end. If floating-point samples exceed 1,
    the sound is scaled down.

    Args:
        content: The bytes of the file.
        name: The name of the file, for messages.

    Raises:
        ValueError: The file is empty, truncated, silent or not a sound; its samples are not finite, or its rate is out
            of range. The message has the name.
    """
    wrong = lambda what: ValueError(f"sound {name!r} {what}")
    if not content:
        raise wrong("is empty: it has no bytes")
    content = sound_headers.with_sizes(content)
    data = sound_headers.data(content)
    if data and data.declared is not None and data.declared > data.found:
        raise wrong(f"is truncated: it holds {data.found:,} of the {data.declared:,} bytes given in its header")
    if lost := sound_headers.lost_pages(content):
        raise wrong(f"is damaged: {lost} of its pages are missing")
    try:
        kind = sound_streams.reader(content)
        samples, rate = sound_streams.decode(content, kind) if kind else _by_libsndfile(content)
    except ValueError as error:
        raise wrong(str(error)) from None
    if not RATES[0] <= rate <= RATES[1]:
        raise wrong(f"has the rate {rate:,} Hz; it must be between {RATES[0]:,} and {RATES[1]:,} Hz")
    if not len(samples):
        raise wrong("is empty: it has no samples")
    if not np.isfinite(samples).all():
        raise wrong("has samples that are not finite")
    samples = downmix(samples)
    samples /= max(np.float32(1), np.abs(samples).max())
    if not np.ptp(to_int16(samples)):
        raise wrong("is silent: all its samples are equal at 16 bits")
    return Sound(samples, rate)


def downmix(samples: np.ndarray) -> np.ndarray:
    """The mean of the channels of `samples` [samples, channels]; the loudest channel if they cancel each other.

    Channels cancel if their mean has less than a tenth of the power of the mean of uncorrelated channels, which is the
    sum of their powers divided by the square of their number. Microphones with inverted polarity give such sounds.
    """
    if samples.shape[1] == 1:
        return samples[:, 0]
    mean = samples.mean(axis=1, dtype=np.float64)
    powers = samples.var(axis=0, dtype=np.float64)  # without a constant offset, which is inaudible
    if mean.var() < _CANCELLED * powers.sum() / samples.shape[1] ** 2:
        return samples[:, powers.argmax()].copy()
    return mean.astype(np.float32)


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Samples as stored 16-bit integers: exact for 16-bit files, scaled down if they exceed 1."""
    peak = np.abs(samples).max(initial=0)
    scaled = samples * np.float32(32768 / max(1, peak))
    return np.clip(np.round(scaled), -32768, 32767).astype(np.int16)


def to_float(samples: np.ndarray) -> np.ndarray:
    """Stored samples as float32 in -1..1."""
    return samples.astype(np.float32) / np.float32(32768)


def _content(path: Path | str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"sound {str(path)!r} cannot be read: {error.strerror}") from None


def _by_libsndfile(content: bytes) -> tuple[np.ndarray, int]:
    """The samples [samples, channels] and their rate. Raises ValueError with the end of a sentence."""
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            rate, promised = file.samplerate, file.frames
            parts: list[np.ndarray] = [np.zeros((0, file.channels), np.float32)]
            # In parts, since a damaged header may give more samples than fit into memory.
            while len(part := file.read(_PART, dtype="float32", always_2d=True)):
                parts.append(part)
    except (soundfile.LibsndfileError, TypeError, ValueError) as error:
        reason = " ".join(str(getattr(error, "error_string", error)).split())
        raise ValueError(
            f"cannot be decoded ({reason}); it is damaged, or of a format that neither libsndfile nor PyAV reads"
        ) from None
    samples = np.concatenate(parts)
    if len(samples) < promised:
        raise ValueError(f"is truncated: it holds {len(samples):,} of {promised:,} samples")
    return samples, rate
