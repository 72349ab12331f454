"""`errors.png`: where predicted texts and retrieved candidates are wrong; from the predictions.jsonl of a run.

Of texts, the score by task, by speaker or by length of the reference, each with its interval, and the lengths of the
predictions relative to those of the references; of retrieval, the share of correct candidates up to each rank.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from research.metrics import confusion, lengths, scripts
from research.report import figures, formats, intervals, records
from research.train.rundir import AnyPath

_BLUE, _ORANGE, _GREY = "#3b6fb6", "#e07b39", "#999999"
_LONGEST = 3.0  # larger relative lengths are drawn here
_BINS = 30
_MOST, _LEAST = 40, 0.01  # groups, and the share of the examples that one must have
_TOP = 10  # rank whose recall is written beside that of rank 1
_FIELDS = ("task", "speaker")
Lines = Sequence[Mapping[str, Any]]


def draw(workdir: str | os.PathLike) -> AnyPath | None:
    """Draws `errors.png` of a run; returns its path, or None if its predictions are neither texts nor ranks.

    Texts that are names of classes have a confusion matrix instead, see confusion.py.
    """
    path, lines = figures.predictions(workdir)
    if not lines:
        return None
    if "rank" in lines[0]:
        return figures.save(_of_ranks(lines), path.with_name("errors.png"))
    if not {"prediction", "references"} <= lines[0].keys() or confusion.matrix(lines)[0]:
        return None
    metric = records.read_json(path.with_name("result.json"))["report"]["metric"]
    return figures.save(_of_texts(lines, metric), path.with_name("errors.png"))


def grouped(lines: Lines, metric: str) -> tuple[str, dict[str, intervals.Measured]]:
    """The field by which texts are grouped, and the score `metric` of each group.

    Groups are tasks, speakers or, without these, quartiles of the number of words in the first reference (letters, in
    scripts without spaces); those with less than 1 % of the examples are left out. Empty if `metric` cannot be computed
    from predictions.
    """
    distinct = lambda field: len({line[field] for line in lines})
    given = [field for field in _FIELDS if all(field in line for line in lines)]
    field = next((field for field in given if 1 < distinct(field) <= _MOST), "words of the reference")
    if field in _FIELDS:
        names = [str(line[field]) for line in lines]
    else:
        names = lengths.quarters([len(scripts.words(line["references"][0])) for line in lines])
    members: dict[str, list] = {}
    for name, line in zip(names, lines, strict=True):
        members.setdefault(name, []).append(line)
    large = [name for name in sorted(members) if len(members[name]) >= _LEAST * len(lines)]
    scores = {name: intervals.measured(metric, members[name]) for name in large}
    return field, {name: score for name, score in scores.items() if score is not None}


def relative_lengths(lines: Lines) -> np.ndarray:
    """The words of each prediction divided by those of the reference that is nearest in length, float64 [examples].

    Examples whose references are all empty are left out.
    """
    found = []
    for line in lines:
        words = len(scripts.words(line["prediction"]))
        counts = [count for each in line["references"] if (count := len(scripts.words(each)))]
        if counts:
            found.append(words / min(counts, key=lambda count: (abs(count - words), count)))
    return np.array(found)


def _of_texts(lines: Lines, metric: str) -> Any:
    """The figure of the scores by group and of relative lengths."""
    from matplotlib.figure import Figure  # slow to import

    field, scores = grouped(lines, metric)
    relative = relative_lengths(lines)
    name = metric.rpartition("/")[2]
    height = max(3.6, 1.2 + 0.2 * len(scores))
    drawn = Figure(figsize=(9.6 if scores else 4.8, height), dpi=120, layout="constrained")
    *panels, right = drawn.subplots(1, 2 if scores else 1, squeeze=False)[0]
    for left in panels:
        _draw_groups(left, scores, name, field, intervals.value(metric, lines))
    right.hist(np.minimum(relative, _LONGEST), np.linspace(0, _LONGEST, _BINS + 1), color=_BLUE, alpha=0.8)
    median = formats.number(float(np.median(relative))) if len(relative) else "-"
    right.axvline(1, color=_ORANGE, linewidth=1.4, label=f"as long as the reference; median {median}")
    right.set(
        xlabel=f"words of prediction / nearest reference, {_LONGEST:.0f} and more as {_LONGEST:.0f}", ylabel="examples"
    )
    figures.tidy(right, "length of predictions")
    return drawn


def _draw_groups(
    axes: Any, scores: Mapping[str, intervals.Measured], name: str, field: str, whole: float | None
) -> None:
    """The score of each group and its interval, and that of all examples as a line."""
    positions = np.arange(len(scores))[::-1]
    values, low, high = (np.array([getattr(each, key) for each in scores.values()]) for key in ("value", "low", "high"))
    errors = np.maximum([values - low, high - values], 0)
    axes.errorbar(values, positions, xerr=errors, fmt="o", color=_BLUE, capsize=3, label="group, 95 % interval")
    if whole is not None:
        axes.axvline(whole, color=_GREY, linewidth=1, linestyle="--", label=f"all, {formats.number(whole)}")
    axes.set_yticks(positions, list(scores), fontsize=8, parse_math=False)  # speakers may have dollar signs
    axes.set(xlabel=f"test {name}", ylabel=field)
    axes.set_xlim(left=0)
    axes.margins(y=0.15)
    figures.tidy(axes, f"{name} by {field}")


def _of_ranks(lines: Lines) -> Any:
    """The figure of recall by number of candidates."""
    from matplotlib.figure import Figure  # slow to import

    ranks = np.sort([line["rank"] for line in lines])
    at = lambda rank: float(np.searchsorted(ranks, rank, side="right") / len(ranks))
    drawn = Figure(figsize=(5, 4), dpi=120, layout="constrained")
    axes = drawn.subplots()
    steps = np.arange(1, max(int(ranks[-1]), _TOP) + 1)
    label = f"recall@1 {formats.number(at(1))}, @{_TOP} {formats.number(at(_TOP))}"
    axes.step(steps, [at(rank) for rank in steps], where="post", color=_BLUE, linewidth=1.6, label=label)
    axes.set(xscale="log", ylim=(0, 1.02), xlabel="candidates", ylabel="queries with the correct one among them")
    figures.tidy(axes, "rank of the correct candidate, test split")
    return drawn
