"""The gradient of DP-SGD (Abadi et al., 2016, algorithm 1): clipped per example, summed, and noised.

Every example is a batch of one in the loss, so nothing in a model or a task can mix examples. Its random numbers
depend on (seed, step, row of the batch) and those of the noise on (seed, step) alone, so that neither the mesh nor the
number of microbatches changes them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from research.parallel.sharding import ACTIVATION_RULES
from research.spec.contracts import Batch, LossAux, Sums

# A number that is no step, so that keys of the noise differ from all others.
_NOISE = 2**31

# (parameters, a batch of one example, its key) -> (loss, (batch statistics, sums))
ExampleLoss = Callable[[Any, Batch, jax.Array], tuple[jax.Array, LossAux]]


def clipped_sum(
    loss: ExampleLoss, params: Any, batch: Batch, rows: jax.Array, rng: jax.Array, clip_norm: float
) -> tuple[Any, Sums]:
    """The sum over a batch of the gradients of single examples, each scaled to an L2 norm of at most `clip_norm`.

    An example of weight 0, which is padding, adds nothing, and neither does one whose gradient is not finite. Gradients
    are computed in parallel for all examples of `batch`: memory for its size times the parameters is needed.

    Args:
        loss: The loss of one example.
        params: The trained parameters.
        batch: Arrays [examples, ...].
        rows: The numbers of the examples in the batch of the step, int32 [examples], to which their keys belong.
        rng: The key of the step.
        clip_norm: The clipping threshold.

    Returns:
        The sum in at least float32, and the sums of the metrics, with the fraction of examples that were `clipped`.
    """

    def of_one(row: jax.Array, example: Batch):
        one = jax.tree.map(lambda array: array[None], example)
        key = jax.random.fold_in(rng, row)
        (_, (_, sums)), grads = jax.value_and_grad(loss, has_aux=True)(params, one, key)
        grads = jax.tree.map(lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), grads)
        norm, real = optax.global_norm(grads), example["weight"] > 0
        used = real & jnp.isfinite(norm)
        factor = jnp.minimum(1, clip_norm / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny))
        # A product with 0 would keep NaN.
        clipped = jax.tree.map(lambda leaf: jnp.where(used, leaf * factor.astype(leaf.dtype), 0), grads)
        sums = jax.tree.map(lambda value: jnp.where(real, value, 0), dict(sums))
        ones = real.astype(jnp.float32)
        return clipped, sums | {"clipped": (ones * ~(norm <= clip_norm), ones)}

    # The axes of the mesh that shard a batch shard the examples; inside, a batch of one is not sharded.
    grads, sums = jax.vmap(of_one, spmd_axis_name=ACTIVATION_RULES["batch"])(rows, batch)
    return jax.tree.map(lambda leaf: leaf.sum(0), (grads, sums))


def noisy_mean(grads: Any, seed: int, step: jax.Array, deviation: float, expected: int) -> Any:
    """(sum of clipped gradients + noise) / expected batch size.

    Args:
        grads: The sum of a step.
        seed: That of the run.
        step: The number of the step.
        deviation: The standard deviation of the noise, `noise_multiplier` times `clip_norm`.
        expected: The expected batch size. The actual one, which is private, does not enter.
    """
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), _NOISE), step)
    leaves, structure = jax.tree.flatten(grads)
    noisy = [
        (leaf + deviation * jax.random.normal(each, leaf.shape, leaf.dtype)) / expected
        for each, leaf in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, noisy)
