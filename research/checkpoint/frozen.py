"""Frozen leaves of a state, written once for all checkpoints of a run.

They are stored in `checkpoints/frozen-NAME`, beside the folders of the steps, where NAME is a digest of their paths,
shapes, dtypes and checksums. The folder is written before the first checkpoint that needs it; a checkpoint refers to it
in its sealed metadata (`frozen`), whose checksums of leaves cover the frozen ones too.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util

from research.checkpoint import loops, seal
from research.parallel.sharding import path_name

_PREFIX = "frozen-"
_AVERAGE = "ema/"  # before the path of a leaf, in the path of its moving average


class FrozenError(ValueError):
    """The frozen leaves of intact checkpoints, in `folder`, cannot be read."""

    def __init__(self, message: str, folder: str):
        super().__init__(message)
        self.folder = folder


def describe(leaves: Mapping[str, list[Any]], frozen: Collection[str]) -> dict[str, Any]:
    """The metadata of the `frozen` leaves of a checkpoint with these `leaves` (path -> shape, dtype, checksum).

    Returns:
        `folder`, the name of their folder, and `leaves`, {path: path in the folder}. The moving average of a frozen
        parameter equals the parameter, so it is not stored again if it has the same dtype. Empty without frozen leaves.
    """
    found = {name: leaves[name] for name in leaves if name in frozen}
    if not found:
        return {}
    stored = {name: name for name in found}
    for name in found:
        source = name.removeprefix(_AVERAGE)
        if source != name and found.get(source) == found[name]:
            stored[name] = source
    digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
    return {"folder": f"{_PREFIX}{digest[:16]}", "leaves": stored}


def by_name(state: Any) -> dict[str, Any]:
    """The leaves of a state by path."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of dicts from leaves by path, so that Orbax names the leaves as in a whole state."""
    return traverse_util.unflatten_dict(dict(leaves), sep="/")


def trained(leaves: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of the leaves that are not frozen, with the `metadata` of `describe`."""
    return nested({name: leaf for name, leaf in leaves.items() if name not in metadata["leaves"]})


def write(directory: epath.Path, leaves: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Writes the frozen leaves durably; a folder of an earlier start, which may be damaged, is replaced.

    Folders that no checkpoint in `directory` refers to are deleted.
    """
    stored = nested({name: leaves[name] for name in metadata["leaves"].values()})
    with loops.drained(), ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory / metadata["folder"], stored, force=True)
        checkpointer.wait_until_finished()
    if jax.process_index() == 0:
        for child in _unused(directory, metadata["folder"]):
            child.rmtree()


def read(directory: epath.Path, leaves: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The frozen leaves by path; `leaves` are abstract ones with their shardings. Raises FrozenError."""
    like = nested({name: leaves[name] for name in metadata["leaves"].values()})
    try:
        with loops.drained(), ocp.StandardCheckpointer() as checkpointer:
            found = by_name(checkpointer.restore(directory / metadata["folder"], like))
    except Exception as error:  # Orbax and TensorStore raise various types
        raise damaged(directory, metadata, f"{type(error).__name__}: {error}") from error
    # Copies, since a buffer must not be donated twice.
    return {
        name: found[stored] if name == stored else jnp.copy(found[stored])
        for name, stored in metadata["leaves"].items()
    }


def damaged(directory: epath.Path, metadata: Mapping[str, Any], why: str) -> FrozenError:
    """The error for frozen leaves that do not match the metadata of a checkpoint."""
    return FrozenError(
        f"{directory / metadata['folder']}, which holds the frozen parameters of all checkpoints of this run, is "
        f"damaged ({' '.join(why.split())[:200]}); copy that folder from a backup, or choose another --workdir",
        metadata["folder"],
    )


def _unused(directory: epath.Path, newest: str) -> list[epath.Path]:
    """The folders of frozen leaves except `newest` and those that checkpoints refer to."""
    used = {newest}
    for step in seal.steps(directory):
        try:
            used.add(seal.read(directory / str(step)).get("frozen", {}).get("folder", ""))
        except (ValueError, OSError, KeyError, AttributeError):
            return []  # the damaged checkpoint may refer to any of them
    return [child for child in directory.iterdir() if child.name.startswith(_PREFIX) and child.name not in used]
