"""ResNet v1.5 (He et al., 2016): the stride of a bottleneck is in its 3x3 convolution, as in torchvision.

`stem="cifar"` with basic blocks and three stages is the family of the paper's section 4.2 (ResNet-20, -56, ...), with
projection shortcuts where the shape changes.
"""

import functools
from collections.abc import Callable
from typing import ClassVar

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from research.models import layers
from research.models.shapes import FeatureMaps, Images
from research.models.specs import COUNT, DTYPE, EPSILON, LAYERS, RATE, from_fields
from research.parallel.sharding import constrain
from research.spec import Spec, checks, field

SIZES = {
    "18": {"stage_sizes": (2, 2, 2, 2), "block": "basic"},
    "50": {"stage_sizes": (3, 4, 6, 3), "block": "bottleneck"},
    "cifar20": {"stage_sizes": (3, 3, 3), "block": "basic", "width": 16, "stem": "cifar"},
}

LOGICAL_AXES = (
    (".*conv[0-9]*/kernel", ("height", "width", "channels_in", "channels")),
    (".*norm[0-9]*/(scale|bias|mean|var)", ("channels",)),
    ("head/kernel", ("embed", "classes")),
    ("head/bias", ("classes",)),
)

IMAGE = ("batch", "height", "width", "channels")
_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # He et al., 2015


class Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    features: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    last_scale: nn.initializers.Initializer
    expansion = 1

    @nn.compact
    def __call__(self, x: Float[Array, "batch _ _ _"]) -> Float[Array, "batch _ _ _"]:
        y = self.conv(self.features, (3, 3), self.stride, padding=1, name="conv1")(x)
        y = nn.relu(self.norm(name="norm1")(y))
        y = self.conv(self.features, (3, 3), padding=1, name="conv2")(y)
        y = self.norm(name="norm2", scale_init=self.last_scale)(y)
        return constrain(nn.relu(y + _shortcut(self, x, y)), IMAGE)


class Bottleneck(nn.Module):
    """1x1 down, 3x3 with the stride, 1x1 up to four times the features, and a shortcut."""

    features: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    last_scale: nn.initializers.Initializer
    expansion = 4

    @nn.compact
    def __call__(self, x: Float[Array, "batch _ _ _"]) -> Float[Array, "batch _ _ _"]:
        y = nn.relu(self.norm(name="norm1")(self.conv(self.features, (1, 1), name="conv1")(x)))
        y = self.conv(self.features, (3, 3), self.stride, padding=1, name="conv2")(y)
        y = nn.relu(self.norm(name="norm2")(y))
        y = self.conv(self.features * self.expansion, (1, 1), name="conv3")(y)
        y = self.norm(name="norm3", scale_init=self.last_scale)(y)
        return constrain(nn.relu(y + _shortcut(self, x, y)), IMAGE)


def _shortcut(block: Basic | Bottleneck, x: jax.Array, y: jax.Array) -> jax.Array:
    """`x`, projected if its shape differs from that of the branch."""
    if x.shape == y.shape:
        return x
    return block.norm(name="shortcut_norm")(block.conv(y.shape[-1], (1, 1), block.stride, name="shortcut_conv")(x))


BLOCKS = {"basic": Basic, "bottleneck": Bottleneck}
STEMS = {"imagenet": (7, 2), "half": (3, 2), "cifar": (3, 1)}  # kernel and stride; a max-pool follows "imagenet"


class ResNetSpec(Spec, tag="resnet"):
    """A residual network."""

    stage_sizes: tuple[int, ...] = field(
        default=(3, 4, 6, 3), check=checks.not_empty() & checks.each(LAYERS), doc="blocks of each stage"
    )
    block: str = field(default="bottleneck", check=checks.one_of(*BLOCKS), doc="kind of block")
    width: int = field(default=64, check=COUNT, doc="features of the first stage; each stage doubles them")
    stem: str = field(
        default="imagenet", check=checks.one_of(*STEMS),
        doc="downsampling before the first stage: 4 (imagenet), 2 (half) or 1 (cifar)",
    )  # fmt: skip
    zero_init_residual: bool = field(default=True, doc="start every block as the identity (Goyal et al., 2017)")
    momentum: float = field(default=0.9, check=RATE, doc="decay of the moving averages of batch norm")
    epsilon: float = field(default=1e-5, check=EPSILON, doc="added to the variance in batch norm")


class ResNet(nn.Module):
    """Images [batch, height, width, channels] to logits [batch, num_classes] in float32.

    With `num_classes` 0, to the feature maps [batch, height, width, channels] of all stages, the finest first.
    Batch norm statistics are over one microbatch, over the whole mesh.
    """

    spec: ResNetSpec
    num_classes: int
    dtype: str = DTYPE
    param_dtype: str = DTYPE
    logical_axes = LOGICAL_AXES
    spec_class: ClassVar[type[Spec]] = ResNetSpec
    of = from_fields

    @property
    def strides(self) -> tuple[int, ...]:
        """The stride of each stage's feature map, in px."""
        first = {"imagenet": 4, "half": 2, "cifar": 1}[self.spec.stem]
        return tuple(first * 2**stage for stage in range(len(self.spec.stage_sizes)))

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Float[Array, "batch classes"] | FeatureMaps:
        spec = self.spec
        block, (kernel, stride) = BLOCKS[spec.block], STEMS[spec.stem]
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = functools.partial(nn.Conv, use_bias=False, kernel_init=_fan_out, **dtypes)
        norm = layers.batch_norm(use_running_average=not train, momentum=spec.momentum, epsilon=spec.epsilon, **dtypes)
        x = conv(spec.width, (kernel, kernel), stride, padding=kernel // 2, name="conv1")(images.astype(self.dtype))
        x = constrain(nn.relu(norm(name="norm1")(x)), IMAGE)
        if spec.stem == "imagenet":
            # Flax's annotation allows only strings, but numbers work, too.
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]
        last_scale = nn.initializers.zeros if spec.zero_init_residual else nn.initializers.ones
        maps = []
        for stage, blocks in enumerate(spec.stage_sizes):
            for index in range(blocks):
                stride = 2 if stage and not index else 1
                name = f"stage{stage + 1}_block{index + 1}"
                x = block(spec.width * 2**stage, stride, conv, norm, last_scale, name=name)(x)
            maps.append(x)
        if not self.num_classes:
            return tuple(maps)
        x = constrain(x.mean((1, 2)), ("batch", "embed"))
        return layers.classify(x, self.num_classes, self.param_dtype)
