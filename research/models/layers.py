"""Pieces that several models share."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from research import config as config_lib

GELU: dict[str, Callable] = {
    "exact": functools.partial(nn.gelu, approximate=False),
    "tanh": functools.partial(nn.gelu, approximate=True),
}

# Subtracting the mean before squaring: flax's faster E[x^2] - E[x]^2 loses digits where the mean is large.
layer_norm = functools.partial(nn.LayerNorm, use_fast_variance=False)

# What a layer keeps for its backward pass; the rest is computed again (Chen et al., 2016).
REMAT: dict[str, Callable | None] = {
    "none": None,  # no remat at all
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def remat(module: type[nn.Module], policy: str, static_argnums: tuple[int, ...]) -> type[nn.Module]:
    """`module` with its activations computed again in the backward pass, as far as `policy` (see REMAT) says."""
    if config_lib.choose(REMAT, policy, "model.remat") is None:
        return module
    # Inside a scan the compiler cannot merge the two computations, so the barrier against it is only a cost.
    return nn.remat(module, policy=REMAT[policy], prevent_cse=False, static_argnums=static_argnums)


class StochasticDepth(nn.Module):
    """Drops a whole residual branch of an example with probability `rate` (Huang et al., 2016).

    What is kept is divided by 1 - rate, so evaluation needs no change. `rate` may be traced: a scan over layers has a
    rate a layer.
    """

    @nn.compact
    def __call__(self, x: jax.Array, rate: jax.Array | float, train: bool) -> jax.Array:
        if not train:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        keep = 1 - jnp.asarray(rate, jnp.float32)
        kept = jax.random.bernoulli(self.make_rng("dropout"), keep, shape)
        return x * jnp.where(kept, 1 / keep, 0).astype(x.dtype)


def sincos_positions(height: int, width: int, features: int, temperature: float = 10_000.0) -> np.ndarray:
    """Fixed two-dimensional positions [height * width, features], as in MoCo v3 (Chen et al., 2021).

    The four quarters of the features are sin and cos of x, then sin and cos of y, at frequencies that fall
    geometrically from 1 to 1 / temperature. Raises ValueError when 4 does not divide `features`.
    """
    if features % 4:
        raise ValueError(f"config.model.width={features} must be a multiple of 4 for positions='sincos'")
    y, x = np.mgrid[:height, :width]
    frequencies = temperature ** -np.linspace(0, 1, features // 4)
    angles = [np.outer(axis.ravel(), frequencies) for axis in (x, y)]
    return np.concatenate([wave(angle) for angle in angles for wave in (np.sin, np.cos)], axis=1)
