"""`tessera report privacy`: the audit of a run, one of its shadow runs, and the figures in its row."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from research.cli import experiment
from research.command import Failure
from research.data import prepare
from research.report import records
from research.sweep import running
from research.trust import audit
from tests.running import run

CONFIG = "configs/image_classification/digits_private.py:smoke"
SMALL = ("model.width=8", "model.depth=1", "model.mlp_dim=8", "model.num_heads=1", "model.unroll=1")
FAKE_TRAIN = (sys.executable, str(Path(__file__).parents[1] / "sweep/fake_train.py"))


def ask(*words):
    return run(["research.cli.tessera", *words])


def opened(workdir):
    config = experiment.load(*experiment.parse([f"--workdir={workdir}"], "evaluate"))
    return config, *config.build()


def train(workdir, overrides):
    done = ask("train", f"--config={CONFIG}", *(f"--config.{each}" for each in overrides), f"--workdir={workdir}")
    assert done.code == 0, done.err


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """The run directory of a private model that was trained for two steps."""
    data_dir, workdir = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("runs") / "digits"
    prepare.prepare("digits", data_dir=str(data_dir))
    train(workdir, ["seed=3", "train.steps=2", "optimizer.warmup_steps=0", f"data.dir={data_dir}", *SMALL])
    done = ask("report", "privacy", workdir, "--shadows=0")
    assert done.code == 0, done.err
    return workdir


def result(workdir):
    return json.loads((workdir / "result.json").read_text())


@pytest.mark.long
def test_an_audit_has_the_losses_of_the_run(audited):
    found = json.loads((audited / "privacy/report.json").read_text())
    assert found["mean_loss"]["test"] == pytest.approx(result(audited)["metrics"]["test/loss"], rel=1e-5)
    assert found["attacks"].keys() == {"run_loss"}
    assert (found["attacks"]["run_loss"]["members"], found["attacks"]["run_loss"]["others"]) == (1293, 360)
    assert "loss threshold" in (audited / "privacy/report.html").read_text()
    row = records.read_run(audited)
    assert row["also"] == ["audit/loss_tpr", "audit/loss_auc"] and row["privacy"]["noise_multiplier"] == 2.8


@pytest.mark.long
def test_a_shadow_run_is_the_run_with_another_seed_on_half_of_the_examples(audited, tmp_path):
    """Its losses are those of all examples of the run."""
    config, _, data = opened(audited)
    shadows = audit.shadows_of(config, 4)
    runs = [shadows.overrides(trial, shadows.seeds[0]) for trial in range(4)]
    assert [[text for text in each if text.startswith(("data.half", "seed"))] for each in runs] == [
        [f"data.half={number}", f"seed={3 + number}"] for number in range(1, 5)
    ]
    train(tmp_path / "shadow", runs[1])
    assert result(tmp_path / "shadow")["data"]["counts"]["train"] == 647
    losses = audit.losses(opened(tmp_path / "shadow"), tmp_path / "shadow", data)
    assert (len(losses.train), len(losses.test)) == (1293, 360)
    assert losses.test.mean() == pytest.approx(result(tmp_path / "shadow")["metrics"]["test/loss"], rel=1e-5)
    with pytest.raises(ValueError, match=r"config.data.half=2 is a shadow run; audit the run that it belongs to"):
        audit.shadows_of(opened(tmp_path / "shadow")[0], 4)


def test_shadow_runs_are_trained_once_and_a_failure_names_its_log(tmp_path, monkeypatch):
    """By a program that only pretends to train."""
    monkeypatch.setattr(running, "POLL_S", 0.01)
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    halves = tuple((f"data.half={number}",) for number in range(1, 5))
    shadows = audit.Shadows("c.py", halves, ("value=0.5", "pause=0"), seeds=(3,))
    for _ in range(2):
        folders = audit.train(shadows, tmp_path / "a", ("accuracy", "max"), list(FAKE_TRAIN), 4, lambda line: None)
        assert [folder.name for folder in folders] == [f"{trial:03d}_seed3" for trial in range(4)]
        assert [(folder / "starts").read_text() for folder in folders] == ["false\n"] * 4
    broken = audit.Shadows("c.py", halves[:1], ("value=0.5", "fail=1"), seeds=(3,))
    with pytest.raises(Failure, match=r"the shadow run .*000_seed3 failed: something is wrong; see .*log"):
        audit.train(broken, tmp_path / "b", ("accuracy", "max"), list(FAKE_TRAIN), 1, lambda line: None)


@pytest.mark.long
def test_what_cannot_be_audited_is_refused_in_one_line(audited, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(audited, copy)
    (copy / "result.json").unlink()
    assert "has no result.json; audit a finished run" in ask("report", "privacy", copy, "--shadows=0").error
    assert "--shadows=3 must be 0, or an even number" in ask("report", "privacy", audited, "--shadows=3").error
    assert "--processes=0 must be 1 or more" in ask("report", "privacy", audited, "--processes=0").error
