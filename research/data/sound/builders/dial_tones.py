"""Touch-tone (DTMF) strings of digits: synthetic sounds, without a download.

A digit is two tones at once, one for its row on the keypad and one for its column (ITU-T Q.23).
"""

from pathlib import Path

import numpy as np

from research.data.sound import files as sound_files
from research.data.sound import joining
from research.data.sound.builders import sounds
from research.data.sound.builders.fsdd import WORDS

SIZES = {"train": 400, "validation": 40, "test": 40}
SPEAKERS = {"quick": 60, "slow": 90}  # ms per digit
DIGITS, PAUSE_MS = 4, (20, 60)
RATE = 8000  # Hz
SPLIT_SEED = 0
ROWS, COLUMNS = (697, 770, 852, 941), (1209, 1336, 1477)  # Hz


class DialTones(sounds.SoundBuilder, skip_registration=True):
    """Splits of 400 / 40 / 40 strings of 1 to 4 digits, in words, by two telephones."""

    def examples(self, folder: Path):
        """See TextBuilder; `folder` is not used."""
        rng = np.random.default_rng(SPLIT_SEED)
        return {split: [_string(rng) for _ in range(size)] for split, size in SIZES.items()}


def tone(digit: int, milliseconds: int) -> np.ndarray:
    """The sound of a digit: float32 samples at RATE."""
    row, column = (3, 1) if digit == 0 else divmod(digit - 1, 3)
    time = np.arange(milliseconds * RATE // 1000) / RATE
    parts = (0.25 * np.sin(2 * np.pi * hz * time) for hz in (ROWS[row], COLUMNS[column]))
    return sum(parts, np.zeros(len(time))).astype(np.float32)


def _string(rng: np.random.Generator) -> dict:
    speaker = list(SPEAKERS)[rng.integers(2)]
    length = SPEAKERS[speaker]
    plan = joining.draw(rng, range(10), DIGITS, PAUSE_MS, np.full(10, length), 1000)
    samples = joining.join([tone(digit, length) for digit in plan.parts], plan.pauses_ms, RATE)
    samples += rng.normal(0, 1e-3, len(samples)).astype(np.float32)
    text = " ".join(WORDS[digit] for digit in plan.parts)
    return sounds.example(sound_files.Sound(samples, RATE), text, speaker)
