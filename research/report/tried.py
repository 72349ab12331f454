"""What a sweep has tried before the run of a row, as recorded in the row: settings and their validation metric."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.report import formats
from research.train import rundir

RANKING = "ranking.json"  # in the folder of a sweep, see sweep/ranking.py
MOST = 50  # trials that are recorded, best first


def of_run(workdir: Path) -> dict[str, Any] | None:
    """The trials of the sweep whose winner is the run in `workdir`; None for other runs.

    Returns:
        `metric` and `mode`, by which settings were chosen; `count`, the number of trials; and the first MOST `trials`,
        best first, each with its `settings`, its `validation` metric by seed and its `status`.
    """
    try:
        content = rundir.read_json(Path(workdir).absolute().parent / RANKING)
    except (OSError, ValueError):  # no sweep, or a damaged ranking
        return None
    return _trials(content) if Path(workdir).absolute().name in content.get("test", {}) else None


def of_sweep(folder: Path) -> dict[str, Any]:
    """The trials of the sweep in `folder`, see `of_run`, for a run elsewhere whose settings were chosen by it.

    Raises ValueError if the folder has no ranking.
    """
    path = Path(folder) / RANKING
    try:
        return _trials(rundir.read_json(path))
    except OSError:
        raise ValueError(f"--sweep={folder} has no {RANKING}; give the --workdir of a finished tessera sweep") from None


def _trials(content: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("settings", "validation", "status")
    trials = [{key: trial[key] for key in keys} for trial in content["trials"]]
    return {"metric": content["metric"], "mode": content["mode"], "count": len(trials), "trials": trials[:MOST]}


def fact(row: Mapping[str, Any]) -> str:
    """`settings: 6 compared on validation/accuracy (best 0.98 ± 0.01; the next one 0.97)`; "" without a sweep.

    A row may have another setting than the best one, which its page then explains.
    """
    tried = row.get("tried")
    if not tried:
        return ""
    best, *others = [
        formats.mean_sd(list(each["validation"].values())) for each in tried["trials"] if each["validation"]
    ]
    following = f"; the next one {others[0]}" if others else ""
    return f"settings: {tried['count']} compared on {tried['metric']} (best {best}{following})"


def lines(row: Mapping[str, Any]) -> list[str]:
    """A Markdown table of the trials; empty without a sweep."""
    tried = row.get("tried")
    if not tried:
        return []
    found = [f"| settings | {tried['metric']} | seeds | |", "|---|---|---|---|"]
    for each in tried["trials"]:
        values = list(each["validation"].values())
        settings = " ".join(each["settings"]) or "unchanged config"
        status = "" if each["status"] == "finished" else each["status"]
        found.append(f"| `{settings}` | {formats.mean_sd(values) if values else '-'} | {len(values)} | {status} |")
    if (left := tried["count"] - len(tried["trials"])) > 0:
        found.append(f"| and {left} more | | | |")
    return found
