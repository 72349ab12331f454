"""Vision transformer (Dosovitskiy et al., 2021), with options of later work."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from research.models import attention_pooling, layers, stack
from research.models.attention import Attention, Context, Heads
from research.models.attention_pooling import AttentionPooling
from research.models.block import TOPOLOGIES, LayerScale
from research.models.dense import Dense
from research.models.mlp import MLP
from research.models.positions import Learned, SinCos
from research.models.shapes import FeatureMaps, Images
from research.models.specs import DTYPE, EncoderSpec, from_fields
from research.models.stack import Segment, Stack
from research.parallel.sharding import constrain
from research.spec import Spec, checks, field, invalid

# Dosovitskiy et al. 2021 (B, L, H), Touvron et al. 2021 (Ti, S), Zhai et al. 2022 (g), Dehghani et al. 2023 (22B).
SIZES = {
    "Ti": {"width": 192, "depth": 12, "mlp_dim": 768, "num_heads": 3},
    "S": {"width": 384, "depth": 12, "mlp_dim": 1536, "num_heads": 6},
    "B": {"width": 768, "depth": 12, "mlp_dim": 3072, "num_heads": 12},
    "L": {"width": 1024, "depth": 24, "mlp_dim": 4096, "num_heads": 16},
    "H": {"width": 1280, "depth": 32, "mlp_dim": 5120, "num_heads": 16},
    "g": {"width": 1408, "depth": 40, "mlp_dim": 6144, "num_heads": 16},
    "22B": {"width": 6144, "depth": 48, "mlp_dim": 24576, "num_heads": 48},
}

LOGICAL_AXES = (
    *stack.LOGICAL_AXES,
    *attention_pooling.LOGICAL_AXES,
    ("patches/kernel", ("height", "width", None, "embed")),
    ("stem/conv[0-9]+/kernel", ("height", "width", "channels_in", "channels")),
    ("stem/norm[0-9]+/(scale|bias)", ("channels",)),
    ("stem/project/kernel", ("height", "width", None, "embed")),
    ("(positions|cls|registers)", (None, "positions", "embed")),
    ("projection/kernel", ("embed", None)),
    ("head/kernel", ("embed", "classes")),
    ("head/bias", ("classes",)),
    ("(patches|stem/project)/bias|(first_)?norm/(scale|bias)", ("embed",)),
)

# Images are not sharded in convolutions: XLA's kernel gradient is wrong if their rows are sharded, which XLA does by
# itself if their tokens are split over `sequence`.
PATCHES = ("batch", "height", "width", "embed")


Mixers = Sequence[tuple[str, type[Attention]]]
MIXERS: Mixers = (("attention", Attention),)
_INIT = nn.initializers.xavier_uniform()


class ConvStem(nn.Module):
    """Stride-2 3x3 convolutions instead of one large patch (Xiao et al., 2021); layer norm instead of batch norm.

    Each doubles the channels, up to `last_width`, which in the paper is the width of the tokens for ViT-Ti and -S.
    """

    width: int
    last_width: int
    patch_size: int
    epsilon: float
    dtypes: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: Images) -> Float[Array, "batch rows columns embed"]:
        halvings = self.patch_size.bit_length() - 1
        for index in range(halvings):
            features = self.last_width // 2 ** (halvings - 1 - index)
            conv = nn.Conv(features, (3, 3), 2, padding=1, use_bias=False, name=f"conv{index + 1}", **self.dtypes)
            norm = layers.LayerNorm(epsilon=self.epsilon, name=f"norm{index + 1}", **self.dtypes)
            x = constrain(nn.relu(norm(constrain(conv(x), PATCHES))), PATCHES)
        return nn.Conv(self.width, (1, 1), name="project", **self.dtypes)(x)


class ViTSpec(EncoderSpec, tag="vit"):
    """A vision transformer."""

    image_size: int = field(default=224, check=checks.between(1, 65_536), doc="height of images in px")
    image_width: int = field(default=0, check=checks.between(0, 65_536), doc="width of images in px; 0: image_size")
    pool: str = field(
        default="cls",
        check=checks.one_of("cls", "mean", "cls_mean", "map"),
        doc="input of the head: the class token, the mean of the patches, both side by side, or attention pooling",
    )
    positions: str = field(default="learned", check=checks.one_of("learned", "sincos"), doc="position embeddings")
    stem: str = field(
        default="patch", check=checks.one_of("patch", "conv"), doc="one convolution per patch, or several of 3x3"
    )
    stem_width: int = field(
        default=0, check=checks.at_least(0), doc="channels of the last 3x3 convolution of stem=conv; 0: width / 2"
    )
    parallel: bool = field(default=False, doc="attention and MLP in parallel (Dehghani et al., 2023)")
    patch_bias: bool = field(default=True, absent=True, doc="bias of the patch embedding of stem=patch; CLIP has none")
    first_norm: bool = field(default=False, absent=False, doc="another norm before the first layer, as in CLIP")
    registers: int = field(
        default=0, absent=0, check=checks.between(0, 1024),
        doc="additional tokens without an output (Darcet et al., 2024)",
    )  # fmt: skip
    layer_scale: float = field(
        default=0.0, absent=0.0, check=checks.between(0, 100),
        doc="initial layer scale of the branches (Touvron et al., 2021); 0: off",
    )  # fmt: skip
    projection: int = field(
        default=0, absent=0, check=checks.at_least(0),
        doc="features of a projection before the head, without bias, as in CLIP; 0: none",
    )  # fmt: skip
    unit_features: bool = field(
        default=False, absent=False, doc="divide the input of the head by its length, as in zero-shot classification"
    )

    @property
    def has_cls(self) -> bool:
        """Whether there is a class token."""
        return self.pool in ("cls", "cls_mean")

    @property
    def last_stem_width(self) -> int:
        """Channels of the last 3x3 convolution of stem="conv"."""
        return self.stem_width or self.width // 2

    def validate(self) -> None:
        """Raises FieldError for inconsistent sizes."""
        super().validate()
        if self.image_width % self.patch_size:
            raise invalid(self, "image_width", f"must be a multiple of patch_size={self.patch_size}")
        if self.positions == "sincos" and self.width % 4:
            raise invalid(self, "width", "must be a multiple of 4 for positions='sincos'")
        if self.stem == "conv":
            if self.patch_size == 1 or self.patch_size & (self.patch_size - 1):
                raise invalid(self, "patch_size", "must be 2, 4, 8, 16 ... for stem='conv'")
            if self.last_stem_width % (self.patch_size // 2):
                raise invalid(
                    self, "stem_width",
                    f"must be a multiple of {self.patch_size // 2}, since the channels double at each convolution of "
                    f"a stem with patch_size={self.patch_size}",
                )  # fmt: skip


class ViT(nn.Module):
    """Images [batch, image_size, image_size, channels] to logits [batch, num_classes] in float32.

    With `num_classes` 0, to a tuple of one feature map [batch, rows, columns, width], the tokens of the patches.
    The layers are one scan, with a leading axis of layers in the parameters; `unroll` layers are unrolled.
    """

    spec: ViTSpec
    num_classes: int
    dtype: str = DTYPE
    param_dtype: str = DTYPE
    logical_axes = LOGICAL_AXES
    spec_class: ClassVar[type[Spec]] = ViTSpec
    of = from_fields

    @property
    def strides(self) -> tuple[int, ...]:
        """The stride of its one feature map, in px."""
        return (self.spec.patch_size,)

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Float[Array, "batch classes"] | FeatureMaps:
        spec = self.spec
        if images.shape[1:3] != (spec.image_size, spec.image_width or spec.image_size):
            wide = f" and image_width={spec.image_width}" if spec.image_width else ""
            raise ValueError(
                f"config.model has image_size={spec.image_size}{wide}, but images are {images.shape[1]} x "
                f"{images.shape[2]} px; set config.data.image_size equal"
            )
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = self._tokens(constrain(self._patches(images.astype(self.dtype), dtypes), PATCHES))
        x = nn.Dropout(spec.dropout, deterministic=not train)(x)
        if spec.first_norm:
            x = layers.tokens(make_norm(spec, dtypes)(name="first_norm")(x))
        blocks = make_stack(spec, dtypes, "parallel" if spec.parallel else "pre", MIXERS, spec.layer_scale)
        x = blocks(name="blocks")(layers.tokens(x), Context(train=train))
        x = layers.tokens(make_norm(spec, dtypes)(name="norm")(x))
        if not self.num_classes:
            rows = spec.image_size // spec.patch_size
            tokens = x[:, spec.has_cls + spec.registers :]
            return (constrain(tokens.reshape(x.shape[0], rows, -1, spec.width), PATCHES),)
        x = constrain(self._pooled(x, dtypes), ("batch", "embed"))
        return layers.classify(x, self.num_classes, self.param_dtype, kernel_init=nn.initializers.zeros)

    def _patches(self, images: Images, dtypes: Mapping[str, Any]) -> jax.Array:
        """Embedded patches [batch, rows, columns, width]."""
        spec = self.spec
        if spec.stem == "conv":
            widths = spec.width, spec.last_stem_width
            return ConvStem(*widths, spec.patch_size, spec.layer_norm_epsilon, dtypes, name="stem")(images)
        patch = (spec.patch_size, spec.patch_size)
        conv = nn.Conv(spec.width, patch, patch, padding="VALID", use_bias=spec.patch_bias, name="patches", **dtypes)
        return conv(images)

    def _tokens(self, patches: jax.Array) -> jax.Array:
        """Tokens [batch, length, width]: the class token, if any, registers, and patches; positions are added."""
        spec = self.spec
        batch, height, width, features = patches.shape
        x = patches.reshape(batch, height * width, features)
        has_cls = spec.has_cls
        if has_cls:
            cls = self.param("cls", nn.initializers.zeros, (1, 1, features), self.param_dtype)
            x = jnp.concatenate([jnp.broadcast_to(cls, (batch, 1, features)).astype(x.dtype), x], axis=1)
        if spec.positions == "sincos":
            positions = SinCos(height, width, before=int(has_cls))
        else:
            positions = Learned((1, height * width + has_cls, features), "positions")
        x = positions.embed(positions.create(self.param, self.param_dtype), x)
        if not spec.registers:
            return x
        shape = (spec.registers, features)
        registers = self.param("registers", nn.initializers.normal(1e-6), (1, *shape), self.param_dtype)
        registers = jnp.broadcast_to(registers, (batch, *shape)).astype(x.dtype)
        return jnp.concatenate([x[:, :has_cls], registers, x[:, has_cls:]], axis=1)

    def _pooled(self, x: jax.Array, dtypes: Mapping[str, Any]) -> jax.Array:
        """The input of the head [batch, features], from the tokens [batch, length, width] after the last norm."""
        spec = self.spec
        if spec.pool == "map":
            heads = Heads(spec.width, spec.num_heads, spec.width // spec.num_heads)
            x = AttentionPooling(heads, make_mlp(spec, dtypes), make_norm(spec, dtypes), dtypes, name="pooling")(x)
        elif spec.pool == "cls":
            x = x[:, 0]
        else:
            mean = x[:, spec.has_cls + spec.registers :].mean(1)
            x = jnp.concatenate([x[:, 0], mean], axis=-1) if spec.has_cls else mean
        if not spec.projection and not spec.unit_features:
            return x
        dtype = layers.at_least_float32(x.dtype)  # as in layers.classify
        x = x.astype(dtype)
        if spec.projection:
            x = Dense(spec.projection, use_bias=False, name="projection", dtype=dtype, param_dtype=self.param_dtype)(x)
        return layers.unit(x) if spec.unit_features else x


def make_norm(spec: EncoderSpec, dtypes: Mapping[str, str]) -> Callable[..., nn.Module]:
    """A constructor of norms over the features."""
    return functools.partial(layers.NORMS[spec.norm], epsilon=spec.layer_norm_epsilon, **dtypes)


def make_mlp(spec: EncoderSpec, dtypes: Mapping[str, str]) -> Callable[..., MLP]:
    """A constructor of MLPs."""
    dense = functools.partial(Dense, kernel_init=_INIT, bias_init=nn.initializers.normal(1e-6), **dtypes)
    return functools.partial(MLP, spec.mlp_dim, dense, f"gelu_{spec.gelu}", True, spec.dropout)


def make_stack(
    spec: EncoderSpec, dtypes: Mapping[str, str], topology: str, mixers: Mixers, layer_scale: float = 0.0
) -> Callable[..., Stack]:
    """A constructor of the layers, each with the `mixers` in order and an MLP; `layer_scale` is the initial one."""
    attention = make_attention(spec, dtypes)
    parts = (*((name, functools.partial(kind, **attention)) for name, kind in mixers), ("mlp", make_mlp(spec, dtypes)))
    scale = functools.partial(LayerScale, layer_scale, dtypes["param_dtype"]) if layer_scale else None
    block = functools.partial(TOPOLOGIES[topology], parts, make_norm(spec, dtypes), spec.dropout, scale)
    return functools.partial(
        Stack, (("layer", block),), (Segment(spec.depth, spec.remat, spec.unroll),), spec.stochastic_depth
    )


def make_attention(spec: EncoderSpec, dtypes: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of `Attention` for `spec`."""
    norm = make_norm(spec, dtypes)
    qk_norm = functools.partial(norm, use_bias=False) if spec.norm == "layer" else norm
    inputs = ("query", *["key"] * spec.key_bias, "value") if spec.qkv_bias else ()
    return {
        "heads": Heads(spec.width, spec.num_heads, spec.width // spec.num_heads),
        "dense": functools.partial(Dense, kernel_init=_INIT, **dtypes),
        "biases": (*inputs, "out"),
        "qk_norm": qk_norm if spec.qk_norm else None,
        "implementation": spec.attention,
        "gather": spec.remat != "none",
    }
