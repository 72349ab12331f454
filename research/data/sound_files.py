"""Sound files of any format that libsndfile reads, as one channel of samples; what is wrong with one is named."""

import io
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

RATES = (1_000, 768_000)  # Hz: fewer hold no speech, and no file has more
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff")
_UNKNOWN = 0xFFFFFFFF  # the size in the header of a file that was written to a pipe


class Sound(NamedTuple):
    """Samples float32 [samples], those of a 16-bit file in -1..1, and how many of them make a second."""

    samples: np.ndarray
    rate: int


def read(path: Path | str) -> Sound:
    """The sound in a file; several channels become their mean.

    Raises ValueError, in one line with the name, for a file that is absent, empty, truncated, silent or no sound, for
    samples that are no numbers and for a rate that cannot be.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"sound {str(path)!r} cannot be read: {error.strerror}") from None
    return decode(content, str(path))


def decode(content: bytes, name: str) -> Sound:
    """The sound in the bytes of a file that messages call `name`; see `read`."""
    import soundfile

    wrong = lambda what: ValueError(f"sound {name!r} {what}")
    if not content:
        raise wrong("is empty: it has no bytes")
    declared, found = _wav_data(content)
    if declared > found:
        raise wrong(f"is truncated: it holds {found:,} of the {declared:,} bytes that its header promises")
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            samples, rate, promised = file.read(dtype="float32", always_2d=True), file.samplerate, file.frames
    except (soundfile.LibsndfileError, TypeError, ValueError) as error:
        reason = " ".join(str(getattr(error, "error_string", error)).split())
        raise wrong(f"cannot be decoded ({reason}); it is damaged, or in no format that libsndfile reads") from None
    if len(samples) < promised:
        raise wrong(f"is truncated: it holds {len(samples):,} of {promised:,} samples")
    if not RATES[0] <= rate <= RATES[1]:
        raise wrong(f"has the rate {rate:,} Hz; it must lie between {RATES[0]:,} and {RATES[1]:,}")
    if not len(samples):
        raise wrong("is empty: it has no samples")
    if not np.isfinite(samples).all():
        raise wrong("has samples that are no finite numbers")
    samples = samples.mean(axis=1)
    if not np.ptp(samples):
        raise wrong("is silent: all its samples are the same")
    return Sound(samples, rate)


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Samples as they are stored: those of a 16-bit file exactly, and those that reach beyond 1 made quieter."""
    loudest = np.abs(samples).max(initial=0)
    scaled = samples * np.float32(32768 / max(1, loudest))
    return np.clip(np.round(scaled), -32768, 32767).astype(np.int16)


def to_float(samples: np.ndarray) -> np.ndarray:
    """Stored samples as float32 in -1..1."""
    return samples.astype(np.float32) / np.float32(32768)


def _wav_data(content: bytes) -> tuple[int, int]:
    """The bytes that a WAV file says its samples take, and those that are there; (0, 0) for any other file.

    libsndfile reads what is left of a truncated one without a word.
    """
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return 0, 0
    place = 12
    while place + 8 <= len(content):
        kind, size = content[place : place + 4], struct.unpack_from("<I", content, place + 4)[0]
        if kind == b"data":
            return (0, 0) if size == _UNKNOWN else (size, len(content) - place - 8)
        place += 8 + size + size % 2
    return 1, 0
