"""The checksum of an array: equal on every mesh, on a device and on the host.

It is the sum modulo 2^32 of the array's words (of 8, 16 or 32 bits), each multiplied by an odd factor that depends on
its position. Integer sums wrap and do not depend on their order, so the sharding does not matter. Odd factors detect
every flipped bit, and distinct factors detect swapped words.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_MULTIPLIER = 0x9E3779B1  # 2^32 / golden ratio, as in Fibonacci hashing (Knuth, TAOCP 6.4)
_WORDS_AT_ONCE = 1 << 20


def tree_checksums(tree: Any) -> jax.Array:
    """uint32 [leaves], computed on the devices that hold the leaves."""
    return jnp.stack([_checksum(leaf) for leaf in jax.tree.leaves(tree)])


def array_checksum(parts: Iterable[np.ndarray], dtype: np.dtype) -> int:
    """The same on the host, for an array of `dtype` given as consecutive `parts` in row-major order."""
    total, position = 0, 0
    word = {1: np.uint8, 2: np.uint16}.get(dtype.itemsize, np.uint32)
    for part in parts:
        bits = np.ascontiguousarray(part).reshape(-1).view(word)
        for begin in range(0, bits.size, _WORDS_AT_ONCE):
            words = bits[begin : begin + _WORDS_AT_ONCE].astype(np.uint32)
            positions = np.arange(position, position + words.size, dtype=np.uint64).astype(np.uint32)
            factors = np.uint32(2) * (positions * np.uint32(_MULTIPLIER)) + np.uint32(1)
            total += int((words * factors).sum(dtype=np.uint32))
            position += words.size
    return total & 0xFFFFFFFF


def _checksum(leaf: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(leaf, {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize, jnp.uint32))
    position, stride = jnp.zeros(bits.shape, jnp.uint32), 1
    for axis in reversed(range(bits.ndim)):
        position += jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(stride & 0xFFFFFFFF)
        stride *= bits.shape[axis]
    return (bits.astype(jnp.uint32) * (2 * (position * jnp.uint32(_MULTIPLIER)) + 1)).sum(dtype=jnp.uint32)
