"""Position embeddings: vectors added to tokens, relative attention biases, and rotary embeddings.

Each kind is a small object without state. Its trained parameter, if any, belongs to the module that uses it, which
creates it by `create` in its `setup` and passes it to the other methods as `table`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from research.models.layers import at_least_float32
from research.models.shapes import AnyArray
from research.parallel.sharding import constrain
from research.spec import FieldError

TEMPERATURE = 10_000.0  # the longest wavelength is this times 2 pi
LOGICAL_AXES = (
    ("relative", (None, "heads")),
    ("learned", ("positions", "embed")),
)
Embedded = Float[AnyArray, "batch *axes embed"]  # tokens, patches or frames
Table = Float[AnyArray, "..."] | None  # the trained parameter, if any


@dataclasses.dataclass(frozen=True)
class Positions:
    """No positions, and the interface of the other kinds."""

    def create(self, param: Callable[..., jax.Array], dtype: str) -> jax.Array | None:
        """Creates the trained parameter by a module's `param`; None if there is none."""
        return None

    def check(self, length: int) -> None:
        """Raises FieldError if `length` exceeds the number of positions."""

    def embed(
        self,
        table: Table,
        x: Embedded,
        positions: Int[AnyArray, "..."] | None = None,
    ) -> Float[Array, "batch *axes embed"]:
        """Adds the embeddings of `positions` [batch, length] to tokens [batch, length, width].

        With `positions` None, each row has all positions in order.
        """
        return jnp.asarray(x)

    def distance_bias(
        self, table: Table, distances: Int[np.ndarray, " distances"], dtype: Any
    ) -> Float[Array, "heads distances"] | None:
        """The attention bias [heads, distances] for each distance from a query to its key; None if there is none."""
        return None

    def bias(self, table: Table, length: int, dtype: Any) -> Float[Array, "1 heads length length"] | None:
        """The attention bias [1, heads, length, length] for all pairs of tokens."""
        bias = self.distance_bias(table, np.concatenate([np.arange(length), np.arange(-length, 0)]), dtype)
        if bias is None:
            return None
        # Row i is `bias` shifted by i positions, obtained by slicing copies of it: a gather would need a scatter in the
        # backward pass.
        heads, period = bias.shape
        rolled = jnp.tile(bias, length)[:, : length * (period - 1)].reshape(heads, length, period - 1)
        return constrain(rolled[None, :, :, :length], (None, "heads", "length", None))


class Sinusoidal(Positions):
    """Fixed sinusoidal embeddings (Vaswani et al., 2017)."""

    def embed(
        self,
        table: Table,
        x: Embedded,
        positions: Int[AnyArray, "..."] | None = None,
    ) -> Float[Array, "batch *axes embed"]:
        """See `Positions`."""
        positions = jnp.arange(x.shape[-2]) if positions is None else positions
        return jnp.asarray(x) + sinusoids(positions, x.shape[-1], x.dtype)


@dataclasses.dataclass(frozen=True)
class SinCos(Positions):
    """Fixed two-dimensional sinusoidal embeddings of an image, after `before` tokens without a position."""

    height: int
    width: int
    before: int = 0

    def embed(
        self,
        table: Table,
        x: Embedded,
        positions: Int[AnyArray, "..."] | None = None,
    ) -> Float[Array, "batch *axes embed"]:
        """See `Positions`."""
        waves = np.pad(sincos_positions(self.height, self.width, x.shape[-1]), ((self.before, 0), (0, 0)))
        return jnp.asarray(x) + jnp.asarray(waves, x.dtype)


@dataclasses.dataclass(frozen=True)
class Learned(Positions):
    """Learned embeddings: a parameter `name` of `shape` [..., positions, width].

    `limit` is the name of the setting for the number of positions, for messages.
    """

    shape: tuple[int, ...]
    name: str = "learned"
    limit: str = ""

    def create(self, param: Callable[..., jax.Array], dtype: str) -> jax.Array:
        """See `Positions`."""
        return param(self.name, nn.initializers.normal(0.02), self.shape, dtype)

    def check(self, length: int) -> None:
        """See `Positions`."""
        if length > self.shape[-2]:
            problem = f"={self.shape[-2]} must be at least {length}, the length of the sequences; raise it or cut them"
            raise FieldError((self.limit,), problem)

    def embed(
        self,
        table: Table,
        x: Embedded,
        positions: Int[AnyArray, "..."] | None = None,
    ) -> Float[Array, "batch *axes embed"]:
        """See `Positions`."""
        assert table is not None
        table = jnp.asarray(table, x.dtype)
        # Gathered before the lookup, like the embeddings; see seq2seq.py.
        return jnp.asarray(x) + (table if positions is None else constrain(table, (None, "embed"))[positions])


