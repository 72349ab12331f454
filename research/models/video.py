"""Transformers over the space and time of clips (Arnab et al., "ViViT: A Video Vision Transformer", 2021)."""

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from research.models import layers, vit
from research.models.attention import Attention, Context
from research.models.dense import Dense
from research.models.positions import Learned
from research.models.shapes import AnyArray, Clips
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
INPUTS = ("frames", "changes", "both")
GAIN = 4.0  # frame differences are small compared with the range of pixels


class SpaceAttention(Attention):
    """Attention of tokens [batch, time, space, width] to those of the same time."""

    def __call__(
        self, x: Float[Array, "batch time space embed"], context: Context
    ) -> Float[Array, "batch time space embed"]:
        """See `Attention`."""
        return super().__call__(x.reshape(-1, *x.shape[2:]), context).reshape(x.shape)


class TimeAttention(Attention):
    """Attention of tokens [batch, time, space, width] to those of the same patch."""

    def __call__(
        self, x: Float[Array, "batch time space embed"], context: Context
    ) -> Float[Array, "batch time space embed"]:
        """See `Attention`."""
        batch, time, space, width = x.shape
        x = super().__call__(x.swapaxes(1, 2).reshape(batch * space, time, width), context)
        return x.reshape(batch, space, time, width).swapaxes(1, 2)


# In this order: model 3 of the paper.
FACTORISED: vit.Mixers = (("attention", SpaceAttention), ("time_attention", TimeAttention))


class VideoViTSpec(EncoderSpec, tag="vivit"):
    """A video transformer on square clips, with learned positions and a head on the mean of the tokens.

    A token is a tubelet: patch_size x patch_size px of `tubelet` frames. `space_time` is the form of attention:

    joint        to all tokens (model 1 of the paper)
    factorised   in each layer first to tokens of the same time, then to those of the same patch (model 3)
    frames       only to tokens of the same time, without positions in time: a ViT on each tubelet, averaged; time is
                 modelled only within a tubelet, with tubelet=1 not at all

    `input_mode` is the input of the tubelets: "frames"; "changes", GAIN times the difference of each pixel to the frame
    before; or "both", concatenated over channels.
    """

    frames: int = field(default=16, check=COUNT, doc="frames per clip")
    tubelet: int = field(default=2, check=COUNT, doc="frames per token")
    space_time: str = field(default="joint", check=checks.one_of(*ATTENDING), doc="which tokens attend to which")
    input_mode: str = field(default="frames", check=checks.one_of(*INPUTS), renamed="sees", doc="input of the tokens")

    def validate(self) -> None:
        """Raises FieldError for inconsistent sizes."""
        super().validate()
        if self.frames % self.tubelet:
            raise invalid(self, "frames", f"must be a multiple of tubelet={self.tubelet}")


class VideoViT(vit.ViT):
    """Clips [batch, frames, image_size, image_size, channels] to logits [batch, num_classes] in float32."""

    spec: VideoViTSpec  # pyright: ignore[reportIncompatibleVariableOverride]  # modules are frozen
    logical_axes = LOGICAL_AXES
    spec_class: ClassVar[type[Spec]] = VideoViTSpec

    @nn.compact
    def __call__(self, images: Clips, train: bool = False) -> Float[Array, "batch classes"]:
        spec = self.spec
        batch, frames, height, width = images.shape[:4]
        if (frames, height, width) != (spec.frames, spec.image_size, spec.image_size):
            raise ValueError(
                f"config.model has frames={spec.frames} and image_size={spec.image_size}, but clips have {frames} "
                f"frames of {height} x {width} px; set both equal"
            )
        dtypes: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = Dense(spec.width, name="tubelets", **dtypes)(self._tubelets(self._inputs(images.astype(self.dtype))))
        time, space = x.shape[1:3]
        space_positions = Learned((1, space, spec.width), "space")
        x = space_positions.embed(space_positions.create(self.param, self.param_dtype)[:, None], x)
        if spec.space_time != "frames":
            time_positions = Learned((1, time, spec.width), "time")
            x = time_positions.embed(time_positions.create(self.param, self.param_dtype)[:, :, None], x)
        x = nn.Dropout(spec.dropout, deterministic=not train)(x)
        if spec.space_time != "factorised":
            rows = batch if spec.space_time == "joint" else batch * time
            x = x.reshape(rows, -1, spec.width)
        mixers = FACTORISED if spec.space_time == "factorised" else vit.MIXERS
        blocks = vit.make_stack(spec, dtypes, "pre", mixers)(name="blocks")
        x = blocks(layers.tokens(x), Context(train=train))
        x = vit.make_norm(spec, dtypes)(name="norm")(x).reshape(batch, time * space, spec.width)
        x = constrain(layers.tokens(x).mean(1), ("batch", "embed"))
        return layers.classify(x, self.num_classes, self.param_dtype, kernel_init=nn.initializers.zeros)

    def _inputs(self, images: AnyArray) -> AnyArray:
        mode = self.spec.input_mode
        if mode == "frames":
            return images
        changes = GAIN * jnp.abs(jnp.diff(images, axis=1))
        changes = jnp.concatenate([changes[:, :1], changes], 1)  # the first frame has no predecessor
        return changes if mode == "changes" else jnp.concatenate([images, changes], -1)

    def _tubelets(self, images: AnyArray) -> AnyArray:
        """Flattened tubelets [batch, time, space, pixels of a tubelet]."""
        spec = self.spec
        batch, channels, side = images.shape[0], images.shape[-1], spec.image_size // spec.patch_size
        patch, tubelet = spec.patch_size, spec.tubelet
        x = images.reshape(batch, spec.frames // tubelet, tubelet, side, patch, side, patch, channels)
        x = x.transpose(0, 1, 3, 5, 2, 4, 6, 7)
        return x.reshape(batch, spec.frames // tubelet, side * side, tubelet * patch * patch * channels)
