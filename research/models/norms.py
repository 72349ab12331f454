"""Normalisation over the last axis, in a form that is fast with XLA's CPU compiler (see dense.py)."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from research.models.dense import rows_of
from research.models.shapes import AnyArray


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias (Ba et al., 2016), with the parameters of flax's LayerNorm.

    Statistics are at least in float32, and the mean is subtracted before squaring: flax's faster E[x^2] - E[x]^2 loses
    precision if the mean is large.
    """

    epsilon: float = 1e-6
    use_bias: bool = True
    use_scale: bool = True
    dtype: Any = None
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: Float[AnyArray, "*axes features"]) -> Float[Array, "*axes features"]:
        kind = jnp.promote_types(self.dtype or x.dtype, jnp.float32)
        centred = x.astype(kind)
        centred -= centred.mean(-1, keepdims=True)
        y = centred * lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.epsilon)
        return _affine(self, y, nn.initializers.zeros if self.use_bias else None).astype(self.dtype or x.dtype)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * scale (Zhang and Sennrich, 2019), with the parameter of flax's RMSNorm."""

    epsilon: float = 1e-6
    use_scale: bool = True
    dtype: Any = None
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: Float[AnyArray, "*axes features"]) -> Float[Array, "*axes features"]:
        y = x.astype(jnp.promote_types(self.dtype or x.dtype, jnp.float32))
        y *= lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.epsilon)
        return _affine(self, y, None).astype(self.dtype or x.dtype)


def _affine(norm: Any, y: Any, bias_init: Any) -> Any:
    shape = y.shape[-1:]
    if norm.use_scale:
        scale = norm.param("scale", nn.initializers.ones, shape, norm.param_dtype)
        y *= rows_of(scale.astype(y.dtype), y.shape)
    if bias_init is not None:
        bias = norm.param("bias", bias_init, shape, norm.param_dtype)
        y += rows_of(bias.astype(y.dtype), y.shape)
    return y
