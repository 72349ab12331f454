"""Multi30k, task 1: captions of images in English, German and French. Elliott et al., "Multi30K: Multilingual
English-German Image Descriptions", 2016; the French side Elliott et al., WMT 2017.

For researchers and educators, non-commercial research and education only; no licence is stated.
"""

from pathlib import Path

from research.data.builders import text_files
from research.data.text.builders.texts import TEXT, TextBuilder

LANGUAGES: tuple[str, ...] = ("en", "de", "fr")
FILES = {"train": "train", "validation": "val", "test": "test_2016_flickr"}


class Multi30k(TextBuilder, skip_registration=True):
    """Splits of 29,000 / 1,014 / 1,000; the fields are `en`, `de` and `fr`. Test is test_2016_flickr."""

    archives = tuple(f"{file}.{language}.gz" for file in FILES.values() for language in LANGUAGES)
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "{train,val,test_2016_flickr}.{en,de,fr}.gz of github.com/multi30k/dataset, data/task1/raw"
    )
    fields = dict.fromkeys(LANGUAGES, TEXT)

    def examples(self, folder: Path):
        """See TextBuilder. Raises ValueError if the languages differ in their number of lines."""
        return {
            split: [
                dict(zip(LANGUAGES, row, strict=True))
                for row in text_files.parallel([folder / f"{file}.{language}.gz" for language in LANGUAGES])
            ]
            for split, file in FILES.items()
        }
