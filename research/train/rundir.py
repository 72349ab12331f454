"""The run directory: the config it belongs to, its metrics, its result."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research import config as config_lib


def claim(workdir: Path, config: Mapping[str, Any], write: bool) -> list[str]:
    """Makes `workdir` the run directory of `config`; returns the differences that a resumed run may show.

    Raises ValueError, before anything is written, when it belongs to a config that differs in more than that.
    """
    path = workdir / "config.json"
    allowed: list[str] = []
    if path.exists():
        allowed, refused = config_lib.differences(read_json(path), config)
        if refused:
            raise ValueError(
                f"{workdir} belongs to another config ({'; '.join(refused)}); "
                "choose another --workdir or undo the change"
            )
    if write:
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(path, config_lib.plain(config))
    return [line for line in allowed if not line.startswith("source.")]


def write_json(path: Path, content: Any) -> None:
    """Writes all of `content` or nothing."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, path)


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The `{"step", "name", "value"}` entries of a metrics file; a last line cut short by a kill is left out."""
    entries = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return entries


class Metrics:
    """`metrics.jsonl` and TensorBoard events of a run; on processes that keep no logs, neither."""

    def __init__(self, workdir: Path, write: bool):
        self._workdir, self._write = workdir, write
        self._file = self._events = None

    def resume(self, step: int, evaluated: bool) -> None:
        """Forgets what was logged after `step`, and the evaluation of `step` itself unless it is in the checkpoint."""
        if not self._write:
            return
        path = self._workdir / "metrics.jsonl"

        def holds(entry):
            phase = entry["name"].split("/")[0]
            return entry["step"] <= step and phase != "test" and (evaluated or entry["step"] < step or phase == "train")

        kept = [json.dumps(entry) + "\n" for entry in read_metrics(path) if holds(entry)]
        partial = path.with_name(path.name + ".partial")
        partial.write_text("".join(kept))
        os.replace(partial, path)
        self._file = path.open("a")
        self._purge_step = step + 1

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs `{name: value}` at `step`."""
        if not self._write:
            return
        for name, value in values.items():
            self._file.write(json.dumps({"step": step, "name": name, "value": value}) + "\n")
        if self._events is None:
            from tensorboardX import SummaryWriter  # here, because it takes a third of a second

            self._events = SummaryWriter(str(self._workdir / "events"), purge_step=self._purge_step)
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def flush(self) -> None:
        """Returns when everything written is on disk."""
        if self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        if self._events:
            self._events.flush()

    def close(self) -> None:
        """Flushes and closes the files."""
        self.flush()
        for file in (self._file, self._events):
            if file:
                file.close()
