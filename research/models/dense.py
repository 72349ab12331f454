"""Dense layers, with products that are fast if a program is compiled for one CPU.

The kernel gradient contracts every axis of the activations but the last. For [batch, length, features], XLA's CPU
compiler makes a transposed copy of an operand, and fuses the elementwise operations before it into this copy, column by
column. If batch and length are merged into one axis, nothing is copied. The bias gradient is a sum over the same axes,
here computed as a product with ones, which is several times as fast.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import lax
from jaxtyping import Array, Float

from research.models.shapes import AnyArray, Size
from research.parallel import mesh as mesh_lib
from research.parallel.sharding import traced_mesh

# Parameters of a LoRA update and of the scales of IA3, see train/lora.py.
LORA_A, LORA_B, IA3_IN, IA3_OUT = "lora_a", "lora_b", "ia3_in", "ia3_out"


def dot_general(lhs: AnyArray, rhs: jax.Array, dimension_numbers: Any, *args: Any, **options: Any) -> jax.Array:
    """`jax.lax.dot_general`, with the uncontracted axes merged on one CPU.

    Only for contractions of the last axes of `lhs` with the first of `rhs`, without batch axes.
    """
    (left, right), (batch_left, batch_right) = dimension_numbers
    count = len(left)
    last, first = tuple(range(lhs.ndim - count, lhs.ndim)), tuple(range(count))
    plain = not batch_left and not batch_right and tuple(left) == last and tuple(right) == first
    if not plain or (lhs.ndim - count < 2 and rhs.ndim - count < 2) or not is_one_cpu():
        return lax.dot_general(lhs, rhs, dimension_numbers, *args, **options)
    depth = math.prod(rhs.shape[:count])
    product = lax.dot_general(
        lhs.reshape(-1, depth), rhs.reshape(depth, -1), (((1,), (0,)), ((), ())), *args, **options
    )
    return product.reshape(*lhs.shape[: lhs.ndim - count], *rhs.shape[count:])


def dot(lhs: jax.Array, rhs: jax.Array, dtype: Any = None) -> jax.Array:
    """[..., contracted] times [contracted, ...], summed in `dtype` if given."""
    return dot_general(lhs, rhs, (((lhs.ndim - 1,), (0,)), ((), ())), preferred_element_type=dtype)


def rows_of(vector: Float[AnyArray, "*features"], shape: Sequence[Size]) -> Float[Array, "..."]:
    """Broadcasts `vector` to `shape`, which ends with its axes; on one CPU its gradient is a product with ones."""
    if not is_one_cpu() or len(shape) == vector.ndim:
        return jnp.broadcast_to(vector, shape)
    count = math.prod(shape[: len(shape) - vector.ndim])
    return lax.dot(jnp.ones((count, 1), vector.dtype), jnp.reshape(vector, (1, -1))).reshape(shape)


class Dense(nn.Module):
    """A dense layer that contracts the axes `axis` of its input and appends the axes `features`.

    Parameters and initial values are those of flax's Dense and DenseGeneral. With LoRA parameters, lora_a [*inputs,
    rank] and lora_b [rank, *features], it adds x lora_a lora_b. With those of IA3, ia3_in [*inputs] and ia3_out
    [*features], it multiplies its inputs and its outputs, with the bias, by them; `axis` must then be the last axes.
    """

    features: int | Sequence[int]
    axis: int | Sequence[int] = -1
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = "float32"
    kernel_init: Callable[..., jax.Array] = nn.initializers.lecun_normal()
    bias_init: Callable[..., jax.Array] = nn.initializers.zeros
    dot_general: Callable[..., jax.Array] = dot_general

    @nn.compact
    def __call__(self, x: Float[AnyArray, "..."]) -> Float[Array, "..."]:
        features = _tuple(self.features)
        axis = tuple(sorted(each % x.ndim for each in _tuple(self.axis)))
        inputs = tuple(x.shape[each] for each in axis)
        kernel = self.param("kernel", self._init(self.kernel_init, len(inputs)), (*inputs, *features), self.param_dtype)
        bias = self.param("bias", self._init(self.bias_init, 0), features, self.param_dtype) if self.use_bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        x = self._scaled(x, IA3_IN)
        contracted = (axis, tuple(range(len(axis)))), ((), ())
        y = self.dot_general(x, kernel, contracted)
        if self.has_variable("params", LORA_A):
            down, up = (self.get_variable("params", name).astype(y.dtype) for name in (LORA_A, LORA_B))
            y += dot(dot_general(x, down, contracted), up)
        return self._scaled(y if bias is None else y + rows_of(bias, y.shape), IA3_OUT)

    def _scaled(self, x: AnyArray, name: str) -> jax.Array:
        x = jnp.asarray(x)
        if not self.has_variable("params", name):
            return x
        return x * rows_of(self.get_variable("params", name).astype(x.dtype), x.shape)

    @staticmethod
    def _init(init: Callable[..., jax.Array], inputs: int) -> Callable[..., jax.Array]:
        """`init` on the kernel flattened to a matrix, so that fans count all inputs and outputs (bias: a vector)."""

        def flat(key, shape, dtype):
            sizes = (math.prod(shape[:inputs]),) if inputs else ()
            return init(key, (*sizes, math.prod(shape[inputs:])), dtype).reshape(shape)

        return flat


def _tuple(value: int | Sequence[int]) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


def platform() -> str:
    """The platform that the program is compiled for."""
    mesh = traced_mesh()
    return mesh_lib.platform(mesh) if mesh else jax.default_backend()


def is_one_cpu() -> bool:
    """Whether a program is being traced for one CPU; otherwise, and when FLOPs are counted, products are plain.

    On several devices the sums would be independent collectives, which two processes may run in different orders (gloo
    then aborts).
    """
    mesh = traced_mesh()
    return mesh is not None and mesh.size == 1 and platform() == "cpu"
