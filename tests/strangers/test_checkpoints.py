"""Checkpoints that are damaged, renamed, of another config, or broken off: never a wrong one in silence, none lost."""

import dataclasses
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import time

import numpy as np
import pytest

from research.command import Failure
from research.data import pipeline
from research.tasks import classification
from research.train import trainer
from tests.killing import in_a_save, start, wait_for
from tests.train import toy

SLOW_SAVES = "tests.strangers.slow_saves"


@dataclasses.dataclass(frozen=True)
class Scripted(classification.ClassificationTask):
    """The toy, whose evaluations of the validation split give the scores that a test wants, one after the other."""

    scores: list = dataclasses.field(default_factory=list)
    mode: str = "min"

    @property
    def selection(self):
        return "scripted", self.mode

    def derived(self, means):
        if means["loss"] == 1:  # made up, to ask which metrics there are
            return {"scripted": 0.0}
        return {"scripted": self.scores.pop(0)}


def scripted(scores, mode="min"):
    toy_fields = {
        field.name: getattr(toy.make_task(), field.name)
        for field in dataclasses.fields(classification.ClassificationTask)
    }
    return Scripted(**toy_fields, scores=list(scores), mode=mode)


def train(workdir, task=None, **overrides):
    overrides = {name.replace("__", "."): value for name, value in overrides.items()}
    return trainer.run("train", toy.make_config(**overrides), task or toy.make_task(), toy.Data(), workdir)


def scored_run(workdir, scores, mode, **overrides):
    """A run that is evaluated and saved after every step, with these scores; the last but one that of the test."""
    settings = {"train__steps": len(scores), "train__eval_every": 1, "train__keep_last": 1, "train__keep_best": 1}
    return train(workdir, scripted([*scores, 0.0], mode), **settings, train__select="best", **overrides)


