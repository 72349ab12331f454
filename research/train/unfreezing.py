"""Gradual unfreezing (Howard and Ruder, 2018, section 3.3): parameters that are frozen until a given step.

Each group of parameters with the same first step has a separate optimizer state that starts at that step, so that its
moments are not biased towards earlier zeros. Learning rates follow the step of the run. Unfreezing is a function of the
step inside a single jitted train step, so gradients of all parameters are always computed.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from research.parallel.sharding import Table, logical_axes, path_name

Stages = Sequence[tuple[int, str]]  # (first step, regular expression)
_STACK = re.compile(r"(^|.*/)blocks/")


class UnfreezingState(NamedTuple):
    """The step of the run, and the optimizer states of the groups by their first step."""

    step: jax.Array
    groups: dict[str, optax.OptState]


def gradually(
    stages: Stages,
    table: Table,
    clip: optax.GradientTransformation,
    make: Callable[[int], optax.GradientTransformation],
) -> optax.GradientTransformation:
    """Applies `make(k)` to the parameters with first step k; before it, updates are 0 and the state is unchanged.

    Args:
      stages: The first pattern that matches a path gives the first step; without a match it is 0. See `paths`.
      table: The logical axes of the parameters.
      clip: Applied to the gradients of all unfrozen parameters.
      make: Returns the transformation of a group with first step k; its step count starts at 0 at step k.
    """

    def init(params: Any) -> UnfreezingState:
        groups = {str(step): make(step).init(group) for step, group in _split(params, stages, table).items()}
        return UnfreezingState(jnp.zeros((), jnp.int32), groups)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, UnfreezingState]:
        begun = lambda path, leaf: _begun(state.step, leaf, first_steps(path_name(path), leaf.shape, stages, table))
        grads, _ = clip.update(jax.tree_util.tree_map_with_path(begun, updates), clip.init(params))
        grads, values = (_split(tree, stages, table) for tree in (grads, params))
        done, groups = {}, {}
        for step, group in grads.items():
            before = state.groups[str(step)]
            new, after = make(step).update(group, before, values[step])
            kept = lambda new, old, step=step: jnp.where(state.step >= step, new, old)
            done[step] = jax.tree.map(lambda leaf, kept=kept: kept(leaf, jnp.zeros_like(leaf)), new)
            groups[str(step)] = jax.tree.map(kept, after, before)
        return _joined(done, updates, stages, table), UnfreezingState(state.step + 1, groups)

    return optax.GradientTransformation(init, update)


def paths(path: str, shape: Sequence[int], table: Table) -> list[str]:
    """The paths of the layers in a stacked leaf (`blocks/3/mlp/kernel` for `blocks/mlp/kernel`), else `[path]`."""
    stack = _STACK.match(path)
    if stack is None or logical_axes(path, table)[:1] != ("layers",):
        return [path]
    return [f"{stack[0]}{layer}/{path[stack.end() :]}" for layer in range(shape[0])]


def first_steps(path: str, shape: Sequence[int], stages: Stages, table: Table) -> np.ndarray:
    """The first training step of each layer of a stacked leaf, [layers], or of another leaf, [1]."""
    found = lambda name: (step for step, pattern in stages if re.search(pattern, name) or re.search(pattern, path))
    return np.array([next(found(name), 0) for name in paths(path, shape, table)])


def check(stages: Stages, params: Any, table: Table) -> None:
    """Raises ValueError for a pattern that matches no path of `params`, or if no parameter is trained from step 0."""
    leaves = {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    names = [name for path, shape in leaves.items() for name in (path, *paths(path, shape, table))]
    for _, pattern in stages:
        if not any(re.search(pattern, name) for name in names):
            some = ", ".join(names[:: max(1, len(names) // 3)][:4])
            raise ValueError(
                f"config.optimizer.unfreeze has {pattern!r}, which matches no parameter that is trained, such as {some}"
            )
    first = min((first_steps(path, shape, stages, table).min() for path, shape in leaves.items()), default=0)
    if first:
        raise ValueError(
            f"config.optimizer.unfreeze={tuple(stages)} leaves nothing to train before step {first}; leave some "
            "parameters out of it, such as the head"
        )


def _begun(now: jax.Array, leaf: jax.Array, steps: np.ndarray) -> jax.Array:
    """The gradient `leaf`, with 0 for the layers that are still frozen at step `now`."""
    mask = now >= jnp.asarray(steps, jnp.int32)
    return jnp.where(mask.reshape(-1, *[1] * (leaf.ndim - 1)) if leaf.ndim else mask[0], leaf, 0)


def _parts(path: str, shape: Sequence[int], stages: Stages, table: Table) -> Iterator[tuple[int, np.ndarray | None]]:
    """The first steps in a leaf, each with the indices of its layers; None: the whole leaf."""
    steps = first_steps(path, shape, stages, table)
    for step in np.unique(steps):
        layers = np.flatnonzero(steps == step)
        yield int(step), None if len(layers) == len(steps) else layers


def _split(tree: Any, stages: Stages, table: Table) -> dict[int, Any]:
    """The parameters, or their layers, grouped by first step, as a tree for each."""
    groups: dict[int, dict[str, jax.Array]] = {}
    for path, leaf in _flat(tree).items():
        for step, layers in _parts(path, leaf.shape, stages, table):
            groups.setdefault(step, {})[path] = leaf if layers is None else leaf[layers]
    return {step: traverse_util.unflatten_dict(group, sep="/") for step, group in sorted(groups.items())}


def _joined(groups: dict[int, Any], like: Any, stages: Stages, table: Table) -> Any:
    """The inverse of `_split`, for groups with the parameters of `like`."""
    flat = {step: _flat(group) for step, group in groups.items()}
    joined = {}
    for path, leaf in _flat(like).items():
        for step, layers in _parts(path, leaf.shape, stages, table):
            part = flat[step][path]
            whole = joined.get(path, jnp.zeros(leaf.shape, part.dtype)) if layers is not None else None
            joined[path] = part if whole is None else whole.at[layers].set(part)
    return traverse_util.unflatten_dict(joined, sep="/")


def _flat(tree: Any) -> dict[str, Any]:
    return dict(traverse_util.flatten_dict(tree, sep="/"))
