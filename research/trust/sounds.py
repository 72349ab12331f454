"""Corrupted sounds at five severities: white and pink noise, and reverberation."""

import numpy as np

from research.data.sound import audio
from research.trust import corruptions

SNR_DB = (20.0, 15.0, 10.0, 5.0, 0.0)  # signal-to-noise ratio
RT60_S = (0.2, 0.4, 0.7, 1.0, 1.5)  # reverberation time, in which the energy falls by 60 dB: a small room to a hall
KINDS = {"white_noise": SNR_DB, "pink_noise": SNR_DB, "reverberation": RT60_S}  # -> the strength by severity
_DECAY = 3 * np.log(10)  # of the amplitude in RT60: 60 dB are a factor of 1000


def corrupt(samples: np.ndarray, rate: int, kind: str, severity: int, index: int) -> np.ndarray:
    """`samples` at `rate` Hz, corrupted; the random numbers are a function of (kind, severity, index).

    Raises ValueError for an unknown kind or severity.
    """
    strength = corruptions.strength(KINDS, kind, severity)
    rng = corruptions.generator(index, kind, severity)
    if kind == "reverberation":
        return reverberate(samples, impulse_response(strength, rate, rng))
    return audio.add_noise(samples, strength, rng, colour=1.0 if kind == "pink_noise" else 0.0)


def impulse_response(rt60_s: float, rate: int, rng: np.random.Generator) -> np.ndarray:
    """A synthetic room: the direct sound, then Gaussian noise that decays exponentially (Polack, 1988), float64.

    Its energy falls by 60 dB in `rt60_s`. Direct and reverberant sound have the same energy.
    """
    time = np.arange(1, max(round(rt60_s * rate), 2)) / rate
    tail = rng.standard_normal(len(time)) * np.exp(-_DECAY * time / rt60_s)
    return np.concatenate([[1.0], tail / np.sqrt(np.square(tail).sum())])


def reverberate(samples: np.ndarray, response: np.ndarray) -> np.ndarray:
    """`samples` in the room of an impulse response, of the same length and energy, float32."""
    from scipy import signal

    wet = signal.fftconvolve(samples, response)[: len(samples)]
    energy = np.square(wet).sum()
    return (wet * np.sqrt(np.square(samples.astype(float)).sum() / energy if energy else 1)).astype(np.float32)
