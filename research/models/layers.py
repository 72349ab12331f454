"""Layers shared by several models."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from research.models.batch_norm import BatchNorm
from research.models.dense import Dense
from research.models.norms import LayerNorm, RMSNorm
from research.parallel.sharding import constrain

GELU: dict[str, Callable] = {
    "exact": functools.partial(nn.gelu, approximate=False),
    "tanh": functools.partial(nn.gelu, approximate=True),
    "quick": lambda x: x * nn.sigmoid(1.702 * x),  # Hendrycks and Gimpel, 2016; of CLIP
}

NORMS: dict[str, Callable] = {"layer": LayerNorm, "rms": RMSNorm}


def at_least_float32(dtype: Any) -> jnp.dtype:
    """The dtype of logits, losses and statistics: float32, or float64 in tests that compute in it."""
    return jnp.promote_types(dtype, jnp.float32)


def tokens(
    x: Float[Array, "batch *axes length embed"], last: str = "embed"
) -> Float[Array, "batch *axes length embed"]:
    """Tokens [batch, ..., length, features] with their sharding constraint; `last` names the axis of their features."""
    return constrain(x, ("batch", *[None] * (x.ndim - 3), "length", last))


def batch_norm(param_dtype: Any, **settings) -> Callable:
    """A constructor of batch norms whose statistics are in float32, or in float64 with the parameters."""
    # flax stores statistics in float32 but averages them in the dtype of the batch: with float64 it would change.
    return functools.partial(
        BatchNorm,
        use_fast_variance=False,
        force_float32_reductions=param_dtype != "float64",
        param_dtype=param_dtype,
        **settings,
    )


def classify(
    x: Float[Array, "batch embed"], num_classes: int, param_dtype: Any, **settings
) -> Float[Array, "batch classes"]:
    """Features [batch, embed] to logits [batch, classes] in float32, by a dense layer called `head`.

    The layer itself is in float32, since logits rounded to bfloat16 differ by up to 1 %. To be called in a module.
    """
    dtype = at_least_float32(x.dtype)
    logits = Dense(num_classes, name="head", dtype=dtype, param_dtype=param_dtype, **settings)(x)
    return constrain(logits, ("batch", "classes"))


def unit(x: Float[Array, "*axes features"]) -> Float[Array, "*axes features"]:
    """Vectors divided by their Euclidean length, in at least float32; zero vectors stay zero."""
    x = x.astype(at_least_float32(x.dtype))
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), jnp.finfo(x.dtype).tiny))


class StochasticDepth(nn.Module):
    """Drops a whole residual branch of an example with probability `rate` (Huang et al., 2016).

    Kept branches are divided by 1 - rate, so evaluation needs no scaling. `rate` may be traced: a scan over layers
    has one rate per layer.
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, " batch *axes"], rate: Float[Array, ""] | float, train: bool
    ) -> Float[Array, " batch *axes"]:
        if not train:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        keep = 1 - jnp.asarray(rate, jnp.float32)
        kept = jax.random.bernoulli(self.make_rng("dropout"), keep, shape)
        return x * jnp.where(kept, 1 / keep, 0).astype(x.dtype)
