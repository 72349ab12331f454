"""Pieces that several models share."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import ad_checkpoint

from research.parallel import mesh as mesh_lib
from research.parallel.sharding import Names, constrain, traced_mesh

GELU: dict[str, Callable] = {
    "exact": functools.partial(nn.gelu, approximate=False),
    "tanh": functools.partial(nn.gelu, approximate=True),
}

# Subtracting the mean before squaring: flax's faster E[x^2] - E[x]^2 loses digits where the mean is large.
layer_norm = functools.partial(nn.LayerNorm, use_fast_variance=False)
NORMS: dict[str, Callable] = {
    "layer": layer_norm,
    "rms": nn.RMSNorm,  # neither centred nor biased (Zhang and Sennrich, 2019)
}

ATTENTION = ("auto", "xla", "cudnn")


_OPERAND = "operand"
_DOTS = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
_OPERANDS = jax.checkpoint_policies.save_only_these_names(_OPERAND)


def _operands(primitive: Any, *args: Any, **params: Any) -> bool:
    """Whether to keep a result: what a product takes or gives, and what cuDNN's attention does; not XLA's logits."""
    fused = primitive.name.startswith("dot_product_attention")
    return fused or _DOTS(primitive, *args, **params) or _OPERANDS(primitive, *args, **params)


# What a layer keeps for its backward pass; the rest is computed again (Chen et al., 2016).
REMAT: dict[str, Callable | None] = {
    "none": None,  # no remat at all
    "operands": _operands,  # norms, activations and XLA's attention again, from what goes into them
    "dots": _DOTS,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def operand(x: jax.Array) -> jax.Array:
    """`x`, which remat="operands" keeps: what a product takes, or what a norm or activation before one is made of."""
    return ad_checkpoint.checkpoint_name(x, _OPERAND)


def remat(
    module: type[nn.Module], policy: str, static_argnums: tuple[int, ...], in_loop: bool = True
) -> type[nn.Module]:
    """`module` with its activations computed again in the backward pass, as far as `policy` (see REMAT) says.

    `in_loop`: the forward and the backward pass are loops of their own, so the compiler cannot merge the two
    computations, and the barrier against it would only be a cost.
    """
    if REMAT[policy] is None:
        return module
    return nn.remat(module, policy=REMAT[policy], prevent_cse=not in_loop, static_argnums=static_argnums)


def at_least_float32(dtype: Any) -> jnp.dtype:
    """The dtype of logits, losses and statistics: float32, or float64 where a test computes in it."""
    return jnp.promote_types(dtype, jnp.float32)


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    implementation: str = "auto",
    *,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
    scale: float | None = None,
) -> jax.Array:
    """softmax(scale query key^T + bias) value over [batch, length, heads, depth]; softmax in float32.

    `bias` and `mask` broadcast to [batch, heads, query length, key length]. The mask is true where a query may look; a
    query that may look nowhere gets the mean of the values. `scale` is 1 / sqrt(depth) unless given.
    `auto` takes cuDNN's fused attention where it can be had, on a CPU `_divided_last`, else XLA's. Raises ValueError
    where `cudnn` cannot be had.
    """
    reason = _no_cudnn(query, bias is not None or mask is not None)
    if implementation == "cudnn" and reason:
        raise ValueError(f"config.model.attention='cudnn' {reason}; use 'auto' or 'xla'")
    # In float64 because jax.nn.dot_product_attention would round its softmax to float32.
    if query.dtype == jnp.float64 or (implementation == "auto" and platform() == "cpu"):
        return _divided_last(query, key, value, bias, mask, query.shape[-1] ** -0.5 if scale is None else scale)
    if implementation == "cudnn" or (implementation == "auto" and not reason):
        return _cudnn(query, key, value, scale)
    return jax.nn.dot_product_attention(query, key, value, bias, mask, scale=scale, implementation="xla")


def _cudnn(query: jax.Array, key: jax.Array, value: jax.Array, scale: float | None) -> jax.Array:
    """JAX refuses odd lengths in training (0.10, 0.11), so they get a place more, which nobody looks at."""
    attend = functools.partial(jax.nn.dot_product_attention, scale=scale, implementation="cudnn")
    if query.shape[1] % 2 == key.shape[1] % 2 == 0:
        return attend(query, key, value)
    even = (jnp.pad(part, ((0, 0), (0, part.shape[1] % 2), (0, 0), (0, 0))) for part in (query, key, value))
    real = lambda part: constrain(jnp.full(len(part), part.shape[1], jnp.int32), ("batch",))
    padded = attend(*even, query_seq_lengths=real(query), key_value_seq_lengths=real(key))
    return padded[:, : query.shape[1]]


def _divided_last(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None,
    mask: jax.Array | None,
    scale: float,
) -> jax.Array:
    """`attention` as a CPU does it fastest: heads before length, and the weighted sums are divided, not the weights.

    Over 1,500 places forward and backward pass took half of the time of jax.nn.dot_product_attention.
    """
    dtype = at_least_float32(query.dtype)
    query, key, value = (part.swapaxes(1, 2) for part in (query * scale, key, value))
    logits = _masked(jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=dtype), bias, mask)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    sums = jnp.einsum("bhqk,bhkd->bhqd", weights.astype(value.dtype), value, preferred_element_type=dtype)
    return (sums / weights.sum(-1, keepdims=True)).astype(value.dtype).swapaxes(1, 2)


def cached_attention(
    query: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array | None, mask: jax.Array, scale: float | None
) -> jax.Array:
    """`attention` over keys that lie as [batch, heads, depth, length] and values [batch, heads, length, depth].

    A cache is read at every step of a decoding. In this order both products are plain ones of matrices: on a CPU they
    take a tenth of the time that [batch, length, heads, depth] would.
    """
    dtype = at_least_float32(query.dtype)
    query = query.swapaxes(1, 2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    logits = jnp.einsum("bhqd,bhdk->bhqk", query, keys, preferred_element_type=dtype)
    weights = _masked_softmax(logits, bias, mask).astype(values.dtype)
    return jnp.einsum("bhqk,bhkd->bhqd", weights, values).swapaxes(1, 2)


def _masked_softmax(logits: jax.Array, bias: jax.Array | None, mask: jax.Array | None) -> jax.Array:
    return jax.nn.softmax(_masked(logits, bias, mask))


def _masked(logits: jax.Array, bias: jax.Array | None, mask: jax.Array | None) -> jax.Array:
    if bias is not None:
        logits = logits + bias.astype(logits.dtype)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    return logits


def platform() -> str:
    """Where the program will run."""
    mesh = traced_mesh()
    return mesh_lib.platform(mesh) if mesh else jax.default_backend()


def _no_cudnn(query: jax.Array, restricted: bool) -> str:
    """Why cuDNN's attention cannot be had for `query` where the program will run; empty when it can."""
    mesh, on = traced_mesh(), platform()
    heads, depth = query.shape[2:]
    if restricted:
        return "takes no bias and no mask here"
    if on not in ("gpu", "cuda"):
        return f"needs an NVIDIA GPU, not {on}"
    if query.dtype not in (jnp.bfloat16, jnp.float16):
        return f"needs precision.compute='bfloat16' or 'float16', not '{query.dtype}'"
    if depth % 8 or depth > 128:
        return f"needs heads of a multiple of 8 and at most 128 features, not {depth}"
    if mesh and (mesh.shape["sequence"] > 1 or heads % mesh.shape["tensor"]):
        return f"needs mesh.sequence=1 and a mesh.tensor that divides {heads} heads"
    return ""


