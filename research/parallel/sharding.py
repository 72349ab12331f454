"""Logical axis names -> mesh axes -> shardings.

Models name the axes of what they compute (`batch`, `length`, `embed` ...). The two tables below are the only place
that says which mesh axis carries which name, so changing the parallelism never changes a model.
"""

import contextlib
import contextvars
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Names = Sequence[str | None]
Rules = Mapping[str, tuple[str, ...]]
Table = Sequence[tuple[str, Names]]

# A name that maps to () is never sharded. Parameters and activations differ on purpose: a weight's `embed` axis is
# split over fsdp to save memory, while an activation's `embed` stays whole because fsdp already splits its batch.
PARAMETER_RULES: Rules = {
    "embed": ("fsdp",),
    "mlp": ("tensor",),
    "heads": ("tensor",),
    "vocab": ("tensor",),
    "channels": ("fsdp",),
    "channels_in": (),
    "kv": (),
    "layers": (),
    "positions": (),
    "classes": (),
    "height": (),
    "width": (),
}
ACTIVATION_RULES: Rules = {
    "batch": ("data", "fsdp"),
    "length": ("sequence",),
    "heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
    "embed": (),
    "kv": (),
    "classes": (),
    "channels": (),
    "height": (),
    "width": (),
}


def partition_spec(names: Names, shape: Sequence[int], rules: Rules, mesh: Mesh) -> PartitionSpec:
    """The PartitionSpec of an array of `shape` whose axes are called `names`.

    An axis whose size the mesh axes do not divide stays whole. Raises ValueError for an unknown name, a rank that
    does not fit, or two axes that claim the same mesh axis.
    """
    if len(names) != len(shape):
        raise ValueError(f"{len(names)} axis names {tuple(names)} for an array of shape {tuple(shape)}")
    spec, taken = [], set()
    for name, size in zip(names, shape, strict=True):
        if name is not None and name not in rules:
            raise ValueError(f"unknown logical axis {name!r}; known: {', '.join(rules)}")
        axes = tuple(axis for axis in rules.get(name, ()) if mesh.shape[axis] > 1)
        if taken & set(axes):
            raise ValueError(f"two axes of {tuple(names)} are mapped to the mesh axis {sorted(taken & set(axes))}")
        taken |= set(axes)
        divides = size % math.prod(mesh.shape[axis] for axis in axes) == 0
        spec.append((axes if len(axes) > 1 else axes[0]) if axes and divides else None)
    return PartitionSpec(*spec)


_active_mesh: contextvars.ContextVar[Mesh | None] = contextvars.ContextVar("active_mesh", default=None)


@contextlib.contextmanager
def constraints_for(mesh: Mesh) -> Iterator[None]:
    """While a program is traced inside, `constrain` speaks about `mesh`."""
    token = _active_mesh.set(mesh)
    try:
        yield
    finally:
        _active_mesh.reset(token)


def constrain(x: jax.Array, names: Names) -> jax.Array:
    """`x` with its sharding fixed by the activation rules; unchanged outside a program's trace.

    Unlike flax's `with_logical_constraint`, this acts on every backend, the CPU included, so tests see what it does.
    """
    mesh = _active_mesh.get()
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(
        x, NamedSharding(mesh, partition_spec(names, x.shape, ACTIVATION_RULES, mesh))
    )


def path_name(path: tuple[Any, ...]) -> str:
    """`encoder/blocks/mlp/kernel` for a tree path."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def logical_axes(path: str, table: Table) -> Names:
    """The axis names of the parameter at `path`: those of the first pattern that matches the end of it.

    Raises ValueError when no pattern matches.
    """
    for pattern, names in table:
        if re.search(f"(?:^|/)(?:{pattern})$", path):
            return names
    raise ValueError(f"parameter {path!r} has no entry in its model's LOGICAL_AXES")


def parameter_shardings(tree: Any, table: Table, mesh: Mesh) -> Any:
    """NamedShardings for a tree of parameters or batch statistics, by path."""

    def sharding(path, leaf):
        names = logical_axes(path_name(path), table)
        return NamedSharding(mesh, partition_spec(names, leaf.shape, PARAMETER_RULES, mesh))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def optimizer_shardings(tree: Any, params: Any, table: Table, mesh: Mesh) -> Any:
    """NamedShardings for an optimizer state: a leaf that mirrors a parameter lies where the parameter lies.

    A leaf mirrors a parameter when its path ends in that parameter's path and the shapes agree. Counters and the
    factored statistics of Adafactor do not; they are small and replicated.
    """
    shapes = {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    replicated = NamedSharding(mesh, PartitionSpec())

    def sharding(path, leaf):
        parts = path_name(path).split("/")
        for start in range(len(parts)):
            name = "/".join(parts[start:])
            if shapes.get(name) == leaf.shape:
                return NamedSharding(mesh, partition_spec(logical_axes(name, table), leaf.shape, PARAMETER_RULES, mesh))
        return replicated

    return jax.tree_util.tree_map_with_path(sharding, tree)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Where a batch lies: its leading axis over data and fsdp, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(ACTIVATION_RULES["batch"]))


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts the mesh splits a batch."""
    return math.prod(mesh.shape[axis] for axis in ACTIVATION_RULES["batch"])
