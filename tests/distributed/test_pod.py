"""The same run on 1, 2 and 4 processes, interrupted in several ways, ends like an uninterrupted run."""

import json
import os
import shutil
import signal
import time

import numpy as np
import pytest

from research.checkpoint.reading import CheckpointTensors
from research.cli.experiments import config_class
from research.interop import imports, loading
from research.parallel import processes
from tests.distributed.pod import Pod, examples_read
from tests.interop.test_init_from import big_vision_file
from tests.killing import after_step, outcome

STEPS = 12
DELAY_S = 1.0  # a batch, where a signal has to come in between; a notice of SIGTERM takes up to a second to reach all

pytestmark = pytest.mark.long


def finished(folder, count, *arguments):
    """A run that is not disturbed."""
    pod = Pod(folder, count, folder / "run", *arguments)
    assert pod.wait() == 0, pod.text
    return folder / "run"


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("one"), 1)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("four"), 4)


def curve(workdir):
    """{(name, step): value} of all that was logged but speeds."""
    entries = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {(e["name"], e["step"]): e["value"] for e in entries if not e["name"].startswith("speed/")}


def assert_same_run(workdir, count, reference):
    assert examples_read(workdir, count) == examples_read(reference, 1)
    assert curve(workdir).keys() == curve(reference).keys()
    for key, value in curve(reference).items():
        np.testing.assert_allclose(curve(workdir)[key], value, rtol=1e-4, atol=1e-6, err_msg=str(key))


def test_four_processes_train_as_one_does(one, four):
    assert_same_run(four, 4, one)
    # Each reads its own quarter and no more, of the padded last batches too.
    for index in range(4):
        entries = map(json.loads, (four.parent / f"run.read.{index}.jsonl").read_text().splitlines())
        assert {entry["rows"] for entry in entries} == {4, 2}  # of 16 in training, of 8 in evaluation
    assert sorted(p.name for p in four.iterdir()) == sorted(p.name for p in one.iterdir())
    assert len(list((four / "events").iterdir())) == 1  # process 0 alone writes


def test_two_processes_and_one_go_on_alike_from_a_checkpoint_of_four(four, tmp_path):
    curves = []
    for count in (2, 1):
        shutil.copytree(four, tmp_path / str(count) / "run")
        workdir = finished(tmp_path / str(count), count, "train.steps=14")
        assert json.loads((workdir / "result.json").read_text())["steps"] == 14
        assert sorted(examples_read(workdir, count)["train"]) == [12, 13]
        curves.append({key: value for key, value in curve(workdir).items() if key[1] > STEPS})
    assert ("train/loss", 14) in curves[0]
    assert curves[0].keys() == curves[1].keys()
    for key, value in curves[0].items():
        np.testing.assert_allclose(curves[1][key], value, rtol=1e-4, atol=1e-6, err_msg=str(key))


def test_a_run_stopped_in_every_way_ends_in_the_same_bits(four, tmp_path):
    workdir = tmp_path / "run"
    # SIGTERM to one process while training: all save the same step and leave with 75.
    pod = Pod(tmp_path, 4, workdir, f"--delay={DELAY_S}")
    pod.wait_for(after_step(workdir, 2))
    os.kill(pod.pids[2], signal.SIGTERM)
    assert pod.wait() == 75, pod.text
    assert "SIGTERM: saved step" in pod.text
    assert not (workdir / "result.json").exists()

    # SIGTERM to one process in an evaluation: it is given up, and the step is saved without a score.
    pod = Pod(tmp_path, 4, workdir, "--slow-eval=1.5")
    pod.wait_for(lambda: "validation" in (tmp_path / "run.read.3.jsonl").read_text())
    os.kill(pod.pids[3], signal.SIGTERM)
    assert pod.wait() == 75, pod.text
    saved = int(pod.text.split("SIGTERM: saved step ")[1].split(";")[0])
    assert saved % 4 == 0 and "validation/loss" not in pod.text

    # kill -9: the others notice, say so in one line each, and end.
    pod = Pod(tmp_path, 4, workdir, f"--delay={DELAY_S}")
    pod.wait_for(after_step(workdir, saved + 2))
    begun = time.time()
    os.kill(pod.pids[1], signal.SIGKILL)
    assert pod.wait(60) == 128 + signal.SIGKILL, pod.text
    assert time.time() - begun < 60
    for index in (0, 2, 3):
        assert len(pod.errors(index)) == 1, pod.text
        # In whichever way it came to know: by a failed collective, or when JAX aborts it because process 0 has left.
        assert processes.LOST in pod.errors(index)[0], pod.text

    pod = Pod(tmp_path, 4, workdir)
    assert pod.wait() == 0, pod.text
    assert outcome(workdir, STEPS) == outcome(four, STEPS)


@pytest.mark.parametrize("source", ["vit.npz", "imported"])
def test_two_processes_begin_with_the_weights_of_a_checkpoint(source, tmp_path):
    """Each reads what its shards need; a learning rate of nearly nothing leaves the weights as they are."""
    _, params = big_vision_file(tmp_path / "vit.npz")
    imports.run(str(tmp_path / "vit.npz"), str(tmp_path / "imported"), config_class)
    workdir = finished(
        tmp_path, 2, f"train.init_from='{tmp_path / source}'", "mesh.fsdp=4", "train.steps=1",
        "optimizer.warmup_steps=0", "optimizer.learning_rate=1e-30", "optimizer.weight_decay=0.0",
        "optimizer.freeze=('blocks', 'patches')",
    )  # fmt: skip
    assert len(list((workdir / "checkpoints").glob("frozen-*"))) == 1  # which both have written
    report = json.loads((workdir / "init_from.json").read_text())
    assert report["fresh"] == {} and report["left_over"] == []
    tensors = CheckpointTensors(workdir / "checkpoints/1")
    for name, leaf in loading.leaves_of({"params": params}).items():
        np.testing.assert_allclose(tensors.read(name), leaf, rtol=1e-6, atol=1e-12)
