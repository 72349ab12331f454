"""The settings that data sets of images with boxes and of images with masks share."""

from research.spec import Role, Spec, checks, field, invalid

SHARE = checks.between(0, 1)


class MarkedImageSpec(Spec):
    """Images in which places are marked, by boxes or by masks."""

    name: str = field(default="", doc="of a data set of this repository, or folder:PATH")
    dir: str = field(
        default="", role=Role.RUNTIME, doc="where prepared data lie; empty: $TFDS_DATA_DIR or ~/tensorflow_datasets"
    )
    validation_fraction: float = field(
        default=0.1, check=checks.strictly_between(0, 0.5),
        doc="of train, held out where the data set has no validation split",
    )  # fmt: skip
    workers: int = field(
        default=0, role=Role.RUNTIME, check=checks.between(0, 1024),
        doc="processes that read and augment; 0: a thread of the trainer",
    )  # fmt: skip
    prefetch: int = field(
        default=2, role=Role.RUNTIME, check=checks.between(0, 10_000), doc="batches that are made ahead"
    )
    mean: tuple[float, ...] = field(
        default=(127.5,), check=checks.not_empty() & checks.each(checks.between(-10_000, 10_000)),
        doc="per channel, or one for all, in units of 0..255",
    )  # fmt: skip
    std: tuple[float, ...] = field(
        default=(127.5,), check=checks.not_empty() & checks.each(checks.above(0)), doc="as mean"
    )
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