def dot_gathered(names: Names, inputs: jax.Array, kernel: jax.Array, *args: Any, **settings: Any) -> jax.Array:
    """A dense layer's `dot_general` whose kernel is gathered once, for this product and for the gradient of its input.

    `names` are the logical axes of the gathered kernel. For remat: left to itself XLA gathers a kernel of three axes a
    second time in a backward pass that has just computed the layer again. Without remat the gathered kernels of all
    layers would be kept.
    """
    return jax.lax.dot_general(inputs, _gathered(names, kernel), *args, **settings)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gathered(names: Names, kernel: jax.Array) -> jax.Array:
    return constrain(kernel, names)


# The gradient stays as it comes, so that it can be summed where it is kept rather than everywhere.
_gathered.defvjp(lambda names, kernel: (_gathered(names, kernel), None), lambda names, _, gradient: (gradient,))


def batch_norm(param_dtype: Any, **settings) -> Callable:
    """A constructor of batch norms whose statistics are in float32, or in float64 with the parameters."""
    # flax keeps statistics in float32 but averages them in the dtype of the batch: under float64 they would change it.
    return functools.partial(
        nn.BatchNorm,
        use_fast_variance=False,
        force_float32_reductions=param_dtype != "float64",
        param_dtype=param_dtype,
        **settings,
    )


def classify(x: jax.Array, num_classes: int, param_dtype: Any, **settings) -> jax.Array:
    """Features [batch, embed] to logits [batch, classes] in float32, by a dense layer called `head`.

    The layer itself is in float32, since logits rounded to bfloat16 differ by up to 1 %. To be called in a module.
    """
    dtype = at_least_float32(x.dtype)
    logits = nn.Dense(num_classes, name="head", dtype=dtype, param_dtype=param_dtype, **settings)(x)
    return constrain(logits, ("batch", "classes"))


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


def sinusoids(positions: jax.Array, features: int, dtype: Any, temperature: float = 10_000.0) -> jax.Array:
    """Fixed positions [..., features] of `positions` [...] (Vaswani et al., 2017), as Tensor2Tensor and Whisper do.

    The first half of the features are sines, the second cosines, at frequencies that fall geometrically from 1 to
    1 / temperature. `features` must be even, and at least 4.
    """
    frequencies = jnp.asarray(temperature ** -np.linspace(0, 1, features // 2), at_least_float32(dtype))
    angles = positions[..., None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1).astype(dtype)
