"""Bootstrap intervals of the scores of one run, over the test examples of its `predictions.jsonl`.

Examples are drawn with replacement, whole groups of them where they come in groups: all images of a person. The
interval says how much a score depends on the choice of the test examples; the spread over seeds says how much on
chance in training. The difference of a run and a baseline is taken on the same draws, so that examples which are hard
for both do not widen its interval.
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
Kind = Callable[[Records, str], "Drawable | None"]  # from predictions and the name of a metric


class Interval(NamedTuple):
    """The bounds of the LEVEL percentile interval, and what was drawn: "examples" or "people"."""

    low: float
    high: float
    over: str


class Difference(NamedTuple):
    """Of the score of a run to that of a baseline, with its LEVEL interval as in Interval."""

    value: float
    low: float
    high: float
    over: str


class Drawable(NamedTuple):
    """What can be drawn: the number of `groups` and what they are, and the scores of draws."""

    groups: int
    over: str
    statistic: Statistic

    def draws(self) -> np.ndarray:
        """How often each group is in each resample, [RESAMPLES, groups]."""
        return np.random.default_rng(SEED).multinomial(self.groups, np.full(self.groups, 1 / self.groups), RESAMPLES)


def of(metric: str, value: float, records: Records) -> Interval | None:
    """The interval of `metric`, such as "test/accuracy", of a run with these predictions.

    None for metrics whose predictions do not say it, and where the score of all examples is not `value`: the metric is
    then made in another way than here.
    """
    found = _drawable(metric, value, records)
    if found is None:
        return None
    return Interval(*_bounds(found.statistic(found.draws())), found.over)


def difference(metric: str, run: tuple[float, Records], baseline: tuple[float, Records]) -> Difference | None:
    """The paired difference of `metric`, run - baseline, each given as its value and its predictions.

    None where the predictions do not say it, see `of`, or are not for the same examples in the same order.
    """
    if [_example(each) for each in run[1]] != [_example(each) for each in baseline[1]]:
        return None
    ours, theirs = _drawable(metric, *run), _drawable(metric, *baseline)
    if ours is None or theirs is None or ours.groups != theirs.groups:
        return None
    counts = ours.draws()
    low, high = _bounds(ours.statistic(counts) - theirs.statistic(counts))
    return Difference(run[0] - baseline[0], low, high, ours.over)


_ASKED = (
    "index",
    "name",
    "path",
    "path1",
    "path2",
    "same",
    "person",
    "class",
    "target",
    "references",
    "task",
    "speaker",
)


def _example(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a line of predictions says of its example."""
    return {key: record[key] for key in _ASKED if key in record}


def _drawable(metric: str, value: float, records: Records) -> Drawable | None:
    name = metric.rpartition("/")[2]
    kind = _KINDS.get(name)
    found = kind(records, name) if kind and records else None
    if found is None:
        return None
    whole = found.statistic(np.ones((1, found.groups)))[0]
    return found if math.isclose(whole, value, rel_tol=1e-4, abs_tol=1e-6) else None