@dataclasses.dataclass(frozen=True)
class Relative(Positions):
    """Relative attention bias per head and bucket of distances, shared by all layers (Raffel et al., 2020)."""

    num_buckets: int
    max_distance: int
    num_heads: int
    causal: bool
    std: float  # standard deviation of the initial values

    def create(self, param: Callable[..., jax.Array], dtype: str) -> jax.Array:
        """See `Positions`."""
        return param("relative", nn.initializers.normal(self.std), (self.num_buckets, self.num_heads), dtype)

    def distance_bias(
        self, table: Table, distances: Int[np.ndarray, " distances"], dtype: Any
    ) -> Float[Array, "heads distances"]:
        """See `Positions`."""
        index = buckets(distances, self.num_buckets, self.max_distance, self.causal)
        assert table is not None
        return jnp.asarray(table[index].T, at_least_float32(dtype))


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Rotary position embedding: rotates queries and keys; their products depend on distances (Su et al., 2021).

    Feature i and feature i + features / 2 are a pair, as in Llama.
    """

    temperature: float = TEMPERATURE

    def __call__(
        self, x: Float[AnyArray, "batch length heads features"], positions: Int[AnyArray, "#batch #length"]
    ) -> Float[Array, "batch length heads features"]:
        """Rotates `x` [batch, length, heads, features] of tokens at `positions` [batch, length]."""
        frequencies = self.temperature ** -(np.arange(0, x.shape[-1], 2) / x.shape[-1])
        angles = positions[..., None, None] * jnp.asarray(frequencies, at_least_float32(x.dtype))
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        first, second = jnp.split(x.astype(angles.dtype), 2, axis=-1)
        return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def sinusoids(positions: Int[AnyArray, "*shape"], features: int, dtype: Any) -> Float[Array, "*shape features"]:
    """Sinusoidal embeddings [..., features] of `positions` [...] (Vaswani et al., 2017), as in Tensor2Tensor.

    The first half of the features are sines, the second cosines, at frequencies that fall geometrically from 1 to
    1 / TEMPERATURE. `features` must be even, and at least 4.
    """
    frequencies = jnp.asarray(TEMPERATURE ** -np.linspace(0, 1, features // 2), at_least_float32(dtype))
    angles = positions[..., None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1).astype(dtype)


def sincos_positions(height: int, width: int, features: int) -> Float[np.ndarray, "positions features"]:
    """Two-dimensional sinusoidal embeddings [height * width, features], as in MoCo v3 (Chen et al., 2021).

    The four quarters of the features are sin and cos of x, then sin and cos of y, at frequencies that fall
    geometrically from 1 to 1 / TEMPERATURE. `features` must be a multiple of 4.
    """
    y, x = np.mgrid[:height, :width]
    frequencies = TEMPERATURE ** -np.linspace(0, 1, features // 4)
    angles = [np.outer(axis.ravel(), frequencies) for axis in (x, y)]
    return np.concatenate([wave(angle) for angle in angles for wave in (np.sin, np.cos)], axis=1)


def buckets(
    distances: Int[np.ndarray, "*shape"], count: int, max_distance: int, causal: bool
) -> Int[np.ndarray, "*shape"]:
    """The bucket, from 0 to `count` - 1, of each distance from a query to its key (Raffel et al., 2020).

    Half of the buckets are for one distance each, the others for ranges that grow geometrically up to `max_distance`.
    If `causal`, all keys after the query share a bucket; otherwise half of the buckets are for them.
    """
    behind = np.zeros_like(distances)
    if not causal:
        count //= 2
        behind = (distances > 0) * count
    steps = np.maximum(-distances, 0) if causal else np.abs(distances)
    exact = count // 2
    # In float32, as in all published T5 models: higher precision could change the bucket at a boundary.
    growth = np.log(np.maximum(steps, 1).astype(np.float32) / np.float32(exact))
    share = growth / np.float32(np.log(max_distance / exact))
    ranges = exact + (share * np.float32(count - exact)).astype(np.int32)
    return behind + np.where(steps < exact, steps, np.minimum(ranges, count - 1))
