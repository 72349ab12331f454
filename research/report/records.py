"""Results rows: one JSON object for each recorded run, in `experiments/<experiment>/results.jsonl`.

The row of a training run is made by `read_run`; beside its metrics it has a published reference and, if no baseline has
been measured, the floor (score of a trivial baseline) stated in its config.
The row of a baseline has its name, `baseline`, and is made by `research/baselines/run.py`.
The row of a performance suite has `experiment, suite, config, measurements, hardware, commit, dirty, date, command`,
where a measurement is `{"name", "value", "unit", "goal"}`; the experiment `performance` passes it to `record`.
"""

import functools
import json
import math
import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from research import files
from research.data import sources
from research.report import baselines, formats, intervals, tried, trusted
from research.train import privacy, reporting

if TYPE_CHECKING:
    from research.train.rundir import AnyPath

ROOT = Path(__file__).resolve().parents[2]

_RUN_FILES = ("config.json", "metrics.jsonl", "timeline.jsonl", "result.json")
_FROM_SOURCE = ("experiment", "file", "variant", "overrides")
_FROM_RESULT = ("config_digest", "commit", "dirty", "data", "params", "seed", "steps", "mesh", "hardware")
_FROM_RESULT += ("wall_s", "versions", "command", "date", "metrics")
_COMPARED = ("floor", "floor_source", "reference", "reference_source")
_DATA = "data.name="
_EPSILON, _AUDIT = privacy.EPSILON, "privacy/report.json"
_ATTACKS = {"audit/loss": "run_loss", "audit/lira": "shadow_lira_online"}  # metric -> the attack that it is of
_IDENTITY = ("suite", "config", "file", "variant", "config_digest", "seed", "baseline", "commit", "hardware")


def read_run(workdir: str | os.PathLike, root: Path = ROOT, sweep: Path | None = None) -> dict[str, Any]:
    """The results row of a finished run directory; `sweep` is the folder of the sweep that chose its settings.

    The reference of its metrics is stored in its result.json, see train/reporting.py; the config file is read only for
    older runs. Raises ValueError for a run that is unfinished or cannot be read.
    """
    workdir = Path(workdir)
    source, result, report = _read(workdir, root)
    names = [report["metric"], *report["also"]]
    for name in names:
        if name not in result["metrics"]:
            known = ", ".join(sorted(result["metrics"]))
            raise ValueError(
                f"{workdir} lacks the metric {name!r} of RESULT in {source['file']} when it began; it has {known}; "
                f"correct RESULT, delete {workdir / 'result.json'} and run the same command, which only evaluates"
            )
    row: dict[str, Any] = {
        **{key: source[key] for key in _FROM_SOURCE},
        **{key: result[key] for key in _FROM_RESULT},
        "group": report["group"],
        "over": report["over"],
        "chosen_on": {
            "checkpoint": result.get("checkpoint_chosen_on"),  # None: an older run, without this record
            "settings": report.get("settings_chosen_on"),
        },
        "metric": names[0],
        "value": result["metrics"][names[0]],
        "interval": None,
        "difference": None,
        "signature": result.get("signatures", {}).get(names[0]),
        "also": names[1:],
        **({key: report[key] for key in _COMPARED} if not is_other_data(source, report) else dict.fromkeys(_COMPARED)),
    }
    if sweep:
        row["tried"] = tried.of_sweep(sweep, read_json(workdir / "config.json"), _config_file(source, root))
    elif found := tried.of_run(workdir):
        row["tried"] = found
    path = workdir / trusted.REPORT
    if path.is_file() and (found := read_json(path)).get("config_digest") == row["config_digest"]:
        row["trust"] = trusted.of(found)
    return _with_intervals(row | _privacy(row, workdir, result), workdir, root)


