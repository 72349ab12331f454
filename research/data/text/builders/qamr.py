"""QAMR: questions about single sentences, answered with words of the sentence. J. Michael et al., "Crowdsourcing
Question-Answer Meaning Representations", NAACL 2018. MIT licence.

The official train part is not used: this is the small data set made of the official dev part (train and validation)
and the official test part (test). Sentences and answers stay split into words; brackets and quotation marks are
written as such.
"""

import hashlib
from pathlib import Path
from typing import ClassVar

from research.data.builders import text_files
from research.data.text import templates
from research.data.text.builders.texts import TEXT, TEXTS, TextBuilder

SENTENCES, DEV, TEST = "wiki-sentences.tsv.gz", "filtered.dev.tsv.gz", "filtered.test.tsv.gz"
COLUMNS = 9  # sentence id, target words, worker, number, target word, question, answer, two validators' answers
HELD_OUT_OF = 10  # a tenth of the dev sentences, chosen by their digest, is for validation
PENN_TREEBANK = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}"} | {
    "``": '"',
    "''": '"',
}


class Qamr(TextBuilder, skip_registration=True):
    """Splits of 16,628 / 2,047 / 16,905. In train each row of the official file is an example.

    In validation and test the rows of one sentence with one question (but for case and white space) are one example,
    whose `references` are the answers of all who asked it, first, and of the two validators of each.
    """

    archives = (SENTENCES, DEV, TEST)
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"{SENTENCES}, {DEV} and {TEST} of github.com/uwnlp/qamr"
    fields: ClassVar = {
        "question": TEXT,
        "context": TEXT,
        "answer": TEXT,
        templates.REFERENCES: TEXTS,
        "sentence_id": TEXT,
    }

    def examples(self, folder: Path):
        """See TextBuilder. Raises ValueError for an unknown sentence and a word that it has not."""
        sentences = {key: _words(text) for key, text in text_files.tsv(folder / SENTENCES, 2)}
        dev, test = (_questions(folder / file, sentences) for file in (DEV, TEST))
        return {
            "train": [example for example in dev if not _held_out(example["sentence_id"])],
            "validation": _grouped(example for example in dev if _held_out(example["sentence_id"])),
            "test": _grouped(test),
        }


def _words(sentence: str) -> list[str]:
    return [PENN_TREEBANK.get(word, word) for word in sentence.split(" ")]


def _held_out(sentence_id: str) -> bool:
    return int.from_bytes(hashlib.sha256(sentence_id.encode()).digest()[:4]) % HELD_OUT_OF == 0


def _questions(path, sentences):
    examples = []
    for number, row in enumerate(text_files.tsv(path, COLUMNS), start=1):
        sentence, question, answer, validators = row[0], row[5], row[6], row[7:]
        try:
            words = sentences[sentence]
            spans = [answer, *(text.partition(":")[2] for text in validators)]
            answers = [" ".join(words[int(index)] for index in span.split(" ")) for span in spans]
        except (KeyError, ValueError, IndexError):
            where = f"{path}, line {number}"
            raise ValueError(f"{where}: {SENTENCES} has no sentence {sentence!r} with these words") from None
        example = {"question": question.strip(), "context": " ".join(words), "answer": answers[0]}
        examples.append({**example, templates.REFERENCES: list(dict.fromkeys(answers)), "sentence_id": sentence})
    return examples


def _grouped(examples):
    groups = {}
    for example in examples:
        groups.setdefault((example["sentence_id"], example["question"].lower()), []).append(example)
    for same in groups.values():
        references = dict.fromkeys(
            [example["answer"] for example in same] + [text for e in same for text in e[templates.REFERENCES]]
        )
        yield {**same[0], templates.REFERENCES: list(references)}
