"""Several sweep commands on one folder: each run is done once, whoever is killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from research.sweep import running, runs, settings
from tests.sweep.test_running import ROOT, TRAIN, runner, starts

PROGRAM = """
import sys
from pathlib import Path
from research.sweep import running, runs
from tests.sweep.test_together import SWEEP
running.POLL_S = 0.01
made = running.Runner(SWEEP, Path(sys.argv[1]), "validation/accuracy", "max", sys.argv[2:], say=print)
made.train()
made.score(1)
"""
SWEEP = settings.parse(
    {"config": "c.py", "list": [{"value": value} for value in (0.3, 0.9, 0.5, 0.4)], "seeds": [0, 1]}
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(running, "POLL_S", 0.01)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def begin(root):
    command = [sys.executable, "-c", PROGRAM, str(root), *TRAIN]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)


def check(root):
    """Every run has its six steps once, and the winner alone is scored."""
    for trial in range(4):
        for seed in (0, 1):
            lines = (root / f"{trial:03d}_seed{seed}" / "metrics.jsonl").read_text().splitlines()
            assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert {path.parent.name for path in root.glob("*/result.json")} == {"001_seed0", "001_seed1"}
    assert not list(root.glob("*.claim"))


def test_two_commands_share_the_runs(tmp_path):
    root = tmp_path / "sweep"
    root.mkdir()
    runs.open_folder(root, SWEEP)
    both = [begin(root), begin(root)]
    said = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    check(root)
    begun = [{line.split()[0] for line in text.splitlines() if line.split()[1:2] == ["started:"]} for text in said]
    assert all(begun) and not begun[0] & begun[1] and len(begun[0] | begun[1]) == 8
    for run in runs.all_of(SWEEP, root):
        assert starts(run) == ["false", "true"][: 1 + (run.trial == 1)], "each was trained once, and scored once"


@pytest.mark.long
def test_commands_that_are_killed_leave_their_runs_to_the_others(tmp_path):
    rng, root = random.Random(1), tmp_path / "sweep"
    root.mkdir()
    runs.open_folder(root, SWEEP)
    for _ in range(5):
        first, second = begin(root), begin(root)
        for process in (first, second):
            try:
                process.wait(rng.uniform(0.8, 1.6))
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
            process.stdout.close()
    last = begin(root)
    said, _ = last.communicate(timeout=600)
    assert last.returncode == 0, said
    check(root)


def test_a_run_that_another_process_locked_first_is_waited_for(tmp_path, monkeypatch):
    """A sweep that is killed may leave a process that has begun a run, but not locked it yet."""
    sweep = settings.parse({"config": "c.py", "list": [{"value": 0.9, "pause": 0.2}]})
    made = runner(tmp_path, sweep, said := [])
    answers, is_locked = [False], running._is_locked  # not locked when it is claimed
    monkeypatch.setattr(running, "_is_locked", lambda run: answers.pop() if answers else is_locked(run))
    words = ["--config=c.py", *(f"--config.{each}" for each in sweep.overrides(0, 0)), "--config.train.test=false"]
    with subprocess.Popen([*TRAIN, *words, f"--workdir={made.runs[0].folder}"]):
        while not (made.runs[0].folder / "starts").exists():
            time.sleep(0.01)
        made.train()
    assert starts(made.runs[0]) == ["false"] and made.failed == {}, said
    assert made.state(made.runs[0]).status == "finished" and answers == []


def test_the_claim_of_a_killed_command_on_a_finished_run_is_removed(tmp_path):
    sweep = settings.parse({"config": "c.py", "list": [{"value": 0.9}, {"value": 0.5}]})
    runner(tmp_path, sweep, []).train()
    abandoned, held = (runs.claim_of(run) for run in runner(tmp_path, sweep, []).runs)
    held.take()
    (tmp_path / "000_seed0.claim").write_text((tmp_path / "001_seed0.claim").read_text())  # without its file lock
    runner(tmp_path, sweep, []).train()
    assert not abandoned.exists() and held.exists()
    held.release()
