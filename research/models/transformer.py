"""A stack with position embeddings and a final norm: an encoder, or a decoder with its cache.

Packed examples are contiguous, so distances within a row equal distances within an example.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from research.models.attention import Context
from research.models.caches import over_beams
from research.models.layers import tokens
from research.models.positions import Positions
from research.models.shapes import AnyArray, Size
from research.models.stack import Stack

Cache = dict[str, Any]


class Transformer(nn.Module):
    """Embedded tokens [batch, length, width] to features [batch, length, width].

    Tokens attend to the tokens of their segment, in a decoder (`causal`) only up to themselves, and to the encoder's
    output of the same segment.

    make_stack   a constructor of the stack
    positions    the position embedding
    make_norm    a constructor of the final norm; None: no norm
    dropout      dropout rate before and after the stack
    dtypes       `dtype` and `param_dtype`
    """

    make_stack: Callable[[], Stack]
    positions: Positions
    make_norm: Callable[[], nn.Module] | None
    dtypes: Mapping[str, str]
    causal: bool = False
    dropout: float = 0.0

    def setup(self) -> None:
        self.table = self.positions.create(self.param, self.dtypes["param_dtype"])
        self.blocks = self.make_stack()
        if self.make_norm:
            self.norm = self.make_norm()
        self.drop = nn.Dropout(self.dropout)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        segments: Int[AnyArray, "batch length"],
        positions: Int[AnyArray, "batch length"],
        encoded: Float[Array, "batch source embed"] | None = None,
        encoded_segments: Int[AnyArray, "batch source"] | None = None,
        train: bool = False,
    ) -> Float[Array, "batch length embed"]:
        length = x.shape[1]
        self.positions.check(length)
        x = self.drop(tokens(self.positions.embed(self.table, x, positions)), deterministic=not train)
        mask = _same(segments, segments)
        if self.causal:
            mask &= np.tri(length, dtype=bool)
        context = Context(
            positions=positions,
            bias=self.positions.bias(self.table, length, self.dtypes["dtype"]),
            mask=mask,
            encoded=encoded,
            encoded_mask=None if encoded_segments is None else _same(segments, encoded_segments),
            train=train,
        )
        return self.drop(self._last_norm(self.blocks(x, context)), deterministic=not train)

    def init_cache(
        self,
        batch: Size,
        max_length: int,
        beams: int,
        encoded: Float[Array, "batch source embed"] | None = None,
        mask: Bool[AnyArray, "batch source"] | None = None,
    ) -> Cache:
        """The cache of `step`, for up to `max_length` tokens of `beams` hypotheses of each example.

        A decoder with cross-attention needs `encoded` [batch, source length, width] and `mask` [batch, source length],
        false for padding. `ancestors` [batch * beams, length] are the beams in which the tokens of a hypothesis were
        written; only these are reordered with the beams, not keys and values.
        """
        self.positions.check(max_length)
        dtype, distances = self.dtypes["dtype"], np.arange(1 - max_length, max_length)
        return {
            "hypotheses": {"ancestors": jnp.zeros((batch * beams, max_length), jnp.int32)},
            "layers": self.blocks.init_cache(Context(encoded=encoded), batch, beams, max_length, dtype),
            "cross_mask": None if mask is None else mask[:, None, None],
            "bias": self.positions.distance_bias(self.table, distances, dtype),
        }

    def step(
        self, x: Float[Array, "batch beams embed"], position: Int[Array, "*rows"], cache: Cache
    ) -> tuple[Float[Array, "batch beams embed"], Cache]:
        """Features [batch, beams, width] of embedded tokens at `position` (a scalar, or per row); the updated cache."""
        batch, beams, _ = x.shape
        length = cache["hypotheses"]["ancestors"].shape[-1]
        position = position.reshape(1, 1) if position.ndim == 0 else position.reshape(batch, beams)
        distances = jnp.arange(length) - position[..., None]
        slots = jnp.arange(beams, dtype=jnp.int32)
        ancestors = cache["hypotheses"]["ancestors"].reshape(batch, beams, length)
        ancestors = jnp.where(distances == 0, slots[:, None], ancestors)
        mask = (ancestors[..., None] == slots) & (distances <= 0)[..., None]  # [batch, beams, length, beams]
        bias = cache["bias"]
        if bias is not None:
            bias = over_beams(jnp.moveaxis(bias[:, distances + length - 1], 0, 1), beams)
        context = Context(
            positions=position, bias=bias, mask=mask.reshape(batch, 1, beams, -1), encoded_mask=cache["cross_mask"]
        )
        x, layers = self.blocks.step(self.positions.embed(self.table, x, position), cache["layers"], context)
        hypotheses = {"ancestors": ancestors.reshape(-1, length)}
        return self._last_norm(x), cache | {"layers": layers, "hypotheses": hypotheses}

    def _last_norm(self, x: jax.Array) -> jax.Array:
        return tokens(self.norm(x)) if self.make_norm else x


def _same(queries: AnyArray, keys: AnyArray) -> AnyArray:
    """An attention mask [batch, 1, query length, key length], true where both are of the same segment."""
    return (queries[:, :, None] == keys[:, None, :])[:, None]
