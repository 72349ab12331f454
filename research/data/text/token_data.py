"""Base class of data sets whose targets are tokens: they have a vocabulary and stored token ids."""

import dataclasses
from pathlib import Path

from research.data import dataset, recorded, sources
from research.data.text import tokens
from research.data.text.vocabulary import Vocabulary
from research.spec.contracts import DatasetInfo


@dataclasses.dataclass(frozen=True)
class TokenDataset(dataset.PreparedDataset):
    """A dataset.PreparedDataset of examples whose targets are tokens."""

    prepared: tokens.Tokens  # pyright: ignore[reportIncompatibleVariableOverride]  it replaces sources.Prepared

    @property
    def is_prepared(self) -> bool:
        """Whether its texts or sounds are prepared, with or without tokens."""
        return sources.is_prepared(self.prepared.raw.builder)

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary; its `size` and special ids are known before the data set is prepared."""
        return self.prepared.vocabulary

    def prepare(self) -> DatasetInfo:
        """As in PreparedDataset; also trains the vocabulary and tokenises the texts."""
        self.prepared.prepare()
        return DatasetInfo(self.name, self.version, self.counts, self.fingerprint, vocabulary=self.vocabulary.digest)

    def prepare_vocabulary(self) -> None:
        """Trains the vocabulary unless it exists or a file is given; prediction needs nothing else."""
        if not self.prepared.vocabulary_file:
            self.prepared.prepare()

    def record(self, folder: Path) -> None:
        """As in PreparedDataset, with the vocabulary."""
        recorded.write(folder, recorded.describe(self.prepared.raw.builder), self.vocabulary.serialized)


def make_tokens(data: TokenDataset) -> str:
    """Trains the vocabulary and tokenises a data set, unless already done; returns a summary for the user."""
    prepared = data.prepared
    prepared.prepare()
    vocabulary, folder = prepared.vocabulary, prepared.folder
    return f"{prepared.name}: {vocabulary.pieces:,} tokens, vocabulary {vocabulary.digest}, in {folder}"
