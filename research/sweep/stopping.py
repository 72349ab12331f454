"""Early stopping of the runs of a sweep by their validation metric."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from research.sweep.settings import Stop


class Point(NamedTuple):
    """The metric of one evaluation."""

    step: int
    value: float


def reason(stop: Stop, mode: str, points: Sequence[Point], finished: Sequence[Sequence[Point]]) -> str | None:
    """The reason to stop a run now, or None.

    The median rule (Golovin et al., "Google Vizier", 2017, section 3.2.2): the best value so far is worse than the
    median of the running averages, up to the same step, of the finished runs with this seed.

    Args:
        stop: The rules.
        mode: "max" or "min", whichever is best.
        points: The evaluations of the run so far, in order.
        finished: The evaluations of the finished runs.
    """
    sign = 1 if mode == "max" else -1
    values = [sign * point.value for point in points]
    if len(values) <= stop.after:
        return None
    if stop.patience and len(values) - 1 - values.index(max(values)) >= stop.patience:
        return f"no improvement in {stop.patience} evaluations"
    step = points[-1].step
    averages = [
        statistics.fmean(sign * point.value for point in other if point.step <= step)
        for other in finished
        if any(point.step <= step for point in other)
    ]
    if stop.median and averages and max(values) < (median := statistics.median(averages)):
        return f"{sign * max(values):.4g} is worse than the median of finished runs, {sign * median:.4g}"
    return None
