"""Results rows as Markdown tables, kept between two markers in each experiment's README.md.

A table row stands for one (config file, variant, digest, hardware), with the newest run of each seed.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.report import baselines, formats, plots, records, tried, trusted

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
STALE = " · **stale**"
_EARLIER_TITLE = "Earlier rows: the config has changed since the run (stale), or a newer one has replaced it"
ON_TEST = " · **settings chosen on test**"
LOST = " (not in the history)"

_LEGEND = (
    "Mean ± sample standard deviation where there are several runs, [low, high]: 95 % bootstrap "
    "interval over the test examples of a single one. \\*: uncommitted changes. "
    "Settings chosen on test: some were compared there, so that the score "
    "is too good by an unknown amount."
)
_SUITE_LEGEND = "The newest measurement of each suite, config and machine. \\*: uncommitted changes."

Row = Mapping[str, Any]


class Marks(NamedTuple):
    """Predicates that mark rows in tables: the config has changed; the commit is not in the history."""

    stale: Callable[[Row], bool] = lambda row: False
    lost: Callable[[Row], bool] = lambda row: False


def readmes(root: Path) -> list[Path]:
    """The README of every experiment that has results or the markers of a results table."""
    pages = sorted(root.glob("experiments/*/README.md"))
    recorded = [path.with_name("README.md") for path in sorted(root.glob("experiments/*/results.jsonl"))]
    for page in recorded:
        if page not in pages:
            raise ValueError(f"{page} is missing beside results.jsonl; write one with the lines {BEGIN} and {END}")
    return [page for page in pages if page in recorded or BEGIN in page.read_text("utf-8")]


def updated(readme: Path, marks: Marks) -> str:
    """A README with its table regenerated from the rows and plots beside it. Raises ValueError if it has no markers."""
    text = readme.read_text("utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{readme} must hold the line {BEGIN} once and, after it, the line {END} once")
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    path = readme.parent / "results.jsonl"
    rows = records.read_lines(path) if path.exists() else []
    runs = sorted((row for row in rows if "suite" not in row and "baseline" not in row), key=lambda row: row["date"])
    newest = plots.newest(readme.parent, runs)
    others = plots.section(readme.parent, newest)
    parts = [newest, render(rows, marks)]
    parts += [_collapsed("Plots of the runs that were recorded last, of the other configs", others)] if others else []
    return f"{before}{BEGIN}\n" + "\n\n".join(filter(None, parts)) + f"\n{after}"


def differs(readme: Path, stale: Callable[[Row], bool]) -> bool:
    """Whether a table differs from its rows; marks of lost commits are ignored, since the history may be shallow."""
    return updated(readme, Marks(stale)) != readme.read_text("utf-8").replace(LOST, "")


def render(rows: Sequence[Row], marks: Marks = Marks()) -> str:  # noqa: B008  it is immutable
    """The tables of an experiment: one for each choice of metrics, and one for its performance suites."""
    if not rows:
        return "_No runs recorded yet._"
    rows = sorted(rows, key=lambda row: row["date"])
    measured = [row for row in rows if "suite" in row]
    simple = [row for row in rows if "baseline" in row]
    suites = _newest(measured, lambda row: (row["suite"], row["config"], row["hardware"]))
    tables: dict[tuple, list[tuple[list[Row], bool]]] = {}
    groups = grouped([row for row in rows if "suite" not in row and "baseline" not in row])
    for runs, is_old in zip(groups, superseded(groups), strict=True):
        also = dict.fromkeys(name for run in runs for name in run["also"])
        tables.setdefault((runs[0]["metric"], *also), []).append((runs, is_old))
    parts = [_metric_table(names, groups, simple, marks) for names, groups in tables.items()]
    parts += [_baseline_table(simple)] if simple else []
    return "\n\n".join(parts + ([_suite_table(suites, marks)] if suites else []))


def grouped(rows: Sequence[Row]) -> list[list[Row]]:
    """Groups of runs that differ only in their seed; sorted by config, newest first within a config.

    Of the same day, those that were recorded later are newer.
    """
    groups: dict[tuple, list[Row]] = {}
    by_date = sorted(rows, key=lambda row: row["date"])
    for row in _newest(by_date, lambda row: (*_group_key(row), row["seed"], row["config_digest"])):
        key = _group_key(row)
        groups[key] = [*groups.pop(key, ()), row]  # so that the group with the newest row is the last
    return sorted(reversed(groups.values()), key=lambda runs: (runs[0]["file"], runs[0]["variant"]))


def _group_key(row: Row) -> tuple:
    # With the fingerprint, since runs on data with different content are not comparable, unless the runs of a group
    # differ in their data by design.
    fingerprint = None if row["over"] == "data.name" else row["data"]["fingerprint"]
    return row["file"], row["variant"], row["group"], row["hardware"], fingerprint


def _newest(rows: Sequence[Row], key: Callable[[Row], tuple]) -> list[Row]:
    """The last row of each key, in the order of `rows`, by date."""
    last = {key(row): row for row in rows}
    return [row for row in rows if last[key(row)] is row]


def _metric_table(
    names: tuple[str, ...], groups: Sequence[tuple[Sequence[Row], bool]], simple: Sequence[Row], marks: Marks
) -> str:
    """The table of some groups of runs, those that are stale or, as given, superseded below it."""
    header = ["config", *(name.replace("/", " ") for name in names)]
    header += ["floor", "reference", "params", "steps", "mesh", "hardware", "time", "commit"]
    lines = {True: [], False: []}
    for runs, is_old in groups:
        cells = _metric_cells(names, runs, baselines.strongest(runs, simple), marks)
        lines[is_old or cells[0].endswith(STALE)].append(cells)
    details = "\n\n".join(_details(runs, simple) for runs, _ in groups)
    parts = [table(header, lines[False])] if lines[False] else []
    paired = any("difference" in run and run["difference"] for runs, _ in groups for run in runs)
    parts += [f"{_LEGEND} {baselines.LEGEND}" + (f" {baselines.DIFFERENCES}" if paired else "")]
    parts += [_collapsed(_EARLIER_TITLE, table(header, lines[True]))] if lines[True] else []
    return "\n\n".join([*parts, _collapsed("Commands, seeds and data of these rows", details)])


def superseded(groups: Sequence[Sequence[Row]]) -> list[bool]:
    """Whether each of `groups`, newest first within a config, has a newer one before it.

    That is one of the same config file, variant and overrides, on the same accelerator or also on a CPU: with other
    settings, other content of the data or another number of cores.
    """
    seen: set[tuple] = set()
    found = []
    for runs in groups:
        chip = "" if "core" in runs[0]["hardware"] else runs[0]["hardware"]
        key = runs[0]["file"], runs[0]["variant"], chip, *shared_overrides(runs)
        found.append(key in seen)
        seen.add(key)
    return found


def spread(runs: Sequence[Row]) -> str:
    """What follows the mean of the main metric: ` (3 seeds)`, or the interval of a single run; "" if it has none."""
    return f" ({len(runs)} {repeats(runs)})" if len(runs) > 1 else formats.interval(runs[0])


def _metric_cells(
    names: tuple[str, ...], runs: Sequence[Row], best: baselines.Strongest | None, marks: Marks
) -> list[str]:
    first = runs[0]
    values = [_mean(name, runs) for name in names]
    values[0] += spread(runs) + choice(runs)
    values[0] += baselines.BELOW if baselines.is_below(runs, best) else ""
    overrides = "".join(f" `{override}`" for override in shared_overrides(runs))
    name = f"[`{label(first)}`](../../{first['file']}){overrides}"
    return [
        name + (STALE if any(marks.stale(run) for run in runs) else ""),
        *values,
        baselines.cell(first, best) + baselines.differences(runs, best),
        formats.sourced(first["reference"], first["reference_source"]),
        formats.count(first["params"]),
        _distinct(f"{run['steps']:,}" for run in runs),
        _distinct(formats.mesh(run["mesh"]) for run in runs),
        first["hardware"],
        formats.duration(statistics.fmean(run["wall_s"] for run in runs)),
        _distinct(_commit(run, marks) for run in runs),
    ]


def _mean(name: str, runs: Sequence[Row]) -> str:
    """The mean of a metric, and of how many runs it is if not of all: a membership audit may be of one seed."""
    found = [run["metrics"][name] for run in runs if name in run["metrics"]]
    return formats.mean_sd(found) + (f" ({len(found)} of {len(runs)})" if len(found) < len(runs) else "")


def _details(runs: Sequence[Row], simple: Sequence[Row]) -> str:
    """Details below the table: seeds, date, digest, data, the metric's signature, folds and the commands."""
    first = runs[0]
    dates = sorted({run["date"][:10] for run in runs})
    facts = [
        f"**{label(first)}**",
        f"seed {_distinct(str(run['seed']) for run in runs)}",
        " to ".join(dict.fromkeys((dates[0], dates[-1]))),
        f"config digest {_distinct(run['config_digest'] for run in runs)}",
        f"commit {_distinct(formats.commit(run) for run in runs)}",
        f"data {formats.dataset(first['data'])}",
    ]
    if chosen := chosen_on(first, "checkpoint"):
        facts.append("last checkpoint" if chosen == "nothing" else f"checkpoint chosen on {chosen}")
    if settings := tried.fact(first):
        facts.append(settings)
    if first["signature"]:
        facts.append(f"{first['metric']} as `{first['signature']}`")
    facts += [text for run in runs if (text := trusted.fact(run))]
    header, lines = baselines.by_data_set(runs, simple)
    folds = table(header, lines) if lines else ""
    parts = [" · ".join(facts), folds, "\n".join(tried.lines(first)), _commands(runs)]
    return "\n\n".join(filter(None, parts))


