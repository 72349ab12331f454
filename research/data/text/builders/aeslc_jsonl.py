"""AESLC: e-mails and their subject lines. R. Zhang and J. Tetreault, "This Email Could Save Your Life: Introducing the
Task of Email Subject Line Generation", ACL 2019. CC BY-NC-SA 4.0. Mails of real people: do not quote them.
"""

import re
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from research.data.builders import text_files
from research.data.text import templates
from research.data.text.builders.texts import TEXT, TEXTS, TextBuilder

ANNOTATIONS = ("ann0", "ann1", "ann2")
FILES = {"train": "train.jsonl.gz", "validation": "dev.jsonl.gz", "test": "test.jsonl.gz"}


class AeslcJsonl(TextBuilder, skip_registration=True):
    """Splits of 14,417 / 1,749 / 1,906; test is as published.

    A mail whose body is also in a later split (comparing letters and digits) is removed from the earlier one: 211 of
    the 1,960 mails of dev are in test, and 19 of train in dev or test. The first of the `references` is the original
    `subject`, which published scores use; validation and test have three more, written by annotators.
    """

    VERSION = tfds.core.Version("2.0.0")  # 1.0.0 had mails in two splits
    archives = tuple(FILES.values())
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "{train,dev,test}.jsonl.gz of objects with id, body, subject and, except in train, ann0 to ann2"
    )
    fields: ClassVar = {"id": TEXT, "body": TEXT, "subject": TEXT, templates.REFERENCES: TEXTS}

    def examples(self, folder: Path):
        """See TextBuilder. Raises ValueError for a mail without body or subject."""
        splits = {split: list(_mails(folder / file)) for split, file in FILES.items()}
        validation, test = ({_body(mail) for mail in splits[split]} for split in ("validation", "test"))
        elsewhere = {"train": validation | test, "validation": test, "test": set()}
        return {
            split: [mail for mail in mails if _body(mail) not in elsewhere[split]] for split, mails in splits.items()
        }


def _body(mail):
    """The letters and digits of the body of a mail, for comparison."""
    return re.sub(r"\W+", " ", mail["body"].casefold()).strip()


def _mails(path):
    for number, mail in text_files.jsonl(path):
        for key in ("id", "body", "subject"):
            if not str(mail.get(key, "")).strip():
                raise ValueError(f"{path}, line {number} has no {key}")
        references = [mail["subject"], *(mail[key] for key in ANNOTATIONS if key in mail)]
        yield {key: mail[key] for key in ("id", "body", "subject")} | {templates.REFERENCES: references}
