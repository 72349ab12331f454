"""Encoder-decoder transformer: the T5 v1.1 family (Raffel et al., 2020; Shazeer, 2020) and related models.

Its options span the transformer of Vaswani et al. (2017), T5 1.0 (`activation="relu", gated=False,
logits="tied_scaled"`) and Whisper (Radford et al., 2022).
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Shaped

from research.models import copying, encoder_decoder, layers
from research.models.dense import dot
from research.models.encoder_decoder import EncoderDecoderSpec
from research.models.shapes import AnyArray
from research.models.specs import from_fields
from research.models.transformer import Cache
from research.parallel.sharding import Table, constrain
from research.spec import FieldError, Spec, checks, field


def _t5(width: int, depth: int, mlp_dim: int, num_heads: int) -> dict[str, Any]:
    depths = {"encoder_depth": depth, "decoder_depth": depth}
    return {"width": width, **depths, "mlp_dim": mlp_dim, "num_heads": num_heads, "kv_dim": 64}


# Vaswani et al. 2017, with the layer norm and the positions of their code.
_VASWANI = {
    "encoder_depth": 6, "decoder_depth": 6, "norm": "layer", "norm_position": "post", "activation": "relu",
    "gated": False, "bias": True, "attention_scale": True, "encoder_positions": "sinusoidal",
    "decoder_positions": "sinusoidal", "embedding_scale": True, "logits": "tied",
}  # fmt: skip
# T5 v1.1: the checkpoints small, base, large, xl (3B) and xxl (11B). Vaswani et al. 2017, table 3: base and big.
SIZES = {
    "t5_small": _t5(512, 8, 1024, 6),
    "t5_base": _t5(768, 12, 2048, 12),
    "t5_large": _t5(1024, 24, 2816, 16),
    "t5_3b": _t5(2048, 24, 5120, 32),
    "t5_11b": _t5(4096, 24, 10240, 64),
    "vaswani_base": {"width": 512, "mlp_dim": 2048, "num_heads": 8, "kv_dim": 64, **_VASWANI},
    "vaswani_big": {"width": 1024, "mlp_dim": 4096, "num_heads": 16, "kv_dim": 64, **_VASWANI},
}

LOGICAL_AXES = (
    *encoder_decoder.LOGICAL_AXES,
    ("embedding", ("vocab", "embed")),
    ("word_weights", (None, "embed")),
    ("head", ("embed", "vocab")),
    *copying.LOGICAL_AXES,
)


class Seq2SeqSpec(EncoderDecoderSpec, tag="seq2seq"):
    """An encoder-decoder of tokens."""

    copy_mechanism: bool = field(
        default=False, renamed="copying", doc="copy tokens of the source by a pointer; see copying.py"
    )
    word_weights_std: float = field(
        default=0.0, absent=0.0, check=checks.between(0, 10),
        doc="standard deviation, around 1, of the initial weights of a sentence's word positions; at 0 a sentence "
        "begins as a bag of words; only with data.sentence_length",
    )  # fmt: skip

    @property
    def has_pointer(self) -> bool:
        """Whether tokens of the source are copied by a pointer."""
        return self.copy_mechanism


class Seq2Seq(nn.Module):
    """Token ids [batch, source length] and [batch, target length] to logits [batch, target length, vocab] in float32.

    Rows may hold several packed examples: `segments` number them from 1 (0: padding), `positions` count within each.
    The layers of a stack are one scan, with a leading axis of layers in the parameters. Subclasses have other sources
    than tokens. With `sentence_length`, each source position is a sentence: token ids [batch, source length,
    sentence_length]. With a pointer, the logits are normalised log-probabilities with copies: their z-loss is 0.
    """

    spec: EncoderDecoderSpec
    vocab_size: int
    max_source_length: int = 512  # number of learned positions
    max_target_length: int = 512  # number of learned positions
    sentence_length: int = 0  # tokens per sentence; 0: source positions are tokens
    dtype: str = "float32"
    param_dtype: str = "float32"
    spec_class: ClassVar[type[Spec]] = Seq2SeqSpec
    of = from_fields

    def __post_init__(self) -> None:
        """Raises FieldError for an invalid size."""
        for name in ("vocab_size", "max_source_length", "max_target_length"):
            if getattr(self, name) < 1:
                raise FieldError((name,), f"={getattr(self, name)} must be at least 1")
        if self.spec.has_pointer and self.sentence_length:
            raise FieldError(("copy_mechanism",), "=True needs a source of tokens, not of sentences")
        super().__post_init__()

    @property
    def logical_axes(self) -> Table:
        """From parameter path to logical axes."""
        return LOGICAL_AXES

    def setup(self) -> None:
        # So that embeddings, or the logits they are tied to, have variance 1 initially.
        std = self.spec.width**-0.5 if self.spec.embedding_scale or self.spec.logits == "tied" else 1.0
        shape = (self.vocab_size, self.spec.width)
        self.embedding = self.param("embedding", nn.initializers.normal(std), shape, self.param_dtype)
        if self.sentence_length:
            shape = (self.sentence_length, self.spec.width)
            std = self.spec.word_weights_std if isinstance(self.spec, Seq2SeqSpec) else 0.0
            init = lambda *args: 1 + nn.initializers.normal(std)(*args)
            self.word_weights = self.param("word_weights", init, shape, self.param_dtype)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.encoder = encoder_decoder.encoder(self.spec, dtypes, self.max_source_length)
        self.decoder = encoder_decoder.decoder(self.spec, dtypes, self.max_target_length)
        if self.spec.logits == "untied":
            init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
            self.head = self.param("head", init, (self.spec.width, self.vocab_size), self.param_dtype)
        if self.spec.has_pointer:
            self.pointer = copying.Pointer(self.spec.width, self.dtype, self.param_dtype)
            self.repeated = self.param("repeated", nn.initializers.normal(1.0), (self.spec.width,), self.param_dtype)

    def __call__(
        self,
        source: Shaped[AnyArray, "batch ..."],
        source_segments: Int[AnyArray, "batch source"],
        source_positions: Int[AnyArray, "batch source"],
        target_in: Int[AnyArray, "batch target"],
        target_segments: Int[AnyArray, "batch target"],
        target_positions: Int[AnyArray, "batch target"],
        train: bool = False,
        copied: Shaped[AnyArray, "batch ..."] | None = None,
    ) -> Float[Array, "batch target vocab"]:
        encoded = self.encode(source, source_segments, source_positions, train)
        copied = (
            source if copied is None else copied
        )  # the original tokens, where word dropout masks the encoder's input
        return self.decode(encoded, source_segments, target_in, target_segments, target_positions, train, copied)

    def encode(
        self,
        source: Shaped[AnyArray, "batch ..."],
        source_segments: Int[AnyArray, "batch source"],
        source_positions: Int[AnyArray, "batch source"],
        train: bool = False,
    ) -> Float[Array, "batch source embed"]:
        """Embeddings and the encoder: [batch, source length, width]."""
        x = self.embed_source(source, source_segments, train)
        return self.encode_embedded(x, source_segments, source_positions, train)

    def encode_embedded(
        self,
        x: Float[AnyArray, "batch source embed"],
        segments: Int[AnyArray, "batch source"],
        positions: Int[AnyArray, "batch source"],
        train: bool = False,
    ) -> Float[Array, "batch source embed"]:
        """The encoder on embedded sources [batch, length, width], to which it adds its position embeddings."""
        return self.encoder(jnp.asarray(x, self.dtype), segments, positions, train=train)

    def decode(
        self,
        encoded: Float[Array, "batch source embed"],
        source_segments: Int[AnyArray, "batch source"],
        target_in: Int[AnyArray, "batch target"],
        target_segments: Int[AnyArray, "batch target"],
        target_positions: Int[AnyArray, "batch target"],
        train: bool = False,
        source: Shaped[AnyArray, "batch ..."] | None = None,
    ) -> Float[Array, "batch target vocab"]:
        """Logits of the token after each of `target_in`, given the tokens before it and the `encoded` source.

        `source`, the encoded tokens, is needed only for `copy_mechanism`.
        """
        x = self._embed(target_in)
        x = self.decoder(x, target_segments, target_positions, encoded, source_segments, train)
        logits = self._logits(x)
        if not self.spec.has_pointer:
            return logits
        assert source is not None
        mask = target_segments[:, :, None] == source_segments[:, None]
        return self.pointer(logits, x, target_in, self.pointer.read(encoded, source, source_segments), mask)

    def init_cache(
        self,
        encoded: Float[Array, "batch source embed"],
        source_segments: Int[AnyArray, "batch source"],
        max_length: int,
        beams: int = 1,
        source: Shaped[AnyArray, "batch ..."] | None = None,
    ) -> Cache:
        """The cache of `decode_step` for rows of one example each, and `beams` hypotheses of each; see `decoding`.

        `source`, the encoded tokens, is needed only for `copy_mechanism`.
        """
        cache = self.decoder.init_cache(encoded.shape[0], max_length, beams, encoded, source_segments > 0)
        if self.spec.has_pointer:
            assert source is not None
            cache["pointer"] = self.pointer.read(encoded, source, source_segments)
        return cache

    def decode_step(
        self, token: Int[Array, " rows"], position: Int[AnyArray, "..."] | int, cache: Cache
    ) -> tuple[Float[Array, "rows vocab"], Cache]:
        """Logits [batch * beams, vocab] of the tokens after `token` [batch * beams] at `position`; the updated cache.

        `position` counts from 0; it is a scalar or [batch * beams], one for all beams of an example.
        """
        x = self._embed(token).reshape(cache["cross_mask"].shape[0], -1, self.spec.width)
        x, cache = self.decoder.step(x, jnp.asarray(position), cache)
        logits = self._logits(x)
        if self.spec.has_pointer:
            written, mask = token.reshape(x.shape[:2]), cache["cross_mask"][:, 0]
            logits = self.pointer(logits, x, written, cache["pointer"], mask)
        return logits.reshape(token.shape[0], -1), cache

    def embed_source(
        self, source: Shaped[AnyArray, "batch ..."], segments: Int[AnyArray, "batch source"], train: bool = False
    ) -> Float[Array, "batch source embed"]:
        """Embedded sources [batch, length, width]; a sentence is a position-weighted sum (Dehghani et al., 2019)."""
        x = self._embed(source)
        if self.sentence_length:
            return jnp.einsum("blwe,we,blw->ble", x, self.word_weights.astype(x.dtype), (source > 0).astype(x.dtype))
        if self.spec.has_pointer:
            x += copying.repeated(source, segments)[..., None] * self.repeated.astype(x.dtype)
        return x

    def _embed(self, tokens: AnyArray) -> jax.Array:
        x = self._table()[tokens]
        return x * jnp.asarray(self.spec.width**0.5, x.dtype) if self.spec.embedding_scale else x

    def _table(self) -> jax.Array:
        """The embedding table, gathered, in the compute dtype.

        Gathered before the lookup, since XLA would otherwise shard the tokens by the wrong axis and replicate them.
        """
        return constrain(jnp.asarray(self.embedding, self.dtype), ("vocab", "embed"))

    def _logits(self, x: jax.Array) -> jax.Array:
        """Logits in float32 of operands in the compute dtype, which is several times as fast as float32 operands."""
        if self.spec.logits == "tied_scaled":
            x = x * jnp.asarray(self.spec.width**-0.5, x.dtype)
        dtype = layers.at_least_float32(self.dtype)
        if self.spec.logits == "untied":
            logits = dot(x, self.head.astype(x.dtype), dtype)
        else:
            # The table is the left operand, since transposing it took a CPU four times as long in decoding steps, and
            # twice as long in training.
            logits = jnp.einsum("ve,bte->vbt", self._table().astype(x.dtype), x, preferred_element_type=dtype)
            logits = logits.transpose(1, 2, 0)
        return constrain(logits, ("batch", "length", "vocab"))