def _baseline_table(rows: Sequence[Row]) -> str:
    header, lines = baselines.table(rows)
    title = "Baselines that were measured: fitted on train, scored once on test"
    return _collapsed(title, f"{table(header, lines)}\n\n{_commands(rows)}")


def _suite_table(rows: Sequence[Row], marks: Marks) -> str:
    """A table of the measurements with a goal, and below it one of all, with full configs."""
    met = {True: "met", False: "**missed**", None: "-"}
    goals = [
        [row["suite"], _short(row["config"]), each["name"], formats.measured(each), each["goal"], met[each["met"]]]
        for row in rows
        for each in row["measurements"]
        if each["goal"]
    ]
    header = ["suite", "config", "measured", "value", "goal", "hardware", "date", "commit"]
    lines = [
        [
            row["suite"], f"`{row['config']}`", each["name"], formats.measured(each), each["goal"] or "-",
            row["hardware"], row["date"][:10], _commit(row, marks),
        ]
        for row in rows
        for each in row["measurements"]
    ]  # fmt: skip
    every = _collapsed("All measurements", f"{table(header, lines)}\n\n{_SUITE_LEGEND}")
    parts = [table(["suite", "config", "measured", "value", "goal", ""], goals)] if goals else []
    return "\n\n".join([*parts, every, _collapsed("Commands of these rows", _commands(rows))])


