"""Logical axis names -> mesh axes -> shardings.

Models name the axes of their arrays (`batch`, `length`, `embed` ...). The two tables below are the only place
that maps names to mesh axes, so changing the parallelism never changes a model.
"""

import contextlib
import contextvars
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

Names = Sequence[str | None]
Rules = Mapping[str, tuple[str, ...]]
Table = Sequence[tuple[str, Names]]

# A name that maps to () is never sharded. Parameters and activations differ on purpose: a weight's `embed` axis is
# split over fsdp to save memory, while an activation's `embed` is not sharded because fsdp already splits its batch.
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
    "depthwise": ("tensor",),
    "height": (),
    "width": (),
}

# A model with more parameters must be sharded over fsdp, except for at most this share of them.
LARGE_MODEL = 100_000_000
MAX_REPLICATED = 0.02


def partition_spec(
    names: Names, shape: Sequence[int], rules: Rules, mesh: Mesh | AbstractMesh, uneven: bool = False
) -> PartitionSpec:
    """The PartitionSpec of an array of `shape` whose axes are called `names`.

    An axis that is not divisible by the mesh axes is not sharded; with `uneven`, only if it is shorter than them.
    Raises ValueError for an unknown name, a wrong rank, or two axes that map to the same mesh axis.
    """
    if len(names) != len(shape):
        raise ValueError(f"{len(names)} axis names {tuple(names)} for an array of shape {tuple(shape)}")
    spec, taken = [], set()
    for name, size in zip(names, shape, strict=True):
        if name is not None and name not in rules:
            raise ValueError(f"unknown logical axis {name!r}; choose from {', '.join(rules)}")
        axes = tuple(axis for axis in _mesh_axes(rules, name) if mesh.shape[axis] > 1)
        if taken & set(axes):
            raise ValueError(f"two axes of {tuple(names)} are mapped to the mesh axis {sorted(taken & set(axes))}")
        taken |= set(axes)
        parts = math.prod(mesh.shape[axis] for axis in axes)
        spec.append(_entry(axes if size % parts == 0 or (uneven and size >= parts) else ()))
    return PartitionSpec(*spec)


def _mesh_axes(rules: Rules, name: str | None) -> tuple[str, ...]:
    """The mesh axes of a logical axis by the rules; none for None."""
    return rules.get(name, ()) if name is not None else ()


def _entry(axes: tuple[str, ...]) -> str | tuple[str, ...] | None:
    return axes if len(axes) > 1 else axes[0] if axes else None


