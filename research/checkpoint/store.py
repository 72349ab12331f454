"""Checkpoints that are verified when they are read.

Orbax writes them asynchronously and commits each with one rename. Beside the state are the score, and the shape, dtype
and checksum of every leaf (see `seal.py`), which Orbax does not verify. A step that cannot be read, or whose checksums
differ, is moved aside by a training run; a run that only reads skips it, since another run may be using the folder.

Parameters that are frozen are written once, beside the steps (see `frozen.py`).

With several processes, all of them save and restore together, in a shared folder.
"""

import contextlib
import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from research.checkpoint import frozen, interrupts, loops, seal
from research.command import Failure
from research.parallel import processes
from research.parallel.sharding import path_name
from research.spec.contracts import Program, State


class _Manager(ocp.CheckpointManager):
    """Orbax's manager without its handling of preemption, which `preemption.Flag` does.

    Orbax would report the saved step to JAX, whereas the flag counts its own calls. Processes that agree to stop after
    the largest reported number would then wait for one that has passed, and SIGTERM would be lost.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """The checkpoints of a run: the newest `keep_last`, and the `keep_best` with the best scores."""

    def __init__(
        self,
        directory: str,
        keep_last: int,
        keep_best: int,
        mode: str,
        warn: Callable[[str], None] = print,
        write: bool = True,
    ):
        """Opens the folder; with `write`, incomplete checkpoints of earlier saves are deleted.

        Raises ValueError for checkpoints of a version without a checksum of scores.
        """
        self._directory = epath.Path(directory)
        self._warn, self._mode, self._write = warn, mode, write
        self._kept = functools.partial(seal.kept, last=keep_last, best=keep_best, mode=mode)
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=_Retention(lambda: self._kept(self._entries())),
            cleanup_tmp_directories=write,
            lightweight_initialize=True,  # Orbax's own metadata of steps have no checksum
        )
        self._manager = _Manager(self._directory, options=self._options)
        self._pending: int | None = None
        self._closed = False
        self._loops = contextlib.ExitStack()  # while something is being written
        self._frozen = ""  # the folder of frozen leaves that this process has written or verified
        self._known: dict[int, seal.Entry] = {}
        self._known = self._inspect()

    def save(self, program: Program, step: int, state: State, meta: Mapping[str, Any], score: float | None) -> None:
        """Starts to write `state` and returns before it is done.

        A `score` that is not finite counts as none. If the step is on disk already, only its score is updated. Raises
        Failure if this or the previous checkpoint cannot be written.
        """
        self.wait()
        with interrupts.held():
            sums = jax.device_get(program.checksums(state))
            leaves = _leaves(state, sums)
            entry = seal.Entry.of(score)
            metadata = frozen.describe(leaves, program.frozen)
            sealed = seal.seal({**meta, "frozen": metadata} if metadata else meta, step, entry, leaves)
            if step in self._manager.all_steps():
                if entry.evaluated:
                    self._rescore(step, sealed)
                    self._known[step] = entry
                    self.retain()
                return
            self._known[step] = entry
            self._pending = step
            written = frozen.trained(frozen.by_name(state), metadata) if metadata else state
            args = ocp.args.Composite(state=ocp.args.StandardSave(written), meta=ocp.args.JsonSave(sealed))
            with self._writing():
                self._write_frozen(state, metadata)
            self._loops.enter_context(loops.drained())
            with self._writing():
                self._manager.save(step, args=args, force=True)

    def _write_frozen(self, state: State, metadata: Mapping[str, Any]) -> None:
        """Writes the frozen leaves of `state` unless they are known to be on disk, see `frozen.describe`."""
        if metadata and metadata["folder"] != self._frozen:
            frozen.write(self._directory, frozen.by_name(state), metadata)
            self._frozen = metadata["folder"]

    def rebuild(self, program: Program, state: State, error: frozen.FrozenError) -> bool:
        """Rewrites unreadable frozen leaves from `state`; returns False, writing nothing, if their checksums differ."""
        sums = jax.device_get(program.checksums(state))
        metadata = frozen.describe(_leaves(state, sums), program.frozen)
        if metadata.get("folder") != error.folder:
            return False
        with self._writing():
            self._write_frozen(state, metadata)
        return True

    def restore(self, program: Program, best: bool = False) -> tuple[int, State, dict[str, Any]] | None:
        """`(step, state, meta)` of the latest intact checkpoint, or of the best one; None if there is none.

        Raises ValueError if an intact checkpoint does not fit the program's state, and FrozenError if the frozen
        leaves, which all checkpoints need, cannot be read. With several processes it exits if array data cannot be
        read: possibly only one process notices, so they cannot continue together, but a restart can.
        """
        while (step := self.best_step() if best else self.latest_step()) is not None:
            try:
                meta, state, misfit = self._read(step, program)
            except frozen.FrozenError:
                raise
            except _UnreadableError as error:
                raise SystemExit(str(error)) from error  # exit code 1: not a user error, may succeed if run again
            except Exception as error:  # noqa: BLE001  JSONDecodeError, KeyError, ValueError, plain Exception ...
                self._set_aside({step: _brief(error)})
                continue
            if state is None:
                raise ValueError(f"checkpoint {self._directory / str(step)} does not fit this config: {misfit}")
            return step, state, meta
        return None

    def restore_step(self, program: Program, step: int) -> tuple[State, dict[str, Any]] | None:
        """`(state, meta)` of one checkpoint of a run that another process may be writing.

        None, with a warning, if it is damaged or has been deleted meanwhile. Raises as `restore` does otherwise.
        """
        try:
            meta, state, misfit = self._read(step, program)
        except (frozen.FrozenError, _UnreadableError):
            raise
        except Exception as error:  # noqa: BLE001  see restore
            gone = not (self._directory / str(step)).exists()
            self._warn(f"checkpoint {step} " + ("was deleted meanwhile" if gone else f"is damaged ({_brief(error)})"))
            return None
        if state is None:
            raise ValueError(f"checkpoint {self._directory / str(step)} does not fit this config: {misfit}")
        return state, meta

    def _read(self, step: int, program: Program) -> tuple[dict[str, Any], State | None, str | None]:
        """The verified metadata and state of a checkpoint, and the reason why it does not fit the program's state.

        If one of several processes cannot read a step, it moves it aside.
        """
        try:
            meta = seal.read(self._directory / str(step))
            if misfit := _misfit(meta["leaves"], program.state):
                return meta, None, misfit
            state = self._read_state(step, program, meta.get("frozen", {}))
        except frozen.FrozenError:
            raise
        except Exception as error:
            if jax.process_count() == 1:
                raise
            if self._write:
                self._move(step, _brief(error))
            how = "and was moved aside; start the run again" if self._write else "here; move it away"
            raise _UnreadableError(f"checkpoint {step} cannot be read ({_brief(error)}) {how}") from error
        metadata = meta.get("frozen", {})
        wrong = _wrong(meta["leaves"], state, jax.device_get(program.checksums(state)))
        at_fault = [name for name in wrong if name in metadata.get("leaves", ())]
        if at_fault:
            raise frozen.damaged(self._directory, metadata, _differ(at_fault))
        if wrong:
            raise ValueError(_differ(wrong))
        self._frozen = metadata.get("folder", "")
        return meta, state, None

    def _read_state(self, step: int, program: Program, metadata: Mapping[str, Any]) -> State:
        """The state of a checkpoint; `metadata` is that of its frozen leaves, see `frozen.describe`."""
        leaves = frozen.by_name(program.state) if metadata else {}
        like = frozen.trained(leaves, metadata) if metadata else program.state
        with loops.drained():
            found = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like)))
        state = found.state  # pyright: ignore[reportAttributeAccessIssue]  a Composite, as asked for
        if not metadata:
            return state
        whole = frozen.by_name(state) | frozen.read(self._directory, leaves, metadata)
        return jax.tree.unflatten(jax.tree.structure(program.state), [whole[name] for name in leaves])

    def best_step(self) -> int | None:
        """The kept step with the best score; the newest if none has a score."""
        self.wait()
        ranked = seal.by_score(self._entries(), self._mode)
        return ranked[0] if ranked else self.latest_step()

    def latest_step(self) -> int | None:
        """The newest step that is on disk or being written."""
        return max(self._entries(), default=None)

    def newest(self) -> tuple[int, seal.Entry] | None:
        """The newest step on disk, after a pending write has finished or failed; None if there is none."""
        with contextlib.suppress(Failure):
            self.wait()
        entries = self._entries()
        return (max(entries), entries[max(entries)]) if entries else None

    def was_evaluated(self, step: int) -> bool:
        """Whether `step` was evaluated before it was saved."""
        return self._known[step].evaluated

    def has_score(self, step: int) -> bool:
        """Whether `step` was saved with a finite score."""
        return self._known[step].score is not None

    def retain(self) -> None:
        """Deletes the steps that are not to be kept, which a killed process may have left."""
        self.wait()
        entries = self._entries()
        for step in sorted(entries.keys() - self._kept(entries)):
            self._manager.delete(step)

    def wait(self) -> None:
        """Waits until everything saved is on disk. Raises Failure if it cannot be written."""
        with self._loops, self._writing():
            self._manager.wait_until_finished()
        self._pending = None

    def close(self) -> None:
        """Waits for pending writes and ends the writer threads; idempotent. Raises Failure as `wait`."""
        if self._closed:
            return
        try:
            self.wait()
        finally:
            self._manager.close()
            self._closed = True

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns errors of Orbax's writes into a Failure that names the step."""
        try:
            yield
        except Exception as error:
            if processes.lost_another(error):
                raise
            step, self._pending = self._pending, None
            if step is not None:
                self._known.pop(step, None)
            left = max(self._entries(), default=None)
            there = "there is no checkpoint" if left is None else f"the newest checkpoint on disk is step {left}"
            raise Failure(f"cannot write checkpoint {step} in {self._directory}: {_reason(error)}; {there}") from error

    def _entries(self) -> dict[int, seal.Entry]:
        """The entry of each step that is on disk or being written."""
        return {step: self._known[step] for step in self._manager.all_steps() if step in self._known}

    def _inspect(self) -> dict[int, seal.Entry]:
        """Reads the entry of each step on disk; process 0 decides which are damaged, and they are moved aside."""
        found, damaged, earlier = {}, {}, None
        for step in self._manager.all_steps() if processes.is_main() else ():
            try:
                found[step] = dataclasses.astuple(seal.entry_of(seal.read(self._directory / str(step))))
            except seal.EarlierVersionError as error:
                earlier = str(error)
            except Exception as error:  # noqa: BLE001  JSONDecodeError, KeyError, AttributeError ...
                damaged[step] = _brief(error)
        found, damaged, earlier = processes.broadcast_from_main([list(found.items()), list(damaged.items()), earlier])
        if earlier:
            raise ValueError(earlier)
        if damaged:
            self._set_aside(dict(damaged))
        return {step: seal.Entry(*entry) for step, entry in found}

    def _rescore(self, step: int, sealed: Mapping[str, Any]) -> None:
        """Replaces the metadata of a state on disk atomically."""
        if processes.is_main():
            path = seal.path(self._directory / str(step))
            partial = path.with_name(path.name + ".partial")
            partial.write_text(json.dumps(sealed))
            partial.replace(path)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"checkpoint {step} has its score")

    def _set_aside(self, damaged: Mapping[int, str]) -> None:
        """Moves damaged steps aside, with the reasons; on return they are gone for all processes."""
        for step in damaged:
            if step is not None:
                self._known.pop(step, None)
        if not self._write:
            for step, why in damaged.items():
                self._warn(f"checkpoint {step} is damaged ({why}); it is skipped")
            return
        for step, why in damaged.items():
            if jax.process_index() == 0:
                self._move(step, why)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"checkpoints {sorted(damaged)} are set aside")
        self._manager.reload()

    def _move(self, step: int, why: str) -> None:
        damaged = self._directory.parent / "damaged" / str(step)
        if not (self._directory / str(step)).exists():
            return  # another process was faster
        damaged.parent.mkdir(parents=True, exist_ok=True)
        # Also because object stores have no empty folders.
        (damaged.parent / f"{step}.txt").write_text(f"{why}\n")
        damaged.rmtree(missing_ok=True)
        (self._directory / str(step)).rename(damaged)
        self._warn(f"checkpoint {step} is damaged ({why}); moved to {damaged}")