def _short(config: str) -> str:
    """The label of a config, such as `digits_vit:cpu`, and its number of overrides; other names are unchanged."""
    file, *overrides = config.split()
    path, _, variant = file.partition(":")
    if not path.endswith(".py"):
        return f"`{config}`"
    name = f"{Path(path).stem}:{variant}" if variant else Path(path).stem
    return f"`{name}`" + (
        f" with {len(overrides)} {'field' if len(overrides) == 1 else 'fields'} changed" if overrides else ""
    )


def choice(runs: Sequence[Row]) -> str:
    """The mark of runs whose settings were chosen on the split of their score; "" for others."""
    return ON_TEST if any(chosen_on(run, "settings") == "test" for run in runs) else ""


def chosen_on(row: Row, what: str) -> str | None:
    """The split on which the `checkpoint` or the `settings` of a run were chosen; None if not recorded."""
    return row.get("chosen_on", {}).get(what)


def _commit(row: Row, marks: Marks) -> str:
    return f"`{formats.commit(row)}`" + (LOST if marks.lost(row) else "")


def label(row: Row) -> str:
    """The label of a row's config, such as `digits_vit:cpu`."""
    return f"{Path(row['file']).stem}:{row['variant']}"


def shared_overrides(runs: Sequence[Row]) -> list[str]:
    """The overrides common to all runs of a table row, without the field in which the runs differ."""
    apart = ("seed=", f"{runs[0]['over']}=")
    shared = [text for text in runs[0]["overrides"] if all(text in run["overrides"] for run in runs)]
    return [text for text in shared if not text.startswith(apart)]


def repeats(runs: Sequence[Row]) -> str:
    """What the runs differ in: `seeds`, `folds` for one seed, or `runs` if both differ."""
    over = runs[0]["over"].rpartition(".")[2]
    return f"{over}s" if over == "seed" or len({run["seed"] for run in runs}) == 1 else "runs"


def _distinct(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts))


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rule = ["---"] * len(header)
    return "\n".join(f"| {' | '.join(_cell(text) for text in line)} |" for line in (header, rule, *lines))


def _cell(text: str) -> str:
    return " ".join(str(text).replace("|", "\\|").split())


def _commands(rows: Sequence[Row]) -> str:
    commands = "\n".join(dict.fromkeys(row["command"] for row in rows))
    return f"```sh\n{commands}\n```"


def _collapsed(title: str, text: str) -> str:
    return f"<details>\n<summary>{title}</summary>\n\n{text}\n\n</details>"
