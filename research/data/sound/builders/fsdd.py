"""The Free Spoken Digit Dataset: 3,000 recordings of the ten digits by six speakers at 8 kHz, Z. Jackson et al.,
github.com/Jakobovski/free-spoken-digit-dataset, CC BY-SA 4.0; alone, and joined to strings.

    recordings.zip     recordings/<digit>_<speaker>_<take>.wav; takes 0 to 4 are its test set
"""

import hashlib
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from research.data.builders import text_files
from research.data.builders.archives import damage_named
from research.data.sound import audio, joining
from research.data.sound import files as sound_files
from research.data.sound.builders import sounds

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
TAKES = 50
RATE = 8000  # Hz
TEST, VALIDATION = range(5), range(5, 10)  # takes: the official test set, and those held out of the others

# Strings of digits: the settings with which they are drawn.
DIGITS, PAUSE_MS, LONGEST_MS = 8, (0, 200), 6000
NOISE_DB = (10, 30)  # signal-to-noise ratio
STRINGS = {"validation": 200, "test": 300}
STRING_SEED = 0
# The test strings are stored, so that another version of NumPy cannot change them.
TEST_STRINGS = Path(__file__).with_name("fsdd_test_strings.tsv")
TEST_STRINGS_DIGEST = "0def2c3bf9793d64"

_BY_SPEAKER = tfds.core.Version("2.0.0")  # 1.0.0 validated on other takes of the speakers in train
Take = tuple[int, str, int]  # digit, speaker, number


class String(NamedTuple):
    """One speaker's takes (digit, number), the pauses around them, and the added noise, seeded by the string index."""

    speaker: str
    takes: tuple[tuple[int, int], ...]
    pauses_ms: tuple[int, ...]
    snr_db: int
    colour: int  # 0: white, 1: pink


class Fsdd(sounds.SoundBuilder, skip_registration=True):
    """Recordings, or strings of 1 to 8 of them.

    fsdd/isolated           splits of 2,400 / 300 / 300: takes 10 to 49, 5 to 9, and the official test takes 0 to 4
    fsdd/strings            the same training takes, isolated; 200 / 300 strings of validation and of test takes
    fsdd/without_<speaker>  2,000 / 500 / 500: test is all takes of the named speaker, validation those of the next in
                            SPEAKERS (cyclically), train those of the other four
    """

    BUILDER_CONFIGS = [  # noqa: RUF012  TFDS reads it from the class.
        *(tfds.core.BuilderConfig(name=name) for name in ("isolated", "strings")),
        *(tfds.core.BuilderConfig(name=f"without_{speaker}", version=_BY_SPEAKER) for speaker in SPEAKERS),
    ]
    archives = ("recordings.zip",)
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "recordings.zip, the folder `recordings` of github.com/Jakobovski/free-spoken-digit-dataset"
    )

    def examples(self, folder: Path):
        """See TextBuilder. Raises ValueError for a recording that is missing, damaged or at another rate."""
        recordings = read_recordings(folder / self.archives[0])
        kind = self.builder_config.name
        of = lambda takes, speakers=SPEAKERS: _alone(recordings, takes, speakers)
        if kind.startswith("without_"):
            unseen = SPEAKERS.index(kind.removeprefix("without_"))
            test, validation, *others = SPEAKERS[unseen:] + SPEAKERS[:unseen]
            every = lambda *speakers: of(range(TAKES), speakers)
            return {"train": every(*others), "validation": every(validation), "test": every(test)}
        train = of(range(VALIDATION.stop, TAKES))
        if kind == "isolated":
            return {"train": train, "validation": of(VALIDATION), "test": of(TEST)}
        lists = {"validation": draw_strings("validation", recordings), "test": read_strings()}
        return {"train": train} | {split: _joined(strings, recordings) for split, strings in lists.items()}


def read_recordings(archive: Path) -> dict[Take, np.ndarray]:
    """Every take as float32 samples at RATE. Raises ValueError if one is missing or invalid."""
    found = {}
    with damage_named(archive), zipfile.ZipFile(archive) as members:
        for member in sorted(members.namelist()):
            if not (named := re.fullmatch(r"recordings/(\d)_([a-z]+)_(\d+)\.wav", member)):
                continue
            sound = sound_files.decode(members.read(member), f"{archive}/{member}")
            if sound.rate != RATE:
                raise ValueError(f"{archive}/{member} has the rate {sound.rate} Hz; FSDD has {RATE}; fetch it again")
            found[int(named[1]), named[2], int(named[3])] = sound.samples
    wanted = [(digit, speaker, take) for digit in range(10) for speaker in SPEAKERS for take in range(TAKES)]
    if missing := [take for take in wanted if take not in found]:
        first = "{}_{}_{}.wav".format(*missing[0])
        raise ValueError(
            f"{archive} lacks {len(missing):,} of {len(wanted):,} recordings, such as {first}; fetch it again"
        )
    return found


def draw_strings(split: str, recordings: Mapping[Take, np.ndarray]) -> list[String]:
    """The strings of a split, each a function of (STRING_SEED, split, index)."""
    takes = TEST if split == "test" else VALIDATION
    strings = []
    for index in range(STRINGS[split]):
        rng = np.random.default_rng([STRING_SEED, split == "test", index])
        speaker = SPEAKERS[rng.integers(len(SPEAKERS))]
        choices = [(digit, take) for digit in range(10) for take in takes]
        lengths = np.array([len(recordings[digit, speaker, take]) * 1000 / RATE for digit, take in choices])
        plan = joining.draw(rng, range(len(choices)), DIGITS, PAUSE_MS, lengths, LONGEST_MS)
        snr, colour = int(rng.integers(NOISE_DB[0], NOISE_DB[1] + 1)), int(rng.integers(2))
        strings.append(String(speaker, tuple(choices[part] for part in plan.parts), plan.pauses_ms, snr, colour))
    return strings


def read_strings() -> list[String]:
    """The stored test strings. Raises ValueError if the file has been changed."""
    digest = hashlib.sha256(TEST_STRINGS.read_bytes()).hexdigest()[:16]
    if digest != TEST_STRINGS_DIGEST:
        raise ValueError(f"{TEST_STRINGS} was changed: its digest is {digest}, not {TEST_STRINGS_DIGEST}; restore it")
    return [_parse(row) for row in text_files.tsv(TEST_STRINGS, 5)]


def _parse(row: list[str]) -> String:
    takes = tuple((int(digit), int(take)) for digit, take in (pair.split("_") for pair in row[1].split()))
    return String(row[0], takes, tuple(map(int, row[2].split())), int(row[3]), int(row[4]))


def _alone(recordings, takes, speakers) -> list[dict]:
    return [
        sounds.example(sound_files.Sound(recordings[digit, speaker, take], RATE), WORDS[digit], speaker)
        for digit in range(10)
        for speaker in speakers
        for take in takes
    ]


def _joined(strings: list[String], recordings) -> Iterator[dict]:
    for index, string in enumerate(strings):
        parts = [recordings[digit, string.speaker, take] for digit, take in string.takes]
        samples = joining.join(parts, string.pauses_ms, RATE)
        samples = audio.add_noise(samples, string.snr_db, np.random.default_rng(index), string.colour)
        text = " ".join(WORDS[digit] for digit, _ in string.takes)
        yield sounds.example(sound_files.Sound(samples, RATE), text, string.speaker)
