"""SST-2: whole sentences of film reviews, lower-cased and split into words. R. Socher et al., "Recursive Deep Models
for Semantic Compositionality Over a Sentiment Treebank", EMNLP 2013. No licence is stated.
"""

from pathlib import Path
from typing import ClassVar

from research.data.builders import text_files
from research.data.text.builders.texts import TEXT, TextBuilder

SENTIMENTS = {"0": "negative", "1": "positive"}
FILES = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}


class Sst2Sentences(TextBuilder, skip_registration=True):
    """Splits of 6,920 / 872 / 1,821; `sentiment` is "negative" or "positive"."""

    archives = tuple(FILES.values())
    MANUAL_DOWNLOAD_INSTRUCTIONS = "train.tsv, dev.tsv and test.tsv of sentence<TAB>label, 1 = positive"
    fields: ClassVar = {"sentence": TEXT, "sentiment": TEXT}

    def examples(self, folder: Path):
        """See TextBuilder. Raises ValueError for a label other than 0 and 1."""
        return {split: list(_sentences(folder / file)) for split, file in FILES.items()}


def _sentences(path):
    for number, (sentence, label) in enumerate(text_files.tsv(path, 2), start=1):
        if label not in SENTIMENTS:
            raise ValueError(f"{path}, line {number} has the label {label!r}; it must be 0 or 1")
        yield {"sentence": sentence, "sentiment": SENTIMENTS[label]}
