"""Faults from outside that a run meets: names that are taken, logs that are gone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.killing import ROOT
from tests.running import run

TOY = "tests.train.toy_main"
STEPS = 12


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of the toy."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    outcome = run([TOY, workdir])
    assert outcome.code == 0, outcome.err
    return workdir


@pytest.fixture
def copy(finished, tmp_path):
    """A finished run that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def notes(outcome):
    """What was said besides progress."""
    progress = ("training: ", "evaluating ", "step ", "continuing at step ")
    return [line for line in outcome.err.splitlines() if not line.startswith(progress)]


def unfinish(workdir):
    """Makes it a run that was killed after its last checkpoint."""
    (workdir / "result.json").unlink()


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "timeline.jsonl", "result.json", "predictions.jsonl"])
def test_a_folder_in_the_place_of_a_file_is_named_in_one_line(name, copy):
    unfinish(copy)
    path = copy / name
    path.unlink(missing_ok=True)
    path.mkdir()
    outcome = run([TOY, copy])
    assert outcome.code == 1
    assert notes(outcome) == [f"error: {path}: Is a directory"]


@pytest.mark.parametrize(
    ("content", "newest"),
    [(None, 0), (b"", 0), (bytes(3000), 0), ("half", STEPS // 2)],
    ids=["gone", "empty", "zeros", "half"],
)
def test_lost_metrics_are_told_and_cost_no_result(content, newest, copy, finished):
    unfinish(copy)
    path = copy / "metrics.jsonl"
    if content is None:
        path.unlink()
    elif content == "half":
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if json.loads(line)["step"] <= newest))
    else:
        path.write_bytes(content)
    outcome = run([TOY, copy])
    assert outcome.code == 0, outcome.err
    assert notes(outcome) == [f"{path}: the entries after step {newest} and before step {STEPS} are lost"]
    scores = [json.loads((workdir / "result.json").read_text())["metrics"] for workdir in (copy, finished)]
    assert scores[0] == scores[1]


def test_no_loss_is_told_where_there_is_none(copy):
    unfinish(copy)
    assert notes(run([TOY, copy])) == []


def _meta(checkpoint):
    return [checkpoint / "meta" / "metadata"]


def _array_data(checkpoint):
    return [path for path in (checkpoint / "state").rglob("d/*") if path.is_file()]


@pytest.mark.parametrize("part", [_meta, _array_data])
def test_an_evaluation_skips_a_damaged_checkpoint_and_moves_nothing(part, copy):
    """Another run may be training there, or the directory may be one that this user cannot write."""
    for path in part(copy / "checkpoints" / str(STEPS)):
        path.write_bytes(path.read_bytes()[:-20])
    before = sorted(copy.rglob("*"))
    outcome = run([TOY, copy, 0, "evaluate"])
    assert outcome.code == 0, outcome.err
    (line,) = notes(outcome)
    assert line.startswith(f"checkpoint {STEPS} is damaged (") and line.endswith("; it is skipped")
    assert sorted(copy.rglob("*")) == before


INTERRUPT = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(20)\n"


def _interrupted(arguments, folder):
    """What a process writes to standard error that finds the modules of `folder` and ends by Ctrl-C."""
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == -signal.SIGINT, done.stderr  # shells make 130 of it
    return done.stderr


def test_an_interrupt_among_the_imports_needs_no_traceback(tmp_path):
    (tmp_path / "jax.py").write_text(INTERRUPT)
    assert _interrupted(["-m", "experiments.image_classification.main"], tmp_path) == ""


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("pass", ""),
        ("command.overrides_of(['--config.seed'])", "error: --config.seed has no value; write --config.seed=VALUE\n"),
    ],
    ids=["done", "refused"],
)
def test_an_interrupt_when_the_command_is_over_needs_no_traceback(body, said, tmp_path):
    (tmp_path / "interrupt.py").write_text("def now():\n" + textwrap.indent(INTERRUPT, "    "))
    program = (
        "import atexit, interrupt\nfrom research import command\natexit.register(interrupt.now)\n"
        f"with command.one_line_errors():\n    {body}\n"
    )
    assert _interrupted(["-c", program], tmp_path) == said
