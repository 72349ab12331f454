"""MLflow: a server or database that MLFLOW_TRACKING_URI names, else `mlflow.db` in the folder of the run."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from research.tracking.base import Histogram, TrackedRun

EXPERIMENT = "tessera"  # unless MLFLOW_EXPERIMENT_NAME names another one
_MOST_CHARACTERS = 500  # of a parameter
# Unless the user sets them: MLflow would retry for minutes, and print on standard output.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class MLflow:
    """See base.Tracker. Scalars are metrics, everything else artifacts, in folders named after the step."""

    def __init__(self, run: TrackedRun):
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        self._metric: Any = Metric
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.folder / 'mlflow.db'}"
        self._client: Any = MlflowClient(tracking_uri=uri)
        self._id = self._resumed(run) or self._created(run, uri)

    def _resumed(self, run: TrackedRun) -> str | None:
        """The id of the run if it is known there; it is marked as running again."""
        known = run.known_id("mlflow")
        if known is None:
            return None
        from mlflow.exceptions import MlflowException  # pyright: ignore[reportMissingImports]

        try:
            self._client.update_run(known, status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None  # another server or database than before
        return known

    def _created(self, run: TrackedRun, uri: str) -> str:
        """The id of a new run."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        experiment = self._client.get_experiment_by_name(name)
        local = (run.folder / "mlartifacts").as_uri() if uri.startswith("sqlite:") else None
        number = experiment.experiment_id if experiment else self._client.create_experiment(name, local)
        created = self._client.create_run(number, run_name=run.name).info.run_id
        run.keep_id("mlflow", created)
        from mlflow.entities import Param  # pyright: ignore[reportMissingImports]

        params = [Param(name, str(value)[:_MOST_CHARACTERS]) for name, value in _flat(run.config)]
        for begin in range(0, len(params), 100):  # the most of one request
            self._client.log_batch(created, params=params[begin : begin + 100])
        return created

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See Tracker.scalars."""
        now = int(1000 * time.time())
        metrics = [self._metric(name, float(value), now, step) for name, value in values.items()]
        for begin in range(0, len(metrics), 1000):
            self._client.log_batch(self._id, metrics=metrics[begin : begin + 1000])

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """See Tracker.image."""
        self._client.log_image(self._id, image, artifact_file=f"{_folder(step)}/{name}.png")

    def histograms(self, step: int, values: Mapping[str, Histogram]) -> None:
        """See Tracker.histograms; MLflow has none, so a JSON file holds counts and edges of all of them."""
        content = {
            name: {"counts": counts.tolist(), "edges": edges.tolist()} for name, (counts, edges) in values.items()
        }
        self._client.log_dict(self._id, content, f"{_folder(step)}/histograms.json")

    def texts(self, step: int, name: str, texts: Sequence[str]) -> None:
        """See Tracker.texts."""
        self._client.log_text(self._id, "\n\n".join(texts) + "\n", f"{_folder(step)}/{name}.txt")

    def flush(self) -> None:
        """Does nothing: every call is sent at once."""

    def close(self, finished: bool) -> None:
        """See Tracker.close; an unfinished run is listed as killed until it is resumed."""
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")


def _folder(step: int) -> str:
    """The folder of the artifacts of a step; names sort as steps do."""
    return f"step_{step:08d}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested groups, with dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
