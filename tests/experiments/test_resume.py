"""The resume promises on real data through the real command line: dropout, augmentation, microbatches, EMA, workers."""

import random
import signal
import time

import pytest

from tests.killing import after_step, finish, outcome, start, wait_for

MAIN = "experiments.image_classification.main"
STEPS = 40
CONFIG = (
    "--config=configs/image_classification/digits_vit.py:smoke",
    f"--config.train.steps={STEPS}",
    "--config.train.microbatches=2",
    "--config.train.checkpoint_every=4",
    "--config.train.log_every=1",
)


@pytest.fixture(scope="module")
def prepared(data_dir):
    patch = pytest.MonkeyPatch()
    patch.setenv("TFDS_DATA_DIR", str(data_dir))
    finish("research.data", "prepare", "digits")
    yield
    patch.undo()


@pytest.fixture(scope="module")
def reference(prepared, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("reference") / "run"
    finish(MAIN, *CONFIG, f"--workdir={workdir}")
    return outcome(workdir, STEPS)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_kills_at_random_moments_change_no_bit(seed, reference, tmp_path):
    workdir, rng = tmp_path / "run", random.Random(seed)
    for _ in range(3):
        process = start(MAIN, *CONFIG, f"--workdir={workdir}")
        time.sleep(rng.uniform(3, 12))  # from the imports to the last steps
        process.kill()
        process.communicate()
    finish(MAIN, *CONFIG, f"--workdir={workdir}", "--config.data.workers=1")
    assert outcome(workdir, STEPS) == reference


@pytest.mark.long
def test_sigterm_changes_no_bit(reference, tmp_path):
    workdir = tmp_path / "run"
    process = start(MAIN, *CONFIG, f"--workdir={workdir}")
    wait_for(process, after_step(workdir, 10))
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 75, errors
    finish(MAIN, *CONFIG, f"--workdir={workdir}")
    assert outcome(workdir, STEPS) == reference


@pytest.mark.long
def test_sigterm_during_the_imports_leaves_with_75(prepared, tmp_path):
    process = start(MAIN, *CONFIG, f"--workdir={tmp_path / 'run'}")
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 75
