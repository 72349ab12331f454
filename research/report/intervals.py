"""Bootstrap intervals of the scores of one run, over the test examples of its `predictions.jsonl`.

Examples are drawn with replacement, whole groups of them where they come in groups: all images of a person. The
interval says how much a score depends on the choice of the test examples; the spread over seeds says how much on
chance in training.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from research.metrics import text_scores

RESAMPLES, SEED = 2000, 0
LEVEL = 0.95
Records = Sequence[Mapping[str, Any]]
Statistic = Callable[[np.ndarray], np.ndarray]  # counts [resamples, groups] -> scores [resamples]


class Interval(NamedTuple):
    """The bounds of the LEVEL percentile interval, and what was drawn: "examples" or "people"."""

    low: float
    high: float
    over: str


def of(metric: str, value: float, records: Records) -> Interval | None:
    """The interval of `metric`, such as "test/accuracy", of a run with these predictions.

    None for metrics whose predictions do not say it, and where the score of all examples is not `value`: the metric is
    then made in another way than here.
    """
    kind = _KINDS.get(metric.rpartition("/")[2])
    found = kind(records) if kind and records else None
    if found is None:
        return None
    groups, over, statistic = found
    whole = statistic(np.ones((1, groups)))[0]
    if not math.isclose(whole, value, rel_tol=1e-4, abs_tol=1e-6):
        return None
    counts = np.random.default_rng(SEED).multinomial(groups, np.full(groups, 1 / groups), RESAMPLES)
    scores = statistic(counts)
    low, high = np.nanquantile(scores, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high), over)


def _ratio(numerators: np.ndarray, denominators: np.ndarray, scale: float = 1.0) -> Statistic:
    return lambda counts: scale * (counts @ numerators) / (counts @ denominators)


def _accuracy(records: Records) -> tuple[int, str, Statistic] | None:
    first = records[0]
    if "predicted" in first:
        truth = next((key for key in ("class", "target") if key in first), None)
        if truth is None:
            return None
        right = [each["predicted"] == each[truth] for each in records]
    elif "prediction" in first and "references" in first:
        right = text_scores.right([each["prediction"] for each in records], records)
    else:
        return None
    return len(records), "examples", _ratio(np.array(right, float), np.ones(len(records)))


def _wer(records: Records) -> tuple[int, str, Statistic] | None:
    if not {"prediction", "references"} <= records[0].keys():
        return None
    errors, words = text_scores.word_errors([each["prediction"] for each in records], records)
    return len(records), "examples", _ratio(np.array(errors, float), np.array(words, float), scale=100.0)


def _identification(records: Records) -> tuple[int, str, Statistic] | None:
    records = [each for each in records if {"person", "found"} <= each.keys()]  # the file may hold pairs as well
    if not records:
        return None
    people = sorted({each["person"] for each in records})
    right, all_of = np.zeros(len(people)), np.zeros(len(people))
    for each in records:
        right[people.index(each["person"])] += each["found"] == each["person"]
        all_of[people.index(each["person"])] += 1
    return len(people), "people", _ratio(right, all_of)


def _auc(records: Records) -> tuple[int, str, Statistic] | None:
    """Over people: a pair of two counts as often as both were drawn, a pair of one as often as that person was."""
    records = [each for each in records if {"path1", "path2", "same", "similarity"} <= each.keys()]
    if not records:
        return None
    person = lambda path: str(PurePosixPath(path).parent)
    people = sorted({person(each[key]) for each in records for key in ("path1", "path2")})
    number = {name: index for index, name in enumerate(people)}
    one, other = (np.array([number[person(each[key])] for each in records]) for key in ("path1", "path2"))
    same = np.array([each["same"] for each in records], bool)
    similarity = np.array([each["similarity"] for each in records])
    # P(similarity of a pair of one person > of two), ties by half.
    higher = (similarity[same][:, None] > similarity[~same]) + 0.5 * (similarity[same][:, None] == similarity[~same])

    def statistic(counts: np.ndarray) -> np.ndarray:
        scores = []
        for row in counts:
            of_one, of_two = row[one[same]].astype(float), (row[one[~same]] * row[other[~same]]).astype(float)
            total = of_one.sum() * of_two.sum()
            scores.append(of_one @ higher @ of_two / total if total else np.nan)
        return np.array(scores)

    return len(people), "people", statistic


def _miou(records: Records) -> tuple[int, str, Statistic] | None:
    if "confusion" not in records[0]:
        return None
    confusions = np.array([each["confusion"] for each in records], float)  # [images, classes, classes]

    def statistic(counts: np.ndarray) -> np.ndarray:
        whole = np.tensordot(counts, confusions, 1)
        hits = np.diagonal(whole, axis1=1, axis2=2)
        union = whole.sum(1) + whole.sum(2) - hits
        return np.nanmean(np.where(union > 0, hits / np.maximum(union, 1), np.nan), axis=1)

    return len(records), "examples", statistic


_KINDS: dict[str, Callable[[Records], tuple[int, str, Statistic] | None]] = {
    "accuracy": _accuracy,
    "wer": _wer,
    "identification": _identification,
    "auc": _auc,
    "miou": _miou,
}
