"""Transformers over the space and time of clips (Arnab et al., "ViViT: A Video Vision Transformer", 2021)."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from research.models import layers, vit
from research.models.specs import COUNT, EncoderSpec
from research.parallel.sharding import constrain
from research.spec import Spec, checks, field, invalid

LOGICAL_AXES = (
    ("tubelets/kernel", (None, "embed")),
    ("tubelets/bias", ("embed",)),
    ("(space|time)", (None, "positions", "embed")),
    *vit.LOGICAL_AXES,
)
ATTENDING = ("joint", "factorised", "frames")
SEEN = ("frames", "changes", "both")
GAIN = 4.0  # of changes, which are small beside what frames differ by from their mean


class FactorisedBlock(nn.Module):
    """A pre-norm layer over tokens [batch, time, space, embed]: attention over space, then over time, then the MLP.

    Model 3 of the paper. It is built as vit.Block is.
    """

    mlp_dim: int
    num_heads: int
    dropout: float
    norm: Callable
    gelu: str
    qkv_bias: bool
    key_bias: bool
    qk_norm: Callable | None
    attention: str
    dtypes: dict[str, Any]
    gather: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, drop_rate: jax.Array, train: bool) -> tuple[jax.Array, None]:
        attention = functools.partial(
            vit.Attention, self.num_heads, self.qkv_bias, self.key_bias, self.qk_norm, self.attention, self.dtypes,
            self.gather,
        )  # fmt: skip
        mlp = vit.MLP(self.mlp_dim, self.gelu, self.dropout, self.dtypes, name="mlp")
        batch, time, space, width = x.shape

        def residual(branch):
            branch = nn.Dropout(self.dropout, deterministic=not train)(branch.reshape(batch, time, space, width))
            return layers.StochasticDepth()(branch, drop_rate, train)

        over_space = self.norm(name="norm1")(x).reshape(batch * time, space, width)
        x = x + residual(attention(name="attention")(constrain(over_space, vit.TOKENS)))
        over_time = self.norm(name="time_norm")(x).swapaxes(1, 2).reshape(batch * space, time, width)
        over_time = attention(name="time_attention")(constrain(over_time, vit.TOKENS))
        x = x + residual(over_time.reshape(batch, space, time, width).swapaxes(1, 2))
        y = self.norm(name="norm2")(x).reshape(batch * time, space, width)
        return x + residual(mlp(constrain(y, vit.TOKENS), train)), None


class VideoViTSpec(EncoderSpec, tag="vivit"):
    """A transformer over square clips with learned positions and a head on the mean of the tokens.

    A token is a tubelet: patch_size x patch_size px of `tubelet` frames. `space_time` says which attend to which:

    joint        each to all (model 1 of the paper)
    factorised   in each layer first to those of the same time, then to those of the same place (model 3)
    frames       to those of the same time alone, without positions in time: a ViT on each tubelet, and their mean;
                 what it knows of time is no more than a tubelet shows, which with tubelet=1 is nothing

    `sees` says what a tubelet is cut from: "frames"; "changes", GAIN times how much each pixel differs from that of the
    frame before; or "both", as channels side by side.
    """

    frames: int = field(default=16, check=COUNT, doc="of a clip")
    tubelet: int = field(default=2, check=COUNT, doc="frames of a token")
    space_time: str = field(default="joint", check=checks.one_of(*ATTENDING), doc="which tokens attend to which")
    sees: str = field(default="frames", check=checks.one_of(*SEEN), doc="what tokens are made of")

    def validate(self) -> None:
        """Raises FieldError for sizes that do not fit one another."""
        super().validate()
        if self.frames % self.tubelet:
            raise invalid(self, "frames", f"must be a multiple of tubelet={self.tubelet}")


class VideoViT(vit.ViT):
    """Clips [batch, frames, image_size, image_size, channels] to logits [batch, num_classes] in float32."""

    spec: VideoViTSpec
    logical_axes = LOGICAL_AXES
    spec_class: ClassVar[type[Spec]] = VideoViTSpec
    topology: ClassVar[dict[str, bool]] = {}

    @property
    def block(self) -> type[nn.Module]:
        """What a layer is."""
        return FactorisedBlock if self.spec.space_time == "factorised" else vit.Block

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        spec = self.spec
        batch, frames, height, width = images.shape[:4]
        if (frames, height, width) != (spec.frames, spec.image_size, spec.image_size):
            raise ValueError(
                f"the model's frames={spec.frames} and image_size={spec.image_size}, but it is given {frames} frames "
                f"of {height} x {width}; those of the data must be the same"
            )
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = functools.partial(layers.NORMS[spec.norm], epsilon=spec.layer_norm_epsilon, **dtypes)
        x = nn.Dense(spec.width, name="tubelets", **dtypes)(self._tubelets(self._seen(images.astype(self.dtype))))
        time, space = x.shape[1:3]
        init = nn.initializers.normal(0.02)
        where = self.param("space", init, (1, space, spec.width), self.param_dtype).astype(x.dtype)
        x = x + where[:, None]
        if spec.space_time != "frames":
            when = self.param("time", init, (1, time, spec.width), self.param_dtype).astype(x.dtype)
            x = x + when[:, :, None]
        x = nn.Dropout(spec.dropout, deterministic=not train)(x)
        if spec.space_time != "factorised":
            rows = batch if spec.space_time == "joint" else batch * time
            x = x.reshape(rows, -1, spec.width)
        x = self._encode(constrain(x, _names(x)), train, norm, dtypes)
        x = norm(name="norm")(x).reshape(batch, time * space, spec.width)
        x = constrain(constrain(x, vit.TOKENS).mean(1), ("batch", "embed"))
        return layers.classify(x, self.num_classes, self.param_dtype, kernel_init=nn.initializers.zeros)

    def _seen(self, images: jax.Array) -> jax.Array:
        sees = self.spec.sees
        if sees == "frames":
            return images
        changes = GAIN * jnp.abs(jnp.diff(images, axis=1))
        changes = jnp.concatenate([changes[:, :1], changes], 1)  # nothing is before the first frame
        return changes if sees == "changes" else jnp.concatenate([images, changes], -1)

    def _tubelets(self, images: jax.Array) -> jax.Array:
        """[batch, time, space, pixels of a tubelet]."""
        spec = self.spec
        batch, channels, side = images.shape[0], images.shape[-1], spec.image_size // spec.patch_size
        patch, tubelet = spec.patch_size, spec.tubelet
        x = images.reshape(batch, spec.frames // tubelet, tubelet, side, patch, side, patch, channels)
        x = x.transpose(0, 1, 3, 5, 2, 4, 6, 7)
        return x.reshape(batch, spec.frames // tubelet, side * side, tubelet * patch * patch * channels)


def _names(x: jax.Array) -> tuple[str | None, ...]:
    return vit.TOKENS if x.ndim == 3 else ("batch", None, "length", "embed")
