"""`python -m research.report add|show WORKDIR...`, `compare RUN OTHER`, `tables` and `check`; see `--help`."""

from research import interrupt

if __name__ == "__main__":
    interrupt.end_on_interrupt()  # before the slow imports, so that Ctrl-C never ends in a traceback

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from research import command, files
from research.report import audits, colab, compare, headline, plots, records, tables


def add(workdirs: list[Path], root: Path, own_data: bool, sweep: Path | None = None) -> int:
    """Records finished runs and keeps their plots; nothing is written unless all of them can be read.

    Rows belong to the repository, so a run on a data set other than that of its config file needs --own_data.
    """
    rows = [records.read_run(workdir, root, sweep) for workdir in workdirs]
    for workdir, row in zip(workdirs, rows, strict=True):
        if row["value"] is None:
            raise ValueError(f"{row['metric']} of {workdir} is not finite, so there is nothing to record")
        records.results_path(row["experiment"], root)
        if records.own_data(workdir, root) and not own_data:
            raise ValueError(
                f"{workdir} was trained on {row['data']['name']}, not on the data of {row['file']}; `show {workdir}` "
                f"prints its row, and --own_data records it in experiments/{row['experiment']} all the same"
            )
    for workdir, row in zip(workdirs, rows, strict=True):
        done = "replaces the row of this config and seed" if records.record(row, root) else "added"
        print(f"experiments/{row['experiment']}/results.jsonl: {workdir} {done}")
        for plot in plots.keep(workdir, row, root):
            print(f"{plot.relative_to(root)}: written")
    print("now run: python -m research.report tables")
    return 0


def show(workdirs: list[Path], root: Path) -> int:
    """Prints the rows of runs."""
    print("\n\n".join(records.summary(workdir, root) for workdir in workdirs))
    return 0


def show_differences(run: Path, other: Path, root: Path) -> int:
    """Prints the differences of two runs on the same test examples, run - OTHER, with paired bootstrap intervals."""
    print(compare.table(run, other, root))
    return 0


def write_tables(root: Path) -> int:
    """Regenerates the tables of every README and of docs/privacy.md from the rows, and the Colab badges."""
    stale = functools.partial(records.is_stale, root=root)
    marks = tables.Marks(stale, lambda row: records.is_lost(row["commit"], root))
    pages = {readme: tables.updated(readme, marks) for readme in tables.readmes(root)}
    for readme, text in pages.items():
        done = "unchanged" if text == readme.read_text("utf-8") else "rewritten"
        files.write_atomically(readme, text)
        print(f"{readme.relative_to(root)}: {done}, {text.count(tables.STALE)} stale")
    for table in (headline, audits):
        for page in table.pages(root):
            files.write_atomically(page, table.updated(page, stale))
    plots.montage(root, headline.configs(root))
    for page in colab.pages(root):
        files.write_atomically(page, colab.updated(page, root))
    return 0


def check(root: Path) -> int:
    """Returns 1 if a table differs from its rows, or shows a row whose config has changed without marking it stale."""
    stale = functools.partial(records.is_stale, root=root)
    wrong = [readme for readme in tables.readmes(root) if tables.differs(readme, stale)]
    for table in (headline, audits):
        wrong += [page for page in table.pages(root) if table.updated(page, stale) != page.read_text("utf-8")]
    for readme in wrong:
        print(f"{readme.relative_to(root)} differs from results.jsonl; run: python -m research.report tables")
    elsewhere = [page for page in colab.pages(root) if colab.updated(page, root) != page.read_text("utf-8")]
    for page in elsewhere:
        print(f"{page.relative_to(root)} lacks the Repository of pyproject.toml; run: python -m research.report tables")
    return 1 if wrong or elsewhere else 0


def _check_name(workdir: Path) -> None:
    try:
        workdir.stat()
    except FileNotFoundError:
        pass  # reading it raises the error
    except (OSError, ValueError) as error:  # too long; a NUL character
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"the run directory {str(workdir)[:200]!r} cannot be opened: {reason}") from None


def main(argv: Sequence[str], prog: str = "python -m research.report") -> int:
    """Runs one command and returns its exit code. Raises ValueError for user errors."""
    parser = command.Parser(prog=prog, description="Results rows and their tables.")
    commands = parser.add_subparsers(required=True)
    shared = command.Parser(add_help=False)
    shared.add_argument("--root", type=Path, default=records.ROOT, help="the repository (default: this one)")
    for name, function in {"add": add, "show": show}.items():
        subparser = commands.add_parser(name, parents=[shared], help=function.__doc__)
        subparser.add_argument("workdirs", metavar="WORKDIR", type=Path, nargs="+")
        subparser.set_defaults(function=function)
        if function is add:
            subparser.add_argument("--own_data", action="store_true", help="record runs on own data, too")
            subparser.add_argument(
                "--sweep", type=Path, metavar="DIR", help="the sweep that chose the settings; the rows list its trials"
            )
    subparser = commands.add_parser("compare", parents=[shared], help=show_differences.__doc__)
    subparser.add_argument("run", metavar="RUN", type=Path)
    subparser.add_argument("other", metavar="OTHER", type=Path)
    subparser.set_defaults(function=show_differences)
    for name, function in {"tables": write_tables, "check": check}.items():
        commands.add_parser(name, parents=[shared], help=function.__doc__).set_defaults(function=function)
    arguments = vars(parser.parse_args(argv))
    function, root = arguments.pop("function"), arguments.pop("root").resolve()
    if not (root / "experiments").is_dir():
        raise ValueError(f"--root={root} is not a repository: it has no folder experiments; give its root")
    for workdir in (*arguments.get("workdirs", ()), *(arguments[key] for key in ("run", "other") if key in arguments)):
        _check_name(workdir)
    # The fields of a config, and thus its digest, are defined by the experiments of this root.
    sys.path.insert(0, str(root))
    return function(**arguments, root=root)


if __name__ == "__main__":
    with command.begin():
        sys.exit(main(sys.argv[1:]))
