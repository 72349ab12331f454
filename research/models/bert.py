"""BERT (Devlin et al., 2019) and its family: a post-norm encoder with learned positions, and a head.

RoBERTa (Liu et al., 2019), DistilBERT (Sanh et al., 2019) and MiniLM (Wang et al., 2020) have the same layers, with or
without token type embeddings, and differ in pooling.
"""

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from research.models import layers, positions, stack
from research.models.attention import Attention, Heads
from research.models.block import PostNorm
from research.models.dense import Dense
from research.models.mlp import MLP
from research.models.remat import REMAT
from research.models.specs import COUNT, EPSILON, LAYERS, RATE, from_fields
from research.models.transformer import Transformer
from research.parallel.sharding import Table, constrain
from research.spec import FieldError, Spec, checks, field, invalid

LOGICAL_AXES = (
    *stack.LOGICAL_AXES,
    *positions.LOGICAL_AXES,
    ("embedding", ("vocab", "embed")),
    ("types", (None, "embed")),
    ("norm/(scale|bias)", ("embed",)),
    ("pooler/kernel", ("embed", None)),
    ("pooler/bias", (None,)),
    ("head/kernel", ("embed", "classes")),
    ("head/bias", ("classes",)),
    ("token_head/kernel", ("embed", None)),
    ("token_head/bias", (None,)),
)

# The features of a text: the mean over its tokens, its first token, or a dense layer on the latter.
POOLINGS = ("mean", "cls", "cls_tanh", "cls_relu")


def _size(width: int, depth: int, num_heads: int) -> dict[str, int]:
    return {"width": width, "depth": depth, "num_heads": num_heads, "mlp_dim": 4 * width}


SIZES: dict[str, dict[str, Any]] = {
    "bert_base": _size(768, 12, 12),
    "bert_large": _size(1024, 24, 16),
    "distilbert": _size(768, 6, 12) | {"token_types": 0, "pool": "cls_relu"},
    "roberta_base": _size(768, 12, 12) | {"token_types": 1, "norm_epsilon": 1e-5},
    "minilm_l6": _size(384, 6, 12) | {"pool": "mean"},
}

_init = nn.initializers.truncated_normal(0.02)


class BertSpec(Spec, tag="bert"):
    """An encoder of the BERT family."""

    width: int = field(default=768, check=COUNT, doc="features of a token")
    depth: int = field(default=12, check=LAYERS, doc="layers")
    num_heads: int = field(default=12, check=COUNT, doc="attention heads")
    mlp_dim: int = field(default=3072, check=COUNT, doc="hidden features of an MLP")
    token_types: int = field(
        default=2, check=checks.between(0, 1024), doc="number of token type embeddings; RoBERTa has 1, DistilBERT 0"
    )
    norm_epsilon: float = field(default=1e-12, check=EPSILON, doc="added to the variance in every norm")
    pool: str = field(
        default="cls_tanh", check=checks.one_of(*POOLINGS),
        doc="features of a text: mean of its tokens, first token (cls), or that with a dense layer and activation",
    )  # fmt: skip
    dropout: float = field(default=0.0, check=RATE, doc="dropout rate of embeddings, branches and text features")
    remat: str = field(default="none", check=checks.one_of(*REMAT), doc="rematerialisation policy, see remat.py")
    unroll: int = field(default=1, check=COUNT, doc="layers unrolled per scan iteration")

    def validate(self) -> None:
        """Raises FieldError for inconsistent sizes."""
        if self.width % self.num_heads:
            raise invalid(self, "width", f"must be a multiple of num_heads={self.num_heads}")


