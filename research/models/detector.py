"""FCOS, an anchor-free one-stage detector (Tian et al., 2019), over any backbone that returns feature maps."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from research.models import layers, pyramid
from research.models.pyramid import FPN, IMAGE, SimplePyramid
from research.models.shapes import FeatureMaps, Images
from research.models.specs import DTYPE, around
from research.parallel.sharding import Table, constrain
from research.spec import FieldError, Spec, checks, field, invalid

PRIOR = 0.01  # the probability of every class at initialisation (Lin et al., 2017, "Focal loss")
GROUP = 8  # channels per group of group norm, if divisible: 32 groups of 256 channels (Tian et al., 2019)
LOGICAL_AXES = ((".*scales", (None,)),)
POINTS = ("batch", None, None)


class FcosOutputs(NamedTuple):
    """Predictions per location over all levels, the finest level first, row by row; all float32.

    class_logits [batch, points, classes]; distances [batch, points, 4] in px to left, top, right and bottom;
    centreness [batch, points], a logit.
    """

    class_logits: Float[Array, "batch points classes"]
    distances: Float[Array, "batch points 4"]
    centreness: Float[Array, "batch points"]


class Tower(nn.Module):
    """`depth` 3x3 convolutions, each with group norm and ReLU; the same for all levels."""

    depth: int
    channels: int
    dtypes: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch height width channels"]:
        groups = self.channels // math.gcd(GROUP, self.channels)
        for index in range(1, self.depth + 1):
            init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
            x = nn.Conv(self.channels, (3, 3), kernel_init=init, name=f"conv{index}", **self.dtypes)(x)
            x = nn.relu(nn.GroupNorm(groups, use_fast_variance=False, name=f"norm{index}", **self.dtypes)(x))
            x = constrain(x, IMAGE)
        return x


class Head(nn.Module):
    """Classes from one tower, boxes and centre-ness from another, shared by all levels."""

    num_classes: int
    depth: int
    channels: int
    strides: tuple[int, ...]
    dtypes: Mapping[str, Any]

    @nn.compact
    def __call__(self, maps: FeatureMaps) -> FcosOutputs:
        dtype = layers.at_least_float32(self.dtypes["dtype"])
        last = {"dtype": dtype, "param_dtype": self.dtypes["param_dtype"], "kernel_init": nn.initializers.normal(0.01)}
        rare = nn.initializers.constant(-math.log((1 - PRIOR) / PRIOR))
        class_tower, box_tower = (
            Tower(self.depth, self.channels, self.dtypes, name=f"{n}_tower") for n in ("class", "box")
        )
        classes = nn.Conv(self.num_classes, (3, 3), bias_init=rare, name="class_conv", **last)
        boxes, centre = (nn.Conv(count, (3, 3), name=f"{n}_conv", **last) for n, count in (("box", 4), ("centre", 1)))
        scales = self.param("scales", nn.initializers.ones, (len(maps),), self.dtypes["param_dtype"])
        levels = []
        for x, scale, stride in zip(maps, scales.astype(dtype), self.strides, strict=True):
            classified, around = class_tower(x), box_tower(x)
            distances = jnp.exp(jnp.clip(scale * boxes(around), max=8.0)) * stride  # e^8 strides exceed any image
            levels.append([_flat(each) for each in (classes(classified), distances, centre(around))])
        class_logits, distances, centreness = (jnp.concatenate(each, 1) for each in zip(*levels, strict=True))
        return FcosOutputs(constrain(class_logits, POINTS), constrain(distances, POINTS), centreness[..., 0])


class DetectorSpec(Spec):
    """A feature pyramid and the FCOS head on it."""

    finest: int = field(
        default=1, check=checks.between(0, 10), doc="index of the finest feature map to use; 0: the largest"
    )
    extra: int = field(default=0, check=checks.between(0, 10), doc="number of additional coarser levels")
    pyramid_channels: int = field(default=256, check=checks.at_least(1), doc="channels of pyramid and head")
    head_depth: int = field(default=4, check=checks.between(0, 10_000), doc="convolutions of each branch of the head")


class Detector(nn.Module):
    """Images [batch, height, width, channels] to FcosOutputs.

    `backbone` returns feature maps (a ResNet, ViT or EfficientNet with 0 classes). The maps of a CNN, from index
    `finest` on, are the input of an FPN. The map of a ViT is the input of a simple pyramid, whose maps are used from
    index `finest` on. `extra` coarser maps are added.
    """

    backbone: nn.Module
    spec: DetectorSpec
    num_classes: int
    dtype: str = DTYPE
    param_dtype: str = DTYPE
    spec_class: ClassVar[type[Spec]] = DetectorSpec
    of = around

    @property
    def logical_axes(self) -> Table:
        """From parameter path to logical axes."""
        return (*LOGICAL_AXES, *self.backbone.logical_axes, *pyramid.LOGICAL_AXES)

    @property
    def strides(self) -> tuple[int, ...]:
        """The stride of each level, in px."""
        strides = self.backbone.strides
        if len(strides) == 1:
            patch = strides[0]
            if patch % 4:
                raise FieldError(("patch_size",), f"={patch} must be a multiple of 4 for a feature pyramid")
            strides = (patch // 4, patch // 2, patch, 2 * patch)
        if not 0 <= self.spec.finest < len(strides):
            raise invalid(self.spec, "finest", f"must be at least 0 and less than {len(strides)} (maps)")
        return (*strides[self.spec.finest :], *(strides[-1] * 2**k for k in range(1, self.spec.extra + 1)))

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> FcosOutputs:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        strides = self.strides
        maps = self.backbone(images, train)
        if len(maps) == 1:
            maps = SimplePyramid(self.spec.pyramid_channels, self.spec.extra, dtypes, name="pyramid")(maps)[
                self.spec.finest :
            ]
        else:
            maps = FPN(self.spec.pyramid_channels, self.spec.extra, dtypes, name="fpn")(maps[self.spec.finest :])
        return Head(self.num_classes, self.spec.head_depth, self.spec.pyramid_channels, strides, dtypes, name="head")(
            maps
        )


def points(
    height: int, width: int, strides: tuple[int, ...]
) -> tuple[Float[np.ndarray, "points 2"], Int[np.ndarray, " points"]]:
    """The locations (x, y) [points, 2] in px for an image size, in the order of FcosOutputs, and the level of each."""
    locations, levels = [], []
    for level, stride in enumerate(strides):
        y, x = np.mgrid[: -(-height // stride), : -(-width // stride)]
        locations.append(np.stack([x.ravel(), y.ravel()], -1) * stride + stride / 2)
        levels.append(np.full(x.size, level))
    return np.concatenate(locations).astype(np.float32), np.concatenate(levels)


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1, x.shape[-1])
