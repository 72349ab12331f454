"""Attention pooling: one trained query attends to all tokens (Lee et al., 2019; Zhai et al., 2022)."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from research.models import dot_product
from research.models.attention import HEADS, Context, Heads
from research.models.dense import Dense, dot
from research.parallel.sharding import constrain

LOGICAL_AXES = (
    ("pooling/probe", (None, None, "embed")),
    ("pooling/inputs_kernel", (None, "embed", "heads", "kv")),
    ("pooling/inputs_bias", (None, "heads", "kv")),
    ("pooling/out/kernel", ("heads", "kv", "embed")),
    ("pooling/mlp/up/kernel", ("embed", "mlp")),
    ("pooling/mlp/up/bias", ("mlp",)),
    ("pooling/mlp/down/kernel", ("mlp", "embed")),
    ("pooling/(out|mlp/down)/bias|pooling/norm/(scale|bias)", ("embed",)),
)


class AttentionPooling(nn.Module):
    """Tokens [batch, length, width] to features [batch, width], the "MAP head" of big_vision and SigLIP.

    One query, `probe`, attends to the tokens; an MLP with a norm before it follows in a residual branch. The kernels of
    query, key and value are one parameter, `inputs_kernel` [3, width, heads, features], as in the published weights.

    heads       the sizes of attention
    make_mlp    a constructor of the MLP
    make_norm   a constructor of the norm
    dtypes      `dtype` and `param_dtype`
    """

    heads: Heads
    make_mlp: Callable[..., nn.Module]
    make_norm: Callable[..., nn.Module]
    dtypes: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: Float[Array, "batch length embed"]) -> Float[Array, "batch embed"]:
        init = nn.initializers.xavier_uniform()
        own = lambda name, init, *shape: self.param(name, init, shape, self.dtypes["param_dtype"]).astype(x.dtype)
        sizes = (self.heads.count, self.heads.features)
        each = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", 1, (2, 3), (0,))
        kernel = own("inputs_kernel", each, 3, self.heads.width, *sizes)
        bias = own("inputs_bias", nn.initializers.zeros, 3, *sizes)
        probe = jnp.broadcast_to(own("probe", init, 1, 1, self.heads.width), (x.shape[0], 1, self.heads.width))
        inputs = (probe, x, x)
        parts = (dot(part, kernel[index]) + bias[index] for index, part in enumerate(inputs))
        query, key, value = (constrain(part, HEADS) for part in parts)
        found = dot_product.attention(query, key, value)
        y = Dense(self.heads.width, axis=(-2, -1), kernel_init=init, name="out", **self.dtypes)(found)
        branch: jax.Array = self.make_mlp(name="mlp")(self.make_norm(name="norm")(y), Context())
        return (y + branch)[:, 0]
