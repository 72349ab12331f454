"""Sentences in Chinese (simplified and traditional) and English of the Tatoeba project, tatoeba.org, as prepared by
manythings.org/anki (cmn.txt). CC BY 2.0 France; the field `attribution` of every line lists its contributors.

No sentence of either language is in two splits.
"""

from pathlib import Path

from research.data.builders import text_files
from research.data.text.builders.texts import TEXT, TextBuilder

COLUMNS: tuple[str, ...] = ("en", "zh", "attribution")
FILES = {"train": "train.tsv.gz", "validation": "dev.tsv.gz", "test": "test.tsv.gz"}


class TatoebaZhEn(TextBuilder, skip_registration=True):
    """Splits of 25,626 / 1,409 / 1,412."""

    archives = tuple(FILES.values())
    MANUAL_DOWNLOAD_INSTRUCTIONS = "train.tsv.gz, dev.tsv.gz and test.tsv.gz of English<TAB>Chinese<TAB>attribution"
    fields = dict.fromkeys(COLUMNS, TEXT)

    def examples(self, folder: Path):
        """See TextBuilder."""
        return {
            split: [dict(zip(COLUMNS, row, strict=True)) for row in text_files.tsv(folder / file, len(COLUMNS))]
            for split, file in FILES.items()
        }
