"""Formatting of numbers for tables; all functions return short strings."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

_DASH = "-"


def number(value: Any, decimals: int | None = None) -> str:
    """A float with four significant digits and at most four decimals; other values unchanged."""
    if value is None:
        return _DASH
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float) or not math.isfinite(value):
        return str(value)
    if value and abs(value) < 1e-3:
        return f"{value:.3g}"
    return f"{value:,.{_decimals(value) if decimals is None else decimals}f}"


def measured(measurement: Mapping[str, Any]) -> str:
    """A measurement of a performance suite, such as `4.086 s`."""
    return f"{number(measurement['value'])} {measurement['unit']}".rstrip()


def mean_sd(values: Sequence[float]) -> str:
    """`mean ± s.d.` with the sample standard deviation (divisor n - 1); a single value stands alone."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return number(mean)
    return f"{number(mean)} ± {number(statistics.stdev(values), decimals=_decimals(mean))}"


def interval(row: Mapping[str, Any]) -> str:
    """The interval of a row, ` [low, high]`, with the resampled unit unless it is examples; "" if it has none."""
    if not row.get("interval"):
        return ""
    low, high, over = row["interval"]
    return f" [{number(low)}, {number(high)}]" + ("" if over == "examples" else f" over {over}")


def difference(row: Mapping[str, Any]) -> str:
    """The difference of a row to its strongest baseline, `+0.0120 [0.0031, 0.0214]`; "" if there is none."""
    found = row.get("difference")
    if not found:
        return ""
    over = "" if found["over"] == "examples" else f" over {found['over']}"
    return f"{signed(found['value'])} [{signed(found['low'])}, {signed(found['high'])}]{over}"


def signed(value: float) -> str:
    """A number with its sign, such as `+0.0120`."""
    value = 0.0 if abs(value) < 1e-6 else value  # equal scores may differ by rounding, as float32 and as float64
    return ("+" if value > 0 else "") + number(value)


def count(value: int) -> str:
    """A count with a suffix: `9,000`, `421.1k`, `86.6M`, `22.0B`."""
    if value < 10_000:
        return f"{value:,}"
    size, suffix = (1e9, "B") if value >= 1e9 else (1e6, "M") if value >= 1e6 else (1e3, "k")
    return f"{value / size:.1f}{suffix}"


def duration(seconds: float) -> str:
    """A duration: `48 s`, `1 min 12 s`, `3 h 05 min`, `2 d 4 h`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def mesh(sizes: Mapping[str, int]) -> str:
    """The sizes of a mesh, such as `data 8 x fsdp 2`, without axes of size 1."""
    return " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size != 1) or "1 device"


def commit(row: Mapping[str, Any]) -> str:
    """The first seven digits of a row's commit, with a star if there were uncommitted changes."""
    return str(row["commit"])[:7] + ("*" if row.get("dirty") else "")


def sourced(value: Any, source: str | None) -> str:
    """A value as written, with its source: `0.9125 (He et al. 2016, table 6)`; a dash if there is none."""
    if value is None:
        return _DASH
    return f"{value} ({source})" if source else str(value)


def dataset(data: Mapping[str, Any]) -> str:
    """A data set: `digits 1.0.0: 1,150 train, 287 validation, 360 test (fingerprint 0f3a…)`."""
    counts = ", ".join(f"{size:,} {split}" for split, size in data["counts"].items())
    return f"{data['name']} {data['version']}: {counts} (fingerprint {data['fingerprint'][:12]})"


def _decimals(value: float) -> int:
    if not value or not math.isfinite(value):
        return 1
    return min(4, max(0, 3 - math.floor(math.log10(abs(value)))))
