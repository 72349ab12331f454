"""`tessera rows FILE`: trains and records the runs of a list whose rows are missing or stale."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research import command
from research import config as config_lib
from research.cli.sweep import TRAIN
from research.measure import progress
from research.report import __main__ as report
from research.report import records

LIST = Path("experiments/rows.txt")


class Entry(NamedTuple):
    """A line of the list: a config with overrides.

    name     the name of its run directory, such as `orl_verification_seed=1`
    config   the loaded config
    words    the arguments of `tessera train`
    """

    name: str
    config: Any
    words: list[str]


def main(words: Sequence[str]) -> None:
    """Trains the runs without a row, one after the other, and records each. Raises ValueError for user errors."""
    parser = command.Parser(
        prog="tessera rows",
        description="Trains the runs of a list that have no row yet, or whose row is stale, and records each one when "
        "it is finished. The same command continues after an interruption.",
        epilog="A line of the list is FILE[:VARIANT] FIELD=VALUE ...; # starts a comment.",
    )
    parser.add_argument("file", type=Path, nargs="?", default=LIST, metavar="FILE", help=f"default: {LIST}")
    parser.add_argument(
        "--workdir", type=Path, default=Path("runs/rows"), metavar="DIR", help="for the run directories"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="only runs whose name contains this text")
    parser.add_argument("--list", action="store_true", help="only show the runs and the state of their rows")
    parser.add_argument(
        "--commit", action="store_true", help="commit each row, so that the next run has no uncommitted changes"
    )
    arguments = parser.parse_args(words)
    entries = [each for each in read(arguments.file) if arguments.only in each.name]
    if not entries:
        raise ValueError(f"--only={arguments.only}: no run of {arguments.file} has this in its name; see --list")
    states = {entry.name: state(entry, arguments.workdir / entry.name) for entry in entries}
    if arguments.list:
        width = max(map(len, states))
        print("\n".join(f"{name:{width}}  {found}" for name, found in states.items()))
        return
    missing = [entry for entry in entries if not states[entry.name].startswith("recorded")]
    for number, entry in enumerate(missing, start=1):
        progress.say(f"run {number} of {len(missing)}: {entry.name}")
        _make(entry, arguments.workdir / entry.name, arguments.commit)


def read(path: Path) -> list[Entry]:
    """The entries of a list; every config is loaded. Raises ValueError with the line number for one that is invalid."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the list {path} cannot be read: {getattr(error, 'strerror', error)}") from None
    entries: dict[str, Entry] = {}
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].split()
        if not text:
            continue
        source = config_lib.Source.parse(text[0])
        try:
            config = config_lib.load(source.file, source.variant, text[1:])
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        name = "_".join([Path(source.file).stem, *(part.replace("/", "-") for part in text[1:])])
        if name in entries:
            raise ValueError(f"{path}, line {number} repeats {name}; remove it")
        entries[name] = Entry(name, config, [f"--config={text[0]}", *(f"--config.{part}" for part in text[1:])])
    if not entries:
        raise ValueError(f"the list {path} is empty; add a line such as configs/NAME/CONFIG.py:cpu seed=1")
    return list(entries.values())


def state(entry: Entry, workdir: Path, root: Path = records.ROOT) -> str:
    """`recorded at COMMIT`, or what is missing; `workdir` is the run directory of the entry."""
    source = entry.config.source
    path = records.results_path(source.experiment, root)
    rows = [row for row in (records.read_lines(path) if path.exists() else []) if _is_of(row, entry)]
    current = [row for row in rows if row["config_digest"] == source.digest and not records.is_stale(row, root)]
    problems = [_problem(row, root) for row in current]
    for row, problem in zip(current, problems, strict=True):
        if not problem:
            return f"recorded at {row['commit'][:7]}"
    if (workdir / "result.json").is_file():
        return "finished, not recorded"
    if (workdir / "config.json").is_file():
        return "started"
    return problems[-1] if problems else "stale" if rows else "missing"


def _is_of(row: dict[str, Any], entry: Entry) -> bool:
    """Whether a row is of the config file, variant, seed and overrides of an entry, or has its digest."""
    source = entry.config.source
    if "baseline" in row or (row["file"], row["variant"], row["seed"]) != (
        source.file, source.variant, entry.config.seed
    ):  # fmt: skip
        return False
    return row["config_digest"] == source.digest or sorted(row["overrides"]) == sorted(source.overrides)


def _problem(row: dict[str, Any], root: Path) -> str:
    """Why a row of the current config must be made again; empty if it need not be."""
    if row["dirty"]:
        return "made with uncommitted changes"
    if records.is_lost(row["commit"], root):
        return "made at a commit that is not in the history"
    return "settings were chosen on test" if row["chosen_on"]["settings"] == "test" else ""


def _make(entry: Entry, workdir: Path, commit: bool) -> None:
    """Trains, records and, if asked, commits. Raises SystemExit with the code of a training that did not finish."""
    code = subprocess.run([*TRAIN, *entry.words, f"--workdir={workdir}"]).returncode
    if code:
        progress.say(f"{entry.name} ended with code {code}; the same command continues")
        raise SystemExit(code)
    report.add([workdir], records.ROOT, own_data=False)
    report.write_tables(records.ROOT)
    if commit:
        git = ["git", "-C", str(records.ROOT)]
        subprocess.run([*git, "add", "experiments", "README.md", "README.zh.md"], check=True)
        subprocess.run([*git, "commit", "-q", "-m", f"Row of {entry.name}"[:72]], check=True)
