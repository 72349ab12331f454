"""Key-value caches of attention for decoding step by step.

A cache is read at every step of a decoding. In the order of axes that these have, both products of attention are plain
ones of matrices: on a CPU they take a tenth of the time that [batch, length, heads, features] would. Each may have an
axis of layers before those that are named here.
"""

import dataclasses
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from research.models.shapes import Size
from research.parallel.sharding import constrain

Kind = TypeVar("Kind", bound="KeyValues")
# Of keys and of values, the leading axes.
CACHE = ("batch", "heads")


def _constrained(x: jax.Array, leading: int) -> jax.Array:
    names = (None,) * leading + CACHE
    return constrain(x, names + (None,) * (x.ndim - len(names)))


@struct.dataclass
class KeyValues:
    """Keys [batch, heads, features, length] and values [batch, heads, length, features] that are only read."""

    keys: jax.Array
    values: jax.Array

    @classmethod
    def of(
        cls, key: Float[Array, "batch length heads features"], value: Float[Array, "batch length heads features"]
    ) -> "KeyValues":
        """From projected keys and values [batch, length, heads, features]."""
        return cls(key.transpose(0, 2, 3, 1), value.swapaxes(1, 2))

    def constrained(self: Kind, leading: int = 0) -> Kind:
        """The same, sharded by example and head; `leading` axes come before them."""
        return dataclasses.replace(
            self, keys=_constrained(self.keys, leading), values=_constrained(self.values, leading)
        )


@struct.dataclass
class BeamKeyValues(KeyValues):
    """Keys [batch, heads, features, beams, length] and values [batch, heads, beams, length, features] that grow.

    The beams of an example are attended to as one sequence of beams * length tokens; the attention mask selects those
    of each beam, whichever beam wrote them.
    """

    @classmethod
    def empty(cls, batch: Size, heads: int, features: int, beams: int, length: int, dtype: str) -> "BeamKeyValues":
        """A cache of zeros, for up to `length` tokens."""
        zeros = lambda *shape: jnp.zeros((batch, heads, *shape), dtype)
        return cls(zeros(features, beams, length), zeros(beams, length, features)).constrained()

    @property
    def length(self) -> int:
        """Tokens that each beam has room for."""
        return self.keys.shape[-1]

    def write(self, new: KeyValues, position: Int[Array, "rows beams"]) -> "BeamKeyValues":
        """The cache with the keys and values of `new` tokens, whose length is that of the beams, at `position`.

        That is [1, 1] where all rows are at the same one, else [batch, beams].
        """
        return dataclasses.replace(
            self,
            keys=_put(self.keys, new.keys, position, axis=-1),
            values=_put(self.values, new.values, position, axis=-2),
        )

    def flat(self) -> KeyValues:
        """The tokens of all beams as one sequence."""
        keys, values = self.keys, self.values
        return KeyValues(keys.reshape(*keys.shape[:-2], -1), values.reshape(*values.shape[:-3], -1, values.shape[-1]))


def _put(old: jax.Array, new: jax.Array, position: jax.Array, axis: int) -> jax.Array:
    new = jnp.expand_dims(new.astype(old.dtype), axis)
    if position.size == 1:  # done in place
        return jax.lax.dynamic_update_slice_in_dim(old, new, position[0, 0], axis)
    here = jnp.arange(old.shape[axis]) == position[..., None]  # [batch, beams, length]
    here = here[:, None, None] if axis == -1 else here[:, None, ..., None]
    return jnp.where(here, new, old)
