"""MLflow with its own database, with a local server, and with a server that cannot be reached."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from research.tracking import base, trackers
from research.tracking.base import Histogram, TrackedRun

mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed; it comes with the extra [trackers]")

# The server of MLflow, whose own command needs more packages than its handlers do.
SERVER = """
import os, sys
folder = sys.argv[1]
os.environ |= {
    "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/db", "_MLFLOW_SERVER_REGISTRY_STORE": f"sqlite:///{folder}/db",
    "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/", "_MLFLOW_SERVER_ARTIFACT_DESTINATION": f"{folder}/artifacts",
    "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
}
from wsgiref.simple_server import make_server
from mlflow.server import app
server = make_server("127.0.0.1", 0, app)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """That of MLflow is put back."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(trackers, "STOP_S", 60.0)  # a busy machine is slow
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


@pytest.fixture
def server(tmp_path):
    """The address of a local server."""
    pytest.importorskip("flask", reason="flask, which the server of MLflow needs, is not installed")
    words = [sys.executable, "-c", SERVER, str(tmp_path / "server")]
    (tmp_path / "server").mkdir()
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()


def track_twice(folder):
    """A run of four steps that is interrupted after the second one; returns the warnings."""
    said = []
    for first in (1, 3):
        run = TrackedRun(folder, "run", {"train": {"steps": 4}, "seed": 0}, first)
        opened = trackers.Trackers(("mlflow",), run, said.append)
        for step in range(first, first + 2):
            opened.scalars(step, {"train/loss": 10.0 * step, "train/inf": float("inf")})
        opened.image(step, "i", np.zeros((4, 5, 3), np.uint8))
        opened.histograms(step, {"h": Histogram(np.array([1, 2]), np.array([0.0, 1.0, 2.0]))})
        opened.texts(step, "samples/t", ["a", "b"])
        opened.close(first == 3)
    return said


def check(folder, uri):
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("tessera")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == json.loads((folder / base.IDS).read_text())["mlflow"]
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params == {"train.steps": "4", "seed": "0"}
    assert list(run.data.metrics) == ["train/loss"]
    metrics = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in metrics] == [(1, 10), (2, 20), (3, 30), (4, 40)]
    found = {each.path for step in (2, 4) for each in client.list_artifacts(run.info.run_id, f"step_{step:08d}")}
    assert found == {f"step_{step:08d}/{name}" for step in (2, 4) for name in ("histograms.json", "i.png", "samples")}


@pytest.mark.long
def test_a_run_has_a_database_of_its_own_unless_another_one_is_named(tmp_path):
    assert track_twice(tmp_path) == []
    check(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert (tmp_path / "mlartifacts").is_dir()


@pytest.mark.long
def test_a_local_server_gets_everything(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert track_twice(tmp_path) == []
    check(tmp_path, server)
    assert not (tmp_path / "mlflow.db").exists()


def test_a_server_that_cannot_be_reached_is_one_warning(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    warnings = track_twice(tmp_path)  # one for each of the two starts
    assert len(warnings) == 2 and all("the tracker mlflow failed" in line and "\n" not in line for line in warnings)
    assert not (tmp_path / base.IDS).exists()
