"""A run that is killed and started again ends in the same bits as a run that never was."""

import signal
import time

import pytest

from tests.killing import after_step, finish, in_a_save, outcome, start, wait_for

TOY = "tests.train.toy_main"
STEPS = 12
SLOWLY = 0.1  # seconds a batch


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("reference") / "run"
    finish(TOY, workdir)
    return outcome(workdir, STEPS)


@pytest.mark.parametrize(
    "moment",
    [in_a_save, lambda w: after_step(w, 5), lambda w: after_step(w, 8)],
    ids=["save", "training", "evaluation"],
)
def test_kill_9_anywhere_ends_in_the_same_bits(moment, reference, tmp_path):
    workdir = tmp_path / "run"
    process = start(TOY, workdir, SLOWLY)
    wait_for(process, moment(workdir))
    process.kill()
    process.communicate()
    finish(TOY, workdir)
    assert outcome(workdir, STEPS) == reference


@pytest.mark.parametrize("step", [5, 8])
def test_sigterm_saves_leaves_with_75_and_resumes(step, reference, tmp_path):
    workdir = tmp_path / "run"
    process = start(TOY, workdir, SLOWLY)
    wait_for(process, after_step(workdir, step))  # an evaluation follows step 8
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 75, errors
    saved = errors.split("SIGTERM: saved step ")[1].split(";")[0]
    assert f"continuing at step {saved}" in finish(TOY, workdir)
    assert outcome(workdir, STEPS) == reference


def test_sigterm_before_the_first_step_leaves_with_75_at_once(tmp_path):
    process = start(TOY, tmp_path / "run", SLOWLY)
    wait_for(process, (tmp_path / "run" / "config.json").exists)
    begun = time.time()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert time.time() - begun < 2
