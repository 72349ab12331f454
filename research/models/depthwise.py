"""Depthwise convolutions: each channel with a kernel of its own, in a form that is fast where a program is for one CPU.

XLA's CPU compiler has no kernel for convolutions with as many groups as channels. There they are sums of shifted
products: a product of the image, moved by one tap of the kernel, and that tap's weight of each channel, summed over the
taps. So is the gradient of the image, once for every residue of its coordinates by the stride. That of the kernel sums
over batch, height and width as batch_norm.py does.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import lax
from jaxtyping import Array, Float

from research.models.batch_norm import channel_sums, is_one_cpu

# Over `tensor`, a depthwise convolution is split by channels. Left to itself XLA computes it once on each device of the
# axis and adds the gradients of the kernel up: twice too much with tensor=2.
DEPTHWISE = ("batch", "height", "width", "depthwise")
Padding = tuple[tuple[int, int], tuple[int, int]]  # px before and after: of the height, of the width


class Depthwise(nn.Module):
    """A depthwise convolution with a square kernel, without bias."""

    kernel_size: int
    stride: int = 1
    padding: str = "same"  # see `paddings`
    dtype: Any = None
    param_dtype: Any = "float32"
    kernel_init: Callable[..., jax.Array] = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Float[Array, "batch _ _ channels"]) -> Float[Array, "batch _ _ channels"]:
        shape = (self.kernel_size, self.kernel_size, 1, x.shape[-1])
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        padding = paddings(x.shape[1:3], self.kernel_size, self.stride, self.padding)
        return convolve(x, kernel, self.stride, padding)


def paddings(size: tuple[int, ...], kernel: int, stride: int, kind: str) -> Padding:
    """The zeros around an image of a `size` [height, width] in px.

    "symmetric" has as many on both sides, half the kernel, as PyTorch; "same" so many that the output has the size of
    the image, divided by the stride and rounded up, and of an odd number the larger half after it, as TensorFlow.
    """

    def both(side: int) -> tuple[int, int]:
        if kind == "symmetric":
            return kernel // 2, kernel // 2
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        return total // 2, total - total // 2

    return both(size[0]), both(size[1])


def convolve(
    x: Float[Array, "batch _ _ channels"], kernel: Float[Array, "k k 1 channels"], stride: int, padding: Padding
) -> Float[Array, "batch _ _ channels"]:
    """The depthwise convolution of `x`, padded, with `kernel`."""
    if is_one_cpu(x):
        return _shifted(x, kernel, stride, padding)
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _taps(size: int) -> list[tuple[int, int]]:
    return [(row, column) for row in range(size) for column in range(size)]


def _moved(x: jax.Array, tap: tuple[int, int], size: Sequence[int], stride: int) -> jax.Array:
    """Every `stride`-th of rows and columns from `tap` on, an image of a `size` [height, width]."""
    rows, columns = (slice(at, at + (side - 1) * stride + 1, stride) for at, side in zip(tap, size, strict=True))
    return x[:, rows, columns]


def _pad(x: jax.Array, padding: Padding) -> jax.Array:
    return jnp.pad(x, ((0, 0), *padding, (0, 0)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shifted(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    size = [(side + sum(pad) - len(kernel)) // stride + 1 for side, pad in zip(x.shape[1:3], padding, strict=True)]
    x = _pad(x, padding)
    return functools.reduce(jnp.add, (_moved(x, tap, size, stride) * kernel[*tap, 0] for tap in _taps(len(kernel))))


def _forward(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> tuple[jax.Array, Any]:
    return _shifted(x, kernel, stride, padding), (x, kernel)


def _backward(stride: int, padding: Padding, residuals: Any, given: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    return _of_image(x.shape, kernel, stride, padding, given), _of_kernel(x, kernel, stride, padding, given)


_shifted.defvjp(_forward, _backward)


def _of_image(shape: tuple[int, ...], kernel: jax.Array, stride: int, padding: Padding, given: jax.Array) -> jax.Array:
    """The gradient of the image: at px `stride * q + r` of the padded one, the taps `r`, `r + stride`, ... meet it."""
    batch, *sides, channels = shape
    counts = [-(-(side + sum(pad)) // stride) for side, pad in zip(sides, padding, strict=True)]
    before = -(-len(kernel) // stride) - 1
    after = [max(count - side, 0) for count, side in zip(counts, given.shape[1:3], strict=True)]
    given = _pad(given, ((before, after[0]), (before, after[1])))

    def residue(row: int, column: int) -> jax.Array:
        total = jnp.zeros((batch, *counts, channels), given.dtype)
        for i in range(row, len(kernel), stride):
            for j in range(column, len(kernel), stride):
                total += _moved(given, (before - i // stride, before - j // stride), counts, 1) * kernel[i, j, 0]
        return total

    rows = [jnp.stack([residue(row, column) for column in range(stride)], 3) for row in range(stride)]
    whole = jnp.stack(rows, 2).reshape(batch, *(count * stride for count in counts), channels)
    (top, _), (left, _) = padding
    return whole[:, top : top + sides[0], left : left + sides[1]]


def _of_kernel(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, given: jax.Array) -> jax.Array:
    moved = lambda x, tap: _moved(x, tap, given.shape[1:3], stride)
    x = _pad(x, padding)
    sums = [channel_sums(lambda x, given, tap=tap: moved(x, tap) * given, x, given) for tap in _taps(len(kernel))]
    return jnp.concatenate(sums).reshape(kernel.shape)
