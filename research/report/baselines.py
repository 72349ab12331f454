"""Measured baselines in tables: the strongest one of each config, and the runs below it."""

import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.metrics import metric as metric_lib
from research.report import formats

DIFFERENCES = (
    "Run - floor: the paired difference, with its 95 % bootstrap interval over the examples that both predict; "
    "half intervals of different data sets are added in quadrature."
)
BELOW = " · **below its floor**"
LEGEND = "Floor: the strongest baseline that was measured on the same data, see below; *stated*: by the config alone."

PREDICTIONS = "runs/baselines"  # below the repository; not part of it

Row = Mapping[str, Any]


class Strongest(NamedTuple):
    """The strongest baseline of a table row: its name, and the mean of its metric over the data of the runs.

    `exact` is False if the fingerprint of the data differs from that of the runs, but name and counts are equal: the
    way fingerprints are computed has changed.
    """

    name: str
    value: float
    exact: bool = True


def predictions_path(row: Row, name: str) -> Path:
    """The path, below PREDICTIONS, of the test predictions of the baseline `name` for the config and data of a row."""
    plain = lambda text: re.sub(r"\W+", "_", text).strip("_")
    data = f"{plain(row['data']['name'])}-{row['data']['fingerprint'][:8]}"
    return Path(row["experiment"], f"{Path(row['file']).stem}_{row['variant']}", data, f"{plain(name)}.jsonl")


def strongest(runs: Sequence[Row], rows: Sequence[Row]) -> Strongest | None:
    """The best of the baselines `rows` for the config, the data and the metric of `runs`; None if there is none.

    If the runs are on several data sets, such as folds, it must have been measured on all of them. Baselines
    measured on data with the same fingerprint are preferred.
    """
    means, exact = measured(runs, rows)
    if not means:
        return None
    name = (max if _more_is_better(runs[0]["metric"]) else min)(means, key=means.__getitem__)
    return Strongest(name, means[name], exact)


def measured(runs: Sequence[Row], rows: Sequence[Row]) -> tuple[dict[str, float], bool]:
    """The mean values of the baselines `rows` over the data of `runs`, and whether the fingerprints are equal."""
    values, exact = _values(runs, rows)
    return {name: statistics.fmean(of_runs) for name, of_runs in values.items()}, exact


def _values(runs: Sequence[Row], rows: Sequence[Row]) -> tuple[dict[str, list[float]], bool]:
    """As `measured`, with the value on the data of each run instead of their mean."""
    same = [row for row in _newest_last(rows) if all(row[key] == runs[0][key] for key in ("file", "variant", "metric"))]
    found = _of_data(runs, same, _fingerprint)
    return (found, True) if found else (_of_data(runs, same, _name_and_counts), False)


def _of_data(runs: Sequence[Row], rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, list[float]]:
    values: dict[str, dict[str, float]] = {}
    for row in rows:
        values.setdefault(row["baseline"], {})[key(row)] = row["value"]
    data = [key(run) for run in runs]
    return {name: [of_data[each] for each in data] for name, of_data in values.items() if set(data) <= of_data.keys()}


def _fingerprint(row: Row) -> str:
    return row["data"]["fingerprint"]


def _name_and_counts(row: Row) -> str:
    return f"{row['data']['name']} {row['data']['version']} {sorted(row['data']['counts'].items())}"


def is_below(runs: Sequence[Row], best: Strongest | None) -> bool:
    """Whether the mean of the runs is worse than the strongest baseline."""
    if best is None:
        return False
    mean = statistics.fmean(run["metrics"][run["metric"]] for run in runs)
    return mean < best.value if _more_is_better(runs[0]["metric"]) else mean > best.value


def cell(run: Row, best: Strongest | None) -> str:
    """The best baseline, such as `0.9833 (support vector machine)`, else the floor stated in the config, or a dash."""
    if best is not None:
        other = "" if best.exact else "; data of the same name and counts, another fingerprint"
        return formats.sourced(formats.number(best.value), best.name + other)
    stated = formats.sourced(run["floor"], run["floor_source"])
    return stated if run["floor"] is None else f"*stated:* {stated}"


