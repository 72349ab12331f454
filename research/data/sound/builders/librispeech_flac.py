"""LibriSpeech: about 1,000 hours of read English books at 16 kHz. V. Panayotov et al., "Librispeech: an ASR corpus
based on public domain audio books", ICASSP 2015. CC BY 4.0. The builder of the TFDS catalogue needs TensorFlow.

    LibriSpeech/<part>/<speaker>/<chapter>/<speaker>-<chapter>.trans.txt     lines of UTTERANCE TEXT IN CAPITALS
    LibriSpeech/<part>/<speaker>/<chapter>/<UTTERANCE>.flac
"""

from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from research.data.builders import text_files
from research.data.sound import files as sound_files
from research.data.sound.builders import sounds

TRAIN = {
    "clean100": ("train-clean-100",),
    "all960": ("train-clean-100", "train-clean-360", "train-other-500"),
}
SPLITS = {"validation": ("dev-clean",), "test": ("test-clean",)}
ROOT = "LibriSpeech"


class LibrispeechFlac(sounds.SoundBuilder, skip_registration=True):
    """`clean100`: 28,539 / 2,703 / 2,620 utterances of train-clean-100, dev-clean and test-clean; `all960`: 281,241 in
    train. The text is lower-cased.
    """

    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in TRAIN]  # noqa: RUF012  TFDS reads it from the class.
    MANUAL_DOWNLOAD_INSTRUCTIONS = "the folder LibriSpeech, unpacked from the archives of openslr.org/12"

    def examples(self, folder: Path):
        """See TextBuilder. Raises ValueError for an utterance without its file, and for a file without transcript."""
        parts = {"train": TRAIN[self.builder_config.name], **SPLITS}
        return {split: _utterances(folder, of_split) for split, of_split in parts.items()}


def _utterances(folder: Path, parts: tuple[str, ...]) -> Iterator[dict]:
    for part in parts:
        root = folder / ROOT / part
        transcripts = sorted(root.glob("*/*/*.trans.txt"))
        if not transcripts:
            raise ValueError(f"{root} holds no SPEAKER/CHAPTER/*.trans.txt; unpack {part}.tar.gz in {folder}")
        sounds_only = {file.parent for file in root.glob("*/*/*.flac")} - {file.parent for file in transcripts}
        if sounds_only:
            raise ValueError(f"{min(sounds_only)} holds sounds but no .trans.txt; unpack {part}.tar.gz again")
        for transcript in transcripts:
            yield from _chapter(transcript)


def _chapter(transcript: Path) -> Iterator[dict]:
    left = {file.stem for file in transcript.parent.glob("*.flac")}
    for number, line in enumerate(text_files.lines(transcript), start=1):
        name, _, text = line.partition(" ")
        if not text.strip():
            raise ValueError(f"{transcript}, line {number} has no text; it must be UTTERANCE TEXT")
        if name not in left:
            raise ValueError(f"{transcript}, line {number} lists {name}, but there is no {name}.flac beside it")
        left.remove(name)
        sound = sound_files.read(transcript.with_name(f"{name}.flac"))
        yield sounds.example(sound, text.strip().lower(), name.split("-")[0])
    if left:
        raise ValueError(f"{transcript.parent / min(left)}.flac has no transcript in {transcript.name}")
