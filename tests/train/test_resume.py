"""A run that is killed and started again ends in the same bits as a run that never was."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from research.train import rundir

ROOT = Path(__file__).parents[2]


def start(workdir, delay_s=0.1):
    # One device, as in an ordinary run; the 8 of the other tests come from this variable.
    env = os.environ | {"XLA_FLAGS": ""}
    command = [sys.executable, "-m", "tests.train.toy_main", str(workdir), str(delay_s)]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(workdir, delay_s=0.0):
    process = start(workdir, delay_s)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 0, errors
    return errors


def wait_for(process, condition):
    """Waits until `condition()` holds; the process must still be running then."""
    deadline = time.time() + 60
    while not condition():
        assert process.poll() is None and time.time() < deadline, process.stderr.read()
        time.sleep(0.005)


def logged(workdir, name="train/loss"):
    return {e["step"]: e["value"] for e in rundir.read_metrics(workdir / "metrics.jsonl") if e["name"] == name}


def outcome(workdir):
    """Every bit of the final state, every logged loss, and the scores."""
    import orbax.checkpoint as ocp

    tree = ocp.StandardCheckpointer().restore((workdir / "checkpoints" / "12" / "state").absolute())
    state = {
        jax.tree_util.keystr(path): np.asarray(leaf).tobytes()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    assert len(state) > 20  # parameters, moments, batch statistics, averages
    entries = rundir.read_metrics(workdir / "metrics.jsonl")
    metrics = [e for e in entries if e["name"] != "train/steps_per_s"]
    return state, metrics, json.loads((workdir / "result.json").read_text())["metrics"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("reference") / "run"
    finish(workdir)
    return outcome(workdir)


def in_a_save(workdir):
    return lambda: any("tmp" in child.name for child in (workdir / "checkpoints").glob("*"))


def after_step(workdir, step):
    def reached():
        # The file is written through only at checkpoints; the time ledger is written line by line.
        path = workdir / "timeline.jsonl"
        return path.exists() and f'"step": {step}}}' in path.read_text()

    return reached


@pytest.mark.parametrize("moment", ["in a save", "in training", "in evaluation"])
def test_kill_9_anywhere_ends_in_the_same_bits(moment, reference, tmp_path):
    workdir = tmp_path / "run"
    process = start(workdir)
    wait_for(
        process,
        {
            "in a save": in_a_save(workdir),
            "in training": after_step(workdir, 5),
            "in evaluation": after_step(workdir, 8),
        }[moment],
    )
    process.kill()
    process.communicate()
    finish(workdir)
    assert outcome(workdir) == reference


@pytest.mark.parametrize("step", [5, 8])
def test_sigterm_saves_leaves_with_75_and_resumes(step, reference, tmp_path):
    workdir = tmp_path / "run"
    process = start(workdir)
    wait_for(process, after_step(workdir, step))  # an evaluation follows step 8
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 75, errors
    assert "SIGTERM: saved step" in errors
    assert f"continuing at step {errors.split('saved step ')[1].split(';')[0]}" in finish(workdir)
    assert outcome(workdir) == reference


def test_sigterm_before_the_first_step_leaves_with_75_at_once(tmp_path):
    process = start(tmp_path / "run")
    wait_for(process, lambda: (tmp_path / "run" / "config.json").exists())
    begun = time.time()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert time.time() - begun < 2
