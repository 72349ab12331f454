"""The fields that the specs of all data sets share."""

from research.data import groups
from research.spec import Role, Spec, checks, field

FIT_ON = ("train", "train+validation")


class DataSpec(Spec):
    """The base of all data specs."""

    name: str = field(default="", doc="of a data set: of this repository, of the TFDS catalogue, or folder:PATH")
    dir: str = field(
        default="", role=Role.RUNTIME,
        doc="folder of prepared data; empty: $TFDS_DATA_DIR or ~/tensorflow_datasets",
    )  # fmt: skip
    validation_fraction: float = field(
        default=0.1, check=checks.strictly_between(0, 0.5),
        doc="of train, held out where the data set has no validation split",
    )  # fmt: skip
    group: str = field(
        default="", absent="", check=groups.RULE,
        doc="FIELD or FIELD:RULE (see groups.py): examples of one group are held out together; empty: one by one",
    )  # fmt: skip
    fit_on: str = field(
        default="train", absent="train", check=checks.one_of(*FIT_ON),
        doc="splits of the training examples; train+validation: once all settings and steps are chosen",
    )  # fmt: skip
    workers: int = field(
        default=0, role=Role.RUNTIME, check=checks.between(0, 1024),
        doc="worker processes that read and augment; 0: a thread of the trainer",
    )  # fmt: skip
    prefetch: int = field(default=2, role=Role.RUNTIME, check=checks.between(0, 10_000), doc="batches to prefetch")
