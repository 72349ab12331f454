"""Feature pyramids over any backbone: FPN, and the simple pyramid of ViTDet."""

import functools
from collections.abc import Mapping
from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float

from research.models import layers
from research.models.resnet import IMAGE
from research.models.shapes import FeatureMaps
from research.parallel.sharding import constrain

LOGICAL_AXES = (
    (".*conv[0-9]*/kernel", ("height", "width", "channels_in", "channels")),
    (".*conv[0-9]*/bias", ("channels",)),
    (".*norm[0-9]*/(scale|bias|mean|var)", ("channels",)),
)


class ConvNorm(nn.Module):
    """A 3x3 convolution, batch norm and ReLU."""

    features: int
    dtypes: Mapping[str, Any]

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width _"], train: bool
    ) -> Float[Array, "batch height width features"]:
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        x = nn.Conv(self.features, (3, 3), use_bias=False, kernel_init=init, name="conv", **self.dtypes)(x)
        norm = layers.batch_norm(use_running_average=not train, momentum=0.9, **self.dtypes)
        return constrain(nn.relu(norm(name="norm")(x)), IMAGE)


class FPN(nn.Module):
    """Feature pyramid network (Lin et al., 2017): a top-down pathway and lateral connections, with `channels` channels.

    `extra` coarser maps, each half as large as the one before, are convolutions of the coarsest (RetinaNet's P6, P7).
    """

    channels: int
    extra: int
    dtypes: Mapping[str, Any]

    @nn.compact
    def __call__(self, maps: FeatureMaps) -> FeatureMaps:
        conv = functools.partial(nn.Conv, self.channels, **self.dtypes)
        merged, above = [], None
        for level in reversed(range(len(maps))):
            x = conv((1, 1), name=f"lateral_conv{level + 1}")(maps[level])
            above = constrain(x if above is None else x + upsample(above, x.shape[1:3]), IMAGE)
            merged.insert(0, above)
        out = [constrain(conv((3, 3), name=f"out_conv{level + 1}")(x), IMAGE) for level, x in enumerate(merged)]
        return (*out, *coarser(out[-1], self.extra, conv))


class SimplePyramid(nn.Module):
    """Resamples the map of a plain ViT to 4, 2, 1 and 1/2 times its height and width (Li et al., 2022, "ViTDet").

    `channels` is the number of channels of each; 0: 1/4, 1/2, 1 and 1 times those of the ViT's map.
    """

    channels: int
    extra: int
    dtypes: Mapping[str, Any]

    @nn.compact
    def __call__(self, maps: FeatureMaps) -> FeatureMaps:
        x = maps[-1]
        width = x.shape[-1]
        up = functools.partial(nn.ConvTranspose, kernel_size=(2, 2), strides=(2, 2), **self.dtypes)
        norm = functools.partial(layers.LayerNorm, **self.dtypes)
        two = constrain(up(width // 2, name="double_deconv")(x), IMAGE)
        four = nn.gelu(norm(name="quadruple_norm")(up(width // 2, name="quadruple_deconv1")(x)))
        four = constrain(up(width // 4, name="quadruple_deconv2")(four), IMAGE)
        half = nn.max_pool(x, (2, 2), (2, 2), padding="SAME")
        if not self.channels:
            return (four, two, x, half)
        conv = functools.partial(nn.Conv, self.channels, **self.dtypes)
        out = []
        for level, each in enumerate((four, two, x, half), start=1):
            each = norm(name=f"lateral_norm{level}")(conv((1, 1), use_bias=False, name=f"lateral_conv{level}")(each))
            each = norm(name=f"out_norm{level}")(conv((3, 3), use_bias=False, name=f"out_conv{level}")(each))
            out.append(constrain(each, IMAGE))
        return (*out, *coarser(out[-1], self.extra, conv))


def coarser(x: Float[Array, "batch height width channels"], count: int, conv: Any) -> FeatureMaps:
    """`count` coarser maps, each a 3x3 convolution with stride 2 of the one before. To be called in a module."""
    maps = []
    for level in range(count):
        x = constrain(conv((3, 3), 2, padding=1, name=f"extra_conv{level + 1}")(nn.relu(x) if level else x), IMAGE)
        maps.append(x)
    return tuple(maps)


def upsample(
    x: Float[Array, "batch _ _ channels"], size: tuple[int, ...]
) -> Float[Array, "batch height width channels"]:
    """Upsamples a map by 2 with nearest neighbours, cropped to `size` (which downsampling had rounded up)."""
    return x.repeat(2, axis=1).repeat(2, axis=2)[:, : size[0], : size[1]]
