"""`result.json`: the scores of a run, and its provenance."""

import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from research import config as config_lib
from research.files import sealed
from research.measure import timeline
from research.train.program import ShardedProgram

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def describe(
    config: Any,
    program: ShardedProgram,
    data: Any,
    workdir: Path,
    revision: tuple[str, bool],
    selected_step: int,
    metrics: dict[str, float],
) -> dict[str, Any]:
    """The content of `result.json`; `wall_s` sums all starts of the run, including those that were killed."""
    ledger = timeline.read(workdir / "timeline.jsonl")
    return {
        "metrics": metrics,
        "steps": config.train.steps,
        "selected_step": selected_step,
        "checkpoint_chosen_on": "validation" if config.train.select == "best" else "nothing",
        "wall_s": round(sum(entry["seconds"] for entry in ledger if entry["kind"] != "lost"), 1),
        "goodput": round(timeline.goodput(ledger), 4),
        "time_s": {kind: round(spent, 1) for kind, spent in timeline.seconds_by_kind(ledger).items()},
        "params": program.num_params,
        "config_digest": config.source.digest,
        "seed": config.seed,
        "mesh": dict(program.mesh.shape),
        **provenance(data, revision, _PACKAGES),
        "command": command(config.source, workdir),
    }


SELECTED = "selected.json"


def selected(steps: int, step: int, selection: tuple[str, str], validation: dict[str, float]) -> dict[str, Any]:
    """The content of `selected.json`: the checkpoint that a finished run is scored with, known before test is.

    Args:
        steps: Those of the run.
        step: That of the checkpoint.
        selection: The metric that selects checkpoints, and "max" or "min", see Task.selection.
        validation: The metrics of the checkpoint on validation, `{"validation/NAME": value}`.
    """
    name, mode = selection
    return sealed({"steps": steps, "step": step, "metric": f"validation/{name}", "mode": mode, "metrics": validation})


def of_checkpoint(config: Any, data: Any, validation: dict[str, float] | None) -> dict[str, Any]:
    """What a checkpoint says of its run; `validation` are its metrics, None without an evaluation."""
    scores = {} if validation is None else {"validation": validation}
    return {"config": config_lib.plain(config), "data_fingerprint": data.fingerprint, **scores}


def provenance(data: Any, revision: tuple[str, bool], packages: Sequence[str]) -> dict[str, Any]:
    """The provenance of a result: commit, hardware, versions of `packages`, data and date."""
    commit, dirty = revision
    return {
        "commit": commit,
        "dirty": dirty,
        "hardware": hardware(),
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}},
        "data": {"name": data.name, "version": data.version, "counts": data.counts, "fingerprint": data.fingerprint},
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def command(source: config_lib.Source, workdir: Path) -> str:
    """The command that reproduces this run, from the root of the repository."""
    words = [
        "python",
        "-m",
        f"experiments.{source.experiment}.main",
        f"--config={source.file}:{source.variant}",
    ]
    words += [f"--config.{override}" for override in source.overrides]
    return shlex.join([*words, f"--workdir=runs/{workdir.name}"])


_RECORDED = ("results.jsonl", "README.md", "plots/*")
_CODE = (":/", *(f":(top,exclude)experiments/*/{name}" for name in _RECORDED))


def revision() -> tuple[str, bool]:
    """The commit of this repository and whether tracked files differ from it; ("unknown", True) without git.

    Files that recording changes do not count, so several rows can be recorded one after the other.
    """
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout
        status = subprocess.run(
            [*git, "status", "--porcelain", "-uno", "--", *_CODE], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown", True
    return commit.strip(), bool(status.strip())


def hardware() -> str:
    """`8 x TPU v5 lite` or, for a CPU, its model and number of cores."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{jax.device_count()} x {device.device_kind}"
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return f"{_cpu_name()}, {cores} core{'s' if cores != 1 else ''}"


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
