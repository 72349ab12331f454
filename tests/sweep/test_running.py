"""Sweeps of a program that only pretends to train: what is run, in which order, how often, and after which ends."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from research.sweep import ranking, running, runs, settings
from research.sweep.settings import Stop, Sweep

TRAIN = (sys.executable, str(Path(__file__).with_name("fake_train.py")))
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(running, "POLL_S", 0.01)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def runner(folder, sweep, said=None, **options):
    runs.open_folder(folder, sweep)
    lines = [] if said is None else said
    return running.Runner(sweep, folder, "validation/accuracy", "max", TRAIN, say=lines.append, **options)


def starts(run):
    return (run.folder / "starts").read_text().split()


def ranked(made, sweep):
    return ranking.rank(sweep, {run: made.state(run) for run in made.runs}, made.failed, "max")


SWEEP = Sweep("c.py", (("value=0.3",), ("value=0.9",), ("value=0.5",)), seeds=(0, 1))


@pytest.mark.parametrize("processes", [1, 3])
def test_the_best_on_validation_is_scored_on_test_once(tmp_path, processes):
    tmp_path = tmp_path / "sweep"
    tmp_path.mkdir()
    made = runner(tmp_path, SWEEP, processes=processes)
    made.train()
    assert all(starts(run) == ["false"] for run in made.runs)
    order = ranked(made, SWEEP)
    assert [each.trial for each in order] == [1, 2, 0] and ranking.winner(order) == 1
    assert order[0].mean == pytest.approx(0.9005)
    scored = made.score(1)
    assert [run.folder.name for run in scored] == ["001_seed0", "001_seed1"]
    made.score(1)
    assert [starts(run) for run in scored] == [["false", "true"]] * 2
    assert [run for run in made.runs if runs.is_scored(run)] == scored
    lines = ranking.table(SWEEP, order, "validation/accuracy").splitlines()
    assert lines[1].split() == ["1", "001", "0.9005", "±", "0.000707", "value=0.9"]
    text = json.dumps(ranking.content(SWEEP, order, "validation/accuracy", "max", {}))
    assert json.loads(text)["trials"][0]["validation"] == {"0": 0.9, "1": 0.901}


def test_a_trial_that_fails_is_last_and_its_other_seeds_are_left_out(tmp_path):
    sweep = Sweep("c.py", (("value=0.9", "fail=1"), ("value=0.5",)), seeds=(0, 1))
    said = []
    made = runner(tmp_path, sweep, said)
    made.train()
    assert any("000_seed0 failed with code 1" in line and "something is wrong" in line for line in said)
    assert not made.runs[2].folder.exists() and made.runs[2].trial == 0
    order = ranked(made, sweep)
    assert [(each.trial, each.status) for each in order] == [(1, "finished"), (0, "failed")]


def test_a_mistake_in_the_settings_ends_the_sweep_with_its_line(tmp_path):
    made = runner(tmp_path, Sweep("c.py", (("value=0.9", "fail=2"), ("value=0.5",))))
    with pytest.raises(ValueError, match="000_seed0: something is wrong"):
        made.train()


def test_rules_end_runs_that_fall_behind(tmp_path):
    sweep = Sweep("c.py", (("value=0.9",), ("value=0.1", "pause=0.4"), ("value=0.95",)), stop=Stop(median=True))
    said = []
    made = runner(tmp_path, sweep, said)
    made.train()
    order = ranked(made, sweep)
    assert [(each.trial, each.status) for each in order] == [(2, "finished"), (0, "finished"), (1, "stopped")]
    stopped = made.state(made.runs[1])
    assert 2 <= stopped.step < 6 and stopped.value == pytest.approx(0.1 * stopped.step / 6)
    again = runner(tmp_path, sweep)
    again.train()
    assert len(starts(again.runs[1])) == 1, "it stays stopped"


def test_it_waits_for_a_run_that_another_process_trains(tmp_path):
    sweep = Sweep("c.py", (("value=0.9", "pause=0.2"),))
    said = []
    made = runner(tmp_path, sweep, said)
    words = [
        "--config=c.py",
        "--config.value=0.9",
        "--config.pause=0.2",
        "--config.seed=0",
        "--config.train.test=false",
    ]
    with subprocess.Popen([*TRAIN, *words, f"--workdir={made.runs[0].folder}"]):
        while not (made.runs[0].folder / "starts").exists():
            time.sleep(0.01)
        made.train()
    assert made.state(made.runs[0]).status == "finished" and starts(made.runs[0]) == ["false"]
    assert any("another process" in line for line in said)


PROGRAM = """
import sys
from pathlib import Path
from research.sweep import running, runs, settings
running.POLL_S = 0.01
sweep = settings.parse({"config": "c.py", "list": [{"value": 0.3}, {"value": 0.9}, {"value": 0.5}]})
root = Path(sys.argv[1])
runs.open_folder(root, sweep)
made = running.Runner(sweep, root, "validation/accuracy", "max", sys.argv[2:], processes=2)
made.train()
made.score(1)
"""


def test_a_sweep_that_is_killed_again_and_again_does_every_step_once(tmp_path):
    """kill -9 of the sweep alone, whose runs go on, or of all of its processes."""
    rng, root = random.Random(0), tmp_path / "sweep"
    root.mkdir()
    command = [sys.executable, "-c", PROGRAM, str(root), *TRAIN]
    for number in range(20):
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        try:
            process.wait(rng.uniform(0.1, 0.9))
            break
        except subprocess.TimeoutExpired:
            (os.killpg if number % 2 else os.kill)(process.pid, signal.SIGKILL)
            process.wait()
    assert subprocess.run(command, stdout=subprocess.DEVNULL, cwd=ROOT, timeout=60).returncode == 0
    for trial in range(3):
        lines = (root / f"{trial:03d}_seed0" / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [path.parent.name for path in root.glob("*/result.json")] == ["001_seed0"]


def test_a_trial_whose_metric_is_not_finite_never_wins(tmp_path):
    sweep = Sweep("c.py", (("value=0.3",), ("value=nan",)), seeds=(0, 1))
    state = lambda run: runs.State("finished", None if (run.trial, run.seed) == (1, 0) else run.trial + 0.5, 6, [])
    order = ranking.rank(sweep, {run: state(run) for run in runs.all_of(sweep, tmp_path)}, {}, "max")
    assert [(each.trial, each.status) for each in order] == [(0, "finished"), (1, "failed")]
    assert ranking.winner(order) == 0 and ranking.winner(order[1:]) is None


def test_a_run_whose_metric_is_not_finite_does_not_end_the_sweep(tmp_path):
    said = []
    sweep = Sweep("c.py", (("value=nan",), ("value=0.5",)))
    made = runner(tmp_path, sweep, said)
    made.train()
    assert any("000_seed0 finished" in line and "is not finite" in line for line in said)
    assert ranking.winner(ranked(made, sweep)) == 1


def test_another_metric_may_be_chosen_unless_runs_were_stopped_by_it(tmp_path):
    named = lambda metric, stop=Stop(): Sweep("c.py", SWEEP.trials, metric=metric, stop=stop)  # noqa: B008
    (tmp_path / "free").mkdir()
    (tmp_path / "stopped").mkdir()
    runs.open_folder(tmp_path / "free", named("validation/wer"))
    runs.open_folder(tmp_path / "free", named(None))
    runs.open_folder(tmp_path / "stopped", named("validation/wer", Stop(patience=2)))
    with pytest.raises(ValueError, match="another sweep: metric differ"):
        runs.open_folder(tmp_path / "stopped", named(None, Stop(patience=2)))


def test_a_folder_belongs_to_one_sweep_that_may_grow(tmp_path):
    runs.open_folder(tmp_path, SWEEP)
    runs.open_folder(tmp_path, Sweep("c.py", (*SWEEP.trials, ("value=1",)), seeds=(0, 1, 2)))
    for other, word in (
        (Sweep("d.py", (*SWEEP.trials, ("value=1",)), seeds=(0, 1, 2)), "config"),
        (Sweep("c.py", (("value=0.3",),), seeds=(0, 1, 2)), "trials"),
        (Sweep("c.py", (*SWEEP.trials, ("value=1",)), seeds=(0,)), "seeds"),
    ):
        with pytest.raises(ValueError, match=f"another sweep: {word} differ"):
            runs.open_folder(tmp_path, other)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").touch()
    with pytest.raises(ValueError, match=r"it has photo\.jpg"):
        runs.open_folder(tmp_path / "other", SWEEP)


def test_the_example_file_is_a_sweep():
    assert len(settings.read(ROOT / "configs/sweeps/digits_vit.toml").trials) == 6
