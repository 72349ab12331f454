"""QAMR: questions about single sentences, answered with words of the sentence. J. Michael et al., "Crowdsourcing
Question-Answer Meaning Representations", NAACL 2018. MIT licence.

The official train part is not used: this small data set consists of the official dev part (train and validation) and
the official test part (test). These parts share no article; validation is held out by article, too. Sentences and
answers stay tokenised into words, with Penn Treebank brackets and quotation marks converted to plain ones.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from research.data import groups
from research.data.builders import text_files
from research.data.text import templates
from research.data.text.builders.texts import TEXT, TEXTS, TextBuilder

SENTENCES, DEV, TEST = "wiki-sentences.tsv.gz", "filtered.dev.tsv.gz", "filtered.test.tsv.gz"
COLUMNS = 9  # sentence id, target words, worker, number, target word, question, answer, two validators' answers
HELD_OUT = 0.1  # fraction of the dev questions for validation, whole articles at a time
PENN_TREEBANK = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}"} | {
    "``": '"',
    "''": '"',
}


class Qamr(TextBuilder, skip_registration=True):
    """Splits of 16,989 / 1,763 / 16,905. In train, each row of the official file is an example.

    In validation and test, rows with the same sentence and question (ignoring case and white space) are one example,
    whose `references` are the answers of the annotators who wrote the question, then those of two validators each.
    """

    VERSION = tfds.core.Version("2.0.0")  # 1.0.0 held out sentences, not articles
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
        """See TextBuilder. Raises ValueError for an unknown sentence or an index beyond its words."""
        sentences = {key: _words(text) for key, text in text_files.tsv(folder / SENTENCES, 2)}
        dev, test = (_questions(folder / file, sentences) for file in (DEV, TEST))
        validation, train = _by_article(dev)
        return {"train": train, "validation": _grouped(validation), "test": _grouped(test)}


def _words(sentence: str) -> list[str]:
    return [PENN_TREEBANK.get(word, word) for word in sentence.split(" ")]


def article(sentence_id: str) -> str:
    """The article of a sentence id: `Wiki1k:wikipedia:16016` for `Wiki1k:wikipedia:16016:90:8`."""
    return sentence_id.rsplit(":", 2)[0]


def _by_article(examples: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    articles = [article(example["sentence_id"]) for example in examples]
    parts = groups.hold_out(articles, [round(HELD_OUT * len(examples))])
    return [[examples[index] for index in part] for part in parts]


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
            raise ValueError(
                f"{where}: {SENTENCES} lacks the sentence {sentence!r} or its words; download both again"
            ) from None
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
