"""Starting runs in processes of their own, killing them, and comparing what they leave."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from research.train import rundir
from tests.flags import one_device

ROOT = Path(__file__).parents[1]


def start(module: str, *arguments: object) -> subprocess.Popen:
    """`python -m module arguments` on one device."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=one_device(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(module: str, *arguments: object) -> str:
    """Runs to the end; returns what was written to stderr."""
    process = start(module, *arguments)
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 0, errors
    return errors


def wait_for(process: subprocess.Popen, condition: Callable[[], bool], timeout_s: float = 120) -> None:
    """Waits until `condition()` holds; the process must still be running then."""
    deadline = time.time() + timeout_s
    while not condition():
        assert process.poll() is None and time.time() < deadline, process.stderr.read()
        time.sleep(0.005)


def in_a_save(workdir: Path) -> Callable[[], bool]:
    """Whether a checkpoint is half-written."""
    return lambda: any("tmp" in child.name for child in (workdir / "checkpoints").glob("*"))


def after_step(workdir: Path, step: int) -> Callable[[], bool]:
    """Whether the run has come to `step`; the time ledger is written line by line, the metrics only at checkpoints."""

    def reached():
        path = workdir / "timeline.jsonl"
        return path.exists() and f'"step": {step}}}' in path.read_text()

    return reached


def outcome(workdir: Path, step: int) -> tuple[dict[str, bytes], list[dict], dict[str, float]]:
    """Every bit of the final state, every logged value that is not a speed, and the scores."""
    path, checkpointer = (workdir / "checkpoints" / str(step) / "state").absolute(), ocp.PyTreeCheckpointer()
    # As NumPy arrays, since the devices of a run of several processes are not here.
    tree = checkpointer.metadata(path).item_metadata.tree
    numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    leaves = jax.tree_util.tree_leaves_with_path(checkpointer.restore(path, restore_args=numpy))
    state = {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}
    assert len(state) > 15  # parameters, moments, batch statistics, averages
    metrics = [e for e in rundir.read_metrics(workdir / "metrics.jsonl") if not e["name"].startswith("speed/")]
    return state, metrics, json.loads((workdir / "result.json").read_text())["metrics"]