def differences(runs: Sequence[Row], best: Strongest | None) -> str:
    """The difference to the baseline, ` · run - floor +0.0120 [0.0031, 0.0214]`; for several runs, their mean.

    For runs on several data sets, whose test examples are others, the half intervals are added in quadrature. For
    several seeds on the same examples, which are not independent, the number of intervals that exclude 0 is given.
    """
    found = [_difference(run, best.name) for run in runs] if best else []
    if not found or not all(found):
        return ""
    if len(runs) == 1:
        return f" · run - floor {formats.difference({'difference': found[0]})}"
    mean = statistics.fmean(each["value"] for each in found)
    if len({_fingerprint(run) for run in runs}) == len(runs):
        half = lambda side: math.hypot(*(each[side] - each["value"] for each in found)) / len(found)
        bounds = {"low": mean - half("low"), "high": mean + half("high"), "over": found[0]["over"]}
        return f" · run - floor {formats.difference({'difference': {'value': mean, **bounds}})}"
    apart = sum(each["low"] > 0 or each["high"] < 0 for each in found)
    return f" · run - floor {formats.signed(mean)}, 0 outside the interval in {apart} of {len(runs)}"


def by_data_set(runs: Sequence[Row], rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the runs and of their strongest baseline by data set; no lines if all are on the same."""
    best = strongest(runs, rows)
    if best is None or len({run["data"]["name"] for run in runs}) < len(runs) or len(runs) < 2:
        return [], []
    lines = [
        [
            run["data"]["name"],
            formats.number(run["value"]) + formats.interval(run),
            formats.number(value),
            formats.difference({"difference": _difference(run, best.name)}) or "-",
        ]
        for run, value in zip(runs, _values(runs, rows)[0][best.name], strict=True)
    ]
    return ["data", short(runs[0]["metric"]), best.name, "run - floor"], sorted(lines)


def _difference(run: Row, name: str) -> dict[str, Any]:
    """The recorded difference of a run to the baseline `name`; empty without one."""
    own = run.get("difference") or {}
    return run.get("differences", {}).get(name) or (own if own.get("baseline") == name else {})


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of all baselines by config, best first; for several data sets, their means."""
    groups: dict[tuple, dict[str, Row]] = {}
    for row in _newest_last(rows):
        groups.setdefault((row["file"], row["variant"], row["baseline"]), {})[row["data"]["name"]] = row
    found = [list(of_data.values()) for of_data in groups.values()]

    def order(group: list[Row]) -> tuple:
        value = statistics.fmean(row["value"] for row in group)
        return group[0]["file"], group[0]["variant"], -value if _more_is_better(group[0]["metric"]) else value

    return ["config", "baseline", "metric", "test", "others", "time", "commit"], [
        _line(group) for group in sorted(found, key=order)
    ]


def _line(group: Sequence[Row]) -> list[str]:
    first = group[0]
    notes = "; ".join(filter(None, [*(_setting(group, name) for name in first["settings"]), first["note"]]))
    many = f" ({len(group)} data sets)" if len(group) > 1 else ""
    mean = lambda name: formats.number(statistics.fmean(row["metrics"][name] for row in group))
    others = (f"{short(name)} {mean(name)}" for name in first["also"])
    return [
        f"`{Path(first['file']).stem}:{first['variant']}`",
        f"{first['baseline']} ({notes})" if notes else first["baseline"],
        short(first["metric"]),
        formats.mean_sd([row["value"] for row in group]) + many,
        ", ".join(others) or "-",
        formats.duration(statistics.fmean(row["wall_s"] for row in group)),
        _distinct(f"`{formats.commit(row)}`" for row in group),
    ]


def _setting(group: Sequence[Row], name: str) -> str:
    """A setting and how it was chosen, such as `C 0.1, chosen on validation among 0.01, 0.1, 1`."""
    values = _distinct(f"{row['settings'][name]:g}" for row in group)
    tried = ", ".join(f"{value:g}" for value in group[0]["tried"])
    return f"{name} {values}" + (f", chosen on {group[0]['chosen_on']} among {tried}" if group[0]["chosen_on"] else "")


def short(metric: str) -> str:
    """The name of a metric without its split: `accuracy` for `test/accuracy`."""
    return metric.partition("/")[2]


def _newest_last(rows: Sequence[Row]) -> list[Row]:
    """The rows sorted by date; rows of the same day keep their order."""
    return sorted(rows, key=lambda row: row["date"])


def _more_is_better(metric: str) -> bool:
    return metric_lib.mode(short(metric)) == "max"


def _distinct(texts: Any) -> str:
    return ", ".join(dict.fromkeys(texts))
