"""The run directory: its location, config, metrics and result."""

import contextlib
import dataclasses
import importlib.util
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from etils import epath

from research import config as config_lib
from research import files
from research.checkpoint import seal
from research.data import recorded
from research.tracking import base as tracking
from research.tracking.trackers import Trackers

HISTORY = "config_history.jsonl"  # the earlier configs of a run, oldest first
_KEPT = ("config.json", "result.json", "metrics.jsonl", "timeline.jsonl", "run.log", HISTORY)
_KEPT += (recorded.FILE, recorded.VOCABULARY, tracking.IDS)
AnyPath: TypeAlias = Path | epath.Path  # on a disk, or in a bucket


class RunDirectory:
    """A run directory: `root` holds the checkpoints, `files` everything else.

    On a disk they are one folder. For a `gs://` URL, `files` is a local temporary folder, because an object store
    cannot append to a file: it starts as a copy of the bucket, and `push` uploads changed files.
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
        """Uploads changed `files` to the bucket; does nothing on a disk."""
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
        """Size and modification time of every file; taken before a copy, so that later writes are copied next time."""
        paths = [path for path in self.files.rglob("*") if path.is_file() and path.suffix != ".partial"]
        return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


def prediction_paths(folder: RunDirectory, files: Sequence[str]) -> dict[str, Path]:
    """The output path, without suffix, of each of the input `files`: `folder.files`/predict/NAME.

    Raises ValueError if two of them would have the same name.
    """
    if folder.root == folder.files:
        check_workdir(folder.root, write=True)
    stems = [Path(file).stem for file in files]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise ValueError(
            f"two inputs have the name {twice[0]}, so one output would overwrite the other; predict them one at a time"
        )
    return {file: folder.files / "predict" / stem for file, stem in zip(files, stems, strict=True)}


def open_run_dir(
    workdir: Path,
    config: config_lib.Config,
    write: bool,
    name: str | None = None,
    inference: bool = False,
    checkpoints: Any = None,
    warn: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Opens `workdir` as the run directory of `config`, new or resumed.

    If `config.json` is missing or damaged, the config in the newest checkpoint is used instead.

    Args:
        workdir: The folder.
        config: The config of the run that is started or resumed.
        write: Whether to write `config.json`.
        name: The name of the folder in messages.
        inference: Evaluation or prediction only, for which inference options may differ.
        checkpoints: The folder of the checkpoints.
        warn: Called with warnings.

    Returns:
        The allowed differences between the config of the run and `config`.

    Raises:
        ValueError: The run directory belongs to a config with other differences (nothing is written), or cannot be
            written.
    """
    allowed: list[str] = []
    saved = seal.newest(checkpoints) if checkpoints is not None else None
    before, origin, warning = _config_before(workdir / "config.json", saved)
    befores = [(before, origin)] if before is not None else []
    if saved and not origin:  # config.json may have been edited, and is overwritten below
        befores.append((saved["config"], f", by checkpoint {saved['step']}"))
    for position, (before, origin) in enumerate(befores):
        differing, refused = config_lib.differences(before, config, inference)
        allowed = allowed if position else differing
        if refused:
            raise another_config(str(name or workdir), origin, refused)
    if warning:
        warn(warning)
    if write:
        with writing(name or workdir):
            workdir.mkdir(parents=True, exist_ok=True)
            if before is not None and before != json.loads(json.dumps(config_lib.plain(config))):
                _keep_config(workdir / HISTORY, before, allowed)
            write_json(workdir / "config.json", config_lib.plain(config))
    return [line for line in allowed if not line.startswith("source.")]


def another_config(name: str, origin: str, refused: Sequence[str]) -> ValueError:
    """The error for a run directory whose config, from `origin`, has the differences `refused`."""
    message = f"{name} belongs to another config{origin} ({'; '.join(refused)}); choose another --workdir or undo the "
    message += "change"
    if all(line.startswith("optimizer.") for line in refused):
        message += f", or start another run from its weights with --config.train.init_from={name}"
    return ValueError(message)


def _keep_config(history: Path, before: Mapping[str, Any], changed: Sequence[str]) -> None:
    """Appends the previous config of a run and its differences to the present one."""
    entry = {"until": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()), "changed": list(changed), "config": before}
    files.end_line(history)
    with history.open("a") as file:
        file.write(json.dumps(entry) + "\n")
        file.flush()
        os.fsync(file.fileno())


def finite(content: Any) -> Any:
    """`content` with None in place of NaN and infinities, which JSON lacks."""
    if isinstance(content, Mapping):
        return {name: finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def check_workdir(workdir: str | os.PathLike, write: bool) -> None:
    """Raises ValueError, in one line, for a --workdir that cannot be used or, with `write`, cannot be written."""
    if not str(workdir):
        raise ValueError("--workdir is empty; give a folder, new or existing")
    if "://" in str(workdir):
        return
    path = Path(workdir).absolute()
    try:
        str(path).encode()
    except UnicodeEncodeError:  # checkpoints cannot be saved under such a name
        raise ValueError(f"--workdir={os.fsencode(workdir)!r} is not UTF-8; choose another name") from None
    with writing(workdir, "used"):
        existing = next(folder for folder in (path, *path.parents) if folder.exists())
        (path / "checkpoints" / "events").exists()  # raises for a path that is too long
    if not existing.is_dir():
        what = "a file" if existing == path else f"inside {existing}, which is a file"
        raise ValueError(f"--workdir={workdir} is {what}; give a folder, new or existing")
    if write and not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"--workdir={workdir} cannot be written: no permission to write to {existing}; choose another")


