"""Encoder-decoder transformer: the T5 v1.1 family (Raffel et al., 2020; Shazeer, 2020) and what came before and after.

Its options span the transformer of Vaswani et al. (2017), T5 1.0 (`activation="relu", gated=False,
logits="tied_scaled"`) and Whisper (Radford et al., 2022).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from research import config as config_lib
from research.models import copying, layers, transformer
from research.models.stack import POSITIONS, Cache, Stack
from research.parallel.sharding import Table, constrain


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
    ("(cross_)?attention/(query|key_value|query_key_value)/kernel", ("layers", "embed", None, "heads", "kv")),
    ("(cross_)?attention/(query|key_value|query_key_value)/bias", ("layers", None, "heads", "kv")),
    ("(cross_)?attention/out/kernel", ("layers", "heads", "kv", "embed")),
    ("mlp/up/kernel", ("layers", "embed", None, "mlp")),
    ("mlp/up/bias", ("layers", None, "mlp")),
    ("mlp/down/kernel", ("layers", "mlp", "embed")),
    ("blocks/.*", ("layers", "embed")),
    ("(encoder|decoder)/relative", (None, "heads")),
    ("(encoder|decoder)/learned", ("positions", "embed")),
    ("(encoder|decoder)/norm/(scale|bias)", ("embed",)),
    ("embedding", ("vocab", "embed")),
    ("word_weights", (None, "embed")),
    ("head", ("embed", "vocab")),
    *copying.LOGICAL_AXES,
)

LOGITS = ("untied", "tied", "tied_scaled")


class Seq2Seq(nn.Module):
    """Token ids [batch, source length] and [batch, target length] to logits [batch, target length, vocab] in float32.

    Rows hold several examples: `segments` number them from 1, 0 is padding, `positions` count inside each. The layers
    of a stack are one scan whose parameters carry a leading axis; `unroll` layers are compiled side by side.
    Sources other than tokens come through `front_end`, a module of (source, train) that makes [batch, length, width].
    With `sentence_length` the places of a source are sentences, token ids [batch, source length, sentence_length].
    With `copying` the logits are log-probabilities, to which a pointer to the source's tokens has added; they are
    normalised, so a z-loss of them is 0.
    """

    vocab_size: int
    width: int = 512
    encoder_depth: int = 8
    decoder_depth: int = 8
    num_heads: int = 6
    kv_dim: int = 64
    mlp_dim: int = 1024
    norm: str = "rms"  # or "layer"
    norm_epsilon: float = 1e-6
    norm_position: str = "pre"  # or "post"; "pre" has one more norm at the end of each stack
    activation: str = "gelu_tanh"  # or "gelu_exact" or "relu"
    gated: bool = True
    bias: bool = False  # of attention and MLP
    key_bias: bool = True  # where there are biases at all
    attention_scale: bool = False  # divide the logits of attention by sqrt(kv_dim)
    encoder_positions: str = "relative"  # or "sinusoidal" or "learned"
    decoder_positions: str = "relative"  # or "sinusoidal" or "learned"
    relative_buckets: int = 32
    relative_distance: int = 128  # from which on all distances are one
    max_source_length: int = 512  # of learned positions
    max_target_length: int = 512  # of learned positions
    sentence_length: int = 0  # tokens of a sentence; 0: the places of a source are tokens
    embedding_scale: bool = False  # multiply embeddings by sqrt(width)
    logits: str = "untied"  # or "tied" to the embeddings, or "tied_scaled": divided by sqrt(width), as in T5 1.0
    copying: bool = False  # name tokens by where they stand in the source, too; see copying.py
    dropout: float = 0.0
    remat: str = "none"
    unroll: int = 1
    dtype: str = "float32"
    param_dtype: str = "float32"
    front_end: nn.Module | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a field that no batch could fix."""
        self._check()
        super().__post_init__()

    @property
    def logical_axes(self) -> Table:
        """From parameter path to logical axes; a front end brings its own."""
        return (*getattr(self.front_end, "logical_axes", ()), *LOGICAL_AXES)

    def setup(self) -> None:
        # So that embeddings, or the logits they are tied to, are of size 1 at first.
        std = self.width**-0.5 if self.embedding_scale or self.logits == "tied" else 1.0
        shape = (self.vocab_size, self.width)
        self.embedding = self.param("embedding", nn.initializers.normal(std), shape, self.param_dtype)
        if self.sentence_length:
            shape = (self.sentence_length, self.width)
            self.word_weights = self.param("word_weights", nn.initializers.ones, shape, self.param_dtype)
        self.encoder = self._stack(self.encoder_depth, False, self.encoder_positions, self.max_source_length)
        self.decoder = self._stack(self.decoder_depth, True, self.decoder_positions, self.max_target_length)
        if self.logits == "untied":
            init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
            self.head = self.param("head", init, shape[::-1], self.param_dtype)
        if self.copying:
            self.pointer = copying.Pointer(self.width, self.dtype, self.param_dtype)
            self.repeated = self.param("repeated", nn.initializers.normal(1.0), (self.width,), self.param_dtype)

    def __call__(
        self,
        source: jax.Array,
        source_segments: jax.Array,
        source_positions: jax.Array,
        target_in: jax.Array,
        target_segments: jax.Array,
        target_positions: jax.Array,
        train: bool = False,
        copied: jax.Array | None = None,
    ) -> jax.Array:
        encoded = self.encode(source, source_segments, source_positions, train)
        copied = source if copied is None else copied  # another one where the encoder is not shown all tokens
        return self.decode(encoded, source_segments, target_in, target_segments, target_positions, train, copied)

    def encode(
        self, source: jax.Array, source_segments: jax.Array, source_positions: jax.Array, train: bool = False
    ) -> jax.Array:
        """The front end and the encoder: [batch, source length, width]."""
        x = self._embed_source(source, source_segments) if self.front_end is None else self.front_end(source, train)
        return self.encode_embedded(x, source_segments, source_positions, train)

    def encode_embedded(
        self, x: jax.Array, segments: jax.Array, positions: jax.Array, train: bool = False
    ) -> jax.Array:
        """The encoder alone, over [batch, length, width] to which it adds its positions."""
        return self.encoder(x.astype(self.dtype), segments, positions, train=train)

    def decode(
        self,
        encoded: jax.Array,
        source_segments: jax.Array,
        target_in: jax.Array,
        target_segments: jax.Array,
        target_positions: jax.Array,
        train: bool = False,
        source: jax.Array | None = None,
    ) -> jax.Array:
        """Logits of the token that follows each of `target_in`, given those before it and the `encoded` source.

        `source`, the tokens that were encoded, is needed for `copying` alone.
        """
        x = self._embed(target_in)
        x = self.decoder(x, target_segments, target_positions, encoded, source_segments, train)
        logits = self._logits(x)
        if not self.copying:
            return logits
        mask = target_segments[:, :, None] == source_segments[:, None]
        return self.pointer(logits, x, target_in, self.pointer.read(encoded, source, source_segments), mask)

    def init_cache(
        self,
        encoded: jax.Array,
        source_segments: jax.Array,
        max_length: int,
        beams: int = 1,
        source: jax.Array | None = None,
    ) -> Cache:
        """The cache of `decode_step` for rows of one example each, and so many hypotheses of each; see `decoding`.

        `source`, the tokens that were encoded, is needed for `copying` alone.
        """
        cache = self.decoder.init_cache(encoded, source_segments, max_length, beams)
        if self.copying:
            cache["pointer"] = self.pointer.read(encoded, source, source_segments)
        return cache

    def decode_step(self, token: jax.Array, position: jax.Array | int, cache: Cache) -> tuple[jax.Array, Cache]:
        """Logits [batch * beams, vocab] of what follows `token` [batch * beams] at `position`, and the cache with it.

        `position` counts from 0; it is a scalar or [batch * beams], one for all beams of an example.
        """
        x = self._embed(token).reshape(cache["cross_mask"].shape[0], -1, self.width)
        x, cache = self.decoder.step(x, jnp.asarray(position), cache)
        logits = self._logits(x)
        if self.copying:
            written, mask = token.reshape(x.shape[:2]), cache["cross_mask"][:, 0]
            logits = self.pointer(logits, x, written, cache["pointer"], mask)
        return logits.reshape(token.shape[0], -1), cache

    def _embed_source(self, source: jax.Array, segments: jax.Array) -> jax.Array:
        """[batch, length, width]; a sentence is the sum of its words, weighted by place (Dehghani et al., 2019)."""
        x = self._embed(source)
        if self.sentence_length:
            return jnp.einsum("blwe,we,blw->ble", x, self.word_weights.astype(x.dtype), (source > 0).astype(x.dtype))
        if self.copying:
            x += copying.repeated(source, segments)[..., None] * self.repeated.astype(x.dtype)
        return x

    def _embed(self, tokens: jax.Array) -> jax.Array:
        x = self._table()[tokens]
        return x * jnp.asarray(self.width**0.5, x.dtype) if self.embedding_scale else x

    def _table(self) -> jax.Array:
        """The embeddings as all devices of a batch's shard need them, in the compute dtype.

        Looked up where they lie, the tokens would be split over the wrong axis, and whole on every device in between.
        """
        return constrain(self.embedding.astype(self.dtype), ("vocab", "embed"))

    def _logits(self, x: jax.Array) -> jax.Array:
        """In float32, though of rounded factors: a product in float32 would take several times as long."""
        if self.logits == "tied_scaled":
            x = x * jnp.asarray(self.width**-0.5, x.dtype)
        dtype = layers.at_least_float32(self.dtype)
        if self.logits == "untied":
            logits = jnp.einsum("bte,ev->btv", x, self.head.astype(x.dtype), preferred_element_type=dtype)
        else:
            # The table as it lies, on the left: turned around for each step of a decoding, it took a CPU four times as
            # long, and twice as long in training.
            logits = jnp.einsum("ve,bte->vbt", self._table().astype(x.dtype), x, preferred_element_type=dtype)
            logits = logits.transpose(1, 2, 0)
        return constrain(logits, ("batch", "length", "vocab"))

    def _stack(self, depth: int, causal: bool, positions: str, max_length: int) -> Stack:
        settings = transformer.Settings(
            **{name: getattr(self, name) for name in transformer.Settings.__dataclass_fields__}
        )
        return Stack(
            settings, depth, causal, positions, max_length, self.relative_buckets, self.relative_distance, self.remat,
            self.unroll,
        )  # fmt: skip

    def _check(self) -> None:
        for field, known in (
            ("norm", layers.NORMS),
            ("norm_position", ("pre", "post")),
            ("activation", transformer.ACTIVATIONS),
            ("encoder_positions", POSITIONS),
            ("decoder_positions", POSITIONS),
            ("logits", LOGITS),
            ("remat", layers.REMAT),
        ):
            config_lib.choose(dict.fromkeys(known), getattr(self, field), f"model.{field}")
        for field in (
            "vocab_size", "width", "encoder_depth", "decoder_depth", "num_heads", "kv_dim", "mlp_dim", "unroll",
            "max_source_length", "max_target_length",
        ):  # fmt: skip
            if getattr(self, field) < 1:
                raise ValueError(f"config.model.{field}={getattr(self, field)} must be at least 1")
        if self.copying and (self.front_end is not None or self.sentence_length):
            raise ValueError(
                "config.model.copying=True needs a source of tokens, neither of sentences nor of what a front end reads"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"config.model.dropout={self.dropout} must be at least 0 and less than 1")
        if "sinusoidal" in (self.encoder_positions, self.decoder_positions) and (self.width % 2 or self.width < 4):
            raise ValueError(f"config.model.width={self.width} must be even and at least 4 for sinusoidal positions")
        if self.relative_buckets < 4 or self.relative_buckets % 4:
            raise ValueError(f"config.model.relative_buckets={self.relative_buckets} must be a multiple of 4")
        if self.relative_distance <= self.relative_buckets // 2:
            given = f"config.model.relative_distance={self.relative_distance}"
            raise ValueError(f"{given} must be more than half of relative_buckets={self.relative_buckets}")
