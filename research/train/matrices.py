"""Applies optimizers with per-matrix statistics, such as Adafactor, to each matrix of stacked parameters."""

import math
from typing import Any

import jax
import optax
from flax import traverse_util

from research.parallel.sharding import Table, logical_axes, matrix_axes, path_name

Path = tuple[str, ...]
Groups = dict[str, Any]  # number of stacked layers -> a tree of these parameters


def by_matrix(inner: optax.GradientTransformation, table: Table) -> optax.GradientTransformation:
    """Applies `inner` to every matrix separately, also if a scan over layers stacks those of all layers in one leaf.

    Adafactor scales an update by the root mean square of a leaf, clips it by that of the update, and factors the two
    longest axes; LAMB scales by norms of leaves. On a leaf [layers, ...] this would mix layers, and separate head axes
    would be factored instead of the matrix. Here `inner` is vmapped over `layers`, and `heads` and `kv` are merged into
    one axis, as in the papers.

    Args:
      inner: A transformation whose update of a leaf depends on that leaf and on shared state only.
      table: The logical axes of the parameters; `layers` comes first.
    """

    def init(params: Any) -> dict[str, Any]:
        return {count: _mapped(inner.init, count)(group) for count, group in _groups(params, table).items()}

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, dict[str, Any]]:
        if params is None:
            raise ValueError("params is missing; call update(updates, state, params)")
        grads, values = _groups(updates, table), _groups(params, table)
        done = {count: _mapped(inner.update, count)(grads[count], state[count], values[count]) for count in grads}
        flat: dict[Path, jax.Array] = {}
        for new, _ in done.values():
            flat |= traverse_util.flatten_dict(new)
        shaped = lambda path, leaf: flat[_keys(path)].reshape(leaf.shape)
        return jax.tree_util.tree_map_with_path(shaped, updates), {count: new for count, (_, new) in done.items()}

    return optax.GradientTransformation(init, update)


def _mapped(function: Any, count: str) -> Any:
    return function if count == "1" else jax.vmap(function)


def _groups(params: Any, table: Table) -> Groups:
    """The parameters grouped by their number of stacked layers, "1" for unstacked ones."""
    groups: dict[str, dict[Path, jax.Array]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = logical_axes(path_name(path), table)
        stacked = bool(names) and names[0] == "layers" and leaf.shape[0] > 1
        shape = [math.prod(leaf.shape[axis] for axis in axes) for axes in matrix_axes(names)]
        groups.setdefault(str(leaf.shape[0]) if stacked else "1", {})[_keys(path)] = leaf.reshape(shape)
    return {count: traverse_util.unflatten_dict(group) for count, group in groups.items()}


def _keys(path: Any) -> Path:
    return tuple(path_name(path).split("/"))