@contextlib.contextmanager
def writing(workdir: str | os.PathLike, how: str = "written") -> Iterator[None]:
    """Turns an OSError (no permission, no space, a name too long) into a ValueError of one line."""
    try:
        yield
    except OSError as error:
        shown = text if len(text := str(workdir)) < 200 else f"{text[:80]}..."
        raise ValueError(f"--workdir={shown} cannot be {how}: {error.strerror or error}; choose another") from None


def config_of(folder: RunDirectory, name: str) -> Mapping[str, Any]:
    """The config of a run directory, from config.json or else from the newest checkpoint.

    Raises ValueError, with `name`, if there is neither.
    """
    config, _, problem = _config_before(folder.files / "config.json", seal.newest(folder.root / "checkpoints"))
    if config is None:
        raise ValueError(f"--workdir={name} is not a run directory: {problem or 'it has no config.json'}")
    return config


def _config_before(path: Path, saved: Mapping[str, Any] | None) -> tuple[Mapping[str, Any] | None, str, str]:
    """The config of a run (None: it is new), its origin if it is not `path`, and a warning.

    `saved` is the metadata of its newest checkpoint, if there is one.
    """
    try:
        if config := read_json(path):
            return config, "", ""
        problem = "is empty"
    except FileNotFoundError:
        problem = "is missing"
    except ValueError:
        problem = "is damaged"
    if saved:
        origin = f"checkpoint {saved['step']}"
        warning = f"{path} {problem}; the config that was saved with {origin} is used instead"
        return saved["config"], f", by {origin}", warning
    return None, "", f"{path} {problem}, and no checkpoint has a copy of it" if problem != "is missing" else ""


def write_json(path: Path, content: Any) -> None:
    """Writes `content` atomically and durably."""
    files.write_atomically(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file. Raises ValueError if it is damaged."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):  # invalid JSON or UTF-8
        content = None
    if not isinstance(content, dict) or not files.is_intact(content):
        raise ValueError(f"{path} is damaged")
    return content


def read_metrics(path: Path, warn: Callable[[str], None] = lambda line: None) -> list[dict[str, Any]]:
    """The `{"step", "name", "value"}` entries of a metrics file, without a last line that was truncated by a kill.

    A value that was not finite is None. Damaged lines are skipped with a warning.
    """
    entries, damaged = files.read_json_lines(path, _is_metric)
    if damaged:
        lines = f"line {damaged[0]} is" if len(damaged) == 1 else f"{len(damaged)} lines, the first {damaged[0]}, are"
        warn(f"{path}: {lines} damaged and skipped; all others are kept")
    return entries


def _is_metric(entry: Mapping[str, Any]) -> bool:
    """Whether `entry` is a metric; its value may be null, for NaN and the infinities."""
    return (
        isinstance(entry.get("step"), int)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("value", ""), int | float | None)
    )


class Metrics:
    """`metrics.jsonl` of a run, and its trackers; written by one process only."""

    def __init__(
        self,
        workdir: Path,
        write: bool,
        warn: Callable[[str], None] = lambda line: None,
        trackers: Sequence[str] = ("tensorboard",),
        name: str = "",
        config: Mapping[str, Any] | None = None,
    ):
        """`trackers` are `tracking.NAMES`, in which the run is listed as `name`, with its `config`."""
        self._workdir, self._write, self._warn = workdir, write, warn
        self._names, self._run = trackers, tracking.TrackedRun(workdir, name or workdir.name, config or {})
        self._file = None  # before `resume`, and if nothing is written
        self.trackers = Trackers((), self._run, warn)  # as `_file`

    def resume(self, step: int, evaluated: bool, logged: int = 0) -> None:
        """Drops entries after `step`, and the evaluation of `step` itself unless it is in the checkpoint.

        Warns if the entries up to `logged`, the newest step that was logged before (0: none), are lost.
        """
        if not self._write:
            return
        path = self._workdir / "metrics.jsonl"

        def is_kept(entry):
            phase = entry["name"].split("/")[0]
            return (
                entry["step"] <= step
                and phase != "test"
                and (evaluated or entry["step"] < step or phase != "validation")
            )

        kept = [entry for entry in read_metrics(path, self._warn) if is_kept(entry)]
        if (newest := max((entry["step"] for entry in kept), default=0)) < logged:
            self._warn(f"{path}: the entries after step {newest} and before step {step} are lost")
        files.write_atomically(path, "".join(json.dumps(entry) + "\n" for entry in kept))
        self._file = path.open("a")
        run = dataclasses.replace(self._run, first_step=step + 1)
        self.trackers = Trackers(self._names, run, self._warn)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs `{name: value}` at `step`."""
        if not self._write:
            return
        assert self._file is not None, "resume first"
        for name, value in values.items():
            self._file.write(json.dumps({"step": step, "name": name, "value": finite(float(value))}) + "\n")
        self.trackers.scalars(step, values)

    def flush(self) -> None:
        """Flushes everything to disk."""
        if self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        self.trackers.flush()

    def close(self, finished: bool = False) -> None:
        """Flushes and closes everything; the run has `finished`, or will be resumed. A second call does nothing."""
        self.flush()
        if self._file:
            self._file.close()
        trackers, self.trackers = self.trackers, Trackers((), self._run, self._warn)
        self._file = None
        trackers.close(finished)