def steps(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def strict(text):
    """JSON as others read it: NaN and Infinity are none."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("scores", "mode", "best"),
    [
        ((0.5, 0.3, 0.6, NAN), "min", 2),
        ((0.5, 0.7, 0.6, NAN), "max", 2),
        ((0.5, NAN, 0.6, 0.7), "min", 1),
        ((0.5, -INF, INF, 0.4), "max", 1),
        ((NAN, NAN, 0.9), "min", 3),
    ],
)
def test_a_score_that_is_not_finite_is_never_the_best(scores, mode, best, tmp_path, capfd):
    result = scored_run(tmp_path / "run", scores, mode)
    assert result["selected_step"] == best
    assert steps(tmp_path / "run") == sorted({best, len(scores)})
    warned = [line for line in capfd.readouterr().err.splitlines() if "cannot be selected as the best" in line]
    assert len(warned) == sum(not math.isfinite(score) for score in scores)


def test_metrics_and_results_are_json_where_nothing_is_finite(tmp_path, capfd):
    result = scored_run(tmp_path / "run", (NAN, INF, NAN), "min")
    assert result["selected_step"] == 3 and result["metrics"]["validation/scripted"] is None
    assert "no checkpoint has a finite score; the newest, step 3, is used" in capfd.readouterr().err
    assert strict((tmp_path / "run" / "result.json").read_text()) == json.loads(json.dumps(result))
    entries = [strict(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    scripted_values = [entry["value"] for entry in entries if entry["name"] == "validation/scripted"]
    assert scripted_values == [None, None, None]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Steps 2 (the best one by its score), 3 and 4; nothing is finished but the saves."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    task = scripted([0.5, 0.1, 0.3, 0.4, 0.0])
    train(workdir, task, **SELECTING)
    (workdir / "result.json").unlink()
    assert steps(workdir) == [2, 3, 4]
    return workdir


SELECTING = {"train__steps": 4, "train__eval_every": 1, "train__select": "best"}


@pytest.fixture
def workdir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def files_with_the_score(workdir, step):
    folder = workdir / "checkpoints" / str(step)
    return [path for path in folder.rglob("*") if path.is_file() and b"0.1" in path.read_bytes()]


def test_a_changed_score_selects_no_other_checkpoint(workdir, capfd):
    """One bit makes .1 of the best checkpoint .9: it is not the worst then, but damaged, and the next best is used."""
    paths = files_with_the_score(workdir, 2)
    assert paths
    for path in paths:
        path.write_bytes(path.read_bytes().replace(b"0.1", b"0.9"))
    result = train(workdir, scripted([0.0]), **SELECTING)
    assert result["selected_step"] == 3
    lines = [line for line in capfd.readouterr().err.splitlines() if "damaged" in line]
    assert len(lines) == 1 and lines[0].startswith("checkpoint 2 is damaged")
    assert (workdir / "damaged" / "2").is_dir()


@pytest.mark.parametrize("bit", [0x80, 0x01, 0x10])
def test_a_flipped_bit_beside_the_state_is_noticed(bit, workdir, capfd):
    content = bytearray((workdir / "checkpoints/4/meta/metadata").read_bytes())
    content[len(content) // 2] ^= bit
    (workdir / "checkpoints/4/meta/metadata").write_bytes(content)
    train(workdir, scripted([0.4, 0.0]), **SELECTING)
    errors = capfd.readouterr().err
    assert "checkpoint 4 is damaged" in errors and "continuing at step 3" in errors and "Traceback" not in errors


def test_a_renamed_checkpoint_is_of_no_step(workdir, capfd):
    (workdir / "checkpoints/4").rename(workdir / "checkpoints/50")
    train(workdir, scripted([0.4, 0.0]), **SELECTING)
    errors = capfd.readouterr().err
    assert "checkpoint 50 is damaged (ValueError: it was saved at step 4)" in errors
    assert "continuing at step 3" in errors


def test_the_config_that_a_checkpoint_knows_is_compared_too(workdir):
    (workdir / "config.json").unlink()
    other = {**SELECTING, "train__ema": 0.5}
    with pytest.raises(ValueError, match=r"belongs to another config.* \(train.ema: 0.9 -> 0.5\)"):
        train(workdir, scripted([0.0]), **other)
    assert not (workdir / "config.json").exists()  # or undoing the change would be refused
    train(workdir, scripted([0.0]), **SELECTING)
    config = (workdir / "config.json").read_text()
    (workdir / "config.json").write_text(re.sub(r'("ema": )0.9', r"\g<1>0.5", re.sub(r'\n *"sha256.*', "", config)))
    with pytest.raises(ValueError, match=r"belongs to another config|is damaged"):
        train(workdir, scripted([0.0]), **other)


def test_a_best_checkpoint_that_cannot_be_read_is_replaced_by_the_next_best(workdir, capfd):
    for path in (workdir / "checkpoints/2/state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[::2])
    result = train(workdir, scripted([0.0]), **SELECTING)
    assert result["selected_step"] == 3
    errors = capfd.readouterr().err
    assert "checkpoint 2 is damaged" in errors
    assert "Event loop is closed" not in errors and "Traceback" not in errors


def test_what_a_kill_left_over_is_deleted_when_the_run_goes_on(workdir):
    """A kill between a save and the deletion after it leaves one more than the config keeps."""
    train(workdir, scripted([0.0]), **SELECTING, train__keep_last=1, train__keep_best=1)
    assert steps(workdir) == [2, 4]


def test_a_step_that_was_saved_without_its_evaluation_gets_its_score_in_place(tmp_path):
    """As after SIGTERM in an evaluation. The state is not written again, so that a kill cannot lose it."""
    workdir = tmp_path / "run"
    settings = {"train__steps": 4, "train__checkpoint_every": 3, "train__select": "best"}
    train(workdir, scripted([0.5, 0.0]), **settings, train__eval_every=4)
    (workdir / "result.json").unlink()
    shutil.rmtree(workdir / "checkpoints/4")
    state = {path: path.stat().st_mtime_ns for path in (workdir / "checkpoints/3/state").rglob("*")}
    result = train(workdir, scripted([0.1, 0.5, 0.0]), **settings, train__eval_every=3)
    assert result["selected_step"] == 3 and result["metrics"]["validation/scripted"] == 0.1
    assert {path: path.stat().st_mtime_ns for path in (workdir / "checkpoints/3/state").rglob("*")} == state


def test_divergence_names_the_newest_checkpoint_and_its_score(tmp_path):
    fast = {"name": "sgd", "learning_rate": 1e30, "warmup_steps": 0}
    with pytest.raises(FloatingPointError) as raised:
        train(tmp_path / "run", optimizer=fast, train__eval_every=1, train__checkpoint_every=1)
    said = re.search(r"at step \d+; the newest checkpoint in \S+ is step (\d+), (.*)", str(raised.value))
    assert int(said[1]) == max(steps(tmp_path / "run"))
    assert re.fullmatch(r"with validation/accuracy [\d.e+-]+|whose score is not finite", said[2])
    assert "good" not in str(raised.value)


def command(workdir, *arguments):
    return start(SLOW_SAVES, workdir, *arguments)


def lines_of(errors):
    """What was written but for the progress bar."""
    return [
        line for line in re.split(r"[\r\n]+", errors) if line.strip() and "step/s" not in line and "s/step" not in line
    ]


@pytest.mark.long
def test_ctrl_c_in_a_save_waits_for_it_and_leaves_with_130(tmp_path):
    process = command(tmp_path / "run", "2")
    wait_for(process, in_a_save(tmp_path / "run"))
    begun = time.time()
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and time.time() - begun < 30
    assert "error: interrupted" in errors and "Traceback" not in errors
    assert steps(tmp_path / "run") == [3]


@pytest.mark.long
def test_a_second_ctrl_c_leaves_at_once(tmp_path):
    process = command(tmp_path / "run", "60")
    wait_for(process, in_a_save(tmp_path / "run"))
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    begun = time.time()
    errors = process.communicate(timeout=50)[1]
    assert process.returncode == 130 and time.time() - begun < 10
    assert "Traceback" not in errors


@pytest.mark.long
def test_an_error_in_a_save_waits_for_it_and_is_told_alone(tmp_path):
    process = command(tmp_path / "run", "2", "diverge")
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 1 and "Traceback" not in errors
    said = re.search(r"at step (\d+); the newest checkpoint in \S+ is step (\d+), which was not evaluated", errors)
    assert int(said[2]) == max(steps(tmp_path / "run"))
    assert int(said[2]) >= int(said[1]) - 2  # that of the step before, whose metrics are looked at one step late


@pytest.mark.long
def test_a_full_disk_is_one_line_and_the_checkpoints_before_stay(tmp_path):
    process = command(tmp_path / "run", "0", "full")
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 1 and "Traceback" not in errors
    assert len(re.findall("error: cannot write checkpoint 6 in .*: No space left on device; .* step 4", errors)) == 1
    assert len(lines_of(errors)) < 10, errors
    assert [step for step in (3, 4) if (tmp_path / "run" / "checkpoints" / str(step)).exists()] == [3, 4]


class Slowly:
    """A transform that workers can be given."""

    def __call__(self, example, rng):
        time.sleep(0.02)
        return {"x": np.float32(example)}


@pytest.mark.long
def test_a_killed_data_worker_ends_a_run_in_one_line_that_says_so():
    batches = pipeline.train_batches(list(range(50)), Slowly(), 0, 4, workers=1, prefetch=1)
    next(batches)
    others = multiprocessing.active_children()
    os.kill(others[-1].pid, signal.SIGKILL)
    with pytest.raises(Failure, match=r"a data worker was killed \(exit code -9\)"):
        list(zip(range(100), batches, strict=False))
