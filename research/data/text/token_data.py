"""What data sets whose targets are tokens have in common: a vocabulary, and tokens that are made once."""

import dataclasses
from pathlib import Path

from research.data import dataset, recorded, sources
from research.data.text import tokens
from research.data.text.vocabulary import Vocabulary
from research.spec.contracts import DatasetInfo


@dataclasses.dataclass(frozen=True)
class TokenDataset(dataset.PreparedDataset):
    """As dataset.PreparedDataset, of examples whose targets are tokens."""

    prepared: tokens.Tokens  # pyright: ignore[reportIncompatibleVariableOverride]  it stands in for sources.Prepared

    @property
    def is_prepared(self) -> bool:
        """Whether its texts or sounds are there to be read; the tokens need not be made."""
        return sources.is_prepared(self.prepared.raw.builder)

    @property
    def vocabulary(self) -> Vocabulary:
        """Between text and ids; its `size` and special ids are known before the data set is prepared."""
        return self.prepared.vocabulary

    def prepare(self) -> DatasetInfo:
        """As in Dataset; makes the vocabulary and the tokens, too."""
        self.prepared.prepare()
        return DatasetInfo(self.name, self.version, self.counts, self.fingerprint, vocabulary=self.vocabulary.digest)

    def prepare_vocabulary(self) -> None:
        """Makes the vocabulary, all that prediction needs, unless that is done; one that is given needs no data."""
        if not self.prepared.vocabulary_file:
            self.prepared.prepare()

    def record(self, folder: Path) -> None:
        """As in Dataset, with the vocabulary."""
        recorded.write(folder, recorded.describe(self.prepared.raw.builder), self.vocabulary.serialized)


def make_tokens(data: TokenDataset) -> str:
    """Makes the vocabulary and the tokens of a data set unless that is done; returns what to tell the user."""
    prepared = data.prepared
    prepared.prepare()
    words, folder = prepared.vocabulary, prepared.folder
    return f"{prepared.name}: {words.pieces:,} tokens, vocabulary {words.digest}, in {folder}"