def _privacy(row: Mapping[str, Any], workdir: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """What replaces fields of the row of a run with DP-SGD or with a membership audit, see docs/privacy.md.

    `privacy` is what the result says of it, `audit` the attacks of the audit; their main figures are metrics, too.
    """
    changed, metrics = {}, {}
    if "privacy" in result:
        changed["privacy"] = result["privacy"]
        metrics |= {name: row["metrics"][name] for name in (_EPSILON,) if name in row["metrics"]}
    path = workdir / _AUDIT
    if path.is_file():
        found = read_json(path)
        if found["config_digest"] != row["config_digest"]:
            raise ValueError(f"{path} is of another config; repeat it with: tessera report privacy {workdir}")
        changed["audit"] = {key: found[key] for key in ("shadows", "attacks")}
        attacks = {name: found["attacks"].get(attack) for name, attack in _ATTACKS.items()}
        for name, attack in attacks.items():
            metrics |= {f"{name}_{key}": attack[key] for key in ("tpr", "auc")} if attack else {}
    if not changed:
        return {}
    return changed | {"metrics": {**row["metrics"], **metrics}, "also": [*row["also"], *metrics]}


def _with_intervals(row: dict[str, Any], workdir: Path, root: Path) -> dict[str, Any]:
    """The row with its `interval`, `[low, high, over]`, and its `difference` to the strongest baseline.

    Both are None if they cannot be computed from predictions, see intervals.py; the predictions of a baseline are those
    saved by `tessera baseline`. `differences` are those to all baselines, by name.
    """
    metric, value = row["metric"], row["value"]
    predictions = _predictions(workdir / "predictions.jsonl")
    if not predictions or not isinstance(value, float):
        return row
    found = intervals.of(metric, value, predictions)
    measured = _baselines(row, root)
    best, differences = baselines.strongest([row], measured), {}
    for name, other in baselines.measured([row], measured)[0].items() if found else ():
        path = root / baselines.PREDICTIONS / baselines.predictions_path(row, name)
        paired = intervals.difference(metric, (value, predictions), (other, _predictions(path)))
        if paired:
            differences[name] = paired._asdict()
    own = {"baseline": best.name, **differences[best.name]} if best and best.name in differences else None
    return row | {"interval": list(found) if found else None, "difference": own, "differences": differences}


def _predictions(path: Path) -> list[dict[str, Any]]:
    """The lines of a predictions file; empty if it is missing or damaged."""
    if not path.exists():
        return []
    lines, damaged = files.read_json_lines(path, lambda record: True)
    return [] if damaged else lines


def _baselines(row: Mapping[str, Any], root: Path) -> list[dict[str, Any]]:
    path = root / "experiments" / row["experiment"] / "results.jsonl"
    return [other for other in read_lines(path) if "baseline" in other] if path.exists() else []


def own_data(workdir: str | os.PathLike, root: Path = ROOT) -> bool:
    """Whether the data set of a run is not that of its config file, see `is_other_data`."""
    source, _, report = _read(Path(workdir), root)
    return is_other_data(source, report)


def is_other_data(source: Mapping[str, Any], report: Mapping[str, Any]) -> bool:
    """Whether an override chose a data set other than that of the config file's floor and reference.

    Another configuration of one of our data sets, such as a fold, counts as the same data set. `report` is a report
    spec, see train/reporting.py.
    """
    named = [text.removeprefix(_DATA) for text in source["overrides"] if text.startswith(_DATA)]
    if not named:
        return False
    same_set = named[-1].partition("/")[0] == report["data"].partition("/")[0] in sources.OWN
    return named[-1] != report["data"] and not same_set


def _read(workdir: Path, root: Path) -> tuple[dict[str, Any], dict[str, Any], Mapping[str, Any]]:
    """The source of the config of a run, its result, and its report spec."""
    _check_complete(workdir)
    source, result = read_source(workdir), read_json(workdir / "result.json")
    _check_keys(result, _FROM_RESULT, workdir / "result.json")
    return source, result, result.get("report") or reporting.of_file(source, _config_file(source, root))


def summary(workdir: str | os.PathLike, root: Path = ROOT) -> str:
    """The row of a finished run as aligned lines of name and value. Raises ValueError as `read_run` does."""
    row, other = read_run(workdir, root), own_data(workdir, root)
    others = sorted(name for name in row["metrics"] if name != row["metric"])
    signature = f"  [{row['signature']}]" if row["signature"] else ""
    lines = {
        "experiment": row["experiment"],
        "config": " ".join([f"{row['file']}:{row['variant']}", *row["overrides"]]),
        "digest": row["config_digest"],
        "result": f"{row['metric']} {formats.number(row['value'])}{formats.interval(row)}{signature}",
        "floor": _floor(row, other, root),
        "difference": _difference(row, root),
        "reference": _compared(row, "reference", other),
        **({"settings": text.removeprefix("settings: ")} if (text := tried.fact(row)) else {}),
        "also": ", ".join(f"{name} {formats.number(row['metrics'][name])}" for name in others) or "nothing",
        "data": formats.dataset(row["data"]),
        "model": f"{row['params']:,} parameters",
        "training": f"{row['steps']:,} steps in {formats.duration(row['wall_s'])}, seed {row['seed']}",
        "goodput": _goodput(read_json(Path(workdir) / "result.json")),
        "machine": f"{row['hardware']}; mesh: {formats.mesh(row['mesh'])}",
        "versions": ", ".join(f"{name} {version}" for name, version in row["versions"].items()),
        "commit": f"{formats.commit(row)}  ({row['date']})",
        "command": row["command"],
    }
    width = max(map(len, lines))
    return "\n".join(f"{name:{width}}  {text}" for name, text in lines.items())


def read_source(workdir: Path) -> dict[str, Any]:
    """The source of the config of a run: experiment, file, variant, overrides and digest."""
    path = workdir / "config.json"
    config = read_json(path)
    _check_keys(config, ("source",), path)
    _check_keys(config["source"], (*_FROM_SOURCE, "digest"), path)
    return config["source"]


def read_json(path: "AnyPath") -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError if it is not one, or if its checksum is wrong."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:  # no JSON, no UTF-8
        raise ValueError(f"{path} is not JSON ({error}); run the command of this run again") from None
    if not isinstance(content, dict) or not files.is_intact(content):
        raise ValueError(f"{path} is damaged: its checksum is wrong; run the command of this run again")
    return content


def read_lines(path: "AnyPath") -> list[dict[str, Any]]:
    """The objects in a JSON-lines file. Raises ValueError, with the line number, if a line is not JSON."""
    rows = []
    with path.open("rb") as lines:
        for line, text in enumerate(lines, start=1):
            try:
                rows.append(json.loads(text))
            except ValueError as error:  # no JSON, no UTF-8
                reason = getattr(error, "msg", error)
                raise ValueError(f"{path}, line {line} is not JSON ({reason}); repair that line") from None
    return rows


def record(row: Mapping[str, Any], root: Path = ROOT) -> bool:
    """Adds a row to its experiment's results.jsonl; returns True if it replaced a row with the same config and seed.

    What a sweep has tried is taken over from an earlier row with the same settings, unless the row says it itself.
    Raises ValueError if there is no such experiment.
    """
    path = results_path(row["experiment"], root)
    rows = read_lines(path) if path.exists() else []
    runs = [other for other in rows if "group" in other]  # neither baselines nor suites
    known = [other["tried"] for other in runs if "tried" in other and other["group"] == row.get("group")]
    if known and row["group"] and "tried" not in row:
        row = {**row, "tried": known[-1]}
    others = [other for other in rows if _identity(other) != _identity(row)]
    lines = [json.dumps(other, ensure_ascii=False) + "\n" for other in (*others, row)]
    files.write_atomically(path, "".join(lines))
    return len(others) < len(rows)


def results_path(experiment: str, root: Path = ROOT) -> Path:
    """`experiments/<experiment>/results.jsonl`. Raises ValueError if there is no such experiment."""
    folder = root / "experiments" / experiment
    if not folder.is_dir():
        known = sorted(path.parent.name for path in root.glob("experiments/*/README.md"))
        raise ValueError(
            f"unknown experiment {experiment!r}; choose from those in {root}: {', '.join(known) or 'none'}"
        )
    return folder / "results.jsonl"


def is_stale(row: Mapping[str, Any], root: Path = ROOT) -> bool:
    """Whether the config of the row's file, variant and overrides, or the version of its data set, has changed."""
    if "suite" in row:
        return False
    if _version(row["data"]["name"]) not in (None, row["data"]["version"]):
        return True
    return (
        "baseline" not in row
        and reporting.current_digest(row, row["overrides"], _config_file(row, root)) != row["config_digest"]
    )


@functools.cache
def _version(name: str) -> str | None:
    return sources.own_version(name)


@functools.cache
def is_lost(commit: str, root: Path = ROOT) -> bool:
    """Whether a commit is not in the history of the repository at `root`; False if that is unknown."""
    git = ["git", "-C", str(root)]
    try:
        shallow = subprocess.run([*git, "rev-parse", "--is-shallow-repository"], capture_output=True, text=True)
        if shallow.stdout.strip() != "false":
            return False
        return bool(
            subprocess.run([*git, "merge-base", "--is-ancestor", commit, "HEAD"], capture_output=True).returncode
        )
    except OSError:  # no git
        return False


def _compared(row: Mapping[str, Any], key: str, own: bool) -> str:
    """A value of the row with its source, such as `0.1 (chance)`; none for own data, to which it does not apply."""
    if own:
        return f"none for {row['data']['name']}"
    return formats.sourced(row[key], row[f"{key}_source"])


def _floor(row: Mapping[str, Any], own: bool, root: Path) -> str:
    """The strongest baseline that was measured on these data, else the floor stated in the config."""
    best = baselines.strongest([row], _baselines(row, root))
    return baselines.cell(row, best) if best else _compared(row, "floor", own)


def _difference(row: Mapping[str, Any], root: Path) -> str:
    """The paired difference to the strongest baseline, or the reason why it is missing."""
    best = baselines.strongest([row], _baselines(row, root))
    if row["difference"] or not best:
        return formats.difference(row) or "no baseline was measured"
    path = root / baselines.PREDICTIONS / baselines.predictions_path(row, best.name)
    if not row["interval"]:
        return "it cannot be computed from the predictions of the run"
    if not path.exists():
        return f"no predictions of its floor; run: tessera baseline --config={row['file']}:{row['variant']}"
    value = intervals.value(row["metric"], _predictions(path))
    if value is not None and not math.isclose(value, best.value, rel_tol=intervals.TOLERANCE):
        return (
            f"the predictions of its floor give {formats.number(value)}, its row {formats.number(best.value)}; run: "
            f"tessera baseline --config={row['file']}:{row['variant']} --record"
        )
    return f"{path} holds no predictions of these examples; measure the baselines again"


def _goodput(result: Mapping[str, Any]) -> str:
    """Goodput, such as `91.3% of the time in steps that were kept (step 45 min 1 s, eval 2 min 3 s, ...)`."""
    parts = ", ".join(f"{kind} {formats.duration(spent)}" for kind, spent in result.get("time_s", {}).items())
    return f"{result['goodput']:.1%} of the time in steps that were kept ({parts})" if parts else "not recorded"


def _config_file(source: Mapping[str, Any], root: Path) -> str:
    """The config file of a run: below `root`, or at the path given in the command of the run."""
    file = root / source["file"]
    return str(file) if file.is_file() else source["file"]


def _identity(row: Mapping[str, Any]) -> tuple:
    return tuple(row.get(key) for key in _IDENTITY)


def _check_complete(workdir: Path) -> None:
    if not (workdir / "config.json").is_file():
        raise ValueError(f"{workdir} is not a run directory: it has no config.json; give the --workdir of a run")
    missing = [name for name in _RUN_FILES if not (workdir / name).is_file()]
    if missing:
        raise ValueError(f"the run in {workdir} is unfinished: no {', '.join(missing)}; run its command again")


def _check_keys(record: Mapping[str, Any], keys: Iterable[str], path: Path) -> None:
    missing = [key for key in keys if key not in record]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; run the command of this run again")
