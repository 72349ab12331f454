"""Rematerialisation: activations that the backward pass computes again (Chen et al., 2016)."""

from collections.abc import Callable
from typing import Any

import jax
from jax import ad_checkpoint
from jaxtyping import Array, Float

_OPERAND = "operand"
_DOTS = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
_OPERANDS = jax.checkpoint_policies.save_only_these_names(_OPERAND)


def _operands(primitive: Any, *args: Any, **params: Any) -> bool:
    """Whether to keep a result: what a product takes or gives, and what cuDNN's attention does; not XLA's logits."""
    fused = primitive.name.startswith("dot_product_attention")
    return fused or _DOTS(primitive, *args, **params) or _OPERANDS(primitive, *args, **params)


# What a layer keeps for its backward pass; the rest is computed again.
REMAT: dict[str, Callable | None] = {
    "none": None,  # no remat
    "operands": _operands,  # norms, activations and XLA's attention again, from what goes into them
    "dots": _DOTS,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def operand(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`x`, which remat="operands" keeps: what a product takes, or what a norm or activation before one is made of."""
    return ad_checkpoint.checkpoint_name(x, _OPERAND)


def remat(function: Callable, policy: str, in_loop: bool = True) -> Callable:
    """`function` with its activations computed again in the backward pass, as far as `policy` (see REMAT) says.

    `in_loop`: the forward and the backward pass are loops of their own, so the compiler cannot merge the two
    computations, and the barrier against it would only be a cost.
    """
    if REMAT[policy] is None:
        return function
    return jax.checkpoint(function, policy=REMAT[policy], prevent_cse=not in_loop)
