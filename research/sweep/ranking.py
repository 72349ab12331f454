"""Ranks the trials of a sweep by their validation metric, averaged over seeds."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from research.report import formats
from research.sweep.runs import Run, State
from research.sweep.settings import Sweep


class Ranked(NamedTuple):
    """A trial and its metric by seed, for the runs that have one."""

    trial: int
    values: dict[int, float]
    # "failed" if a run failed or its metric is not finite, else "finished" if all are, "stopped" if one was stopped
    # early, or "open"
    status: str

    @property
    def mean(self) -> float | None:
        """The mean over seeds; None without a value."""
        return statistics.fmean(self.values.values()) if self.values else None


def rank(sweep: Sweep, states: Mapping[Run, State], failed: Mapping[Run, str], mode: str) -> list[Ranked]:
    """Sorts the trials by status (finished, stopped, open, failed), then the best first, without a value last."""
    found = []
    for trial in range(len(sweep.trials)):
        own = {run: state for run, state in states.items() if run.trial == trial}
        values = {run.seed: state.value for run, state in own.items() if state.value is not None}
        statuses = [state.status for state in own.values()]
        status = "finished"
        if any(run in failed or is_lost(state) for run, state in own.items()):
            status = "failed"
        elif set(statuses) != {"finished"}:
            status = "stopped" if "stopped" in statuses else "open"
        found.append(Ranked(trial, values, status))
    order = ("finished", "stopped", "open", "failed")
    sign = -1 if mode == "max" else 1
    return sorted(found, key=lambda each: (order.index(each.status), each.mean is None, sign * (each.mean or 0.0)))


def is_lost(state: State) -> bool:
    """Whether a run has finished, but with a metric that is not finite (stored as null)."""
    return state.status == "finished" and (state.value is None or not math.isfinite(state.value))


def winner(ranked: Sequence[Ranked]) -> int | None:
    """The best trial of which all runs are finished; None if there is none."""
    return ranked[0].trial if ranked and ranked[0].status == "finished" else None


def table(sweep: Sweep, ranked: Sequence[Ranked], metric: str) -> str:
    """The trials as aligned lines."""
    lines = [["rank", "trial", metric, "settings", ""]]
    for rank, each in enumerate(ranked, start=1):
        value = formats.mean_sd(list(each.values.values())) if each.values else "-"
        settings = " ".join(sweep.trials[each.trial]) or "unchanged config"
        lines.append(
            [str(rank), f"{each.trial:03d}", value, settings, "" if each.status == "finished" else each.status]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def content(
    sweep: Sweep, ranked: Sequence[Ranked], metric: str, mode: str, test: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """The content of `ranking.json`; `test` has the test metrics of each scored run, by the name of its folder."""
    return {
        "config": sweep.config,
        "overrides": list(sweep.common),
        "metric": metric,
        "mode": mode,
        "trials": [
            {
                "trial": each.trial,
                "settings": list(sweep.trials[each.trial]),
                "validation": {str(seed): value for seed, value in each.values.items()},
                "status": each.status,
            }
            for each in ranked
        ],
        "winner": winner(ranked),
        "test": {name: dict(metrics) for name, metrics in test.items()},
    }
