"""The run directory: where it is, the config it belongs to, its metrics, its result."""

import contextlib
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

HISTORY = "config_history.jsonl"  # the configs that a run had before that of config.json, the first one first
_KEPT = ("config.json", "result.json", "metrics.jsonl", "timeline.jsonl", "run.log", HISTORY)
_KEPT += (recorded.FILE, recorded.VOCABULARY)
AnyPath: TypeAlias = Path | epath.Path  # on a disk, or in a bucket


class RunDirectory:
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


def prediction_paths(folder: RunDirectory, files: Sequence[str]) -> dict[str, Path]:
    """For each of `files` where its answers are written, without suffix: `folder.files`/predict/NAME; to be pushed.

    Raises ValueError where two of them would have one name.
    """
    if folder.root == folder.files:
        check_workdir(folder.root, write=True)
    stems = [Path(file).stem for file in files]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise ValueError(f"two inputs are called {twice[0]}, and so would be their answers; give them one at a time")
    return {file: folder.files / "predict" / stem for file, stem in zip(files, stems, strict=True)}


def claim(
    workdir: Path,
    config: config_lib.Config,
    write: bool,
    name: str | None = None,
    in_use: bool = False,
    checkpoints: Any = None,
    warn: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Makes `workdir` the run directory of `config`; returns the differences that a resumed run may show.

    With `in_use` the run is only evaluated or asked, which may be done in another way than its config says. Where
    `config.json` is lost or damaged, the config that lies in the newest of the `checkpoints` stands in for it.

    Raises ValueError, before anything is written, when it belongs to a config that differs in more than that; the
    message calls it `name`. And where it cannot be written.
    """
    allowed: list[str] = []
    saved = seal.newest(checkpoints) if checkpoints is not None else None
    before, origin, warning = _config_before(workdir / "config.json", saved)
    befores = [(before, origin)] if before is not None else []
    if saved and not origin:  # config.json may have been edited, and is about to be written
        befores.append((saved["config"], f", by checkpoint {saved['step']}"))
    for position, (before, origin) in enumerate(befores):
        differing, refused = config_lib.differences(before, config, in_use)
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
    """The error for a run directory whose config, that of `origin`, differs in what is `refused`."""
    message = f"{name} belongs to another config{origin} ({'; '.join(refused)}); choose another --workdir or undo the "
    message += "change"
    if all(line.startswith("optimizer.") for line in refused):
        message += f", or begin another run from its weights with --config.train.init_from={name}"
    return ValueError(message)


def _keep_config(history: Path, before: Mapping[str, Any], changed: Sequence[str]) -> None:
    """Appends the config that a run had until now, and what has changed since."""
    entry = {"until": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()), "changed": list(changed), "config": before}
    files.end_line(history)
    with history.open("a") as file:
        file.write(json.dumps(entry) + "\n")
        file.flush()
        os.fsync(file.fileno())


def finite(content: Any) -> Any:
    """`content` with None for every number that JSON does not have: NaN and the infinities."""
    if isinstance(content, Mapping):
        return {name: finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def check_workdir(workdir: str | os.PathLike, write: bool) -> None:
    """Raises ValueError, in one line, for a --workdir that cannot be used, or not be written where `write`."""
    if not str(workdir):
        raise ValueError("--workdir is empty; name a folder, which may not exist yet")
    if "://" in str(workdir):
        return
    path = Path(workdir).absolute()
    with writing(workdir, "used"):
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        (path / "checkpoints" / "events").exists()  # raises for a path that is too long
    if not there.is_dir():
        what = "a file" if there == path else f"inside of {there}, which is a file"
        raise ValueError(f"--workdir={workdir} is {what}; name a folder, which may not exist yet")
    if write and not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"--workdir={workdir} cannot be written: no permission to write to {there}; choose another")


@contextlib.contextmanager
def writing(workdir: str | os.PathLike, how: str = "written") -> Iterator[None]:
    """What the system refuses becomes a ValueError of one line: no permission, no space, a name too long."""
    try:
        yield
    except OSError as error:
        shown = text if len(text := str(workdir)) < 200 else f"{text[:80]}..."
        raise ValueError(f"--workdir={shown} cannot be {how}: {error.strerror or error}; choose another") from None


def config_of(folder: RunDirectory, name: str) -> Mapping[str, Any]:
    """The config of a run directory, from config.json or else from the newest checkpoint.

    Raises ValueError, which calls it `name`, where neither is there.
    """
    config, _, problem = _config_before(folder.files / "config.json", seal.newest(folder.root / "checkpoints"))
    if config is None:
        raise ValueError(f"--workdir={name} is no run directory: {problem or 'it has no config.json'}")
    return config


def _config_before(path: Path, saved: Mapping[str, Any] | None) -> tuple[Mapping[str, Any] | None, str, str]:
    """The config that a run began with, whose it is if not that of `path`, and what to warn of.

    `saved` is what lies beside its newest checkpoint, if there is one. The config is None where the run has not begun.
    """
    try:
        if config := read_json(path):
            return config, "", ""
        problem = "is empty"
    except FileNotFoundError:
        problem = "is gone"
    except ValueError:
        problem = "is damaged"
    if saved:
        origin = f"checkpoint {saved['step']}"
        warning = f"{path} {problem}; the config that was saved with {origin} stands in for it"
        return saved["config"], f", by {origin}", warning
    return None, "", f"{path} {problem}, and no checkpoint says what it was" if problem != "is gone" else ""


def write_json(path: Path, content: Any) -> None:
    """Writes all of `content` or nothing; it is on the disk when this returns."""
    files.write_atomically(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file. Raises ValueError where it is damaged."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):  # no JSON, no UTF-8
        content = None
    if not isinstance(content, dict) or not files.is_intact(content):
        raise ValueError(f"{path} is damaged")
    return content


def read_metrics(path: Path, warn: Callable[[str], None] = lambda line: None) -> list[dict[str, Any]]:
    """The `{"step", "name", "value"}` entries of a metrics file; a last line cut short by a kill is left out.

    The value is None where it was not finite. Lines that are damaged are left out too, and `warn` is told of them.
    """
    entries, damaged = files.read_json_lines(path, _is_metric)
    if damaged:
        lines = f"line {damaged[0]} is" if len(damaged) == 1 else f"{len(damaged)} lines, the first {damaged[0]}, are"
        warn(f"{path}: {lines} damaged and left out; all others are kept")
    return entries


def _is_metric(entry: Mapping[str, Any]) -> bool:
    """A value may be null, where a number was none that JSON can say."""
    return (
        isinstance(entry.get("step"), int)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("value", ""), int | float | None)
    )


class Metrics:
    """`metrics.jsonl` and TensorBoard events of a run; on processes that keep no logs, neither."""

    def __init__(self, workdir: Path, write: bool, warn: Callable[[str], None] = lambda line: None):
        self._workdir, self._write, self._warn = workdir, write, warn
        self._file = self._events = None  # until `resume`, and where nothing is written

    def resume(self, step: int, evaluated: bool, logged: int = 0) -> None:
        """Forgets what was logged after `step`, and the evaluation of `step` itself unless it is in the checkpoint.

        Warns where nothing is left of `logged`, the newest step that was logged before (0 for none).
        """
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

        kept = [entry for entry in read_metrics(path, self._warn) if holds(entry)]
        if (newest := max((entry["step"] for entry in kept), default=0)) < logged:
            self._warn(f"{path}: what was logged after step {newest} and before step {step} is lost")
        files.write_atomically(path, "".join(json.dumps(entry) + "\n" for entry in kept))
        self._file = path.open("a")
        self._purge_step = step + 1

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs `{name: value}` at `step`."""
        if not self._write:
            return
        assert self._file is not None, "resume first"
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
        """Flushes and closes the files; a second call does nothing."""
        self.flush()
        for file in (self._file, self._events):
            if file:
                file.close()
        self._file = self._events = None  # until `resume`, and where nothing is written