class _Retention(policies.PreservationPolicy):
    """Tells Orbax which steps to keep, instead of its own comparison of scores."""

    def __init__(self, kept: Callable[[], set[int]]):
        self._kept = kept

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        kept = self._kept()
        return [checkpoint.step in kept for checkpoint in checkpoints]


def has_steps(directory: Any) -> bool:
    """Whether a folder holds any checkpoints."""
    return bool(seal.steps(directory))


class _UnreadableError(Exception):
    """One of several processes could not read array data."""


def _reason(error: Exception) -> str:
    """The reason from the operating system, if there is one."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    found = re.search(r"OS error \d+: ([^\]\[;]+)", str(error))
    return found.group(1).strip() if found else _brief(error)


def _brief(error: Exception) -> str:
    return re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:200]


def _describe(state: State) -> list[tuple[str, list[Any]]]:
    """`(path, [shape, dtype])` of every leaf, in the order of the checksums."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return [(path_name(path), [list(leaf.shape), str(leaf.dtype)]) for path, leaf in leaves]


def _leaves(state: State, sums: np.ndarray) -> dict[str, list[Any]]:
    """`[shape, dtype, checksum]` of every leaf, by path."""
    return {name: [*entry, int(total)] for (name, entry), total in zip(_describe(state), sums, strict=True)}


def _misfit(saved: Mapping[str, list[Any]], state: State) -> str | None:
    """The reason why a checkpoint does not fit the state; None if it does."""
    for name, (shape, dtype) in _describe(state):
        if name not in saved:
            return f"it has no {name}"
        if saved[name][:2] != [shape, dtype]:
            return f"{name} is {saved[name][1]}{saved[name][0]} there, {dtype}{shape} here"
    return f"it also holds {extra[0]}" if (extra := sorted(saved.keys() - dict(_describe(state)).keys())) else None


def _wrong(saved: Mapping[str, list[Any]], state: State, sums: np.ndarray) -> list[str]:
    """The leaves whose checksums differ from the saved ones."""
    names = [name for name, _ in _describe(state)]
    return [name for name, total in zip(names, sums, strict=True) if saved[name][2] != int(total)]


def _differ(names: Sequence[str]) -> str:
    return f"the checksum of {names[0]} differs" + (f" (and of {len(names) - 1} more)" if names[1:] else "")
