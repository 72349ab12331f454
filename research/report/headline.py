"""The headline table of the root README: one line per config in its marker, from the recorded rows.

The marker is `<!-- headline:begin EXPERIMENT/CONFIG:VARIANT ... -->`; what follows it, up to `<!-- headline:end -->`,
is regenerated from `experiments/EXPERIMENT/results.jsonl`.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from research.report import baselines, formats, records, tables

_MARKER = re.compile(r"(<!-- headline:begin ([^>]*?)\s*-->\n).*?(<!-- headline:end -->)", re.DOTALL)
_HEADER = ("task", "config", "data", "metric", "result", "floor", "reference")


def pages(root: Path) -> list[Path]:
    """The root README and its translations, `README.LANGUAGE.md`, that exist."""
    return sorted(root.glob("README*.md"))


def updated(readme: Path, stale: Callable[[tables.Row], bool]) -> str:
    """The root README with its table regenerated, rows that are `stale` marked; unchanged if it has no marker.

    Raises ValueError if a config in the marker has no recorded run.
    """
    text = readme.read_text("utf-8")
    found = _MARKER.search(text)
    if found is None:
        return text
    lines = [_line(readme.parent, name, stale) for name in found[2].split()]
    return text[: found.end(1)] + tables.table(_HEADER, lines) + "\n" + text[found.start(3) :]


def _line(root: Path, name: str, stale: Callable[[tables.Row], bool]) -> list[str]:
    """The cells of `EXPERIMENT/CONFIG:VARIANT` without overrides: the runs recorded last, one of each seed."""
    experiment, _, label = name.partition("/")
    path = root / "experiments" / experiment / "results.jsonl"
    recorded: Sequence[tables.Row] = records.read_lines(path) if path.exists() else []
    simple = [row for row in recorded if "baseline" in row]
    rows = [row for row in recorded if "suite" not in row and "baseline" not in row]
    groups = [runs for runs in tables.grouped(rows) if tables.label(runs[0]) == label]
    groups = [runs for runs in groups if not tables.shared_overrides(runs)]
    if not groups:
        raise ValueError(f"the headline table names {name}, but no run of it is recorded")
    runs = max(groups, key=lambda runs: max(rows.index(run) for run in runs))  # recorded last
    first, best = runs[0], baselines.strongest(runs, simple)
    value = formats.mean_sd([run["value"] for run in runs])
    count = f" ({len(runs)} {tables.repeats(runs)})" if len(runs) > 1 else ""
    return [
        f"[{experiment.replace('_', ' ')}](experiments/{experiment}/README.md)",
        f"[`{label}`]({first['file']})" + (f" · {tables.STALE}" if stale(first) else ""),
        first["data"]["name"],
        first["metric"].replace("/", " "),
        value + count + tables.choice(runs) + (baselines.BELOW if baselines.is_below(runs, best) else ""),
        baselines.cell(first, best),
        formats.sourced(first["reference"], first["reference_source"]),
    ]
