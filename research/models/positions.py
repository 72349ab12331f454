"""Position embeddings: vectors added to tokens, relative attention biases, and rotary embeddings.

Each kind is a small object. What it trains is one parameter of the module that uses it, made by `create` in its `setup`
and given back to the other methods as `table`.
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

TEMPERATURE = 10_000.0  # the longest wave is this many times 2 pi
LOGICAL_AXES = (
    ("relative", (None, "heads")),
    ("learned", ("positions", "embed")),
)
Embedded = Float[AnyArray, "batch *axes embed"]  # tokens, patches or frames
Table = Float[AnyArray, "..."] | None  # what is trained, if anything is


@dataclasses.dataclass(frozen=True)
class Positions:
    """No positions, and the interface of the other kinds."""

    def create(self, param: Callable[..., jax.Array], dtype: str) -> jax.Array | None:
        """The table that is trained, by the `param` of a module; None for those that train nothing."""
        return None

    def check(self, length: int) -> None:
        """Raises FieldError for more positions than there are."""

    def embed(
        self,
        table: Table,
        x: Embedded,
        positions: Int[AnyArray, "..."] | None = None,
    ) -> Float[Array, "batch *axes embed"]:
        """Tokens [batch, length, width] with the embeddings of their `positions` [batch, length] added.

        None, where all rows have as many tokens as there are positions.
        """
        return jnp.asarray(x)

    def distance_bias(
        self, table: Table, distances: Int[np.ndarray, " distances"], dtype: Any
    ) -> Float[Array, "heads distances"] | None:
        """What is added to the logits of attention [heads, distances] for each distance from a query to its key."""
        return None

    def bias(self, table: Table, length: int, dtype: Any) -> Float[Array, "1 heads length length"] | None:
        """[1, heads, length, length] for all pairs of tokens."""
        bias = self.distance_bias(table, np.concatenate([np.arange(length), np.arange(-length, 0)]), dtype)
        if bias is None:
            return None
        # Row i is `bias` rolled by i positions, cut out of many copies of it: gathering would cost a scatter in the
        # backward pass.
        heads, period = bias.shape
        rolled = jnp.tile(bias, length)[:, : length * (period - 1)].reshape(heads, length, period - 1)
        return constrain(rolled[None, :, :, :length], (None, "heads", "length", None))


class Sinusoidal(Positions):
    """Fixed waves (Vaswani et al., 2017)."""

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
    """Fixed waves over the two axes of an image, after `before` tokens without a position."""

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
    """A vector for each position: a parameter called `name` of the shape [..., positions, width].

    `limit` names the setting that says how many there are.
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
        # Gathered before it is indexed, as the embeddings are; see seq2seq.py.
        return jnp.asarray(x) + (table if positions is None else constrain(table, (None, "embed"))[positions])


@dataclasses.dataclass(frozen=True)
class Relative(Positions):
    """A bias of each head for each of `buckets` of distances, shared by all layers (Raffel et al., 2020)."""

    num_buckets: int
    max_distance: int
    num_heads: int
    causal: bool
    std: float  # at first

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
        """`x` [batch, length, heads, features] of tokens at `positions` [batch, length]."""
        frequencies = self.temperature ** -(np.arange(0, x.shape[-1], 2) / x.shape[-1])
        angles = positions[..., None, None] * jnp.asarray(frequencies, at_least_float32(x.dtype))
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        first, second = jnp.split(x.astype(angles.dtype), 2, axis=-1)
        return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def sinusoids(positions: Int[AnyArray, "*shape"], features: int, dtype: Any) -> Float[Array, "*shape features"]:
    """Fixed positions [..., features] of `positions` [...] (Vaswani et al., 2017), as Tensor2Tensor and Whisper do.

    The first half of the features are sines, the second cosines, at frequencies that fall geometrically from 1 to
    1 / TEMPERATURE. `features` must be even, and at least 4.
    """
    frequencies = jnp.asarray(TEMPERATURE ** -np.linspace(0, 1, features // 2), at_least_float32(dtype))
    angles = positions[..., None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1).astype(dtype)


def sincos_positions(height: int, width: int, features: int) -> Float[np.ndarray, "positions features"]:
    """Fixed two-dimensional positions [height * width, features], as in MoCo v3 (Chen et al., 2021).

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
    """The bucket, below `count`, of each distance from a query to its key (Raffel et al., 2020).

    Half of the buckets are for one distance each, the others for ranges that grow geometrically up to `max_distance`.
    Unless `causal`, half of them are for keys behind the query, which are one bucket otherwise.
    """
    behind = np.zeros_like(distances)
    if not causal:
        count //= 2
        behind = (distances > 0) * count
    steps = np.maximum(-distances, 0) if causal else np.abs(distances)
    exact = count // 2
    # In float32 throughout, as in every T5 that was trained: at a border a digit more could choose another bucket.
    growth = np.log(np.maximum(steps, 1).astype(np.float32) / np.float32(exact))
    share = growth / np.float32(np.log(max_distance / exact))
    ranges = exact + (share * np.float32(count - exact)).astype(np.int32)
    return behind + np.where(steps < exact, steps, np.minimum(ranges, count - 1))
