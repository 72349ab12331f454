"""`load(spec)`: pairs of matching texts, such as a question and its sentence, for a shared encoder of both."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from research.data import pipeline, recorded
from research.data.text import dataset, packing, tokens
from research.spec.contracts import Batches

_LEAST = 2  # tokens of a text, of which one is EOS


@dataclasses.dataclass(frozen=True)
class PairsToArrays:
    """As packing.PackedToArrays, with `source_digest` and `target_digest`, int32 [pairs, 2], 0 for padding."""

    source_length: int
    target_length: int
    pairs: int

    def __call__(self, examples: Sequence[packing.Example], rng: object = None) -> dict[str, np.ndarray]:
        """The arrays; `rng` is not used."""
        found = packing.PackedToArrays(self.source_length, self.target_length)(examples)
        for side, texts in zip(tokens.SIDES, zip(*examples, strict=True), strict=True):
            found[f"{side}_digest"] = np.zeros((self.pairs, 2), np.int32)
            found[f"{side}_digest"][: len(texts)] = [digest(text) for text in texts]
        return found


def digest(text: np.ndarray) -> np.ndarray:
    """int32 [2]: 64 bits of a hash of token ids, by which equal texts of a batch are recognised."""
    content = np.ascontiguousarray(text, "<i4").tobytes()
    return np.frombuffer(hashlib.blake2b(content, digest_size=8).digest(), "<i4").astype(np.int32)


class Sides(Sequence[np.ndarray]):
    """The token ids of the sources of all examples, followed by those of the targets of the examples `firsts`."""

    def __init__(self, examples: Sequence[packing.Example], firsts: np.ndarray):
        self._examples, self._firsts = examples, firsts

    def __len__(self) -> int:
        return len(self._examples) + len(self._firsts)

    def __getitem__(self, index: int) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]  no slices
        count = len(self._examples)
        if index < count:
            return self._examples[index][0]
        return self._examples[int(self._firsts[index - count])][1]


@dataclasses.dataclass(frozen=True)
class SideToArrays:
    """Converts the text of a row to `source`, `source_segments` and `source_positions`."""

    length: int

    def __call__(self, texts: Sequence[np.ndarray], rng: object = None) -> dict[str, np.ndarray]:
        """The arrays; `rng` is not used."""
        return packing.arrays("source", texts, self.length)


@dataclasses.dataclass(frozen=True)
class Pairs(dataset.Text):
    """Pairs of texts. A training batch has the keys of dataset.Text and the digests of PairsToArrays.

    An evaluation row is one text of either side: `source`, `source_segments` and `source_positions`. The candidates are
    the distinct targets of the split in order of first occurrence. The `index` of a row is that of the example for a
    source, and the number of examples plus that of the candidate for a candidate.
    """

    train_transform: PairsToArrays  # pyright: ignore[reportIncompatibleVariableOverride]  as of the base class

    def own(self, split: str) -> np.ndarray:
        """int64 [examples]: the index of the candidate that is the target of each example."""
        return self._candidates(split)[0]

    def firsts(self, split: str) -> np.ndarray:
        """int64 [candidates]: the index of the first example with each candidate as its target."""
        return self._candidates(split)[1]

    def _candidates(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        examples, numbers, firsts = self._examples(split), {}, []
        own = np.empty(len(examples), np.int64)
        for index in range(len(examples)):
            target = examples[index][1].tobytes()
            if target not in numbers:
                numbers[target] = len(firsts)
                firsts.append(index)
            own[index] = numbers[target]
        return own, np.array(firsts, np.int64)

    def eval_batches(self, split: str, batch_size: int, rows: slice | Sequence[int] | None = None) -> Batches:
        """Rows `rows` (None: all) of batches with each text of a split once, one per row, sorted by length.

        The length of a batch is that of its bucket, see packing.buckets. Padding rows have weight 0 and index -1.
        """
        firsts, lengths = self.firsts(split), self._lengths[split]
        texts = Sides(self._examples(split), firsts)
        lengths = np.concatenate([lengths[:, 0], lengths[firsts, 1]])
        lengths = np.stack([lengths, np.ones_like(lengths)], axis=1)
        for (length, _), members in packing.buckets(lengths, (max(self._limits), 1), self.spec.eval_buckets):
            source, transform = packing.Packed(texts, members[:, None]), SideToArrays(length)
            for batch in pipeline.eval_batches(source, transform, batch_size, rows, self.workers, self.prefetch):
                position = batch["index"]
                index = np.where(position < 0, -1, members[position]).astype(np.int32)
                yield {**batch, "index": index}

    def encode(self, texts: Sequence[str], side: str = "source") -> pipeline.Batch:
        """A batch of texts of one side, for `predict`: weight 1, index 0.

        Args:
            texts: The fields of the template of that side, separated by tabs.
            side: "source" or "target".

        Raises:
            ValueError: A wrong number of fields, or a text that is empty or too long.
        """
        keep_end = side == "source" and self.spec.truncate_source == "start"
        prompt, limit = self.prepared.template, self._limits[tokens.SIDES.index(side)]
        prompt = dataclasses.replace(prompt, source=getattr(prompt, side))
        filled = [prompt.source.format(**dataset.given_fields(prompt, text)) for text in texts]
        ids = [np.array([*found, self.vocabulary.eos]) for found in self.vocabulary.encode_many(filled)]
        self._check(np.array(list(map(len, ids))), f"{side}_length", limit, "given")
        rows = [packing.arrays("source", [tokens.cut(each, limit, keep_end)], limit) for each in ids]
        batch: dict[str, Any] = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return {**batch, "index": np.zeros(len(ids), np.int32), "weight": np.ones(len(ids), np.float32)}


def load(spec: dataset.TextSpec, known: recorded.Recorded | None = None) -> Pairs:
    """As dataset.load, for pairs of matching texts."""
    prepared = dataset.open_tokens(spec, known, tokens.Tokens)
    limits = spec.source_length, spec.target_length
    pairs = most_pairs(spec)
    train, rows = PairsToArrays(*limits, pairs), packing.PackedToArrays(*limits)
    return Pairs(prepared, train, rows, spec.workers, spec.prefetch, spec)


def most_pairs(spec: dataset.TextSpec) -> int:
    """The maximum number of pairs in a training row."""
    return min(spec.source_length, spec.target_length) // _LEAST if spec.pack else 1