def _bounds(scores: np.ndarray) -> tuple[float, float]:
    low, high = np.nanquantile(scores, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _ratio(numerators: np.ndarray, denominators: np.ndarray, scale: float = 1.0) -> Statistic:
    return lambda counts: scale * (counts @ numerators) / (counts @ denominators)


def _mean(values: Sequence[float], scale: float = 1.0) -> Drawable:
    """Of a score that is a mean over examples."""
    return Drawable(len(values), "examples", _ratio(np.array(values, float), np.ones(len(values)), scale))


def _accuracy(records: Records, name: str) -> Drawable | None:
    first = records[0]
    if "predicted" in first:
        truth = next((key for key in ("class", "target") if key in first), None)
        if truth is None:
            return None
        right = [each["predicted"] == each[truth] for each in records]
    elif _is_text(records):
        right = text_scores.right([each["prediction"] for each in records], records)
    else:
        return None
    return _mean(right)


def _accuracy_mean(records: Records, name: str) -> Drawable | None:
    """The mean over tasks of the accuracies of their examples."""
    if not _is_text(records) or "task" not in records[0]:
        return None
    right = np.array(text_scores.right([each["prediction"] for each in records], records), float)
    tasks = sorted({each["task"] for each in records})
    of_task = np.array([[each["task"] == task for task in tasks] for each in records], float)  # [examples, tasks]

    def statistic(counts: np.ndarray) -> np.ndarray:
        drawn = counts @ of_task
        shares = (counts * right) @ of_task / np.maximum(drawn, 1)
        return np.nanmean(np.where(drawn > 0, shares, np.nan), axis=1)

    return Drawable(len(records), "examples", statistic)


def _text_mean(score: Callable[..., tuple[dict[str, list[float]], str]], scale: float) -> Kind:
    """The kind of the means of `score`, a function of predictions and examples, by name."""

    def kind(records: Records, name: str) -> Drawable | None:
        if not _is_text(records):
            return None
        return _mean(score([each["prediction"] for each in records], records)[0][name], scale)

    return kind


def _bleu(records: Records, name: str) -> Drawable | None:
    if not _is_text(records):
        return None
    each = np.array(text_scores.bleu_counts(name, [each["prediction"] for each in records], records))
    statistic = lambda counts: np.array([text_scores.bleu_of(row) for row in counts @ each])
    return Drawable(len(records), "examples", statistic)


def _is_text(records: Records) -> bool:
    return {"prediction", "references"} <= records[0].keys()


def _wer(records: Records, name: str) -> Drawable | None:
    if not _is_text(records):
        return None
    errors, words = text_scores.word_errors([each["prediction"] for each in records], records)
    statistic = _ratio(np.array(errors, float), np.array(words, float), scale=100.0)
    return Drawable(len(records), "examples", statistic)


def _identification(records: Records, name: str) -> Drawable | None:
    records = [each for each in records if {"person", "found"} <= each.keys()]  # the file may hold pairs as well
    if not records:
        return None
    people = sorted({each["person"] for each in records})
    right, all_of = np.zeros(len(people)), np.zeros(len(people))
    for each in records:
        right[people.index(each["person"])] += each["found"] == each["person"]
        all_of[people.index(each["person"])] += 1
    return Drawable(len(people), "people", _ratio(right, all_of))


def _auc(records: Records, name: str) -> Drawable | None:
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

    return Drawable(len(people), "people", statistic)


def _miou(records: Records, name: str) -> Drawable | None:
    if "confusion" not in records[0]:
        return None
    confusions = np.array([each["confusion"] for each in records], float)  # [images, classes, classes]

    def statistic(counts: np.ndarray) -> np.ndarray:
        whole = np.tensordot(counts, confusions, 1)
        hits = np.diagonal(whole, axis1=1, axis2=2)
        union = whole.sum(1) + whole.sum(2) - hits
        return np.nanmean(np.where(union > 0, hits / np.maximum(union, 1), np.nan), axis=1)

    return Drawable(len(records), "examples", statistic)


_KINDS: dict[str, Kind] = {
    "accuracy": _accuracy,
    "accuracy_mean": _accuracy_mean,
    "wer": _wer,
    "identification": _identification,
    "auc": _auc,
    "miou": _miou,
    **dict.fromkeys(("exact_match", "f1"), _text_mean(text_scores.squad_each, 100.0)),
    **dict.fromkeys(("bleu1", "rouge_l"), _text_mean(text_scores.tweetqa_each, 1.0)),
    **dict.fromkeys(("rouge1", "rouge2", "rougeL", "rougeLsum"), _text_mean(text_scores.rouge_each, 100.0)),
    **dict.fromkeys(("bleu", "bleu_13a", "bleu_zh", "bleu_char"), _bleu),
}
