"""Batch norm (Ioffe and Szegedy, 2015), with sums that are fast if a program is compiled for one CPU.

XLA's CPU compiler does not vectorise sums over all axes but the last. `channel_sums` adds parts of the batch
elementwise first, which is vectorised over channels, and reduces the rest by a product with ones. Statistics and
gradients of batch norm need four such sums, the kernel gradient of a depthwise convolution one per tap.
"""

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from research.models import dense
from research.models.shapes import AnyArray

MOST_PARTS = 8  # parts of a batch that are added elementwise: more are hardly faster, but compile longer


class BatchNorm(nn.BatchNorm):
    """flax's BatchNorm over all axes but the last, with `channel_sums` on one CPU."""

    @nn.compact
    def __call__(
        self, x: Float[AnyArray, "*axes channels"], use_running_average: bool | None = None, *, mask: Any = None
    ) -> Float[Array, "*axes channels"]:
        averages = nn.merge_param("use_running_average", self.use_running_average, use_running_average)
        x = jnp.asarray(x)
        if averages or mask is not None or self.is_initializing() or not is_one_cpu(x):
            return super().__call__(x, use_running_average, mask=mask)
        kind, shape = x.dtype, x.shape[-1:]
        param = lambda used, name, init: self.param(name, init, shape, self.param_dtype) if used else init(None, shape)
        scale = param(self.use_scale, "scale", self.scale_init).astype(kind)
        bias = param(self.use_bias, "bias", self.bias_init).astype(kind)
        y, mean, variance = cast(tuple[jax.Array, ...], _normalised(x, scale, bias, self.epsilon))
        for name, value in {"mean": mean, "var": variance}.items():
            average = self.variable("batch_stats", name, jnp.zeros, shape)  # created in flax's `init`
            average.value = self.momentum * average.value + (1 - self.momentum) * lax.stop_gradient(value)
        return y.astype(self.dtype or kind)


def is_one_cpu(x: jax.Array) -> bool:
    """Whether sums of `x` use the form for one CPU; not for bfloat16, in which partial sums would be rounded."""
    return dense.is_one_cpu() and jnp.finfo(x.dtype).bits >= 32


def channel_sums(
    function: Callable[..., jax.Array], *arrays: Float[Array, "batch ... channels"]
) -> Float[Array, "1 channels"]:
    """The sums of an elementwise `function` of arrays with the same batch, over all axes but the last."""
    parts = next(count for count in range(MOST_PARTS, 0, -1) if len(arrays[0]) % count == 0)
    split = [each.reshape(parts, -1, *each.shape[1:]) for each in arrays]
    total = sum((function(*each) for each in zip(*split, strict=True)), start=jnp.zeros((), arrays[0].dtype))
    rows = total.reshape(-1, total.shape[-1])
    return lax.dot(jnp.ones((1, len(rows)), rows.dtype), rows)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalised(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The output, the mean and the variance of each channel; the last two have no gradient."""
    return _forward(x, scale, bias, epsilon)[0]


def _forward(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> tuple[Any, Any]:
    count = x.size // x.shape[-1]
    mean = channel_sums(lambda x: x, x)[0] / count
    variance = channel_sums(lambda x: jnp.square(x - mean), x)[0] / count
    inverse = lax.rsqrt(variance + epsilon)
    return ((x - mean) * (inverse * scale) + bias, mean, variance), (x, scale, mean, inverse)


def _backward(epsilon: float, residuals: Any, given: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, mean, inverse = residuals
    count = x.size // x.shape[-1]
    of_bias = channel_sums(lambda given: given, given[0])[0]
    of_scale = channel_sums(lambda given, x: given * (x - mean), given[0], x)[0] * inverse
    centred = given[0] - of_bias / count - (x - mean) * (inverse * of_scale / count)
    return centred * (scale * inverse), of_scale, of_bias


_normalised.defvjp(_forward, _backward)
