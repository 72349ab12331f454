"""bAbI, the 20 tasks in English, 1,000 questions each: J. Weston et al., "Towards AI-Complete Question Answering: A Set
of Prerequisite Toy Tasks", 2015. The original release is CC BY 3.0.
"""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from research.data.builders import text_files
from research.data.builders.archives import damage_named
from research.data.text.builders.texts import TEXT, TextBuilder

ARCHIVE = "tasks_1-20_v1-2_en.zip"
HELD_OUT_OF = 10  # every tenth story of a task is for validation


class Babi(TextBuilder, skip_registration=True):
    """All tasks together: 18,011 / 1,989 / 20,000. Validation is every tenth story of the official train part.

    `context` holds the sentences of the story before the question; `task` is 1 to 20. Lists of answers are one text,
    "football,apple".
    """

    archives = (ARCHIVE,)
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"{ARCHIVE}: the folder tasks_1-20_v1-2/en of the release v1.2"
    fields: ClassVar = {
        "question": TEXT,
        "context": TEXT,
        "answer": TEXT,
        "task": tfds.features.Tensor(shape=(), dtype=np.int32),
    }

    def examples(self, folder: Path):
        """See TextBuilder. Raises ValueError for a line that is neither a sentence nor a question."""
        path = folder / ARCHIVE
        parts = {"train": [], "validation": [], "test": []}
        with damage_named(path), zipfile.ZipFile(path) as archive:
            for member in sorted(archive.namelist()):
                match = re.search(r"/qa(\d+)_[\w-]+_(train|test)\.txt$", member)
                if not match:
                    continue
                lines = text_files.split_lines(archive.read(member), f"{path}/{member}")
                for story, example in _questions(lines, f"{path}/{member}"):
                    held_out = match[2] == "train" and story % HELD_OUT_OF == 0
                    split = "validation" if held_out else match[2]
                    parts[split].append({**example, "task": int(match[1])})
        return parts


def _questions(lines: list[str], name: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The number of the story, from 1, and the question with the sentences before it."""
    story, facts = 0, []
    for number, line in enumerate(lines, start=1):
        position, _, text = line.partition(" ")
        if position == "1":
            story, facts = story + 1, []
        question, *answer = text.split("\t")
        if not position.isdigit() or not question.strip() or len(answer) not in (0, 2) or not story:
            raise ValueError(f"{name}, line {number} is neither `ID text` nor `ID question<TAB>answer<TAB>facts`")
        if answer:
            yield story, {"question": question.strip(), "context": " ".join(facts), "answer": answer[0].strip()}
        else:
            facts.append(question.strip())
