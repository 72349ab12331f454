"""A run directory in a bucket: what is written is there before a checkpoint is, and the next start goes on from it."""

import importlib.util
import json
from types import SimpleNamespace

import pytest
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from research.config import plain
from research.train import rundir
from tests.train import toy

URL = "gs://bucket/runs/one"


class Bucket(MemoryFileSystem):
    """As an object store: objects by URL, written whole, and no appending."""

    protocol = ("gcs", "gs")
    store = {}  # noqa: RUF012  that of the base class belongs to memory://
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(str(path).removeprefix("gs:/").removeprefix("gcs:/"))

    def _open(self, path, mode="rb", **kwargs):
        assert mode in ("rb", "wb"), f"an object store cannot open {path} for {mode}"
        return super()._open(path, mode, **kwargs)


@pytest.fixture
def bucket(monkeypatch):
    """{name of the object: its content}, of an empty bucket that gs:// URLs lead to."""
    Bucket.store.clear()
    Bucket.clear_instance_cache()
    monkeypatch.setitem(_registry, "gcs", Bucket)
    backend.fsspec_backend._get_filesystem.cache_clear()
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: SimpleNamespace() if name == "gcsfs" else find_spec(name)
    )
    yield lambda: {name: file.getvalue() for name, file in Bucket.store.items()}
    backend.fsspec_backend._get_filesystem.cache_clear()


def metrics_of(folder, step, evaluated=False):
    metrics = rundir.Metrics(folder.files, write=True)
    metrics.resume(step, evaluated=evaluated)
    return metrics


def test_metrics_are_in_the_bucket_once_pushed_and_are_continued(bucket):
    folder = rundir.RunDirectory(URL)
    rundir.open_run_dir(folder.files, toy.make_config(seed=1), write=True)
    metrics = metrics_of(folder, 0)
    metrics.write(1, {"train/loss": 2.0})
    metrics.write(2, {"train/loss": 1.0})
    metrics.flush()
    assert bucket() == {}
    folder.push()
    lines = bucket()["/bucket/runs/one/metrics.jsonl"].decode().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    assert json.loads(bucket()["/bucket/runs/one/config.json"])["seed"] == 1
    assert len([name for name in bucket() if name.startswith("/bucket/runs/one/events/")]) == 1
    metrics.write(3, {"train/loss": 0.5})  # killed here

    # Another machine, restored to step 1: what came after it is forgotten.
    again = rundir.RunDirectory(URL)
    assert again.files != folder.files
    assert rundir.open_run_dir(again.files, toy.make_config(seed=1), write=True) == []
    with pytest.raises(ValueError, match=f"{URL} belongs to another config"):
        rundir.open_run_dir(again.files, toy.make_config(seed=2), write=True, name=URL)
    metrics = metrics_of(again, 1)
    metrics.write(2, {"train/loss": 1.5})
    metrics.close()
    again.push()
    lines = bucket()["/bucket/runs/one/metrics.jsonl"].decode().splitlines()
    assert [json.loads(line)["value"] for line in lines] == [2.0, 1.5]


def test_a_file_that_is_deleted_leaves_the_bucket_and_others_are_not_written_again(bucket):
    folder = rundir.RunDirectory(URL)
    for name in ("result.json", "config.json"):
        rundir.write_json(folder.files / name, {})
    folder.push()
    again = rundir.RunDirectory(URL)
    (again.files / "result.json").unlink()
    Bucket.store["/bucket/runs/one/config.json"].seek(0, 2)
    Bucket.store["/bucket/runs/one/config.json"].write(b"touched")  # would be lost, were it written again
    again.push()
    assert list(bucket()) == ["/bucket/runs/one/config.json"]
    assert bucket()["/bucket/runs/one/config.json"].endswith(b"touched")


def test_a_folder_on_a_disk_is_used_as_it_is(tmp_path):
    folder = rundir.RunDirectory(tmp_path / "run")
    assert folder.root == folder.files == tmp_path / "run"
    folder.push()
    assert not (tmp_path / "run").exists()


def test_another_kind_of_url_and_a_missing_package_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="--workdir=http://host/run is not supported; give a folder or gs://"):
        rundir.RunDirectory("http://host/run")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"--workdir=gs://bucket/runs/one needs the package gcsfs"):
        rundir.RunDirectory(URL)


def test_answers_to_files_of_one_name_would_be_one(tmp_path):
    assert rundir.prediction_paths(rundir.RunDirectory(tmp_path), ["a/1.jpg", "b/2.png"]) == {
        "a/1.jpg": tmp_path / "predict/1",
        "b/2.png": tmp_path / "predict/2",
    }
    with pytest.raises(ValueError, match=r"two inputs have the name 1, so one output would overwrite"):
        rundir.prediction_paths(rundir.RunDirectory(tmp_path), ["a/1.jpg", "b/2.png", "b/1.jpg"])


def test_the_config_that_a_run_began_with_is_kept(tmp_path):
    first, second = (toy.make_config(**{"mesh.data": count}) for count in (1, 2))
    rundir.open_run_dir(tmp_path, first, write=True)
    rundir.open_run_dir(tmp_path, first, write=True)
    assert not (tmp_path / rundir.HISTORY).exists()
    rundir.open_run_dir(tmp_path, second, write=True)
    (entry,) = map(json.loads, (tmp_path / rundir.HISTORY).read_text().splitlines())
    assert entry["config"] == json.loads(json.dumps(plain(first))) and entry["changed"] == ["mesh.data: 1 -> 2"]
    assert rundir.read_json(tmp_path / "config.json")["mesh"]["data"] == 2


def test_another_learning_rate_is_refused_and_the_way_on_is_named(tmp_path):
    rate = lambda value, seed=0: toy.make_config(**{"optimizer.learning_rate": value, "seed": seed})
    rundir.open_run_dir(tmp_path, rate(0.1), write=True)
    with pytest.raises(ValueError, match=rf"learning_rate: 0.1 -> 0.2\); .*--config.train.init_from={tmp_path}$"):
        rundir.open_run_dir(tmp_path, rate(0.2), write=True)
    with pytest.raises(ValueError, match=r"undo the change$"):
        rundir.open_run_dir(tmp_path, rate(0.2, seed=1), write=True)
