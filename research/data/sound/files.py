"""Sound files of any format that libsndfile or PyAV reads, as one channel of samples; what is wrong is named."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

from research.data.sound import headers as sound_headers
from research.data.sound import streams as sound_streams

RATES = (1_000, 768_000)  # Hz: fewer hold no speech, and no file has more
SHORTEST = 0.05  # s: no word is shorter
SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".caf", ".m4a", ".aac")
SUFFIXES += (".amr", ".wma")
VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".3gp")  # which may hold sound, too
_PART = 1 << 20  # samples that are decoded at a time
_CANCELLED = 0.1  # of the power that the mean of unrelated channels has


class Sound(NamedTuple):
    """Samples float32 [samples] in -1..1, and how many of them make a second."""

    samples: np.ndarray
    rate: int


def read(path: Path | str) -> Sound:
    """The sound in a file, see `decode`. Raises ValueError, in one line, also for one that is too short."""
    sound = decode(_content(path), str(path))
    if problem := short(sound):
        raise ValueError(f"sound {str(path)!r} {problem}")
    return sound


def read_any_length(path: Path | str) -> Sound:
    """As `read`, but a sound may be short."""
    return decode(_content(path), str(path))


def short(sound: Sound) -> str:
    """By how much a sound is shorter than SHORTEST, as the end of a sentence; "" where it is not."""
    if len(sound.samples) >= SHORTEST * sound.rate:
        return ""
    lasts = 1000 * len(sound.samples) / sound.rate
    return f"is too short: it lasts {lasts:.0f} ms; {1000 * SHORTEST:.0f} are needed at least"


def decode(content: bytes, name: str) -> Sound:
    """The sound in the bytes of a file that messages call `name`; several channels become one, see `downmix`.

    A WAV file that was written to a pipe, whose header knows no size, is read to its end. Samples beyond 1, which
    floating-point files may hold, make the whole sound quieter.

    Raises:
        ValueError: In one line with the name: the file is empty, truncated, silent or no sound; its samples are no
            numbers, or its rate cannot be.
    """
    wrong = lambda what: ValueError(f"sound {name!r} {what}")
    if not content:
        raise wrong("is empty: it has no bytes")
    content = sound_headers.completed(content)
    data = sound_headers.data(content)
    if data and data.declared is not None and data.declared > data.found:
        raise wrong(f"is truncated: it holds {data.found:,} of the {data.declared:,} bytes that its header promises")
    if lost := sound_headers.lost_pages(content):
        raise wrong(f"is damaged: {lost} of its pages are missing")
    try:
        kind = sound_streams.reader(content)
        samples, rate = sound_streams.decode(content, kind) if kind else _by_libsndfile(content)
    except ValueError as error:
        raise wrong(str(error)) from None
    if not RATES[0] <= rate <= RATES[1]:
        raise wrong(f"has the rate {rate:,} Hz; it must lie between {RATES[0]:,} and {RATES[1]:,}")
    if not len(samples):
        raise wrong("is empty: it has no samples")
    if not np.isfinite(samples).all():
        raise wrong("has samples that are no finite numbers")
    samples = downmix(samples)
    samples /= max(np.float32(1), np.abs(samples).max())
    if not np.ptp(to_int16(samples)):
        raise wrong("is silent: all its samples are the same, at 16 bits")
    return Sound(samples, rate)


def downmix(samples: np.ndarray) -> np.ndarray:
    """The mean of the channels of `samples` [samples, channels]; of those that cancel each other, the loudest.

    They do where their mean has less than a tenth of the power that the mean of unrelated channels has, which is the
    sum of their powers divided by the square of their number; microphones wired the wrong way round give such sounds.
    """
    if samples.shape[1] == 1:
        return samples[:, 0]
    mean = samples.mean(axis=1, dtype=np.float64)
    powers = samples.var(axis=0, dtype=np.float64)  # of what is heard, which a constant offset is not
    if mean.var() < _CANCELLED * powers.sum() / samples.shape[1] ** 2:
        return samples[:, powers.argmax()].copy()
    return mean.astype(np.float32)


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Samples as they are stored: those of a 16-bit file exactly, and those that reach beyond 1 made quieter."""
    loudest = np.abs(samples).max(initial=0)
    scaled = samples * np.float32(32768 / max(1, loudest))
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
            # Part by part: a damaged header may promise more than any memory holds.
            while len(part := file.read(_PART, dtype="float32", always_2d=True)):
                parts.append(part)
    except (soundfile.LibsndfileError, TypeError, ValueError) as error:
        reason = " ".join(str(getattr(error, "error_string", error)).split())
        raise ValueError(
            f"cannot be decoded ({reason}); it is damaged, or in no format that libsndfile or PyAV reads"
        ) from None
    samples = np.concatenate(parts)
    if len(samples) < promised:
        raise ValueError(f"is truncated: it holds {len(samples):,} of {promised:,} samples")
    return samples, rate
