"""The two stacks of an encoder-decoder: their settings, and how they are composed of the parts."""

import functools
from collections.abc import Callable, Mapping

import jax
from flax import linen as nn

from research.models import layers, positions, stack
from research.models.attention import Attention, CrossAttention, Heads
from research.models.block import TOPOLOGIES
from research.models.dense import Dense
from research.models.mlp import MLP, GatedMLP
from research.models.remat import REMAT
from research.models.specs import LayerSpec
from research.models.transformer import Transformer
from research.spec import checks, field, invalid
from research.spec.checks import Check

LOGICAL_AXES = (
    *stack.LOGICAL_AXES,
    *positions.LOGICAL_AXES,
    ("(encoder|decoder)/norm/(scale|bias)", ("embed",)),
)

Dtypes = Mapping[str, str]

_fan_in = functools.partial(nn.initializers.variance_scaling, 1.0, "fan_in", "truncated_normal")
_POSITIONS = ("relative", "sinusoidal", "learned")
_DEPTH = checks.at_least(1) & checks.at_most(10_000)
_BUCKETS = Check(lambda value: isinstance(value, int) and value >= 4 and value % 4 == 0, "must be a multiple of 4")


class EncoderDecoderSpec(LayerSpec):
    """Encoder and decoder stacks, for any kind of source."""

    encoder_depth: int = field(default=8, check=_DEPTH, doc="layers of the encoder")
    decoder_depth: int = field(default=8, check=_DEPTH, doc="layers of the decoder")
    share_layers: bool = field(
        default=False, absent=False,
        doc="the layers of a stack have the same parameters, as in Universal Transformers (Dehghani et al., 2019)",
    )  # fmt: skip
    encoder_positions: str = field(
        default="relative", check=checks.one_of(*_POSITIONS), doc="kind of position embedding in the encoder"
    )
    decoder_positions: str = field(
        default="relative", check=checks.one_of(*_POSITIONS), doc="kind of position embedding in the decoder"
    )
    relative_buckets: int = field(default=32, check=_BUCKETS, doc="number of buckets of relative positions")
    relative_distance: int = field(
        default=128, check=checks.at_least(1), doc="distance in tokens from which on all share a bucket"
    )
    embedding_scale: bool = field(default=False, doc="multiply embeddings by sqrt(width)")
    logits: str = field(
        default="untied", check=checks.one_of("untied", "tied", "tied_scaled"),
        doc="output layer: tied to the embeddings, or tied_scaled, also divided by sqrt(width) as in T5 1.0",
    )  # fmt: skip
    remat: str = field(default="none", check=checks.one_of(*REMAT), doc="rematerialisation policy, see remat.py")
    unroll: int = field(default=1, check=checks.at_least(1), doc="layers unrolled per scan iteration")

    @property
    def has_pointer(self) -> bool:
        """Whether the model has a pointer that copies tokens of the source."""
        return False

    def validate(self) -> None:
        """Raises FieldError for settings of positions that are inconsistent with other fields."""
        if "sinusoidal" in (self.encoder_positions, self.decoder_positions) and (self.width % 2 or self.width < 4):
            raise invalid(self, "width", "must be even and at least 4 for sinusoidal positions")
        if self.relative_distance <= self.relative_buckets // 2:
            half = f"more than half of relative_buckets={self.relative_buckets}"
            raise invalid(self, "relative_distance", f"must be {half}")


def encoder(spec: EncoderDecoderSpec, dtypes: Dtypes, max_length: int) -> Transformer:
    """The encoder: bidirectional self-attention and MLPs."""
    where = _positions(spec, spec.encoder_positions, "max_source_length", max_length)
    return _transformer(spec, dtypes, spec.encoder_depth, where, {"attention": Attention}, causal=False)


def decoder(spec: EncoderDecoderSpec, dtypes: Dtypes, max_length: int) -> Transformer:
    """The decoder: causal self-attention, cross-attention and MLPs."""
    where = _positions(spec, spec.decoder_positions, "max_target_length", max_length)
    mixers = {"attention": Attention, "cross_attention": CrossAttention}
    return _transformer(spec, dtypes, spec.decoder_depth, where, mixers, causal=True)


def _transformer(
    spec: EncoderDecoderSpec,
    dtypes: Dtypes,
    depth: int,
    where: positions.Positions,
    mixers: dict[str, type[Attention]],
    causal: bool,
) -> Transformer:
    parts = (*((name, _attention(spec, dtypes, kind)) for name, kind in mixers.items()), ("mlp", _mlp(spec, dtypes)))
    make_norm = functools.partial(layers.NORMS[spec.norm], epsilon=spec.norm_epsilon, **dtypes)
    block = functools.partial(TOPOLOGIES[spec.norm_position], parts, make_norm, spec.dropout)
    segments = (stack.Segment(depth, spec.remat, spec.unroll),)
    make_stack = functools.partial(stack.Stack, (("layer", block),), segments, shared=spec.share_layers)
    last_norm = make_norm if spec.norm_position == "pre" else None
    return Transformer(make_stack, where, last_norm, dtypes, causal, spec.dropout)


def _attention(spec: EncoderDecoderSpec, dtypes: Dtypes, kind: type[Attention]) -> Callable[[], Attention]:
    """A constructor of attention of a `kind`."""
    biases = ("query", *["key"] * spec.key_bias, "value", "out") if spec.bias else ()
    return functools.partial(
        kind,
        Heads(spec.width, spec.num_heads, spec.kv_dim),
        functools.partial(Dense, kernel_init=_fan_in(), **dtypes),
        biases,
        scale=None if spec.attention_scale else 1.0,
        # Unscaled logits need a smaller initial query kernel (Raffel et al., 2020).
        query_init=None if spec.attention_scale else _scaled(spec.kv_dim**-0.5),
        gather=spec.remat != "none",
    )


def _scaled(factor: float) -> Callable[..., jax.Array]:
    return lambda *args: factor * _fan_in()(*args)


def _mlp(spec: EncoderDecoderSpec, dtypes: Dtypes) -> Callable[[], MLP]:
    dense = functools.partial(Dense, kernel_init=_fan_in(), **dtypes)
    kind = GatedMLP if spec.gated else MLP
    return functools.partial(kind, spec.mlp_dim, dense, spec.activation, spec.bias, spec.dropout)


def _positions(spec: EncoderDecoderSpec, kind: str, limit: str, max_length: int) -> positions.Positions:
    """The position embedding of a `kind`; `limit` is the setting for the number of learned ones, for messages."""
    if kind == "sinusoidal":
        return positions.Sinusoidal()
    if kind == "learned":
        return positions.Learned((max_length, spec.width), limit=limit)
    causal, std = limit == "max_target_length", spec.width**-0.5
    return positions.Relative(spec.relative_buckets, spec.relative_distance, spec.num_heads, causal, std)
