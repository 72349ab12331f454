"""Texts as sequences of sentences: a place of the encoder is then a sentence and not a token.

For stories of short, plain sentences, as Sukhbaatar et al., "End-To-End Memory Networks", 2015, read them: there are a
tenth as many places, and attention goes to a statement at once.
"""

import dataclasses

import numpy as np

ENDS = ".?!"


@dataclasses.dataclass(frozen=True)
class Splitter:
    """Token ids [tokens] to int32 [sentences, length], padded with 0.

    A sentence ends with one of the tokens `ends`; EOS, the last of the ids, belongs to the last sentence. One of more
    than `length` tokens goes on in the next place.
    """

    ends: tuple[int, ...]
    length: int

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """The sentences of `ids`, which are at least EOS."""
        row, column = self._places(ids)
        sentences = np.zeros((row[-1] + 1, self.length), np.int32)
        sentences[row, column] = ids
        return sentences

    def count(self, ids: np.ndarray) -> int:
        """How many sentences `ids` are."""
        return int(self._places(ids)[0][-1]) + 1

    def _places(self, ids):
        """The sentence of each token, and its place there."""
        index = np.arange(len(ids))
        first = np.concatenate([[True], np.isin(ids[:-1], self.ends)])
        first[-1] &= len(ids) == 1
        within = index - np.maximum.accumulate(np.where(first, index, 0))
        return np.cumsum(within % self.length == 0) - 1, within % self.length
