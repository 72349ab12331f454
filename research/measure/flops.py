"""Floating-point operations of a program, counted from its jaxpr.

Only matrix products and convolutions are counted, a multiply-add as two operations; all other operations are small in
comparison and run on other units. There are two counts for a training step:

model FLOPs     those of the mathematics: the forward pass and, in the backward pass, once more for each operand of a
                product that needs a gradient. Rematerialised operations count once.
hardware FLOPs  those of the compiled step, rematerialisation included.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core


class _Array(Protocol):
    shape: tuple[int, ...]
    dtype: np.dtype
    size: int


def forward_flops(function: Callable[..., Any], *args: Any) -> int:
    """The operations of one call of `function` on (abstract) `args`, including gradients and rematerialisation in it.

    A scan counts once per iteration, a `cond` as its most expensive branch. The body of a `while` loop counts once,
    since the jaxpr does not have its number of iterations.
    """
    # A jitted function is not wrapped, since one with compiler options must not be traced inside another.
    jitted = function if isinstance(function, jax.stages.Wrapped) else jax.jit(function)
    jaxpr = jitted.trace(*args).jaxpr.jaxpr
    return _walk(jaxpr, [False] * len(jaxpr.invars))[0]


def training_flops(loss: Callable[..., Any], params: Any, *args: Any) -> int:
    """The model FLOPs of a forward and a backward pass of `loss(params, *args)`, without rematerialisation.

    In the backward pass, a product costs its forward operations once for each operand that depends on `params`: twice
    for a layer, once for the first layer, whose input needs no gradient. Custom gradients are assumed to cost the same,
    and operations before a `stop_gradient` count as trained.
    """
    jaxpr = jax.make_jaxpr(loss)(params, *args).jaxpr
    trained = len(jax.tree.leaves(params))
    forward, backward, _ = _walk(jaxpr, [index < trained for index in range(len(jaxpr.invars))])
    return forward + backward


def step_flops(task: Any, batch_size: int) -> int:
    """The model FLOPs of one training step of a task on a global batch; nothing is computed."""
    rng = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(task.init, rng)
    mutable = {name: tree for name, tree in variables.items() if name != "params"}

    def loss(params, mutable, batch, rng):
        return task.loss({"params": params, **mutable}, batch, task.totals(batch), rng)[0]

    return training_flops(loss, variables["params"], mutable, task.example(batch_size), rng)


def mfu(model_flops: float, step_time_s: float, chips: int, peak_flops: float | None) -> float | None:
    """Model FLOPs utilisation (Chowdhery et al., 2022, appendix B): the share of the chips' peak that a step uses.

    By convention, `model_flops` are those of one step over all chips, counted by `training_flops`, so attention counts
    and rematerialisation does not; `peak_flops` is the dense peak of one chip in the compute dtype, from
    `chips.Chip.peak_flops`. None (to be shown as "unknown") if the peak is unknown.
    """
    return None if peak_flops is None else model_flops / (step_time_s * chips * peak_flops)


def _walk(jaxpr: core.Jaxpr, active: Sequence[bool]) -> tuple[int, int, list[bool]]:
    """Forward and backward operations, and which outputs depend on the inputs that are `active`."""
    known = {var for var, is_active in zip(jaxpr.invars, active, strict=True) if is_active}
    is_active = lambda atom: not isinstance(atom, core.Literal) and atom in known
    forward = backward = 0
    for eqn in jaxpr.eqns:
        inputs = [is_active(atom) for atom in eqn.invars]
        own_forward, own_backward, outputs = _equation(eqn, inputs)
        forward, backward = forward + own_forward, backward + own_backward
        # No gradient flows through integers, such as the argmax of an accuracy.
        differentiable = (jnp.issubdtype(_array(var).dtype, jnp.inexact) for var in eqn.outvars)
        known |= {var for var, out, floats in zip(eqn.outvars, outputs, differentiable, strict=True) if out and floats}
    return forward, backward, [is_active(atom) for atom in jaxpr.outvars]


def _array(atom: core.Var | core.Literal) -> _Array:
    """The abstract value of an atom, cast: JAX declares an AbstractValue without shape and dtype."""
    return cast(_Array, atom.aval)


def _equation(eqn: core.JaxprEqn, active: list[bool]) -> tuple[int, int, list[bool]]:
    name, params = eqn.primitive.name, eqn.params
    if name in _PRODUCTS:
        count = _PRODUCTS[name](eqn)
        return count, count * sum(active[:2]), [any(active)]
    if name.startswith("dot_product_attention"):
        return _fused_attention(eqn, active)
    if name == "scan":
        return _scan(params, active)
    if name == "while":
        return _while(params, active)
    if name == "cond":
        branches = [_walk(_open(branch), active[1:]) for branch in params["branches"]]
        outputs = [any(each) for each in zip(*(out for *_, out in branches), strict=True)]
        return *max((forward, backward) for forward, backward, _ in branches), outputs
    if name == "stop_gradient":
        return 0, 0, [False] * len(eqn.outvars)
    inner = _inner_jaxpr(params)
    if inner is not None and len(inner.invars) == len(active):
        return _walk(inner, active)
    # Elementwise operations and kernels in other languages: not counted, but active.
    return 0, 0, [any(active)] * len(eqn.outvars)


def _fused_attention(eqn: core.JaxprEqn, active: list[bool]) -> tuple[int, int, list[bool]]:
    """cuDNN's attention kernels on [batch, length, heads, depth]: query key^T, and that times value.

    The backward kernel computes five products, the first of them again (Dao et al., 2022).
    """
    batch, queries, heads, depth = _array(eqn.invars[0]).shape
    count = 2 * batch * heads * queries * _array(eqn.invars[1]).shape[1] * depth
    query, key, value = active[:3]
    products = 5 if "_bwd" in eqn.primitive.name else 2
    return products * count, count * (query + key + (query or key) + value), [any(active)] * len(eqn.outvars)


def _inner_jaxpr(params: dict[str, Any]) -> core.Jaxpr | None:
    """The body of pjit, remat, custom_jvp, custom_vjp and their like."""
    bodies = (value for value in params.values() if isinstance(value, core.ClosedJaxpr | core.Jaxpr))
    return next(map(_open, bodies), None)


def _open(jaxpr: core.ClosedJaxpr | core.Jaxpr) -> core.Jaxpr:
    """The jaxpr of a ClosedJaxpr; JAX 0.11 passes open ones."""
    return jaxpr if isinstance(jaxpr, core.Jaxpr) else jaxpr.jaxpr


def _scan(params: dict[str, Any], active: list[bool]) -> tuple[int, int, list[bool]]:
    if "ft_in" in params:  # JAX 0.11 keeps the operands as a tree: constants, carry, slices
        consts, carries = (len(list(part)) for part in params["ft_in"].unpack()[:2])
    else:
        consts, carries = params["num_consts"], params["num_carry"]
    forward, backward, outputs = _fixed_point(_open(params["jaxpr"]), list(active), slice(consts, consts + carries))
    return params["length"] * forward, params["length"] * backward, outputs


def _while(params: dict[str, Any], active: list[bool]) -> tuple[int, int, list[bool]]:
    cond_consts, body_consts = params["cond_nconsts"], params["body_nconsts"]
    inputs = active[cond_consts:]
    forward, backward, outputs = _fixed_point(_open(params["body_jaxpr"]), inputs, slice(body_consts, len(inputs)))
    test = _walk(_open(params["cond_jaxpr"]), active[:cond_consts] + outputs)[0]
    return forward + test, backward, outputs


def _fixed_point(body: core.Jaxpr, active: list[bool], carry: slice) -> tuple[int, int, list[bool]]:
    """Walks a loop's body until the set of active values in its carry no longer grows."""
    while True:
        forward, backward, outputs = _walk(body, active)
        before = active[carry]
        after = [old or new for old, new in zip(before, outputs, strict=False)]
        if after == before:
            return forward, backward, before + outputs[len(before) :]
        active[carry] = after


def _dot_flops(eqn: core.JaxprEqn) -> int:
    (contracting, _), _ = eqn.params["dimension_numbers"]
    return 2 * _array(eqn.outvars[0]).size * math.prod(_array(eqn.invars[0]).shape[axis] for axis in contracting)


def _conv_flops(eqn: core.JaxprEqn) -> int:
    """The operations of a convolution. Padding counts like data, as in published figures, input dilation not.

    The two convolutions of the backward pass then cost as much as the forward one each.
    """
    _, channels, *window = eqn.params["dimension_numbers"].rhs_spec
    shape = _array(eqn.invars[1]).shape
    taps = shape[channels] * math.prod(shape[axis] for axis in window)
    return 2 * _array(eqn.outvars[0]).size * taps // math.prod(eqn.params["lhs_dilation"])


_PRODUCTS: dict[str, Callable[[core.JaxprEqn], int]] = {
    "dot_general": _dot_flops,
    "conv_general_dilated": _conv_flops,
}
