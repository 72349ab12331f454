"""The settings that data sets of images and clips share."""

from research.data.spec import DataSpec
from research.spec import Role, checks, field, invalid

CROPS = ("none", "pad", "random", "inception")  # see transforms.TrainImageTransform
INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
LONG_SIDES = ("round", "floor")
LIGHTINGS = ("as it is", "equalised", "local")

SIDE = checks.between(0, 65_536)
SHARE = checks.between(0, 1)


class NormalisedImageSpec(DataSpec):
    """Images that the compiled step normalises."""

    mean: tuple[float, ...] = field(
        default=(127.5,), check=checks.not_empty() & checks.each(checks.between(-10_000, 10_000)),
        doc="per channel, or one for all, in units of 0..255",
    )  # fmt: skip
    std: tuple[float, ...] = field(
        default=(127.5,), check=checks.not_empty() & checks.each(checks.above(0)), doc="as mean"
    )


class MarkedImageSpec(NormalisedImageSpec):
    """Images in which places are marked, by boxes or by masks."""

    scale: tuple[float, float] = field(
        default=(1.0, 1.0), check=checks.each(checks.between(0, 100)),
        doc="random resizing while training, by a factor that is log-uniform between these two",
    )  # fmt: skip
    flip: bool = field(default=False, doc="flip left and right with probability 1/2 while training")
    colour: float = field(
        default=0.0, check=SHARE, doc="brightness, contrast and saturation while training, factors uniform in 1 +-"
    )

    def validate(self) -> None:
        """Raises FieldError for a range of scales that is none."""
        if not 0 < self.scale[0] <= self.scale[1]:
            raise invalid(self, "scale", "must be two factors above 0, the smaller one first")


class AugmentedImageSpec(NormalisedImageSpec):
    """Images of one size, resized, and augmented while training."""

    image_size: int = field(default=0, check=SIDE, doc="px; 0: that of the data set, if all its images share one")
    resize: int = field(default=0, check=SIDE, doc="px of the shorter side before the crop; 0: image_size")
    squeeze: bool = field(default=False, doc="resize both sides, so that nothing is cut off but ratios change")
    interpolation: str = field(default="bilinear", check=checks.one_of(*INTERPOLATIONS), doc="of resizing")
    long_side: str = field(
        default="round", check=checks.one_of(*LONG_SIDES),
        doc="whole px of the longer side; floor is that of torchvision and transformers",
    )  # fmt: skip
    lighting: str = field(
        default="as it is", check=checks.one_of(*LIGHTINGS),
        doc="illumination normalisation: none, equalised histograms, or local contrast (Tan and Triggs)",
    )  # fmt: skip
    crop: str = field(
        default="none", check=checks.one_of(*CROPS), doc="random crop while training, see TrainImageTransform"
    )
    pad: int = field(default=4, check=SIDE, doc="px of zeros on each side before crop=pad")
    flip: bool = field(default=False, doc="flip left and right with probability 1/2")
    rotate: float = field(default=0.0, check=checks.between(0, 180), doc="degrees, uniform in +-")
    shift: float = field(default=0.0, check=SIDE, doc="px, uniform in +-")
    scale: float = field(default=0.0, check=checks.from_up_to(0, 1), doc="share, uniform in 1 +-")
    brightness: float = field(default=0.0, check=SHARE, doc="factor, uniform in 1 +-")
    contrast: float = field(default=0.0, check=SHARE, doc="factor about the mean of the image, uniform in 1 +-")
    erase: float = field(default=0.0, check=SHARE, doc="probability of random erasing (Zhong et al. 2020)")
    cache: bool = field(
        default=False, role=Role.RUNTIME, doc="keep decoded examples in memory, a copy in each worker process"
    )


class StillImageSpec(AugmentedImageSpec):
    """Images that are augmented one by one."""

    randaugment_layers: int = field(default=0, check=checks.between(0, 100), doc="operations an image, RandAugment")
    randaugment_magnitude: float = field(default=10.0, check=checks.between(0, 100), doc="of each operation")


class ImageSpec(StillImageSpec, tag="images"):
    """Labelled images, a class each."""

    eval_size: int = field(
        default=0, check=SIDE, doc="px that evaluation sees, where that is more than training; 0: image_size"
    )


class FaceDataSpec(StillImageSpec, tag="faces"):
    """Labelled images of people. Training and evaluation see one size, as an embedding of flattened maps needs."""


class ClipSpec(AugmentedImageSpec, tag="clips"):
    """Labelled clips, whose frames are all augmented alike; their model knows one size."""

    frames: int = field(
        default=0, check=checks.between(0, 10_000),
        doc="that the model sees, evenly spaced; 0: as many as are stored",
    )  # fmt: skip