class Bert(nn.Module):
    """Token ids [batch, length] to logits [batch, classes] in float32 or, with 0 classes, features [batch, width].

    With `of_tokens`, logits are [batch, length, classes], one per token, without pooling. `segments` [batch, length]
    are 0 for padding. A row is one text; with `texts`, up to that many packed texts, numbered from 1 in `segments`, and
    logits are [batch, texts, classes]. `types` [batch, length] are token types, by default 0; unused if
    `spec.token_types` is 0.
    """

    spec: BertSpec
    vocab_size: int
    num_classes: int = 0
    of_tokens: bool = False
    max_length: int = 512  # positions
    dtype: str = "float32"
    param_dtype: str = "float32"
    spec_class: ClassVar[type[Spec]] = BertSpec
    of = from_fields

    def __post_init__(self) -> None:
        """Raises FieldError for an invalid size."""
        for name, least in (("vocab_size", 1), ("num_classes", 0), ("max_length", 1)):
            if getattr(self, name) < least:
                raise FieldError((name,), f"={getattr(self, name)} must be at least {least}")
        if self.of_tokens and not self.num_classes:
            raise FieldError(("num_classes",), "=0 must be at least 1 for logits of tokens")
        super().__post_init__()

    @property
    def logical_axes(self) -> Table:
        """From parameter path to logical axes."""
        return LOGICAL_AXES

    def setup(self) -> None:
        spec = self.spec
        dtypes: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        table = lambda name, rows: self.param(name, _init, (rows, spec.width), self.param_dtype)
        self.embedding = table("embedding", self.vocab_size)
        if spec.token_types:
            self.types = table("types", spec.token_types)
        self.where = positions.Learned((self.max_length, spec.width), limit="max_length")
        self.learned = self.where.create(self.param, self.param_dtype)
        make_norm = functools.partial(layers.LayerNorm, epsilon=spec.norm_epsilon, **dtypes)
        self.norm, self.drop = make_norm(), nn.Dropout(spec.dropout)
        # Positions are added here and not in the stack, since a norm follows before the first layer.
        self.encoder = Transformer(_make_stack(spec, dtypes, make_norm), positions.Positions(), None, dtypes)
        if self.spec.pool.startswith("cls_") and not self.of_tokens:
            self.pooler = Dense(spec.width, kernel_init=_init, **dtypes)
        if self.num_classes:
            dtype = layers.at_least_float32(self.dtype)  # as in layers.classify
            head = Dense(self.num_classes, kernel_init=_init, dtype=dtype, param_dtype=self.param_dtype)
            if self.of_tokens:  # named differently, so that weights of the two kinds are not confused
                self.token_head = head
            else:
                self.head = head

    def __call__(
        self,
        tokens: jax.Array,
        segments: jax.Array,
        where: jax.Array | None = None,
        types: jax.Array | None = None,
        train: bool = False,
        texts: int = 0,
    ) -> jax.Array:
        where = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape) if where is None else where
        encoded = self.encode(tokens, segments, where, types, train)
        if self.of_tokens:
            return constrain(self.token_head(encoded), ("batch", "length", None))
        features = self.drop(self.pooled(encoded, segments, where, max(texts, 1)), deterministic=not train)
        if self.num_classes:
            features = constrain(self.head(features), ("batch", None, "classes"))
        return features if texts else features[:, 0]

    def encode(
        self,
        tokens: jax.Array,
        segments: jax.Array,
        where: jax.Array,
        types: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Features [batch, length, width] of tokens, at the positions `where` [batch, length] in their texts."""
        self.where.check(tokens.shape[1])
        # Gathered before the lookup; see seq2seq.py.
        x = constrain(self.embedding.astype(self.dtype), ("vocab", "embed"))[tokens]
        if self.spec.token_types:
            table = self.types.astype(self.dtype)
            x += table[0] if types is None else table[types]
        x = self.where.embed(self.learned, x, where)
        x = self.drop(layers.tokens(self.norm(x)), deterministic=not train)
        return self.encoder(x, segments, where, train=train)

    def pooled(self, x: jax.Array, segments: jax.Array, where: jax.Array, texts: int) -> jax.Array:
        """The features [batch, texts, width] of texts, pooled over the features of their tokens, in float32."""
        dtype = layers.at_least_float32(x.dtype)
        chosen = segments[:, None] == jnp.arange(1, texts + 1)[:, None]  # [batch, texts, length]
        if self.spec.pool != "mean":
            chosen &= where[:, None] == 0
        shares = chosen / jnp.maximum(chosen.sum(-1, keepdims=True), 1)
        features = jnp.einsum("bnl,ble->bne", shares.astype(dtype), x.astype(dtype))
        if not self.spec.pool.startswith("cls_"):
            return features
        activation = jnp.tanh if self.spec.pool == "cls_tanh" else nn.relu
        return activation(self.pooler(features.astype(x.dtype))).astype(dtype)


def _make_stack(spec: BertSpec, dtypes: dict[str, Any], make_norm: Any) -> Any:
    """The encoder's layers."""
    attention = functools.partial(
        Attention,
        Heads(spec.width, spec.num_heads, spec.width // spec.num_heads),
        functools.partial(Dense, kernel_init=_init, **dtypes),
        ("query", "key", "value", "out"),
        gather=spec.remat != "none",
    )
    dense = functools.partial(Dense, kernel_init=_init, **dtypes)
    mlp = functools.partial(MLP, spec.mlp_dim, dense, "gelu_exact")
    block = functools.partial(PostNorm, (("attention", attention), ("mlp", mlp)), make_norm, spec.dropout)
    segments = (stack.Segment(spec.depth, spec.remat, spec.unroll),)
    return functools.partial(stack.Stack, (("layer", block),), segments)
