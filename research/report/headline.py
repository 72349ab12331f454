"""The headline table of the root README: one line per config listed in its marker, from the recorded rows.

The marker is `<!-- headline:begin EXPERIMENT/CONFIG:VARIANT ... -->`; the text after it, up to `<!-- headline:end -->`,
is regenerated from `experiments/EXPERIMENT/results.jsonl`.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from research.report import baselines, formats, records, tables

_MARKER = re.compile(r"(<!-- headline:begin ([^>]*?)\s*-->\n).*?(<!-- headline:end -->)", re.DOTALL)
_FIT_ON = "data.fit_on="
_HEADER = ("task", "config", "data", "metric", "result", "floor", "reference")


def pages(root: Path) -> list[Path]:
    """The root README and its existing translations, `README.LANGUAGE.md`."""
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


def configs(root: Path) -> list[str]:
    """`EXPERIMENT/CONFIG:VARIANT` of the headline table of the root README; empty without one."""
    readme = root / "README.md"
    found = _MARKER.search(readme.read_text("utf-8")) if readme.is_file() else None
    return found[2].split() if found else []


def _line(root: Path, name: str, stale: Callable[[tables.Row], bool]) -> list[str]:
    """The cells of `EXPERIMENT/CONFIG:VARIANT`: the runs recorded last, one per seed.

    Runs with overrides are left out, unless all that these do is to train on the validation split, too.
    """
    experiment, _, label = name.partition("/")
    path = root / "experiments" / experiment / "results.jsonl"
    recorded: Sequence[tables.Row] = records.read_lines(path) if path.exists() else []
    simple = [row for row in recorded if "baseline" in row]
    rows = [row for row in recorded if "suite" not in row and "baseline" not in row]
    groups = [runs for runs in tables.grouped(rows) if tables.label(runs[0]) == label]
    groups = [runs for runs in groups if all(text.startswith(_FIT_ON) for text in tables.shared_overrides(runs))]
    if not groups:
        raise ValueError(f"the headline table lists {name}, but no run of it is recorded; record one or remove it")
    runs = max(groups, key=lambda runs: max(rows.index(run) for run in runs))  # recorded last
    first, best = runs[0], baselines.strongest(runs, simple)
    value = formats.mean_sd([run["value"] for run in runs])
    return [
        f"[{experiment.replace('_', ' ')}](experiments/{experiment}/README.md)",
        f"[`{label}`]({first['file']})" + (tables.STALE if stale(first) else ""),
        first["data"]["name"],
        first["metric"].replace("/", " "),
        value + tables.spread(runs) + tables.choice(runs) + (baselines.BELOW if baselines.is_below(runs, best) else ""),
        baselines.cell(first, best),
        formats.sourced(first["reference"], first["reference_source"]),
    ]
