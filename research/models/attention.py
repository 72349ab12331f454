"""Self-attention and cross-attention, over whole sequences or step by step with a key-value cache."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float

from research.models import dot_product
from research.models.caches import BeamKeyValues, KeyValues, over_beams
from research.models.layers import tokens
from research.models.positions import Rotary
from research.models.remat import operand
from research.models.shapes import AnyArray, Size
from research.parallel.sharding import constrain

Given = TypeVar("Given", bound=AnyArray)
HEADS = ("batch", "length", "heads", "kv")
CAPTURED = "intermediates"  # flax's collection of values that are computed only if a caller makes it mutable

# For modules whose names end in `attention`.
LOGICAL_AXES = (
    ("[a-z_]*attention/(query|key|value)/kernel", ("layers", "embed", "heads", "kv")),
    ("[a-z_]*attention/(query|key|value)/bias", ("layers", "heads", "kv")),
    ("[a-z_]*attention/(query|key)_norm/(scale|bias)", ("layers", "kv")),
    ("[a-z_]*attention/out/kernel", ("layers", "heads", "kv", "embed")),
    ("[a-z_]*attention/out/bias", ("layers", "embed")),
)


@struct.dataclass
class Context:
    """The inputs that all layers of a stack share, beside the tokens.

    positions      [batch, length]; in a decoding step [batch, beams] or [1, 1]
    bias           added to the logits of self-attention: [batch or 1, heads, length, length]
    mask           mask of self-attention, true where a query may attend: [batch, 1, length, length], of a step
                   [batch, 1, beams, length of the cache * beams]
    encoded        [batch, source length, width], the output of the encoder, for cross-attention
    encoded_mask   attention mask of cross-attention: [batch, 1, length or 1, source length]
    train          whether dropout and stochastic depth are on
    """

    positions: AnyArray | None = None
    bias: AnyArray | None = None
    mask: AnyArray | None = None
    encoded: jax.Array | None = None
    encoded_mask: AnyArray | None = None
    train: bool = struct.field(pytree_node=False, default=False)


@dataclasses.dataclass(frozen=True)
class Heads:
    """The sizes of attention: the width of tokens, the number of heads, and the features per head."""

    width: int
    count: int
    features: int
    groups: int = 0  # number of key and value heads, for grouped-query attention; 0: as many as query heads

    @property
    def key_values(self) -> int:
        """The number of key and value heads."""
        return self.groups or self.count


class Attention(nn.Module):
    """Self-attention over tokens [batch, length, width]; softmax in float32.

    If the collection CAPTURED is mutable, the probabilities [batch, heads, queries, keys] are computed and stored in it
    as `probabilities`. It is not in training and prediction, whose programs are therefore not changed.

    dense            a constructor of dense layers, as dense.Dense with its initialisers and dtypes
    biases           which of query, key, value and out have a bias
    scale            scale of the logits; None: 1 / sqrt(features)
    query_init       initialiser of the query kernel; None: that of `dense`
    qk_norm          a constructor of the norms of queries and keys; None: no norms
    rotary           rotary position embedding of queries and keys
    window           sliding window: tokens attended to on each side, itself included; 0: all
    implementation   see dot_product.attention
    gather           gather each sharded kernel only once in a backward pass with remat; see dot_product.dot_gathered
    """

    heads: Heads
    dense: Callable[..., nn.Module]
    biases: Sequence[str] = ()
    scale: float | None = None
    query_init: Callable[..., jax.Array] | None = None
    qk_norm: Callable[[], nn.Module] | None = None
    rotary: Rotary | None = None
    window: int = 0
    implementation: str = "auto"
    gather: bool = False

    def setup(self) -> None:
        query_init = {"kernel_init": self.query_init} if self.query_init else {}
        self.query = self._project("query", self.heads.count, **query_init)
        self.key = self._project("key", self.heads.key_values)
        self.value = self._project("value", self.heads.key_values)
        if self.qk_norm:
            self.query_norm, self.key_norm = self.qk_norm(), self.qk_norm()
        self.out = self.dense(
            self.heads.width, axis=(-2, -1), use_bias="out" in self.biases, **self._gathered("heads", "kv", None)
        )

    def __call__(self, x: Float[Array, "batch length embed"], context: Context) -> Float[Array, "batch length embed"]:
        query = self._query(x, context)
        key, value = self._key_value(self._source(x, context), context)
        query, key, value = (operand(constrain(part, HEADS)) for part in (query, key, value))
        bias, mask = self._bias_and_mask(context, x.shape[1])
        if self.is_mutable_collection(CAPTURED):
            found = dot_product.probabilities(query, key, bias=bias, mask=mask, scale=self.scale)
            self.sow(CAPTURED, "probabilities", found)
        x = dot_product.attention(query, key, value, self.implementation, bias=bias, mask=mask, scale=self.scale)
        return tokens(self.out(operand(constrain(x, HEADS))))

    def init_cache(self, context: Context, batch: Size, beams: int, length: int, dtype: Any) -> KeyValues:
        """An empty cache for `step`: `beams` hypotheses of each example, of up to `length` tokens."""
        return BeamKeyValues.empty(batch, self.heads.key_values, self.heads.features, beams, length, dtype)

    def step(
        self, x: Float[Array, "batch beams embed"], cache: Any, context: Context
    ) -> tuple[Float[Array, "batch beams embed"], KeyValues | None, Any]:
        """`__call__` for the next tokens [batch, beams, width]; their keys and values, and the updated cache."""
        query = self._query(x, context)
        new = KeyValues.of(*self._key_value(x, context))
        positions, mask = _given(context.positions), _given(context.mask)
        cache = cache.write(new, positions)
        if self.window:
            beams = x.shape[1]
            tokens_before = positions[..., None] - jnp.arange(cache.keys.shape[-1] // beams)  # [batch, beams, length]
            mask &= over_beams(tokens_before < self.window, beams)[:, None]
        found = dot_product.cached_attention(query, cache.keys, cache.values, context.bias, mask, self.scale)
        return self.out(found), new, cache

    def _project(self, name: str, heads: int, **settings: Any) -> nn.Module:
        return self.dense(
            (heads, self.heads.features), use_bias=name in self.biases, **self._gathered(None, "heads", "kv"),
            **settings,
        )  # fmt: skip

    def _gathered(self, *names: str | None) -> dict[str, Any]:
        return {"dot_general": functools.partial(dot_product.dot_gathered, names)} if self.gather else {}

    def _source(self, x: jax.Array, context: Context) -> jax.Array:
        """The input of the key and value projections."""
        return x

    def _query(self, x: jax.Array, context: Context) -> jax.Array:
        query = self.query(x)
        query = self.query_norm(query) if self.qk_norm else query
        return self.rotary(query, _given(context.positions)) if self.rotary else query

    def _key_value(self, x: jax.Array, context: Context) -> tuple[jax.Array, jax.Array]:
        key, value = self.key(x), self.value(x)
        key = self.key_norm(key) if self.qk_norm else key
        return self.rotary(key, _given(context.positions)) if self.rotary else key, value

    def _bias_and_mask(self, context: Context, length: int) -> tuple[AnyArray | None, AnyArray | None]:
        """The attention bias and the attention mask of all pairs."""
        if not self.window:
            return context.bias, context.mask
        # Packed examples are contiguous, so distances within the row equal distances within the example.
        positions = np.arange(length)
        near = np.abs(positions[:, None] - positions) < self.window
        return context.bias, near[None, None] if context.mask is None else context.mask & near


class CrossAttention(Attention):
    """Cross-attention of tokens to the encoder's output."""

    def init_cache(self, context: Context, batch: Size, beams: int, length: int, dtype: Any) -> KeyValues:
        """The keys and values of the source, computed once for all steps."""
        return KeyValues.of(*self._key_value(_given(context.encoded), context)).constrained()

    def step(
        self, x: Float[Array, "batch beams embed"], cache: Any, context: Context
    ) -> tuple[Float[Array, "batch beams embed"], KeyValues | None, Any]:
        """`__call__` for the next tokens; nothing is added to the cache."""
        query = self._query(x, context)
        mask = context.encoded_mask
        found = dot_product.cached_attention(query, cache.keys, cache.values, None, mask, self.scale)
        return self.out(found), None, cache

    def _source(self, x: jax.Array, context: Context) -> jax.Array:
        return _given(context.encoded)

    def _bias_and_mask(self, context: Context, length: int) -> tuple[AnyArray | None, AnyArray | None]:
        return None, context.encoded_mask


def _given(part: Given | None) -> Given:
    """Asserts that a part of the context is given."""
    assert part is not None
    return part
