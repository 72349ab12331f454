"""Rematerialisation (activation checkpointing): the backward pass recomputes activations (Chen et al., 2016)."""

from collections.abc import Callable
from typing import Any

import jax
from jax import ad_checkpoint
from jaxtyping import Array, Float

_OPERAND = "operand"
_DOTS = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
_OPERANDS = jax.checkpoint_policies.save_only_these_names(_OPERAND)


def _operands(primitive: Any, *args: Any, **params: Any) -> bool:
    """Whether to save a result: operands and results of products and of cuDNN's attention, not XLA's attention."""
    fused = primitive.name.startswith("dot_product_attention")
    return fused or _DOTS(primitive, *args, **params) or _OPERANDS(primitive, *args, **params)


# What a layer saves for its backward pass; the rest is recomputed.
REMAT: dict[str, Callable | None] = {
    "none": None,  # no remat
    "operands": _operands,  # recomputes norms, activations and XLA's attention from their inputs
    "dots": _DOTS,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def operand(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Marks `x`, an operand of a product or the input of a norm or activation before one, for remat="operands"."""
    return ad_checkpoint.checkpoint_name(x, _OPERAND)


def remat(function: Callable, policy: str, in_loop: bool = True) -> Callable:
    """`function` with activations recomputed in the backward pass according to `policy`, a key of REMAT.

    `in_loop`: forward and backward pass are separate loops, so the compiler cannot merge the two computations, and the
    optimisation barrier against that is left out.
    """
    if REMAT[policy] is None:
        return function
    return jax.checkpoint(function, policy=REMAT[policy], prevent_cse=not in_loop)