def _axes(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else tuple(entry or ())


def parameter_spec(names: Names, shape: Sequence[int], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """The PartitionSpec of a parameter, by the parameter rules.

    If fsdp does not divide the axis given by the rules, it shards the longest other axis that it divides, except
    `layers`, since a scan would then fetch each layer from another device.
    """
    spec = partition_spec(names, shape, PARAMETER_RULES, mesh)
    wanted = any("fsdp" in _mesh_axes(PARAMETER_RULES, name) for name in names)
    if not wanted or mesh.shape["fsdp"] == 1 or any("fsdp" in _axes(entry) for entry in spec):
        return spec
    sizes: dict[int, int] = {}
    for index, (name, size, entry) in enumerate(zip(names, shape, spec, strict=True)):
        parts = math.prod(mesh.shape[axis] for axis in (*_axes(entry), "fsdp"))
        if name != "layers" and size % parts == 0:
            sizes[index] = size
    if not sizes:
        return spec
    chosen = max(sizes, key=lambda index: sizes[index])
    entries = list(spec)
    entries[chosen] = _entry((*_axes(spec[chosen]), "fsdp"))
    return PartitionSpec(*entries)


@dataclasses.dataclass(frozen=True)
class _Tracing:
    mesh: Mesh
    used: set[str]


_tracing: contextvars.ContextVar[_Tracing | None] = contextvars.ContextVar("tracing", default=None)


@contextlib.contextmanager
def constraints_for(mesh: Mesh) -> Iterator[set[str]]:
    """Makes `constrain` refer to `mesh` while a program is traced; yields the set of mesh axes that were used.

    JAX's own context mesh (`jax.set_mesh`) is not used, since it does not record which axes were used, which
    `check_used` needs.
    """
    tracing = _Tracing(mesh, set())
    token = _tracing.set(tracing)
    try:
        yield tracing.used
    finally:
        _tracing.reset(token)


def traced_mesh() -> Mesh | None:
    """The mesh for which a program is being traced; None outside."""
    tracing = _tracing.get()
    return tracing.mesh if tracing else None


def constrain(x: jax.Array, names: Names) -> jax.Array:
    """`x` with a sharding constraint by the activation rules; unchanged outside of `constraints_for`.

    Axes that do not divide evenly (197 tokens over 2 devices) are padded by the compiler. Unlike flax's
    `with_logical_constraint`, this has an effect on every backend including CPU, so tests cover it.
    """
    tracing = _tracing.get()
    if tracing is None:
        return x
    spec = partition_spec(names, x.shape, ACTIVATION_RULES, tracing.mesh, uneven=True)
    tracing.used.update(axis for entry in spec for axis in _axes(entry))
    return jax.lax.with_sharding_constraint(x, NamedSharding(tracing.mesh, spec))


def check_used(used: set[str], mesh: Mesh) -> None:
    """Raises ValueError if a model shards nothing over a mesh axis, so that its devices would duplicate work."""
    for axis in ("tensor", "sequence"):
        size = mesh.shape[axis]
        if size > 1 and axis not in used:
            raise ValueError(
                f"config.mesh.{axis}={size}, but this model has no axis that can be split into {size} over {axis}; "
                f"set config.mesh.{axis}=1 and use data or fsdp"
            )


def check_split(params: Any, shardings: Any, mesh: Mesh) -> None:
    """Raises ValueError if more than MAX_REPLICATED of a LARGE_MODEL is replicated with fsdp."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    total = sum(leaf.size for _, leaf in leaves)
    if mesh.shape["fsdp"] == 1 or total <= LARGE_MODEL:
        return
    placed = jax.tree.leaves(shardings)
    replicated = [
        (path_name(path), leaf)
        for (path, leaf), to in zip(leaves, placed, strict=True)
        if not any("fsdp" in _axes(entry) for entry in to.spec)
    ]
    share = sum(leaf.size for _, leaf in replicated) / total
    if share > MAX_REPLICATED:
        names = ", ".join(
            f"{name} {list(leaf.shape)}" for name, leaf in sorted(replicated, key=lambda item: -item[1].size)
        )
        raise ValueError(
            f"config.mesh.fsdp={mesh.shape['fsdp']} leaves {share:.1%} of {total:,} parameters replicated, "
            f"since it divides none of their axes; choose an fsdp that divides more of: {names}"
        )


def path_name(path: tuple[Any, ...]) -> str:
    """A tree path as text, such as `encoder/blocks/mlp/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def logical_axes(path: str, table: Table) -> Names:
    """The axis names of the parameter at `path`: those of the first pattern that matches the end of it.

    Raises ValueError when no pattern matches.
    """
    for pattern, names in table:
        if re.search(f"(?:^|/)(?:{pattern})$", path):
            return names
    raise ValueError(f"parameter {path!r} has no entry in its model's LOGICAL_AXES")


def parameter_shardings(tree: Any, table: Table, mesh: Mesh | AbstractMesh) -> Any:
    """NamedShardings for a tree of parameters or batch statistics, by path."""

    def sharding(path, leaf):
        names = logical_axes(path_name(path), table)
        return NamedSharding(mesh, parameter_spec(names, leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def matrix_axes(names: Names) -> list[tuple[int, ...]]:
    """Groups the axes of a parameter into those of a matrix: `heads` with the following `kv`, others alone."""
    groups: list[tuple[int, ...]] = []
    for axis, name in enumerate(names):
        if name == "kv" and axis and names[axis - 1] == "heads":
            groups[-1] += (axis,)
        else:
            groups.append((axis,))
    return groups


def optimizer_shardings(tree: Any, params: Any, table: Table, mesh: Mesh | AbstractMesh) -> Any:
    """NamedShardings for an optimizer state: a leaf that mirrors a parameter has the sharding of the parameter.

    A leaf belongs to a parameter if its path ends with the parameter's path. It mirrors it if the shapes are equal,
    with or without merging `matrix_axes`, or equal except for one missing axis (Adafactor's means over rows and
    columns). All other leaves are replicated.
    """
    shapes = {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}

    def sharding(path, leaf):
        parts = path_name(path).split("/")
        for name in ("/".join(parts[start:]) for start in range(len(parts))):
            if name in shapes:
                names = logical_axes(name, table)
                spec = parameter_spec(names, shapes[name], mesh)
                entries = list(spec) + [None] * (len(names) - len(spec))
                spec = _mirrored(names, entries, shapes[name], leaf.shape)
                if not any(spec) and names[:1] == ("layers",) and leaf.ndim:
                    spec = _mirrored(names, entries, (leaf.shape[0], *shapes[name][1:]), leaf.shape)
                return NamedSharding(mesh, spec)
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(sharding, tree)


def _mirrored(names: Names, entries: list[Any], shape: tuple[int, ...], leaf: tuple[int, ...]) -> PartitionSpec:
    """The PartitionSpec of a leaf that mirrors a parameter with `entries` per axis."""
    if leaf == shape:
        return PartitionSpec(*entries)
    for groups in ([(axis,) for axis in range(len(shape))], matrix_axes(names)):
        sizes = tuple(math.prod(shape[axis] for axis in axes) for axes in groups)
        split = [_entry(tuple(name for axis in axes for name in _axes(entries[axis]))) for axes in groups]
        if leaf == sizes:
            return PartitionSpec(*split)
        for axis in range(len(sizes)):
            if leaf == sizes[:axis] + sizes[axis + 1 :]:
                return PartitionSpec(*split[:axis], *split[axis + 1 :])
    return PartitionSpec()


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its leading axis over data and fsdp, other axes replicated."""
    return NamedSharding(mesh, PartitionSpec(ACTIVATION_RULES["batch"]))


def batch_shards(mesh: Mesh) -> int:
    """The number of shards of a batch on the mesh."""
    return math.prod(mesh.shape[axis] for axis in ACTIVATION_RULES["batch"])
