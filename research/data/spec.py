"""The fields shared by the specs of all data sets."""

from research.data import groups
from research.spec import Role, Spec, checks, field

FIT_ON = ("train", "train+validation")


class DataSpec(Spec):
    """Base class of all data specs."""

    name: str = field(default="", doc="a data set of this repository or of the TFDS catalogue, or folder:PATH")
    dir: str = field(
        default="", role=Role.RUNTIME,
        doc="folder of prepared data; empty: $TFDS_DATA_DIR or ~/tensorflow_datasets",
    )  # fmt: skip
    validation_fraction: float = field(
        default=0.1, check=checks.strictly_between(0, 0.5),
        doc="fraction of train to hold out if the data set has no validation split",
    )  # fmt: skip
    group: str = field(
        default="", absent="", check=groups.RULE,
        doc="FIELD or FIELD:HOW (see groups.py): hold out whole groups of examples; empty: single examples",
    )  # fmt: skip
    fit_on: str = field(
        default="train", absent="train", check=checks.one_of(*FIT_ON),
        doc="splits to train on; train+validation only after all settings and steps have been chosen",
    )  # fmt: skip
    half: int = field(
        default=0, absent=0, check=checks.between(0, 10_000),
        doc="train on half of the examples, a pseudorandom one for each odd number and its complement for the next, "
        "as shadow runs do (tessera report privacy); 0: on all",
    )  # fmt: skip
    workers: int = field(
        default=0, role=Role.RUNTIME, check=checks.between(0, 1024),
        doc="worker processes for reading and augmentation; 0: a thread of the trainer",
    )  # fmt: skip
    prefetch: int = field(default=2, role=Role.RUNTIME, check=checks.between(0, 10_000), doc="batches to prefetch")
