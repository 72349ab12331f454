"""`tessera report privacy RUN`: how well membership inference does on a trained run, as a page and in its row."""

import json
from collections.abc import Sequence
from pathlib import Path

from research import command, files
from research.cli import experiment, sweep
from research.measure import progress
from research.report import records
from research.train import rundir
from research.trust import audit, privacy_page


def main(words: Sequence[str]) -> None:
    """Trains shadow runs, writes the report to the run directory and prints it. Raises ValueError for user errors."""
    parser = command.Parser(
        prog="tessera report privacy",
        description="Membership inference attacks on a finished run: a threshold on the loss (Yeom et al., 2018), and "
        "LiRA (Carlini et al., 2022), for which shadow runs are trained on halves of the data, below RUN/privacy. The "
        "same command continues after a kill.",
        epilog="docs/privacy.md says what the figures mean.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run directory of a finished run")
    parser.add_argument(
        "--shadows",
        type=int,
        default=8,
        metavar="N",
        help="number of shadow runs, each as long as the run: 0, or an even number from 4 on (default: 8)",
    )
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="number of concurrent runs (default: 1)")
    overrides, others = command.overrides_of(words)
    arguments = parser.parse_args(others)
    audit.check_count(arguments.shadows)
    if arguments.processes < 1:
        raise ValueError(f"--processes={arguments.processes} must be 1 or more")
    workdir = arguments.run
    given = [f"{command.OVERRIDE}{each}" for each in overrides]
    opened = _open(workdir, given)
    result = records.read_json(workdir / "result.json") if (workdir / "result.json").is_file() else {}
    if not result:
        raise ValueError(f"{workdir} has no result.json; audit a finished run")
    task, data = opened[1:]
    data.prepare()
    shadows = []
    if arguments.shadows:
        planned = audit.shadows_of(opened[0], arguments.shadows)
        folder = workdir / audit.FOLDER / "shadows"
        shadows = audit.train(planned, folder, task.selection, list(sweep.TRAIN), arguments.processes, progress.say)
    found, curves = audit.content(opened, workdir, shadows, lambda path: _open(path, given), result.get("privacy", {}))
    written = privacy_page.write(found, curves, workdir / audit.FOLDER, f"{workdir.name}: privacy report")
    files.write_atomically(written.with_name("report.json"), json.dumps(found, indent=2) + "\n")
    print(written.read_text("utf-8"))
    print(f"page         {written.with_suffix('.html')}")


def _open(workdir: Path, overrides: Sequence[str]) -> audit.Opened:
    rundir.check_workdir(workdir, write=False)
    config = experiment.load(*experiment.parse([f"--workdir={workdir}", *overrides], "evaluate"))
    task, data = config.build()
    return config, task, data
