"""Checkpoints that are verified when they are read.

Orbax writes them asynchronously and commits each with one rename. Beside the state lies what Orbax does not check: the
shape, dtype and checksum of every leaf. A step that cannot be read, or whose checksums differ, is moved aside.

On several processes all of them save and restore together, in a folder that all of them reach.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from research.parallel.sharding import path_name
from research.train.program import Program, State


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, which leaves preemption to `preemption.Flag`.

    Its own look at it tells JAX the number of the saved step, where the flag counts ticks. Processes that are to stop
    after the largest number of all would then wait for one that has passed, and SIGTERM would be lost.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """The checkpoints of a run: the newest `keep_last`, and the best `keep_best` by the metric they were saved with."""

    def __init__(self, directory: str, keep_last: int, keep_best: int, mode: str, warn: Callable[[str], None] = print):
        self._directory = epath.Path(directory)
        self._warn = warn
        score = lambda metrics: metrics["score"]
        best = policies.BestN(
            get_metric_fn=score, reverse=mode == "min", n=keep_best, keep_checkpoints_without_metrics=False
        )
        # Keeping the best needs both the policy and `best_fn`: the policy alone finds no metrics to read.
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep_last), best]),
            best_fn=score,
            best_mode=mode,
            cleanup_tmp_directories=True,
        )
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        while True:
            try:
                return _Manager(self._directory, options=self._options)
            except Exception as error:
                steps = _steps(self._directory)
                if not steps:
                    raise
                self._set_aside(max(steps), error)

    def save(self, program: Program, step: int, state: State, meta: Mapping[str, Any], score: float | None) -> None:
        """Starts to write `state`; `score`, if any, is what keep-best compares. Returns before it is on disk."""
        sums = jax.device_get(program.checksums(state))
        leaves = {name: [*entry, int(total)] for (name, entry), total in zip(_describe(state), sums, strict=True)}
        if step in self._manager.all_steps():
            # The same step, now with its score. Orbax would skip it silently.
            self._manager.wait_until_finished()
            self._manager.delete(step)
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave({**meta, "leaves": leaves})
        )
        self._manager.save(step, args=args, metrics=None if score is None else {"score": score}, force=True)

    def restore(self, program: Program, step: int | None = None) -> tuple[int, State, dict[str, Any]] | None:
        """`(step, state, meta)` of the newest checkpoint that is whole, at most `step`; None when there is none.

        Raises ValueError when a whole checkpoint does not fit the program's state. On several processes it leaves when
        array data cannot be read: perhaps one process alone sees that, so they cannot go on together; a new start can.
        """
        while steps := [s for s in self._manager.all_steps() if step is None or s <= step]:
            newest = max(steps)
            try:
                meta = dict(self._manager.restore(newest, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta)
                misfit = _misfit(meta["leaves"], program.state)
                if misfit is None:
                    args = ocp.args.Composite(state=ocp.args.StandardRestore(program.state))
                    state = self._read(newest, args)
                    _verify(meta["leaves"], state, jax.device_get(program.checksums(state)))
            except _UnreadableError as error:
                raise SystemExit(str(error)) from error  # with 1: no mistake of the user, and worth another try
            except Exception as error:  # noqa: BLE001  JSONDecodeError, KeyError, ValueError, plain Exception ...
                self._manager.close()
                self._set_aside(newest, error)
                self._manager = self._open()
                continue
            if misfit:
                raise ValueError(f"checkpoint {self._directory / str(newest)} does not fit this config: {misfit}")
            return newest, state, meta
        return None

    def _read(self, step: int, args: ocp.args.Composite) -> State:
        """The state of a checkpoint; a step that one of several processes cannot read is moved aside by that one."""
        try:
            return self._manager.restore(step, args=args).state
        except Exception as error:
            if jax.process_count() == 1:
                raise
            self._move(step, error)
            raise _UnreadableError(
                f"checkpoint {step} cannot be read ({_brief(error)}) and was moved aside; start the run again"
            ) from error

    def best_step(self) -> int | None:
        """The step with the best score that is kept."""
        self._manager.wait_until_finished()
        return self._manager.best_step()

    def latest_step(self) -> int | None:
        """The newest step that is on disk or on its way there."""
        return self._manager.latest_step()

    def has_score(self, step: int) -> bool:
        """Whether `step` was saved together with its score."""
        return self._manager.metrics(step) is not None

    def wait(self) -> None:
        """Returns when everything saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for pending writes and ends the writer threads."""
        self._manager.close()

    def _set_aside(self, step: int, error: Exception) -> None:
        """Moves a step away that every process has found to be damaged; returns when it is gone for all of them."""
        if jax.process_index() == 0:
            self._move(step, error)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"checkpoint {step} is set aside")

    def _move(self, step: int, error: Exception) -> None:
        damaged = self._directory.parent / "damaged" / str(step)
        if not (self._directory / str(step)).exists():
            return  # another process was faster
        damaged.parent.mkdir(parents=True, exist_ok=True)
        # Also because in an object store only a folder that holds something exists.
        (damaged.parent / f"{step}.txt").write_text(f"{type(error).__name__}: {error}\n")
        damaged.rmtree(missing_ok=True)
        (self._directory / str(step)).rename(damaged)
        self._warn(f"checkpoint {step} is damaged ({_brief(error)}); moved to {damaged}, the one before is used")


def has_steps(directory: Any) -> bool:
    """Whether a folder of checkpoints holds any."""
    return bool(_steps(epath.Path(directory)))


class _UnreadableError(Exception):
    """Array data that one of several processes could not read."""


def _brief(error: Exception) -> str:
    return re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:200]


def _steps(directory: epath.Path) -> list[int]:
    return [int(child.name) for child in directory.iterdir() if child.name.isdigit()] if directory.exists() else []


def _describe(state: State) -> list[tuple[str, list[Any]]]:
    """`(path, [shape, dtype])` of every leaf, in the order of the checksums."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return [(path_name(path), [list(leaf.shape), str(leaf.dtype)]) for path, leaf in leaves]


def _misfit(saved: Mapping[str, list[Any]], state: State) -> str | None:
    """What keeps a checkpoint from fitting the state, or None."""
    for name, (shape, dtype) in _describe(state):
        if name not in saved:
            return f"it has no {name}"
        if saved[name][:2] != [shape, dtype]:
            return f"{name} is {saved[name][1]}{saved[name][0]} there, {dtype}{shape} here"
    return f"it also holds {extra[0]}" if (extra := sorted(saved.keys() - dict(_describe(state)).keys())) else None


def _verify(saved: Mapping[str, list[Any]], state: State, sums: np.ndarray) -> None:
    names = [name for name, _ in _describe(state)]
    wrong = [name for name, total in zip(names, sums, strict=True) if saved[name][2] != int(total)]
    if wrong:
        raise ValueError(
            f"the checksum of {wrong[0]} differs" + (f" (and of {len(wrong) - 1} more)" if wrong[1:] else "")
        )
