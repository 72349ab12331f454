"""Bootstrap intervals of the scores of one run, over the test examples of its `predictions.jsonl`.

Examples are resampled with replacement; grouped examples, such as all images of a person, as whole groups. The interval
measures the uncertainty from the choice of test examples, the spread over seeds that from randomness in training. The
difference of a run and a baseline is computed on the same resamples (paired), so that examples which are hard for both
do not widen its interval.

If all examples are right, or all wrong, all resamples are equal; the interval is then that of Clopper and Pearson
(1934).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from research.metrics import box_scores, resampled_boxes, retrieval_scores, text_scores

RESAMPLES, SEED = 2000, 0
TOLERANCE = 1e-4  # relative; between a recorded score and that of the predictions
_ROUNDED_BOXES = 1e-3  # boxes are saved in 1/100 px, and some overlap objects by just a threshold of the IoU
LEVEL = 0.95
Records = Sequence[Mapping[str, Any]]
Statistic = Callable[[np.ndarray], np.ndarray]  # counts [resamples, groups] -> scores [resamples]
Kind = Callable[[Records, str], "Drawable | None"]  # from predictions and the name of a metric


class Interval(NamedTuple):
    """The bounds of the LEVEL percentile interval, and the resampled unit: "examples", "people" or "targets"."""

    low: float
    high: float
    over: str


class Measured(NamedTuple):
    """A score of some examples, and the bounds of its LEVEL interval."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """The difference between the scores of a run and a baseline, with its LEVEL interval as in Interval."""

    value: float
    low: float
    high: float
    over: str


class Drawable(NamedTuple):
    """A resampling problem: the number of `groups`, their unit (`over`), and the scores of resamples.

    `best` is the largest value of a mean over examples from 0 on, None for other scores.
    """

    groups: int
    over: str
    statistic: Statistic
    best: float | None = None

    def draws(self) -> np.ndarray:
        """The counts of each group in each resample, [RESAMPLES, groups]."""
        return np.random.default_rng(SEED).multinomial(self.groups, np.full(self.groups, 1 / self.groups), RESAMPLES)

    def bounds(self) -> tuple[float, float]:
        """The LEVEL interval of the score of all examples."""
        whole = _whole(self)
        if self.best is not None and whole in (0.0, self.best):
            certain = self.best * ((1 - LEVEL) / 2) ** (1 / self.groups)
            return (certain, self.best) if whole else (0.0, self.best - certain)
        return _bounds(self.statistic(self.draws()))


def of(metric: str, value: float, records: Records) -> Interval | None:
    """The interval of `metric`, such as "test/accuracy", for a run with these predictions.

    None if the metric cannot be computed from the predictions, or if its value on all examples is not `value`, since it
    is then computed differently.
    """
    found = _drawable(metric, value, records)
    if found is None:
        return None
    return Interval(*found.bounds(), found.over)


def difference(metric: str, run: tuple[float, Records], baseline: tuple[float, Records]) -> Difference | None:
    """The paired difference of `metric`, run - baseline, each given by its value and its predictions.

    None if it cannot be computed, see `of`, or if the predictions are not for the same examples in the same order.
    """
    if [_example(each) for each in run[1]] != [_example(each) for each in baseline[1]]:
        return None
    ours, theirs = _drawable(metric, *run), _drawable(metric, *baseline)
    if ours is None or theirs is None or ours.groups != theirs.groups:
        return None
    counts = ours.draws()
    low, high = _bounds(ours.statistic(counts) - theirs.statistic(counts))
    return Difference(run[0] - baseline[0], low, high, ours.over)


def value(metric: str, records: Records) -> float | None:
    """The score `metric` of the examples in `records`; None if it cannot be computed from them."""
    found = _problem(metric, records)
    return None if found is None else _whole(found)


def measured(metric: str, records: Records) -> Measured | None:
    """As `value`, with its interval."""
    found = _problem(metric, records)
    return None if found is None else Measured(_whole(found), *found.bounds())


def mean_over(values: Sequence[float], units: Sequence[Any]) -> Measured:
    """The mean of `values`, with an interval for which all values of the same unit are drawn together."""
    _, number = np.unique(np.array(list(map(str, units))), return_inverse=True)
    statistic = _ratio(np.bincount(number, np.array(values, float)), np.bincount(number))
    found = Drawable(int(number.max()) + 1, "units", statistic)
    return Measured(_whole(found), *_bounds(found.statistic(found.draws())))


_EXAMPLE_KEYS = (
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
    """The part of a line of predictions that describes its example."""
    return {key: record[key] for key in _EXAMPLE_KEYS if key in record}


def _drawable(metric: str, value: float, records: Records) -> Drawable | None:
    found = _problem(metric, records)
    if found is None:
        return None
    tolerance = _ROUNDED_BOXES if "boxes" in records[0] else TOLERANCE
    return found if math.isclose(_whole(found), value, rel_tol=tolerance, abs_tol=1e-6) else None


def _problem(metric: str, records: Records) -> Drawable | None:
    name = metric.rpartition("/")[2]
    kind = _KINDS.get(name)
    return kind(records, name) if kind and records else None


def _whole(found: Drawable) -> float:
    """The score of all examples."""
    return float(found.statistic(np.ones((1, found.groups)))[0])


def _bounds(scores: np.ndarray) -> tuple[float, float]:
    low, high = np.nanquantile(scores, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _ratio(numerators: np.ndarray, denominators: np.ndarray, scale: float = 1.0) -> Statistic:
    return lambda counts: scale * (counts @ numerators) / (counts @ denominators)


def _mean(values: Sequence[float], scale: float = 1.0) -> Drawable:
    """For a score that is a mean over examples of values from 0 to 1, times `scale`."""
    return Drawable(len(values), "examples", _ratio(np.array(values, float), np.ones(len(values)), scale), scale)


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
    """The mean over tasks of their accuracies."""
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
    """The Kind of metrics that are means of `score` over examples."""

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
    """Resamples people: a pair is weighted by the product of the counts of its people, or the count of its only one."""
    records = [each for each in records if {"path1", "path2", "same", "similarity"} <= each.keys()]
    if not records:
        return None
    person = lambda path: str(PurePosixPath(path).parent)
    people = sorted({person(each[key]) for each in records for key in ("path1", "path2")})
    number = {name: index for index, name in enumerate(people)}
    one, other = (np.array([number[person(each[key])] for each in records]) for key in ("path1", "path2"))
    same = np.array([each["same"] for each in records], bool)
    similarity = np.array([each["similarity"] for each in records])
    # P(similarity of a same-person pair > of another pair), ties count half.
    higher = (similarity[same][:, None] > similarity[~same]) + 0.5 * (similarity[same][:, None] == similarity[~same])

    def statistic(counts: np.ndarray) -> np.ndarray:
        scores = []
        for row in counts:
            of_one, of_two = row[one[same]].astype(float), (row[one[~same]] * row[other[~same]]).astype(float)
            total = of_one.sum() * of_two.sum()
            scores.append(of_one @ higher @ of_two / total if total else np.nan)
        return np.array(scores)

    return Drawable(len(people), "people", statistic)


def _retrieval(records: Records, name: str) -> Drawable | None:
    """Resamples targets, each with all queries that it is the correct candidate of."""
    if not {"rank", "target"} <= records[0].keys():
        return None
    values = retrieval_scores.each(np.array([each["rank"] for each in records]))[name]
    _, number = np.unique([each["target"] for each in records], return_inverse=True)
    return Drawable(int(number.max()) + 1, "targets", _ratio(np.bincount(number, values), np.bincount(number)))


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


def _pixel_accuracy(records: Records, name: str) -> Drawable | None:
    if "confusion" not in records[0]:
        return None
    confusions = np.array([each["confusion"] for each in records], float)
    return Drawable(len(records), "examples", _ratio(np.trace(confusions, axis1=1, axis2=2), confusions.sum((1, 2))))


def _average_precision(records: Records, name: str) -> Drawable | None:
    if not {"boxes", "objects"} <= records[0].keys():
        return None
    images, class_names = box_scores.from_lines([dict(each) for each in records])
    classes = resampled_boxes.matches(images, class_names)
    if not classes:  # no image has an object
        return None
    thresholds = {"map": slice(None), "map50": slice(0, 1), "map75": slice(5, 6)}[name]
    return Drawable(
        len(records), "examples", lambda counts: resampled_boxes.average_precision(classes, counts, thresholds)
    )


_KINDS: dict[str, Kind] = {
    "accuracy": _accuracy,
    "accuracy_mean": _accuracy_mean,
    "wer": _wer,
    "identification": _identification,
    "auc": _auc,
    "miou": _miou,
    "pixel_accuracy": _pixel_accuracy,
    **dict.fromkeys(("map", "map50", "map75"), _average_precision),
    **dict.fromkeys(retrieval_scores.NAMES, _retrieval),
    **dict.fromkeys(("exact_match", "f1"), _text_mean(text_scores.squad_each, 100.0)),
    **dict.fromkeys(("bleu1", "rouge_l"), _text_mean(text_scores.tweetqa_each, 1.0)),
    **dict.fromkeys(("rouge1", "rouge2", "rougeL", "rougeLsum"), _text_mean(text_scores.rouge_each, 100.0)),
    **dict.fromkeys(("bleu", "bleu_13a", "bleu_zh", "bleu_char"), _bleu),
}
METRICS = tuple(_KINDS)
