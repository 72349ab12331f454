"""ConvNeXt (Liu et al., 2022, "A ConvNet for the 2020s")."""

import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from research.models import layers
from research.models.dense import Dense
from research.models.shapes import Images
from research.models.specs import COUNT, DTYPE, EPSILON, LAYERS, RATE, from_fields
from research.parallel.sharding import constrain
from research.spec import Spec, checks, field, invalid

SIZES = {
    "T": {"stage_sizes": (3, 3, 9, 3), "widths": (96, 192, 384, 768)},
    "S": {"stage_sizes": (3, 3, 27, 3), "widths": (96, 192, 384, 768)},
    "B": {"stage_sizes": (3, 3, 27, 3), "widths": (128, 256, 512, 1024)},
}

LOGICAL_AXES = (
    (".*(depthwise|stem|downsample[0-9])/kernel", ("height", "width", "channels_in", "channels")),
    (".*(depthwise|stem|downsample[0-9])/bias", ("channels",)),
    (".*/up/kernel", ("embed", "mlp")),
    (".*/up/bias", ("mlp",)),
    (".*/down/kernel", ("mlp", "embed")),
    (".*(down/bias|layer_scale)", ("embed",)),
    (".*norm[0-9]*/(scale|bias)", ("channels",)),
    ("head/kernel", ("embed", "classes")),
    ("head/bias", ("classes",)),
)

IMAGE = ("batch", "height", "width", "channels")
# A depthwise convolution is sharded over `tensor` by channels. Without this constraint XLA computes it on every device
# of the axis and sums the kernel gradients, which are then too large by the size of the axis.
DEPTHWISE = ("batch", "height", "width", "depthwise")
_init = nn.initializers.truncated_normal(0.02)


class ConvNeXtBlock(nn.Module):
    """7x7 depthwise convolution, layer norm, an MLP of four times the width, layer scale, stochastic depth."""

    drop_rate: float
    layer_scale: float
    epsilon: float
    gelu: str
    dtypes: Mapping[str, Any]

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool
    ) -> Float[Array, "batch height width channels"]:
        width = x.shape[-1]
        conv = nn.Conv(
            width, (7, 7), padding=3, feature_group_count=width, kernel_init=_init, name="depthwise", **self.dtypes
        )
        y = constrain(conv(constrain(x, DEPTHWISE)), DEPTHWISE)
        y = constrain(layers.LayerNorm(epsilon=self.epsilon, name="norm", **self.dtypes)(y), IMAGE)
        dense = functools.partial(Dense, kernel_init=_init, **self.dtypes)
        y = constrain(layers.GELU[self.gelu](dense(4 * width, name="up")(y)), ("batch", "height", "width", "mlp"))
        y = constrain(dense(width, name="down")(y), IMAGE)
        if self.layer_scale:
            start = nn.initializers.constant(self.layer_scale)
            y = y * self.param("layer_scale", start, (width,), self.dtypes["param_dtype"]).astype(y.dtype)
        return constrain(x + layers.StochasticDepth()(y, self.drop_rate, train), IMAGE)


class ConvNeXtSpec(Spec, tag="convnext"):
    """A ConvNeXt."""

    stage_sizes: tuple[int, ...] = field(
        default=(3, 3, 9, 3), check=checks.not_empty() & checks.each(LAYERS), doc="blocks of each stage"
    )
    widths: tuple[int, ...] = field(
        default=(96, 192, 384, 768), check=checks.not_empty() & checks.each(COUNT), doc="features of each stage"
    )
    stochastic_depth: float = field(default=0.0, check=RATE, doc="rate of the last block; it grows linearly from 0")
    layer_scale: float = field(default=1e-6, check=checks.between(0, 100), doc="initial value of layer scale; 0: off")
    epsilon: float = field(default=1e-6, check=EPSILON, doc="added to the variance in the norms")
    last_epsilon: float = field(default=1e-6, check=EPSILON, doc="as epsilon, in the norm before the head")
    gelu: str = field(default="exact", check=checks.one_of(*layers.GELU), doc="form of the activation")

    def validate(self) -> None:
        """Raises FieldError if stages and widths differ in number."""
        if len(self.widths) != len(self.stage_sizes):
            raise invalid(self, "widths", f"must have as many values as stage_sizes={self.stage_sizes}")


class ConvNeXt(nn.Module):
    """Images [batch, height, width, channels] to logits [batch, num_classes] in float32."""

    spec: ConvNeXtSpec
    num_classes: int
    dtype: str = DTYPE
    param_dtype: str = DTYPE
    logical_axes = LOGICAL_AXES
    spec_class: ClassVar[type[Spec]] = ConvNeXtSpec
    of = from_fields

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Float[Array, "batch classes"]:
        spec = self.spec
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = functools.partial(nn.Conv, padding="VALID", kernel_init=_init, **dtypes)
        norm = functools.partial(layers.LayerNorm, epsilon=spec.epsilon, **dtypes)
        rates = iter(np.linspace(0, spec.stochastic_depth, sum(spec.stage_sizes)))
        x = conv(spec.widths[0], (4, 4), 4, name="stem")(images.astype(self.dtype))
        x = constrain(norm(name="stem_norm")(x), IMAGE)
        for stage, (blocks, width) in enumerate(zip(spec.stage_sizes, spec.widths, strict=True)):
            if stage:
                x = norm(name=f"downsample_norm{stage}")(x)
                x = constrain(conv(width, (2, 2), 2, name=f"downsample{stage}")(x), IMAGE)
            for index in range(blocks):
                block = ConvNeXtBlock(
                    float(next(rates)),
                    spec.layer_scale,
                    spec.epsilon,
                    spec.gelu,
                    dtypes,
                    name=f"stage{stage + 1}_block{index + 1}",
                )
                x = block(x, train)
        x = constrain(norm(name="norm", epsilon=spec.last_epsilon)(x.mean((1, 2))), ("batch", "embed"))
        return layers.classify(x, self.num_classes, self.param_dtype, kernel_init=_init)
