"""EfficientNet-Lite: EfficientNet (Tan and Le, 2019) without squeeze-and-excite, with ReLU6, for edge devices.

Stem and head have the same widths at every size, and the first and the last stage have one block
(github.com/tensorflow/tpu, models/official/efficientnet/lite). Lite0 is the default; `SIZES` are scaled from it.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from research.models import layers
from research.models.depthwise import DEPTHWISE, Depthwise, paddings
from research.models.shapes import FeatureMaps, Images
from research.models.specs import COUNT, DTYPE, EPSILON, LAYERS, RATE, from_fields
from research.parallel.sharding import constrain
from research.spec import Spec, checks, field, invalid

# Compound scaling: width and depth 1.0, 1.1 / 1.1, 1.2 / 1.2, 1.4 / 1.4, 1.8, widths rounded to multiples of 8.
SIZES = {
    "lite0": {"stage_sizes": (1, 2, 2, 3, 3, 4, 1), "widths": (16, 24, 40, 80, 112, 192, 320)},
    "lite1": {"stage_sizes": (1, 3, 3, 4, 4, 5, 1), "widths": (16, 24, 40, 80, 112, 192, 320)},
    "lite2": {"stage_sizes": (1, 3, 3, 4, 4, 5, 1), "widths": (16, 24, 48, 88, 120, 208, 352)},
    "lite3": {"stage_sizes": (1, 3, 3, 5, 5, 6, 1), "widths": (24, 32, 48, 96, 136, 232, 384)},
    "lite4": {"stage_sizes": (1, 4, 4, 6, 6, 8, 1), "widths": (24, 32, 56, 112, 160, 272, 448)},
}
STEM, HEAD, EXPANSION = 32, 1280, 6
PADDINGS = ("same", "symmetric")

LOGICAL_AXES = (
    (".*(depthwise|conv[0-9]*)/kernel", ("height", "width", "channels_in", "channels")),
    (".*norm[0-9]*/(scale|bias|mean|var)", ("channels",)),
    ("head/kernel", ("embed", "classes")),
    ("head/bias", ("classes",)),
)

IMAGE = ("batch", "height", "width", "channels")
_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_per_channel = nn.initializers.variance_scaling(2.0, "fan_in", "normal")  # with the fans of a single channel


class InvertedBottleneck(nn.Module):
    """1x1 up to `expansion` times the features, a depthwise convolution, 1x1 down without activation (MobileNetV2).

    With a shortcut if the shape is unchanged, then with stochastic depth of rate `drop_rate`.
    """

    features: int
    expansion: int
    conv: Callable[..., nn.Module]
    depthwise: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    drop_rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "batch _ _ _"], train: bool) -> Float[Array, "batch _ _ _"]:
        y = x
        if self.expansion > 1:
            y = self.conv(self.expansion * x.shape[-1], (1, 1), name="expand_conv")(y)
            y = jax.nn.relu6(self.norm(name="expand_norm")(y))
        y = constrain(self.depthwise(name="depthwise")(constrain(y, DEPTHWISE)), DEPTHWISE)
        y = jax.nn.relu6(self.norm(name="depthwise_norm")(y))
        y = self.norm(name="project_norm")(self.conv(self.features, (1, 1), name="project_conv")(y))
        if x.shape == y.shape:
            y = x + layers.StochasticDepth()(y, self.drop_rate, train)
        return constrain(y, IMAGE)


class EfficientNetSpec(Spec, tag="efficientnet"):
    """An EfficientNet-Lite."""

    stage_sizes: tuple[int, ...] = field(
        default=SIZES["lite0"]["stage_sizes"], check=checks.not_empty() & checks.each(LAYERS),
        doc="blocks of each stage",
    )  # fmt: skip
    widths: tuple[int, ...] = field(
        default=SIZES["lite0"]["widths"], check=checks.not_empty() & checks.each(COUNT), doc="features of each stage"
    )
    kernel_sizes: tuple[int, ...] = field(
        default=(3, 3, 5, 3, 5, 5, 3), check=checks.not_empty() & checks.each(checks.between(1, 31)),
        doc="kernel size in px of the depthwise convolutions of each stage",
    )  # fmt: skip
    stage_strides: tuple[int, ...] = field(
        default=(1, 2, 2, 2, 1, 2, 1), check=checks.not_empty() & checks.each(checks.between(1, 2)),
        doc="stride of the first block of each stage",
    )  # fmt: skip
    padding: str = field(
        default="same", check=checks.one_of(*PADDINGS),
        doc="padding of strided convolutions: same (as TensorFlow) or symmetric (as PyTorch)",
    )  # fmt: skip
    dropout: float = field(default=0.0, check=RATE, doc="dropout rate before the head")
    stochastic_depth: float = field(default=0.0, check=RATE, doc="rate of the last block; it grows linearly from 0")
    momentum: float = field(default=0.99, check=RATE, doc="decay of the moving averages of batch norm")
    epsilon: float = field(default=1e-3, check=EPSILON, doc="added to the variance in batch norm")

    def validate(self) -> None:
        """Raises FieldError if stages, widths, kernel sizes and strides differ in number."""
        for name in ("widths", "kernel_sizes", "stage_strides"):
            if len(getattr(self, name)) != len(self.stage_sizes):
                raise invalid(self, name, f"must have as many values as stage_sizes={self.stage_sizes}")


class EfficientNet(nn.Module):
    """Images [batch, height, width, channels] to logits [batch, num_classes] in float32.

    With `num_classes` 0, to feature maps [batch, height, width, channels] of each resolution, the finest first: the
    output of the last stage before each downsampling, and of the last stage. They exclude the head's convolution.
    Batch norm statistics are over one microbatch, over the whole mesh.
    """

    spec: EfficientNetSpec
    num_classes: int
    dtype: str = DTYPE
    param_dtype: str = DTYPE
    logical_axes = LOGICAL_AXES
    spec_class: ClassVar[type[Spec]] = EfficientNetSpec
    of = from_fields

    @property
    def strides(self) -> tuple[int, ...]:
        """The stride of each feature map, in px."""
        return tuple(dict.fromkeys([2, *(2 * np.cumprod(self.spec.stage_strides)).tolist()]))

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Float[Array, "batch classes"] | FeatureMaps:
        spec = self.spec
        dtypes: Mapping[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = functools.partial(nn.Conv, use_bias=False, kernel_init=_fan_out, **dtypes)
        norm = layers.batch_norm(use_running_average=not train, momentum=spec.momentum, epsilon=spec.epsilon, **dtypes)
        padding = paddings(images.shape[1:3], 3, 2, spec.padding)
        x = conv(STEM, (3, 3), 2, padding=padding, name="conv1")(images.astype(self.dtype))
        x = constrain(jax.nn.relu6(norm(name="norm1")(x)), IMAGE)
        rates, maps = iter(np.linspace(0, spec.stochastic_depth, sum(spec.stage_sizes))), []
        stages = zip(spec.stage_sizes, spec.widths, spec.kernel_sizes, spec.stage_strides, strict=True)
        for stage, (blocks, width, kernel_size, stride) in enumerate(stages, start=1):
            maps += [x] if stride > 1 else []
            for index in range(blocks):
                depthwise = functools.partial(
                    Depthwise, kernel_size, 1 if index else stride, spec.padding, kernel_init=_per_channel, **dtypes
                )
                expansion = 1 if stage == 1 else EXPANSION
                name = f"stage{stage}_block{index + 1}"
                block = InvertedBottleneck(width, expansion, conv, depthwise, norm, float(next(rates)), name=name)
                x = block(x, train)
        if not self.num_classes:
            return (*maps, x)
        x = constrain(jax.nn.relu6(norm(name="head_norm")(conv(HEAD, (1, 1), name="head_conv")(x))), IMAGE)
        x = constrain(x.mean((1, 2)), ("batch", "embed"))
        x = nn.Dropout(spec.dropout, deterministic=not train)(x)
        return layers.classify(x, self.num_classes, self.param_dtype)
