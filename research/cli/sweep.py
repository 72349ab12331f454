"""`tessera sweep FILE --workdir=DIR`: hyperparameter search, ranked on validation; the best trial is scored on test."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from research import command
from research import config as config_lib
from research.measure import progress
from research.metrics import metric as metric_lib
from research.report import __main__ as report
from research.report import records
from research.sweep import ranking, runs, settings
from research.sweep.running import Runner
from research.train import rundir
from research.train.lock import Lock

OPEN_S = 30.0  # for how long another command may hold the lock of the folder
TRAIN = (sys.executable, "-m", "research.cli.tessera", "train")


def main(words: Sequence[str]) -> None:
    """Trains the runs of a sweep, prints their ranking, and scores the winner. Raises ValueError for user errors."""
    parser = command.Parser(
        prog="tessera sweep",
        description="Trains a config with different settings and seeds, ranks them on validation, and scores the best "
        "one on test, once. The same command continues a sweep that was killed, and may be run several times at once, "
        "also on machines that share the folder.",
        epilog="The format of the file: docs/running.md",
    )
    parser.add_argument("file", type=Path, metavar="FILE.toml", help="e.g. configs/sweeps/digits_vit.toml")
    parser.add_argument("--workdir", required=True, type=Path, metavar="DIR", help="the folder of all run directories")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="number of concurrent runs (default: 1)")
    parser.add_argument(
        "--list", action="store_true", help="only show the trials, their status and their metric so far"
    )
    parser.add_argument("--record", action="store_true", help="adds the rows of the winner to the experiment's results")
    arguments = parser.parse_args(words)
    if arguments.processes < 1:
        raise ValueError(f"--processes={arguments.processes} must be 1 or more")
    sweep = settings.read(arguments.file)
    metric, mode = check(sweep)
    root = arguments.workdir
    rundir.check_workdir(root, write=not arguments.list)
    if arguments.list:
        runs.check_folder(root, sweep)
        print(_ranking(Runner(sweep, root, metric, mode, TRAIN), sweep, metric, mode)[0])
        return
    with rundir.writing(root):
        root.mkdir(parents=True, exist_ok=True)
    _open(root, sweep)
    scored = _run(
        Runner(sweep, root, metric, mode, TRAIN, arguments.processes, progress.say), sweep, root, metric, mode
    )
    if arguments.record:
        report.add([run.folder for run in scored], records.ROOT, own_data=False)


def check(sweep: settings.Sweep) -> tuple[str, str]:
    """The metric by which settings are chosen, and "max" or "min". Raises ValueError if a trial's config is invalid.

    The config of every trial is loaded before the first one is trained. Trials must differ in what a result
    depends on.
    """
    source = config_lib.Source.parse(sweep.config)
    load = lambda trial, seed: config_lib.load(source.file, source.variant, sweep.overrides(trial, seed))
    for seed in sweep.seeds[1:]:
        load(0, seed)
    equal: dict[str, int] = {}
    for trial, settings_of in enumerate(sweep.trials):
        first = equal.setdefault(load(trial, sweep.seeds[0]).source.digest, trial)
        if first != trial:
            both = " and ".join(" ".join(each) or "the unchanged config" for each in (sweep.trials[first], settings_of))
            raise ValueError(f"trials {first:03d} and {trial:03d} give the same result: {both}; remove one")
    if sweep.metric is not None:
        return sweep.metric, metric_lib.mode(sweep.metric.removeprefix("validation/"))
    config = config_lib.load(source.file, source.variant, sweep.overrides(0, sweep.seeds[0]))
    name, mode = config.build()[0].selection
    return f"validation/{name}", mode


def _open(root: Path, sweep: settings.Sweep) -> None:
    """Writes the sweep to its folder, one command at a time, so that two different sweeps never share it."""
    lock, begun = Lock(root, progress.say), time.monotonic()
    while True:
        try:
            lock.take()
            break
        except ValueError:  # another command is opening it, which takes moments
            if time.monotonic() - begun > OPEN_S:
                raise
            time.sleep(0.1)
    try:
        runs.open_folder(root, sweep)
    finally:
        lock.release()


def _run(runner: Runner, sweep: settings.Sweep, root: Path, metric: str, mode: str) -> list[runs.Run]:
    """Trains, prints the ranking, and scores the best trial. Returns the runs of that trial."""
    runner.train()
    text, ranked = _ranking(runner, sweep, metric, mode)
    print(text)
    rundir.write_json(root / "ranking.json", ranking.content(sweep, ranked, metric, mode, {}))
    best = ranking.winner(ranked)
    if best is None:
        raise command.Failure(
            "no trial has finished with every seed, so none is scored on test; see the log of each run"
        )
    scored, test = runner.score(best), {}
    for run in scored:
        test[run.folder.name] = rundir.read_json(run.folder / "result.json")["metrics"]
        shown = ", ".join(f"{name} {value:.4f}" for name, value in test[run.folder.name].items() if "test/" in name)
        print(f"{run.folder.name}: {shown}")
    rundir.write_json(root / "ranking.json", ranking.content(sweep, ranked, metric, mode, test))
    return scored


def _ranking(runner: Runner, sweep: settings.Sweep, metric: str, mode: str) -> tuple[str, list[ranking.Ranked]]:
    states = {run: runner.state(run) for run in runner.runs}
    ranked = ranking.rank(sweep, states, runner.failed, mode)
    return ranking.table(sweep, ranked, metric), ranked
