"""Retrieval metrics: recall at k and mean reciprocal rank, from similarities between queries and candidates."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

CUTOFFS = (1, 5, 10)  # k of recall at k
NAMES = (*(f"recall_at_{k}" for k in CUTOFFS), "mrr")


class Ranked(NamedTuple):
    """The ranking of the candidates for each query; the correct candidate is that of its own pair.

    rank               int64 [queries]: the rank of the correct candidate, from 1
    similarity         float [queries]: the similarity of the correct candidate
    nearest            int64 [queries]: the index of the most similar candidate, the first of ties
    nearest_similarity float [queries]: its similarity
    probability        float [queries]: its softmax probability among all candidates; NaN without a temperature
    """

    rank: np.ndarray
    similarity: np.ndarray
    nearest: np.ndarray
    nearest_similarity: np.ndarray
    probability: np.ndarray


def rank(
    rows: Iterable[Float[np.ndarray, "_ candidates"]], own: Int[np.ndarray, " queries"], temperature: float = np.nan
) -> Ranked:
    """Ranks all candidates for each query by descending similarity.

    Ties and NaN count against the correct candidate, so that constant similarities give the worst rank.

    Args:
        rows: Chunks of similarities, in the order of the queries.
        own: The index of the correct candidate of each query.
        temperature: Of the softmax that gives probabilities; NaN for similarities without one, as of baselines.
    """
    found, begin = [], 0
    for part in rows:
        index = own[begin : begin + len(part)]
        begin += len(part)
        similarity = np.take_along_axis(part, index[:, None], axis=1)
        nearest = part.argmax(axis=1)
        best = np.take_along_axis(part, nearest[:, None], axis=1)[:, 0]
        probability = 1 / np.exp((part - best[:, None]) / temperature).sum(axis=1)
        found.append(((~(part < similarity)).sum(axis=1), similarity[:, 0], nearest, best, probability))
    return Ranked(*map(np.concatenate, zip(*found, strict=True)))


def scores(ranks: Int[np.ndarray, " queries"]) -> dict[str, float]:
    """The metrics NAMES: the fraction of queries with a rank of at most k, and the mean of 1 / rank."""
    return {name: float(values.mean()) for name, values in each(ranks).items()}


def each(ranks: Int[np.ndarray, " queries"]) -> dict[str, np.ndarray]:
    """The values per query, whose means are the `scores`."""
    return {f"recall_at_{k}": (ranks <= k).astype(float) for k in CUTOFFS} | {"mrr": 1.0 / ranks}
