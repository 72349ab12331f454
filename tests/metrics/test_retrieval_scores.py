"""Ranks of retrieval, by sorting and with ties against the own candidate."""

import numpy as np
import pytest

from research.metrics import metric, retrieval_scores


def test_ranks_are_those_of_a_stable_sort_with_the_own_candidate_last_of_equal_ones():
    rng = np.random.default_rng(0)
    similarities, own = rng.integers(0, 5, (60, 9)).astype(float), rng.integers(0, 9, 60)
    found = retrieval_scores.rank([similarities[:25], similarities[25:26], similarities[26:]], own, temperature=2.0)
    for row, index, rank, mine, nearest, best, probability in zip(similarities, own, *found, strict=True):
        order = sorted(range(9), key=lambda candidate: (-row[candidate], candidate == index))
        assert rank == order.index(index) + 1 and mine == row[index]
        assert nearest == list(row).index(max(row)) and best == max(row)
        assert probability == pytest.approx(max(np.exp(row / 2) / np.exp(row / 2).sum()))


def test_what_tells_nothing_apart_finds_nothing():
    for value in (1.0, np.nan):
        found = retrieval_scores.rank([np.full((4, 20), value)], np.arange(4), temperature=0.1)
        assert found.rank.tolist() == [20] * 4
    assert retrieval_scores.scores(found.rank) == {
        "recall_at_1": 0, "recall_at_5": 0, "recall_at_10": 0, "mrr": pytest.approx(0.05),
    }  # fmt: skip


def test_scores_of_known_ranks():
    scores = retrieval_scores.scores(np.array([1, 2, 5, 6, 10, 11, 1, 100]))
    assert (scores["recall_at_1"], scores["recall_at_5"], scores["recall_at_10"]) == (2 / 8, 4 / 8, 6 / 8)
    assert scores["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 5 + 1 / 6 + 1 / 10 + 1 / 11 + 1 + 1 / 100) / 8)
    assert all(metric.find(name).unit == "fraction" and metric.mode(name) == "max" for name in scores)
