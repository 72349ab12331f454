"""Key-value caches of attention for decoding step by step.

A cache is read in every decoding step. With the order of axes used here, both products of attention are plain matrix
products, which on a CPU take a tenth of the time of those with [batch, length, heads, features]. Caches may have a
leading axis of layers.
"""

import dataclasses
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Shaped

from research.models.shapes import AnyArray, Size
from research.parallel.sharding import constrain

Kind = TypeVar("Kind", bound="KeyValues")
# The logical names of the leading axes of keys and values.
CACHE = ("batch", "heads")


def _constrained(x: jax.Array, leading: int) -> jax.Array:
    names = (None,) * leading + CACHE
    return constrain(x, names + (None,) * (x.ndim - len(names)))


@struct.dataclass
class KeyValues:
    """Read-only keys [batch, heads, features, length] and values [batch, heads, length, features]."""

    keys: jax.Array
    values: jax.Array

    @classmethod
    def of(
        cls, key: Float[Array, "batch length heads features"], value: Float[Array, "batch length heads features"]
    ) -> "KeyValues":
        """From projected keys and values [batch, length, heads, features]."""
        return cls(key.transpose(0, 2, 3, 1), value.swapaxes(1, 2))

    def constrained(self: Kind, leading: int = 0) -> Kind:
        """Adds a sharding constraint by example and head, after `leading` other axes."""
        return dataclasses.replace(
            self, keys=_constrained(self.keys, leading), values=_constrained(self.values, leading)
        )


@struct.dataclass
class BeamKeyValues(KeyValues):
    """Keys [batch, heads, features, length * beams] and values [batch, heads, length * beams, features] that grow.

    The beams of an example are attended to as one sequence, of the first token of each, then the second; the attention
    mask selects those of each beam, whichever beam wrote them. The tokens of a step lie side by side and both arrays
    have the shape that attention reads, so that they are updated in place: under another shape XLA would make the
    update twice, once for the reading and once for the next step, and copy the array four times a step for it.
    """

    @classmethod
    def empty(cls, batch: Size, heads: int, features: int, beams: int, length: int, dtype: str) -> "BeamKeyValues":
        """A cache of zeros, for up to `length` tokens."""
        zeros = lambda *shape: jnp.zeros((batch, heads, *shape), dtype)
        return cls(zeros(features, length * beams), zeros(length * beams, features)).constrained()

    def write(self, new: KeyValues, position: Int[Array, "rows beams"]) -> "BeamKeyValues":
        """The cache with `new` keys and values, one token per beam (their length axis is beams), at `position`.

        `position` is [1, 1] if it is the same for all beams, else [batch, beams].
        """
        return dataclasses.replace(
            self,
            keys=_put(self.keys, new.keys, position, axis=-1),
            values=_put(self.values, new.values, position, axis=-2),
        )


def over_beams(of_tokens: Shaped[AnyArray, "*axes length"], beams: int) -> Shaped[Array, "*axes tokens"]:
    """[..., length] as [..., length * beams], the order of a `BeamKeyValues`: the same for all beams."""
    return jnp.repeat(of_tokens, beams, axis=-1)


def _put(old: jax.Array, new: jax.Array, position: jax.Array, axis: int) -> jax.Array:
    new, beams = new.astype(old.dtype), new.shape[axis]
    if position.size == 1:  # XLA updates in place
        return jax.lax.dynamic_update_slice_in_dim(old, new, position[0, 0] * beams, axis)
    length = old.shape[axis] // beams
    here = (jnp.arange(length)[:, None] == position[:, None]).reshape(len(position), -1)  # [batch, length * beams]
    here = here[:, None, None] if axis == -1 else here[:, None, :, None]
    return jnp.where(here, jnp.concatenate([new] * length, axis), old)
