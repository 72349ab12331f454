"""The run directory: where it is, the config it belongs to, its metrics, its result."""

import importlib.util
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from research import config as config_lib

_KEPT = ("config.json", "result.json", "metrics.jsonl", "timeline.jsonl")


class Folder:
    """A run directory: `root` as it was named, where the checkpoints lie, and `files`, where all else is written.

    They are one folder on a disk. For a `gs://` URL, `files` is a temporary folder of this machine, because an object
    store cannot append to a file: it begins with what the bucket holds, and `push` copies there what has changed.
    """

    def __init__(self, workdir: str | os.PathLike):
        """Raises ValueError for a URL of another kind than gs://, or when the package for it is missing."""
        self._remote = "://" in str(workdir)
        if not self._remote:
            self.root = self.files = Path(workdir).absolute()
            return
        if not str(workdir).startswith("gs://"):
            raise ValueError(f"--workdir={workdir} is not supported; give a folder or gs://BUCKET/FOLDER")
        if importlib.util.find_spec("gcsfs") is None:
            raise ValueError(f"--workdir={workdir} needs the package gcsfs; install Tessera with the extra [gcs]")
        self.root = epath.Path(workdir)
        self._temporary = tempfile.TemporaryDirectory(prefix="tessera-")  # removed when this object or Python ends
        self.files = Path(self._temporary.name) / self.root.name
        self.files.mkdir()
        for name in _KEPT:
            if (self.root / name).exists():
                (self.files / name).write_bytes((self.root / name).read_bytes())
        self._pushed = self._stamps()

    def push(self) -> None:
        """Returns when the bucket holds everything that was written to `files`; on a disk there is nothing to do."""
        if not self._remote:
            return
        stamps = self._stamps()
        for path, stamp in stamps.items():
            if self._pushed.get(path) != stamp:
                (self.root / str(path.relative_to(self.files))).write_bytes(path.read_bytes())
        for path in self._pushed.keys() - stamps.keys():
            (self.root / str(path.relative_to(self.files))).unlink(missing_ok=True)
        self._pushed = stamps

    def _stamps(self) -> dict[Path, tuple[int, int]]:
        """Size and time of change of every file; taken before a copy, so that what is written meanwhile goes next."""
        paths = [path for path in self.files.rglob("*") if path.is_file() and path.suffix != ".partial"]
        return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


def prediction_paths(folder: Folder, files: Sequence[str]) -> list[Path]:
    """For each of `files` where its answers are written, without suffix: `folder.files`/predict/NAME; to be pushed.

    Raises ValueError where two of them would have one name.
    """
    stems = [Path(file).stem for file in files]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise ValueError(f"two inputs are called {twice[0]}, and so would be their answers; give them one at a time")
    return [folder.files / "predict" / stem for stem in stems]


def claim(
    workdir: Path, config: Mapping[str, Any], write: bool, name: str | None = None, in_use: bool = False
) -> list[str]:
    """Makes `workdir` the run directory of `config`; returns the differences that a resumed run may show.

    With `in_use` the run is only evaluated or asked, which may be done in another way than its config says.

    Raises ValueError, before anything is written, when it belongs to a config that differs in more than that; the
    message calls it `name`.
    """
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"--workdir={workdir} is a file; name a folder, which may not exist yet")
    path = workdir / "config.json"
    allowed: list[str] = []
    if path.exists():
        allowed, refused = config_lib.differences(read_json(path), config, in_use)
        if refused:
            raise ValueError(
                f"{name or workdir} belongs to another config ({'; '.join(refused)}); "
                "choose another --workdir or undo the change"
            )
    if write:
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(path, config_lib.plain(config))
    return [line for line in allowed if not line.startswith("source.")]


def finite(content: Any) -> Any:
    """`content` with None for every number that JSON does not have: NaN and the infinities."""
    if isinstance(content, Mapping):
        return {name: finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_json(path: Path, content: Any) -> None:
    """Writes all of `content` or nothing."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, path)


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The `{"step", "name", "value"}` entries of a metrics file; a last line cut short by a kill is left out.

    The value is None where it was not finite.
    """
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
            return (
                entry["step"] <= step
                and phase != "test"
                and (evaluated or entry["step"] < step or phase != "validation")
            )

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
            self._file.write(json.dumps({"step": step, "name": name, "value": finite(float(value))}) + "\n")
        if self._events is None:
            from tensorboardX import SummaryWriter  # here, because it takes a third of a second

            self._events = SummaryWriter(str(self._workdir / "events"), purge_step=self._purge_step)
        for name, value in values.items():
            if math.isfinite(value):
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
