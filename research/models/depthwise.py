"""Depthwise convolutions, in a form that is fast if a program is compiled for one CPU.

XLA's CPU compiler has no fast kernel for convolutions with as many groups as channels. On one CPU they are computed as
the sum over the taps of the kernel of the image, shifted by the tap, times the tap's weight of each channel. The image
gradient is computed likewise, for each residue of the coordinates modulo the stride; the kernel gradient by sums over
batch, height and width as in batch_norm.py.
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

# A depthwise convolution is sharded over `tensor` by channels. Without this constraint XLA computes it on every device
# of the axis and sums the kernel gradients, which are then too large by the size of the axis.
DEPTHWISE = ("batch", "height", "width", "depthwise")
Padding = tuple[tuple[int, int], tuple[int, int]]  # px before and after, for height and width


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
    """The zero padding of an image of `size` [height, width] in px.

    "symmetric" pads half the kernel size on both sides (PyTorch); "same" pads such that the output size is the image
    size divided by the stride, rounded up, with the larger half of an odd padding at the end (TensorFlow).
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
    """The image `x` from offset `tap` on, strided, of `size` [height, width]."""
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
    """The image gradient: pixel `stride * q + r` of the padded image gets it from the taps `r`, `r + stride`, ..."""
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
