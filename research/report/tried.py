"""What a sweep has tried before the run of a row, as recorded in the row: settings and their validation metric."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from research import config as config_lib
from research.report import formats
from research.train import rundir

RANKING = "ranking.json"  # in the folder of a sweep, see sweep/ranking.py
MOST = 50  # trials that are recorded, best first


def of_run(workdir: Path) -> dict[str, Any] | None:
    """The trials of the sweep whose winner is the run in `workdir`; None for other runs.

    Returns:
        `metric` and `mode`, by which settings were chosen; `count`, the number of trials; and the first MOST `trials`,
        best first, each with its `settings`, its `validation` metric by seed and its `status`; `taken`, the index of
        the trial whose settings the run has.
    """
    try:
        content = rundir.read_json(Path(workdir).absolute().parent / RANKING)
    except (OSError, ValueError):  # no sweep, or a damaged ranking
        return None
    return _trials(content, 0) if Path(workdir).absolute().name in content.get("test", {}) else None


def of_sweep(folder: Path, config: Mapping[str, Any], file: str) -> dict[str, Any]:
    """The trials of the sweep in `folder`, see `of_run`, for a run elsewhere whose settings were chosen by it.

    `config` is the content of the run's config.json, `file` its config file. The length of training may differ from
    that of the trials. Raises ValueError if the folder has no ranking, or if no trial has the settings of the run.
    """
    path = Path(folder) / RANKING
    try:
        content = rundir.read_json(path)
    except OSError:
        raise ValueError(f"--sweep={folder} has no {RANKING}; give the --workdir of a finished tessera sweep") from None
    cls = config_lib.load_file(file).EXPERIMENT
    same = [
        (len(trial["settings"]), -index)
        for index, trial in enumerate(content["trials"])
        if trial["status"] == "finished" and _has(cls, config, trial["settings"])
    ]
    if not same:
        raise ValueError(
            f"the settings of the run are not those of a finished trial of --sweep={folder}: "
            f"{'; '.join(' '.join(trial['settings']) or 'unchanged config' for trial in content['trials'])}"
        )
    return _trials(content, -max(same)[1])  # of two trials that it agrees with, that which says more


def _has(cls: type[config_lib.Config], config: Mapping[str, Any], settings: Sequence[str]) -> bool:
    """Whether `settings`, such as `optimizer=sgd`, change nothing of a config that a resumed run may not change."""
    try:
        changed = config_lib.of_run(cls, config, settings)
    except ValueError:  # a field that no longer exists
        return False
    return not config_lib.differences(config, changed)[1]


def _trials(content: Mapping[str, Any], taken: int) -> dict[str, Any]:
    keys = ("settings", "validation", "status")
    trials = [{key: trial[key] for key in keys} for trial in content["trials"]]
    kept = {"trials": trials[:MOST], "taken": taken}
    return {"metric": content["metric"], "mode": content["mode"], "count": len(trials), **kept}


def fact(row: Mapping[str, Any]) -> str:
    """`settings: 6 compared on validation/accuracy (best 0.98 ± 0.01; the next one 0.97)`; "" without a sweep.

    If the row has other settings than the best ones, which its page then explains, their metric is added.
    """
    tried = row.get("tried")
    if not tried:
        return ""
    means = [formats.mean_sd(list(each["validation"].values())) for each in tried["trials"] if each["validation"]]
    following = f"; the next one {means[1]}" if means[1:] else ""
    if 0 < tried.get("taken", 0) < len(means):
        following += f"; those of this row {means[tried['taken']]}"
    return f"settings: {tried['count']} compared on {tried['metric']} (best {means[0]}{following})"


def lines(row: Mapping[str, Any]) -> list[str]:
    """A Markdown table of the trials; empty without a sweep."""
    tried = row.get("tried")
    if not tried:
        return []
    found = [f"| settings | {tried['metric']} | seeds | |", "|---|---|---|---|"]
    for index, each in enumerate(tried["trials"]):
        values = list(each["validation"].values())
        settings = " ".join(each["settings"]) or "unchanged config"
        status = each["status"]
        if status == "finished":  # `taken` is absent from older rows
            status = "this row" if tried.get("taken") == index else ""
        found.append(f"| `{settings}` | {formats.mean_sd(values) if values else '-'} | {len(values)} | {status} |")
    if (left := tried["count"] - len(tried["trials"])) > 0:
        found.append(f"| and {left} more | | | |")
    return found
