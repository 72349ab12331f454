"""TweetQA: questions about tweets with free-form answers. W. Xiong et al., "TWEETQA: A Social Media Focused Question
Answering Dataset", ACL 2019. CC BY-SA 4.0 by the TFDS catalogue; the repository states no licence.
"""

import hashlib
import json
from pathlib import Path
from typing import ClassVar

from research.data.builders import text_files
from research.data.text import templates
from research.data.text.builders.texts import TEXT, TEXTS, TextBuilder

FILES = ("train.json.gz", "dev.json.gz")
HELD_OUT_OF = 10  # a tenth of the training tweets, chosen by hash, is for validation


class Tweetqa(TextBuilder, skip_registration=True):
    """Splits of 9,568 / 1,120 / 1,086.

    Test is the official dev part, since the official test part has no answers; each question has two `references`.
    Validation is held out of the official train part by tweet, from which 4 questions on tweets of dev are removed.
    """

    archives = FILES
    MANUAL_DOWNLOAD_INSTRUCTIONS = "train.json.gz and dev.json.gz of Question, Answer, Tweet, qid"
    fields: ClassVar = {"question": TEXT, "context": TEXT, "answer": TEXT, templates.REFERENCES: TEXTS, "id": TEXT}

    def examples(self, folder: Path):
        """See TextBuilder."""
        train, test = (_questions(folder / file) for file in FILES)
        seen = {example["context"] for example in test}
        train = [example for example in train if example["context"] not in seen]
        return {
            "train": [example for example in train if not _held_out(example["context"])],
            "validation": [example for example in train if _held_out(example["context"])],
            "test": test,
        }


def _held_out(tweet: str) -> bool:
    return int.from_bytes(hashlib.sha256(tweet.encode()).digest()[:4]) % HELD_OUT_OF == 0


def _questions(path):
    try:
        entries = json.loads(text_files.read(path))
    except ValueError as error:  # invalid UTF-8 or JSON
        raise ValueError(f"{path} is not JSON: {error}") from None
    examples = []
    for number, entry in enumerate(entries, start=1):
        texts = [entry.get("Question", ""), entry.get("Tweet", ""), *(entry.get("Answer") or [""])]
        if not all(text.strip() for text in texts):
            raise ValueError(f"{path}, question {number} lacks its Question, Tweet or Answer")
        answers = entry["Answer"]
        example = {"question": entry["Question"], "context": entry["Tweet"], "answer": answers[0], "id": entry["qid"]}
        examples.append({**example, templates.REFERENCES: answers})
    return examples
