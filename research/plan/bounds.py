"""Lower bound of the bytes that a step moves between chips, by the parallelism of its mesh.

Bytes received per chip; b is the size of the compute dtype, in which weights are gathered and gradients reduced
(measured on compiled steps), and an axis of n devices has a factor (n - 1) / n:

    fsdp        3 b P: the weights for the forward pass, again for the backward pass, and the gradients; per microbatch.
                P is the number of parameters sharded by the axis, on one tensor shard.
    data        2 b P for the gradients of parameters, once per step; of those sharded by fsdp, only of the own shard
    sequence    as data for the gradients, and 4 b B D per layer for keys, values and their gradients
    tensor      4 b B D for each pair of a column- and a row-parallel product: an all-reduce in the forward pass and
                one in the backward pass. With attention and MLP: 8 b B D per layer; a decoder layer has a third pair
                for cross-attention.

B is the number of tokens per chip, D the width (Shoeybi et al., 2019; Rajbhandari et al., 2020; "How to Scale Your
Model").
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from research.models.encoder_decoder import EncoderDecoderSpec
from research.models.vit import ViTSpec
from research.train.settings import TrainSpec


def lower_bound_bytes(train: TrainSpec, compute: str, task: Any, params: Any, shardings: Any) -> int:
    """Lower bound of the bytes that a chip receives in one train step; `shardings` are those of `params`.

    `compute` is the dtype of activations and products.
    """
    itemsize = jnp.dtype(compute).itemsize
    mesh = dict(jax.tree.leaves(shardings)[0].mesh.shape)
    weights = jax.tree.map(
        lambda leaf, sharding: _weight_bytes(leaf.size * itemsize, sharding, train.microbatches),
        params,
        shardings,
    )
    return round(sum(jax.tree.leaves(weights)) + activation_bytes(task, mesh, train.batch_size, itemsize))


def _weight_bytes(size: float, sharding: NamedSharding, microbatches: int) -> float:
    mesh = sharding.mesh.shape
    split = {axis for part in sharding.spec if part for axis in ([part] if isinstance(part, str) else part)}
    size /= math.prod(mesh[axis] for axis in split - {"fsdp"})
    total = 0.0
    if "fsdp" in split:
        total += 3 * size * microbatches * _share(mesh["fsdp"])
        size /= mesh["fsdp"]
    copies = math.prod(mesh[axis] for axis in ("data", "fsdp", "sequence") if axis not in split)
    return total + 2 * size * _share(copies)


class LayerStack(NamedTuple):
    """`depth` equal layers over `tokens` of the global batch."""

    depth: int
    width: int
    tokens: int
    pairs: int  # pairs of a column- and a row-parallel product per layer
    attended: int  # tokens for which a layer computes keys and values
    features: int  # total of all heads


def stacks(task: Any, batch_size: int) -> list[LayerStack]:
    """The transformer stacks of a task's model; none for other models."""
    model = getattr(task, "model", None)
    if isinstance(spec := getattr(model, "spec", None), EncoderDecoderSpec):
        source, target = (batch_size * length for length in (task.source_length, task.target_length))
        features = spec.num_heads * spec.kv_dim
        decoder = LayerStack(spec.decoder_depth, spec.width, target, 3, source + target, features)
        return [LayerStack(spec.encoder_depth, spec.width, source, 2, source, features), decoder]
    if isinstance(spec, ViTSpec):
        tokens = batch_size * ((spec.image_size // spec.patch_size) ** 2 + (spec.pool == "cls"))
        return [LayerStack(spec.depth, spec.width, tokens, 1 if spec.parallel else 2, tokens, spec.width)]
    return []


def activation_bytes(task: Any, mesh: Mapping[str, int], batch_size: int, itemsize: int) -> float:
    """Bytes of activations for tensor and sequence parallelism; 0 for models other than transformers."""
    batch_shards = mesh["data"] * mesh["fsdp"]
    total = 0.0
    for stack in stacks(task, batch_size):
        local = itemsize * stack.tokens * stack.width / (batch_shards * mesh["sequence"])
        keys = itemsize * stack.attended * stack.features / (batch_shards * mesh["tensor"])
        tensor = 4 * stack.pairs * local * _share(mesh["tensor"])
        total += stack.depth * (tensor + 4 * keys * _share(mesh["sequence"]))
    return total


def _share(members: int) -> float:
    return (members - 1) / members
