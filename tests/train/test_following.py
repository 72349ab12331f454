"""A process that scores the checkpoints of a run while another one writes them."""

import dataclasses
import json
import shutil
import threading
import time

import pytest

from research.command import Failure
from research.train import following, rundir, trainer
from research.train.following import Follower
from research.train.lock import Lock
from tests.train import toy
from tests.train.test_rundir import URL, Bucket, bucket

__all__ = ["bucket"]  # a fixture

EVERY = {"train.checkpoint_every": 3, "train.keep_last": 9}  # checkpoints 3, 4, 6, 8, 9 and 12


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(following, "POLL_S", 0.02)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("followed") / "run"
    trainer.run("train", toy.make_config(**EVERY), toy.make_task(), toy.Data(), workdir)
    return workdir


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def follow(workdir, timeout_s=None, **overrides):
    config = toy.make_config(**EVERY | overrides)
    return Follower(config, toy.make_task(), toy.Data(), str(workdir)).follow(timeout_s)


def lines(workdir):
    return [json.loads(line) for line in (workdir / following.FILE).read_text().splitlines()]


def test_scores_equal_those_of_the_training_run(run):
    logged = {}
    for entry in rundir.read_metrics(run / "metrics.jsonl"):
        if entry["name"].startswith("validation/"):
            logged.setdefault(entry["step"], {})[entry["name"]] = entry["value"]
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    last = follow(run)
    found = {line["step"]: line["metrics"] for line in lines(run)}
    assert list(found) == [3, 4, 6, 8, 9, 12] and logged.keys() == {4, 8, 12}
    for step, values in logged.items():
        assert found[step] == pytest.approx(values, rel=1e-6)
    assert last == {"step": 12, "metrics": found[12]}
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert after == before | {run / following.FILE: after[run / following.FILE]}, "nothing else is written"


def test_a_checkpoint_is_scored_once_however_often_it_is_started(run):
    follow(run)
    before = (run / following.FILE).read_text()
    follow(run)
    assert (run / following.FILE).read_text() == before
    text = "".join(before.splitlines(keepends=True)[:4]) + '{"step": 9, "dig'  # as a kill of another program leaves it
    (run / following.FILE).write_text(text)
    follow(run)
    without = lambda entries: [(entry["step"], entry["metrics"]) for entry in entries]
    assert without(lines(run)) == without(map(json.loads, before.splitlines()))


def test_it_follows_a_run_that_goes_on_and_ends_with_it(finished, tmp_path):
    """Checkpoints appear and disappear, one of them while it is read."""
    run = tmp_path / "run"
    shutil.copytree(finished, run, ignore=shutil.ignore_patterns("[0-9]*", "result.json", "selected.json"))
    (run / "checkpoints").mkdir(exist_ok=True)
    put = lambda step: shutil.copytree(finished / f"checkpoints/{step}", run / f"checkpoints/{step}")
    put(3)
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(follow(run)))
    thread.start()
    scored = lambda: [line["step"] for line in lines(run)] if (run / following.FILE).exists() else []
    wait_until(lambda: scored() == [3])
    shutil.copytree(finished / "checkpoints/4", tmp_path / "4")
    shutil.rmtree(tmp_path / "4/state")  # as a checkpoint that is being deleted
    (tmp_path / "4").rename(run / "checkpoints/4")
    put(6)
    wait_until(lambda: scored() == [3, 6])
    shutil.rmtree(run / "checkpoints/4")
    shutil.rmtree(run / "checkpoints/3")
    put(12)
    shutil.copy(finished / "result.json", run)
    thread.join(60)
    assert scored() == [3, 6, 12] and outcome[0]["step"] == 12


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_followers_of_one_run_are_refused_but_not_beside_its_training(run):
    training, other = Lock(run), Lock(run, name=following.LOCK)
    training.take()
    other.take()
    with pytest.raises(ValueError, match=r"run is in use by the run on"):
        follow(run)
    other.release()
    follow(run)
    training.release()


def test_it_gives_up_after_the_timeout(run, tmp_path):
    (run / "result.json").unlink()
    with pytest.raises(Failure, match=r"no new checkpoint after --timeout=0.1 s"):
        follow(run, timeout_s=0.1)
    assert len(lines(run)) == 6
    said = []
    with pytest.raises(Failure, match=r"has no checkpoint after --timeout=0.1 s; is the run going on"):
        following.wait_for_run(str(tmp_path / "none"), 0.1, said.append)
    assert said == [f"waiting for the first checkpoint in {tmp_path / 'none'}"]
    following.wait_for_run(str(run), None, said.append)


def test_other_settings_of_evaluation_have_scores_of_their_own(run):
    follow(run)
    config = toy.make_config(**EVERY)
    other = dataclasses.replace(config, source=dataclasses.replace(config.source, digest="1" * 12))
    Follower(other, toy.make_task(), toy.Data(), str(run)).follow()
    assert [line["digest"][0] for line in lines(run)] == ["0"] * 6 + ["1"] * 6


def test_a_run_that_is_not_tested_ends_with_its_selection(run):
    (run / "result.json").unlink()
    assert follow(run, timeout_s=30, **{"train.test": False})["step"] == 12


def test_a_run_in_a_bucket_is_seen_and_its_scores_are_written_there(finished, bucket):
    def upload(path):
        with Bucket().open(f"{URL}/{path.relative_to(finished)}", "wb") as file:
            file.write(path.read_bytes())

    upload(finished / "config.json")
    upload(finished / "checkpoints/6/meta/metadata")
    following.wait_for_run(URL, 1.0, print)
    root = rundir.RunDirectory(URL).root
    assert following.look(root, "result.json", ()) == (False, [6])
    scores = following.Scores(root / following.FILE, "a")
    scores.add(6, {"validation/loss": 0.5}, 1.0)
    scores.add(8, {"validation/loss": float("nan")}, 1.0)
    again = following.Scores(root / following.FILE, "a")
    assert again.of_config == {6: {"validation/loss": 0.5}, 8: {"validation/loss": None}}
    assert following.Scores(root / following.FILE, "b").of_config == {}
    upload(finished / "result.json")
    assert following.look(root, "result.json", again.of_config) == (True, [])
    assert f"{URL.removeprefix('gs:/')}/{following.FILE}" in bucket()


def test_evaluation_may_be_off_while_training(tmp_path):
    config = toy.make_config(**EVERY | {"train.eval_every": 0})
    result = trainer.run("train", config, toy.make_task(), toy.Data(), tmp_path / "run")
    entries = rundir.read_metrics(tmp_path / "run/metrics.jsonl")
    assert {entry["step"] for entry in entries if entry["name"].startswith("validation/")} == {12}
    assert "validation/accuracy" in result["metrics"]
    with pytest.raises(ValueError, match=r"train.select='best' needs evaluations, but config.train.eval_every=0"):
        toy.make_config(**{"train.eval_every": 0, "train.select": "best"})
