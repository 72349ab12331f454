"""Texts as sequences of sentences: each encoder position is a sentence instead of a token.

For stories of short sentences, as in Sukhbaatar et al., "End-To-End Memory Networks", 2015: there are a tenth as many
positions, and attention is over whole sentences.
"""

import dataclasses

import numpy as np

ENDS = ".?!"


@dataclasses.dataclass(frozen=True)
class Splitter:
    """Splits token ids [tokens] into int32 [sentences, length], padded with 0.

    A sentence ends with one of the tokens `ends`; EOS, the last id, belongs to the last sentence. A sentence of more
    than `length` tokens continues in the next position.
    """

    ends: tuple[int, ...]
    length: int

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """The sentences of `ids`, which must hold at least EOS."""
        row, column = self._coordinates(ids)
        sentences = np.zeros((row[-1] + 1, self.length), np.int32)
        sentences[row, column] = ids
        return sentences

    def count(self, ids: np.ndarray) -> int:
        """The number of sentences of `ids`."""
        return int(self._coordinates(ids)[0][-1]) + 1

    def _coordinates(self, ids):
        """The sentence of each token, and its position within it."""
        index = np.arange(len(ids))
        first = np.concatenate([[True], np.isin(ids[:-1], self.ends)])
        first[-1] &= len(ids) == 1
        within = index - np.maximum.accumulate(np.where(first, index, 0))
        return np.cumsum(within % self.length == 0) - 1, within % self.length
