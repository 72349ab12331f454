"""Dot-product attention by the fastest implementation of the platform, and projections with gathered kernels."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from research.models.dense import dot_general, platform
from research.models.layers import at_least_float32
from research.models.shapes import AnyArray
from research.parallel.sharding import Names, constrain, traced_mesh
from research.spec import FieldError

ATTENTION = ("auto", "xla", "cudnn")


def attention(
    query: Float[Array, "batch queries heads depth"],
    key: Float[Array, "batch keys key_heads depth"],
    value: Float[Array, "batch keys key_heads depth"],
    implementation: str = "auto",
    *,
    bias: Float[AnyArray, "#batch #heads #queries #keys"] | None = None,
    mask: Bool[AnyArray, "#batch #heads #queries #keys"] | None = None,
    scale: float | None = None,
) -> Float[Array, "batch queries heads depth"]:
    """softmax(scale query key^T + bias) value over [batch, length, heads, depth]; softmax in float32.

    `bias` and `mask` broadcast to [batch, heads, query length, key length]. The mask is true where a query may attend;
    a query that may attend nowhere gets the mean of the values. `scale` is 1 / sqrt(depth) unless given.
    With fewer key and value heads, each is shared by a group of query heads (grouped-query attention, Ainslie et al.,
    2023). `auto` uses cuDNN's fused attention if it is available, `_deferred_normalisation` on a CPU, else XLA's.
    Raises FieldError if `cudnn` is chosen but not available.
    """
    key, value = (_for_all_heads(part, query.shape[2], axis=2) for part in (key, value))
    reason = _no_cudnn(query, bias is not None or mask is not None)
    if implementation == "cudnn" and reason:
        raise FieldError(("attention",), f"='cudnn' {reason}; use 'auto' or 'xla'")
    # Also for float64, since jax.nn.dot_product_attention would round its softmax to float32.
    if query.dtype == jnp.float64 or (implementation == "auto" and platform() == "cpu"):
        return _deferred_normalisation(
            query, key, value, bias, mask, query.shape[-1] ** -0.5 if scale is None else scale
        )
    if implementation == "cudnn" or (implementation == "auto" and not reason):
        return _cudnn(query, key, value, scale)
    return jax.nn.dot_product_attention(query, key, value, bias, mask, scale=scale, implementation="xla")


def _cudnn(query: jax.Array, key: jax.Array, value: jax.Array, scale: float | None) -> jax.Array:
    """cuDNN's attention; odd lengths, which JAX 0.10 and 0.11 reject in training, are padded by one masked position."""
    attend = functools.partial(jax.nn.dot_product_attention, scale=scale, implementation="cudnn")
    if query.shape[1] % 2 == key.shape[1] % 2 == 0:
        return attend(query, key, value)
    even = (jnp.pad(part, ((0, 0), (0, part.shape[1] % 2), (0, 0), (0, 0))) for part in (query, key, value))
    real = lambda part: constrain(jnp.full(len(part), part.shape[1], jnp.int32), ("batch",))
    padded = attend(*even, query_seq_lengths=real(query), key_value_seq_lengths=real(key))
    return padded[:, : query.shape[1]]


def _deferred_normalisation(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: AnyArray | None,
    mask: AnyArray | None,
    scale: float,
) -> jax.Array:
    """`attention` in the fastest form for a CPU: heads before length, and softmax normalised after the weighted sum.

    For 1,500 positions, forward and backward pass took half the time of jax.nn.dot_product_attention.
    """
    dtype = at_least_float32(query.dtype)
    query, key, value = (part.swapaxes(1, 2) for part in (query * scale, key, value))
    logits = _masked(jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=dtype), bias, mask)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    sums = jnp.einsum("bhqk,bhkd->bhqd", weights.astype(value.dtype), value, preferred_element_type=dtype)
    return (sums / weights.sum(-1, keepdims=True)).astype(value.dtype).swapaxes(1, 2)


def probabilities(
    query: Float[Array, "batch queries heads depth"],
    key: Float[Array, "batch keys key_heads depth"],
    *,
    bias: Float[AnyArray, "#batch #heads #queries #keys"] | None = None,
    mask: Bool[AnyArray, "#batch #heads #queries #keys"] | None = None,
    scale: float | None = None,
) -> Float[Array, "batch heads queries keys"]:
    """The probabilities by which `attention` weights the values, which its implementations do not return."""
    dtype = at_least_float32(query.dtype)
    key = _for_all_heads(key, query.shape[2], axis=2)
    query = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    return _masked_softmax(jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=dtype), bias, mask)


def cached_attention(
    query: Float[Array, "batch queries heads depth"],
    keys: Float[Array, "batch key_heads depth keys"],
    values: Float[Array, "batch key_heads keys depth"],
    bias: Float[AnyArray, "#batch #heads #queries #keys"] | None,
    mask: Bool[AnyArray, "#batch #heads #queries #keys"] | None,
    scale: float | None,
) -> Float[Array, "batch queries heads depth"]:
    """`attention` with keys [batch, heads, depth, length] and values [batch, heads, length, depth] from a cache.

    A cache is read in every decoding step. With this order of axes both products are plain matrix products, which on a
    CPU take a tenth of the time of those with [batch, length, heads, depth].
    """
    dtype = at_least_float32(query.dtype)
    keys, values = (_for_all_heads(part, query.shape[2], axis=1) for part in (keys, values))
    query = query.swapaxes(1, 2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    logits = jnp.einsum("bhqd,bhdk->bhqk", query, keys, preferred_element_type=dtype)
    weights = _masked_softmax(logits, bias, mask).astype(values.dtype)
    return jnp.einsum("bhqk,bhkd->bhqd", weights, values).swapaxes(1, 2)


def _for_all_heads(x: jax.Array, heads: int, axis: int) -> jax.Array:
    return x if x.shape[axis] == heads else jnp.repeat(x, heads // x.shape[axis], axis)


def _masked_softmax(logits: jax.Array, bias: AnyArray | None, mask: AnyArray | None) -> jax.Array:
    return jax.nn.softmax(_masked(logits, bias, mask))


def _masked(logits: jax.Array, bias: AnyArray | None, mask: AnyArray | None) -> jax.Array:
    if bias is not None:
        logits = logits + bias.astype(logits.dtype)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    return logits


def _no_cudnn(query: jax.Array, restricted: bool) -> str:
    """The reason why cuDNN's attention cannot be used for `query` on the target platform; empty if it can."""
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


def dot_gathered(
    names: Names, inputs: Float[Array, "..."], kernel: Float[Array, "..."], *args: Any, **settings: Any
) -> Float[Array, "..."]:
    """A dense layer's `dot_general` whose sharded kernel is gathered once, for the product and its input gradient.

    `names` are the logical axes of the gathered kernel. To be used with remat, where XLA would gather a kernel with
    three axes twice in the backward pass. Without remat the gathered kernels of all layers would be kept in memory.
    """
    return dot_general(inputs, _gathered(names, kernel), *args, **settings)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gathered(names: Names, kernel: jax.Array) -> jax.Array:
    return constrain(kernel, names)


# The gradient is not constrained, so that XLA can use a reduce-scatter instead of an all-reduce.
_gathered.defvjp(lambda names, kernel: (_gathered(names, kernel), None), lambda names, _, gradient: (gradient,))
