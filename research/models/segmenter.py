"""Semantic segmentation: a backbone that returns feature maps, and a decoder over them."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from research.models import layers
from research.models.dense import Dense
from research.models.pyramid import FPN, LOGICAL_AXES, ConvNorm, SimplePyramid, upsample
from research.models.shapes import FeatureMaps, Images
from research.models.specs import COUNT, DTYPE, RATE, around
from research.parallel.sharding import Table, constrain
from research.spec import FieldError, Spec, checks, field


class UNet(nn.Module):
    """U-Net decoder: from the coarsest map on, upsampling by 2, concatenation with the next map, 3x3 convolution.

    As Ronneberger et al., 2015, but with one convolution per level. `channels` are those of each level, coarsest first.
    """

    channels: tuple[int, ...]
    dtypes: Mapping[str, Any]

    @nn.compact
    def __call__(self, maps: FeatureMaps, train: bool) -> Float[Array, "batch height width channels"]:
        if len(self.channels) != len(maps) - 1:
            needs = f"one for each of the {len(maps)} maps of the backbone except the coarsest"
            raise _wrong_count(self.channels, "unet", needs)
        x = maps[-1]
        for level, (finer, features) in enumerate(zip(reversed(maps[:-1]), self.channels, strict=True), start=1):
            x = jnp.concatenate([upsample(x, finer.shape[1:3]), finer], axis=-1)
            x = ConvNorm(features, self.dtypes, name=f"up{level}")(x, train)
        return x


class SumOfLevels(nn.Module):
    """A feature pyramid, a 3x3 convolution of each of its maps, and their sum at the size of the finest.

    As the semantic branch of Kirillov et al., 2019, with the coarser maps upsampled in one step. `channels`: of
    the pyramid, and of the convolutions.
    """

    channels: tuple[int, ...]
    dtypes: Mapping[str, Any]

    @nn.compact
    def __call__(self, maps: FeatureMaps, train: bool) -> Float[Array, "batch height width channels"]:
        if len(self.channels) != 2:
            raise _wrong_count(self.channels, "fpn", "two: those of the pyramid and those of the sum")
        maps, levels = FPN(self.channels[0], 0, self.dtypes, name="fpn")(maps), []
        for level in reversed(range(len(maps))):
            x = ConvNorm(self.channels[1], self.dtypes, name=f"level{level + 1}")(maps[level], train)
            for finer in reversed(maps[:level]):
                x = upsample(x, finer.shape[1:3])
            levels.append(x)
        return functools.reduce(jnp.add, levels)


class Linear(nn.Module):
    """The coarsest map, unchanged (the linear decoder of Strudel et al., 2021, "Segmenter")."""

    channels: tuple[int, ...]
    dtypes: Mapping[str, Any]

    def __call__(self, maps: FeatureMaps, train: bool) -> Float[Array, "batch height width channels"]:
        return maps[-1]


def _wrong_count(channels: tuple[int, ...], decoder: str, needs: str) -> FieldError:
    problem = f"={channels} has {len(channels)} entries; decoder={decoder!r} needs {needs}"
    return FieldError(("decoder_channels",), problem)


DECODERS: dict[str, Callable] = {"unet": UNet, "fpn": SumOfLevels, "linear": Linear}


class SegmenterSpec(Spec):
    """The decoder of a segmentation model."""

    decoder: str = field(default="unet", check=checks.one_of(*DECODERS), doc="unet, fpn or linear")
    decoder_channels: tuple[int, ...] = field(
        default=(), check=checks.each(COUNT), doc="channels of each level, see the decoders"
    )
    decoder_dropout: float = field(default=0.0, check=RATE, doc="dropout rate of whole channels before the last layer")


class Segmenter(nn.Module):
    """Images [batch, height, width, channels] to logits [batch, height, width, num_classes] in float32.

    `backbone` returns feature maps (a ResNet, ViT or EfficientNet with 0 classes); for decoders of several maps, that
    of a ViT is resampled by a simple pyramid. The decoder's logits are upsampled bilinearly.
    """

    backbone: nn.Module
    spec: SegmenterSpec
    num_classes: int
    dtype: str = DTYPE
    param_dtype: str = DTYPE
    spec_class: ClassVar[type[Spec]] = SegmenterSpec
    of = around

    @property
    def logical_axes(self) -> Table:
        """From parameter path to logical axes."""
        return (*self.backbone.logical_axes, *LOGICAL_AXES)

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Float[Array, "batch height width classes"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        decoder = DECODERS[self.spec.decoder]
        maps = self.backbone(images, train)
        if len(maps) == 1 and self.spec.decoder != "linear":
            maps = SimplePyramid(0, 0, dtypes, name="pyramid")(maps)
        x = decoder(tuple(self.spec.decoder_channels), dtypes, name="decoder")(maps, train)
        x = nn.Dropout(self.spec.decoder_dropout, broadcast_dims=(1, 2), deterministic=not train)(x)
        dtype = layers.at_least_float32(x.dtype)
        logits = Dense(self.num_classes, name="head", dtype=dtype, param_dtype=self.param_dtype)(x)
        logits = constrain(logits, ("batch", "height", "width", "classes"))
        size = (images.shape[0], *images.shape[1:3], self.num_classes)
        return constrain(jax.image.resize(logits, size, "bilinear"), ("batch", "height", "width", "classes"))
