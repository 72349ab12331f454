"""Attention maps of transformers, and attention roll-out (Abnar and Zuidema, 2020)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Map = np.ndarray  # probabilities [batch, heads, queries, keys]


def maps(stored: Mapping[str, Any]) -> list[Map]:
    """The attention maps in the order of the layers, from the collection that `models.attention` stores them in.

    Empty for a model without attention. Raises ValueError for one with several stacks of layers.
    """
    stacks = list(_stacks(stored))
    if not stacks:
        return []
    if len(stacks) > 1:
        raise ValueError(f"{len(stacks)} stacks of layers have attention maps; capture those of one")
    parts = list(_probabilities(stacks[0]))
    return [np.asarray(part[layer], np.float64) for layer in range(len(parts[0])) for part in parts]


def _stacks(stored: Mapping[str, Any]) -> Any:
    for name, value in stored.items():
        if name == "layers":
            yield value[0]
        elif isinstance(value, Mapping):
            yield from _stacks(value)


def _probabilities(tree: Mapping[str, Any]) -> Any:
    for name, value in tree.items():
        if name == "probabilities":
            yield value[0]
        else:
            yield from _probabilities(value)


def rollout(layers: Sequence[Map]) -> np.ndarray:
    """How much of each token of the last layer comes from each of the input: [batch, queries, keys], rows of sum 1.

    The product over layers of 0.5 W + 0.5 I, where W is the mean over heads and I the residual connection.
    """
    found = np.eye(layers[0].shape[-1])[None]
    for weights in layers:
        mixed = 0.5 * weights.mean(1) + 0.5 * np.eye(weights.shape[-1])
        found = mixed / mixed.sum(-1, keepdims=True) @ found
    return found


def over_space_and_time(layers: Sequence[Map], batch: int, time: int, space: int, is_factorised: bool) -> list[Map]:
    """Maps of a video transformer as those of all its tokens, [batch, heads, time * space, time * space].

    Those with rows per time are of tokens of the same time; with `is_factorised`, every second one is of tokens of the
    same patch, with rows per patch.
    """
    found = []
    for number, weights in enumerate(layers):
        if weights.shape[-1] == time * space:
            found.append(weights)
            continue
        heads = weights.shape[1]
        whole = np.zeros((batch, heads, time, space, time, space))
        if is_factorised and number % 2:  # [batch * space, heads, time, time]
            own = weights.reshape(batch, space, heads, time, time)
            for patch in range(space):
                whole[:, :, :, patch, :, patch] = own[:, patch]
        else:  # [batch * time, heads, space, space]
            own = weights.reshape(batch, time, heads, space, space)
            for moment in range(time):
                whole[:, :, moment, :, moment] = own[:, moment]
        found.append(whole.reshape(batch, heads, time * space, time * space))
    return found
