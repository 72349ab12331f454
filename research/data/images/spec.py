"""Specs of image and clip data sets."""

from research.data.spec import DataSpec
from research.spec import Role, checks, field, invalid

CROPS = ("none", "pad", "random", "inception")  # see transforms.TrainImageTransform
PAD_MODES = ("zeros", "reflect")
INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
LONG_SIDES = ("round", "floor")
ILLUMINATIONS = ("none", "equalized", "tan_triggs")  # see transforms.ILLUMINATIONS

SIDE = checks.between(0, 16_384)  # px; with more, activation sizes overflow int64, and XLA ends without an error
SHARE = checks.between(0, 1)


class NormalisedImageSpec(DataSpec):
    """Images that are normalised in the compiled step."""

    mean: tuple[float, ...] = field(
        default=(127.5,), check=checks.not_empty() & checks.each(checks.between(-10_000, 10_000)),
        doc="mean per channel, or one for all, in units of 0..255; subtracted in the compiled step",
    )  # fmt: skip
    std: tuple[float, ...] = field(
        default=(127.5,), check=checks.not_empty() & checks.each(checks.above(0)),
        doc="standard deviation, as mean; the compiled step divides by it",
    )  # fmt: skip


class MarkedImageSpec(NormalisedImageSpec):
    """Images that are annotated with boxes or masks."""

    scale: tuple[float, float] = field(
        default=(1.0, 1.0), check=checks.each(checks.between(0, 100)),
        doc="scale jitter while training: range of the log-uniform factor",
    )  # fmt: skip
    flip: bool = field(default=False, doc="random horizontal flip while training")
    color_jitter: float = field(
        default=0.0, check=SHARE, renamed="colour",
        doc="color jitter while training: brightness, contrast and saturation, factors uniform in 1 +-",
    )  # fmt: skip

    def validate(self) -> None:
        """Raises FieldError for an invalid range of scales."""
        if not 0 < self.scale[0] <= self.scale[1]:
            raise invalid(self, "scale", "must be two factors above 0, the smaller one first")


class AugmentedImageSpec(NormalisedImageSpec):
    """Square images, resized, and augmented while training."""

    image_size: int = field(default=0, check=SIDE, doc="height and width in px; 0: as in the data set, if fixed there")
    resize: int = field(default=0, check=SIDE, doc="px of the shorter side before the crop; 0: image_size")
    stretch: bool = field(
        default=False, renamed="squeeze", doc="resize both sides to `resize`; else the aspect ratio is kept"
    )
    interpolation: str = field(default="bilinear", check=checks.one_of(*INTERPOLATIONS), doc="for resizing")
    long_side: str = field(
        default="round", check=checks.one_of(*LONG_SIDES),
        doc="rounding of the longer side to px; torchvision and transformers use floor",
    )  # fmt: skip
    illumination: str = field(
        default="none", check=checks.one_of(*ILLUMINATIONS), renamed="lighting",
        formerly={"none": "as it is", "equalized": "equalised", "tan_triggs": "local"},
        doc="illumination normalisation: none, equalized (histogram) or tan_triggs (Tan and Triggs, 2010)",
    )  # fmt: skip
    crop: str = field(
        default="none", check=checks.one_of(*CROPS), doc="random crop while training, see TrainImageTransform"
    )
    pad: int = field(default=4, check=SIDE, doc="px added on each side before crop=pad")
    pad_mode: str = field(
        default="zeros", absent="zeros", check=checks.one_of(*PAD_MODES), doc="what crop=pad adds: zeros or reflections"
    )
    flip: bool = field(default=False, doc="random horizontal flip")
    rotate: float = field(default=0.0, check=checks.between(0, 180), doc="random rotation in degrees, uniform in +-")
    shift: float = field(default=0.0, check=SIDE, doc="random translation in px, uniform in +-")
    scale: float = field(default=0.0, check=checks.from_up_to(0, 1), doc="random scaling, uniform in 1 +-")
    brightness: float = field(default=0.0, check=SHARE, doc="random brightness factor, uniform in 1 +-")
    contrast: float = field(default=0.0, check=SHARE, doc="random contrast factor about the mean, uniform in 1 +-")
    random_erasing: float = field(
        default=0.0, check=SHARE, renamed="erase", doc="probability of random erasing (Zhong et al. 2020)"
    )
    cache: bool = field(
        default=False, role=Role.RUNTIME, doc="cache decoded examples in memory, a copy in each worker process"
    )


class StillImageSpec(AugmentedImageSpec):
    """Single images, as opposed to clips."""

    randaugment_layers: int = field(default=0, check=checks.between(0, 100), doc="RandAugment: operations per image")
    randaugment_magnitude: float = field(default=10.0, check=checks.between(0, 100), doc="RandAugment: magnitude")


class ImageSpec(StillImageSpec, tag="images"):
    """Images with one class each, for classification."""

    eval_size: int = field(
        default=0, check=SIDE, doc="image size in px for evaluation, at least that for training; 0: image_size"
    )
    alternating_flip: bool = field(
        default=False, absent=False,
        doc="flip an image in every second epoch: in exactly those after the ones without a flip (Jordan, 2024)",
    )  # fmt: skip

    def validate(self) -> None:
        """Raises FieldError if there is no flip that could alternate."""
        if self.alternating_flip and not self.flip:
            raise invalid(self, "alternating_flip", "needs config.data.flip=true")


class FaceDataSpec(StillImageSpec, tag="faces"):
    """Images of people. Training and evaluation use the same image size, since models flatten their feature maps."""


class ClipSpec(AugmentedImageSpec, tag="clips"):
    """Labelled clips; all frames of a clip get the same augmentation."""

    frames: int = field(
        default=0, check=checks.between(0, 10_000),
        doc="frames per clip, evenly spaced; 0: all stored frames",
    )  # fmt: skip
