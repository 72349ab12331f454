"""`python -m research.report compare RUN OTHER`: the differences of two runs on the same test examples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.report import figures, formats, intervals, records

_HEADER = ("metric", "run", "other", "difference", "95 % interval", "over")


def table(run: Path, other: Path, root: Path = records.ROOT) -> str:
    """The test metrics of both runs, their differences and paired bootstrap intervals, as aligned columns.

    Raises ValueError if a run is not finished, or if no metric can be compared: the predictions must be of the same
    examples in the same order, and determine the metric.
    """
    results = [_metrics(each, root) for each in (run, other)]
    predictions = [figures.predictions(each)[1] for each in (run, other)]
    lines = []
    for metric in results[0]:
        if metric not in results[1]:
            continue
        ours, theirs = ((scores[metric], lines) for scores, lines in zip(results, predictions, strict=True))
        found = intervals.difference(metric, ours, theirs)
        if found:
            numbers = [formats.number(each) for each in (ours[0], theirs[0], found.value)]
            lines.append((metric, *numbers, f"{formats.number(found.low)} to {formats.number(found.high)}", found.over))
    if not lines:
        raise ValueError(
            f"no test metric of {run} and {other} can be compared: both need a predictions.jsonl of the same test "
            "examples, as runs on the same data set have"
        )
    widths = [max(map(len, column)) for column in zip(_HEADER, *lines, strict=True)]
    padded = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in (_HEADER, *lines)
    )
    return "\n".join(line.rstrip() for line in padded)


def _metrics(workdir: Path, root: Path) -> Mapping[str, Any]:
    metrics = records.read_run(workdir, root)["metrics"]
    return {name: value for name, value in metrics.items() if name.startswith("test/") and isinstance(value, float)}
