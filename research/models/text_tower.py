"""The text tower of CLIP (Radford et al., 2021) and SigLIP (Zhai et al., 2023): a pre-norm encoder and a projection."""

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from research.models import layers, positions, stack
from research.models.attention import Attention, Heads
from research.models.block import PreNorm
from research.models.dense import Dense
from research.models.mlp import MLP
from research.models.shapes import AnyArray
from research.models.specs import COUNT, DTYPE, EPSILON, LAYERS, from_fields
from research.models.transformer import Transformer
from research.parallel.sharding import constrain
from research.spec import Spec, checks, field, invalid

LOGICAL_AXES = (
    *stack.LOGICAL_AXES,
    *positions.LOGICAL_AXES,
    ("embedding", ("vocab", "embed")),
    ("norm/(scale|bias)", ("embed",)),
    ("projection/kernel", ("embed", None)),
    ("projection/bias", (None,)),
)
_init = nn.initializers.normal(0.02)


class TextTowerSpec(Spec, tag="text_tower"):
    """A text tower; the defaults are those of CLIP ViT-B."""

    width: int = field(default=512, check=COUNT, doc="features of a token")
    depth: int = field(default=12, check=LAYERS, doc="layers")
    num_heads: int = field(default=8, check=COUNT, doc="attention heads")
    mlp_dim: int = field(default=2048, check=COUNT, doc="hidden features of an MLP")
    norm_epsilon: float = field(default=1e-5, check=EPSILON, doc="added to the variance in every norm")
    gelu: str = field(default="quick", check=checks.one_of(*layers.GELU), doc="form of the activation")
    causal: bool = field(default=True, doc="tokens attend to earlier tokens only; false in SigLIP")
    projection: int = field(default=512, check=COUNT, doc="features of a text")
    projection_bias: bool = field(default=False, doc="bias of the projection, as in SigLIP")

    def validate(self) -> None:
        """Raises FieldError for inconsistent sizes."""
        if self.width % self.num_heads:
            raise invalid(self, "width", f"must be a multiple of num_heads={self.num_heads}")


class TextTower(nn.Module):
    """Token ids [batch, length] to text features [batch, projection] in float32, not normalised.

    `last` [batch] are the indices of the tokens whose features are projected: the end of each text. No token is masked,
    so padding must come after it, if `spec.causal`, or be as in training.
    """

    spec: TextTowerSpec
    vocab_size: int
    max_length: int
    dtype: str = DTYPE
    param_dtype: str = DTYPE
    logical_axes = LOGICAL_AXES
    spec_class: ClassVar[type[Spec]] = TextTowerSpec
    of = from_fields

    @nn.compact
    def __call__(
        self, tokens: Int[AnyArray, "batch length"], last: Int[AnyArray, " batch"]
    ) -> Float[Array, "batch features"]:
        spec = self.spec
        dtypes: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        embedding = self.param("embedding", _init, (self.vocab_size, spec.width), self.param_dtype)
        x = constrain(embedding.astype(self.dtype), ("vocab", "embed"))[tokens]
        make_norm = functools.partial(layers.LayerNorm, epsilon=spec.norm_epsilon, **dtypes)
        learned = positions.Learned((self.max_length, spec.width), limit="max_length")
        encoder = Transformer(
            _make_stack(spec, dtypes, make_norm), learned, make_norm, dtypes, causal=spec.causal, name="encoder"
        )
        where = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        x = encoder(x, jnp.ones_like(where), where)
        x = jnp.take_along_axis(x, jnp.asarray(last)[:, None, None], axis=1)[:, 0]
        dtype = layers.at_least_float32(self.dtype)
        project = Dense(
            spec.projection, use_bias=spec.projection_bias, name="projection", dtype=dtype,
            param_dtype=self.param_dtype,
        )  # fmt: skip
        features: jax.Array = project(x)
        return features


def _make_stack(spec: TextTowerSpec, dtypes: dict[str, Any], make_norm: Any) -> Any:
    dense = functools.partial(Dense, kernel_init=_init, **dtypes)
    heads = Heads(spec.width, spec.num_heads, spec.width // spec.num_heads)
    attention = functools.partial(Attention, heads, dense, ("query", "key", "value", "out"))
    mlp = functools.partial(MLP, spec.mlp_dim, dense, f"gelu_{spec.gelu}")
    block = functools.partial(PreNorm, (("attention", attention), ("mlp", mlp)), make_norm)
    return functools.partial(stack.Stack, (("layer", block),), (stack.Segment(spec.depth),))
