"""Transformers over the space and time of clips (Arnab et al., "ViViT: A Video Vision Transformer", 2021)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from research import config as config_lib
from research.models import layers, vit
from research.parallel.sharding import constrain

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

    Model 3 of the paper. It is built as vit.Block is, but has no form with `parallel` branches.
    """

    mlp_dim: int
    num_heads: int
    dropout: float
    norm: Callable
    gelu: str
    qkv_bias: bool
    key_bias: bool
    qk_norm: Callable | None
    parallel: bool
    attention: str
    dtypes: dict[str, Any]
    gather: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, drop_rate: jax.Array, train: bool) -> tuple[jax.Array, None]:
        if self.parallel:
            raise ValueError("config.model.parallel=True is not known to space_time='factorised'; use 'joint'")
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


class VideoViT(vit.ViT):
    """Clips [batch, frames, image_size, image_size, channels] to logits [batch, num_classes] in float32.

    A token is a tubelet: patch_size x patch_size px of `tubelet` frames. Positions are learned, in space and in time,
    and the tokens of the last layer are averaged. `space_time` says which tokens attend to which:

    joint        each to all (model 1 of the paper)
    factorised   in each layer first to those of the same time, then to those of the same place (model 3)
    frames       to those of the same time alone, without positions in time: a ViT on each tubelet, and their mean;
                 what it knows of time is no more than a tubelet shows, which with tubelet=1 is nothing

    `sees` says what a tubelet is cut from: "frames"; "changes", GAIN times how much each pixel differs from that of the
    frame before; or "both", as channels side by side.
    """

    frames: int = 16
    tubelet: int = 2
    space_time: str = "joint"
    sees: str = "frames"
    logical_axes = LOGICAL_AXES

    @property
    def block(self) -> type[nn.Module]:
        """What a layer is."""
        return FactorisedBlock if self.space_time == "factorised" else vit.Block

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        batch, frames, height, width = images.shape[:4]
        if (frames, height, width) != (self.frames, self.image_size, self.image_size):
            raise ValueError(
                f"config.model.frames={self.frames} and image_size={self.image_size}, but config.data gives "
                f"{frames} frames of {height} x {width}"
            )
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = functools.partial(layers.NORMS[self.norm], epsilon=self.layer_norm_epsilon, **dtypes)
        x = nn.Dense(self.width, name="tubelets", **dtypes)(self._tubelets(self._seen(images.astype(self.dtype))))
        time, space = x.shape[1:3]
        init = nn.initializers.normal(0.02)
        where = self.param("space", init, (1, space, self.width), self.param_dtype).astype(x.dtype)
        x = x + where[:, None]
        if self.space_time != "frames":
            when = self.param("time", init, (1, time, self.width), self.param_dtype).astype(x.dtype)
            x = x + when[:, :, None]
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        if self.space_time != "factorised":
            rows = batch if self.space_time == "joint" else batch * time
            x = x.reshape(rows, -1, self.width)
        x = self._encode(constrain(x, _names(x)), train, norm, dtypes)
        x = norm(name="norm")(x).reshape(batch, time * space, self.width)
        x = constrain(constrain(x, vit.TOKENS).mean(1), ("batch", "embed"))
        return layers.classify(x, self.num_classes, self.param_dtype, kernel_init=nn.initializers.zeros)

    def _seen(self, images: jax.Array) -> jax.Array:
        if self.sees == "frames":
            return images
        changes = GAIN * jnp.abs(jnp.diff(images, axis=1))
        changes = jnp.concatenate([changes[:, :1], changes], 1)  # nothing is before the first frame
        return changes if self.sees == "changes" else jnp.concatenate([images, changes], -1)

    def _tubelets(self, images: jax.Array) -> jax.Array:
        """[batch, time, space, pixels of a tubelet]."""
        batch, channels, side = images.shape[0], images.shape[-1], self.image_size // self.patch_size
        patch, tubelet = self.patch_size, self.tubelet
        x = images.reshape(batch, self.frames // tubelet, tubelet, side, patch, side, patch, channels)
        x = x.transpose(0, 1, 3, 5, 2, 4, 6, 7)
        return x.reshape(batch, self.frames // tubelet, side * side, tubelet * patch * patch * channels)

    def _check(self) -> None:
        super()._check()
        config_lib.choose(dict.fromkeys(ATTENDING), self.space_time, "model.space_time")
        config_lib.choose(dict.fromkeys(SEEN), self.sees, "model.sees")
        if self.tubelet < 1 or self.frames % self.tubelet:
            raise ValueError(f"config.model.frames={self.frames} must be a multiple of tubelet={self.tubelet}")
        for field, known in (("pool", "mean"), ("positions", "learned"), ("stem", "patch")):
            if getattr(self, field) != known:
                raise ValueError(f"config.model.{field}={getattr(self, field)!r} is not known to clips; use {known!r}")


def _names(x: jax.Array) -> tuple[str | None, ...]:
    return vit.TOKENS if x.ndim == 3 else ("batch", None, "length", "embed")
