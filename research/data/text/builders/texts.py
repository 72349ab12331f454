"""Base class of the builders of texts. They store the original fields; templates.py derives source and target."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from research.data.builders.own import OwnBuilder
from research.measure import progress

TEXT = tfds.features.Text()
TEXTS = tfds.features.Sequence(TEXT)


class TextBuilder(OwnBuilder, skip_registration=True):
    """A TFDS builder of text examples that are prepared without TensorFlow.

    A subclass defines the `fields` of its examples, the files that must be in `manual_dir` (`archives`, and
    MANUAL_DOWNLOAD_INSTRUCTIONS for the user), and the examples of each split.
    """

    VERSION = tfds.core.Version("1.0.0")
    archives: Sequence[str] = ()
    fields: ClassVar[Mapping[str, Any]] = {}

    def examples(self, folder: Path) -> Mapping[str, Iterable[Mapping[str, Any]]]:
        """Split -> its examples, read from the files in `folder`."""
        raise NotImplementedError

    def _info(self):
        features = tfds.features.FeaturesDict(dict(self.fields))
        return tfds.core.DatasetInfo(builder=self, description=self.__doc__, features=features)

    def _split_generators(self, dl_manager):
        folder = dl_manager.manual_dir if self.MANUAL_DOWNLOAD_INSTRUCTIONS else ""  # TFDS raises without instructions
        examples = self.examples(Path(folder))
        return {split: self._generate_examples(split, of_split) for split, of_split in examples.items()}

    def _generate_examples(self, split: str, examples: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
        # TFDS orders examples by the hash of these keys, so the order is random but reproducible.
        shown = progress.over(examples, f"{self.name} {split}", "examples")
        for number, example in enumerate(shown):
            yield f"{split} {number}", example
