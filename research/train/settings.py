"""The groups of a config that all experiments share."""

import re

from research import config as config_lib
from research.data.spec import DataSpec
from research.parallel.mesh import MeshSpec
from research.spec import FieldError, Role, Spec, checks, field, invalid
from research.train.lora import LoraSpec
from research.train.optimizer import SGD, Adafactor, AdamW, Lamb, Lion

_STEPS = checks.between(1, 2**31 - 1)  # steps are counted in int32
DTYPES = ("float32", "bfloat16", "float16", "float64")


class TrainSpec(Spec, tag="train"):
    """The training loop: steps, batch sizes, evaluation and checkpoints."""

    steps: int = field(default=1000, role=Role.LENGTH, check=_STEPS, doc="optimizer steps")
    batch_size: int = field(default=128, check=checks.at_least(1), doc="global batch size, over the whole mesh")
    microbatches: int = field(default=1, check=checks.at_least(1), doc="gradient accumulation: parts of a batch")
    eval_batch_size: int = field(
        default=128, role=Role.INFERENCE, check=checks.at_least(1), doc="batch size of evaluation and prediction"
    )
    eval_every: int = field(
        default=1000, role=Role.RUNTIME, check=_STEPS, doc="steps between evaluations, each followed by a checkpoint"
    )
    checkpoint_every: int = field(default=1000, role=Role.RUNTIME, check=_STEPS, doc="steps between checkpoints")
    log_every: int = field(default=50, role=Role.RUNTIME, check=_STEPS, doc="steps between log entries")
    keep_last: int = field(
        default=2, role=Role.RUNTIME, check=checks.at_least(1), doc="number of newest checkpoints kept"
    )
    keep_best: int = field(
        default=1, role=Role.RUNTIME, check=checks.at_least(0), doc="number of best checkpoints kept"
    )
    select: str = field(
        default="last", role=Role.INFERENCE, check=checks.one_of("last", "best"),
        doc="the checkpoint that is scored on test: the last, or the best on validation",
    )  # fmt: skip
    score: str = field(
        default="test", check=checks.one_of("test", "all"),
        doc="the splits that are decoded and scored on the host, for tasks with scorers",
    )  # fmt: skip
    profile: str = field(
        default="", role=Role.RUNTIME, doc="STEP:COUNT traces COUNT steps after step STEP; --profile sets it"
    )
    ema: float = field(
        default=0.0, check=checks.from_up_to(0, 1),
        doc="decay of the evaluated moving average of the weights, min(ema, (1 + k) / (10 + k)) at step k; 0: off",
    )  # fmt: skip
    init_from: str = field(default="", doc="initial weights: a run directory, or any input of the import command")
    init_skip: tuple[str, ...] = field(
        default=(), check=checks.each(checks.regex()),
        doc="regular expressions, searched in parameter paths: the parameters that init_from does not load",
    )  # fmt: skip

    def validate(self) -> None:
        """Raises FieldError for fields that contradict one another."""
        if self.init_skip and not self.init_from:
            raise invalid(self, "init_skip", "needs config.train.init_from, which is empty")
        if self.profile and not re.fullmatch(r"\d+:[1-9]\d*", self.profile):
            raise invalid(self, "profile", "must be STEP:COUNT, e.g. 10:5")


class PrecisionSpec(Spec, tag="precision"):
    """The dtypes of parameters and of the computation."""

    params: str = field(default="float32", check=checks.one_of(*DTYPES), doc="dtype of the parameters")
    compute: str = field(default="float32", check=checks.one_of(*DTYPES), doc="dtype of activations and products")


class Experiment(config_lib.Config):
    """The base of all experiments; a subclass adds the specs of its `data`, `model` and `task`, and `build`."""

    optimizer: AdamW | SGD | Lion | Adafactor | Lamb = field(default=AdamW(), doc="how parameters are updated")
    lora: LoraSpec = field(default=LoraSpec(), absent=LoraSpec(), doc="low-rank adaptation")
    train: TrainSpec = field(default=TrainSpec(), doc="the loop")
    mesh: MeshSpec = field(default=MeshSpec(), doc="the devices")
    precision: PrecisionSpec = field(default=PrecisionSpec(), doc="dtypes")

    def validate(self) -> None:
        """Raises FieldError if groups contradict one another; each group has been checked by itself."""
        warmup, steps = self.optimizer.warmup_steps, self.train.steps
        if warmup >= steps:
            problem = f"={warmup} must be less than config.train.steps={steps}"
            raise FieldError(("optimizer", "warmup_steps"), problem)
        data = getattr(self, "data", None)
        if isinstance(data, DataSpec) and data.fit_on != "train" and self.train.select == "best":
            problem = f"={data.fit_on!r} leaves nothing to choose a checkpoint by; set config.train.select=last"
            raise FieldError(("data", "fit_on"), problem)


def load(source: config_lib.Source) -> Experiment:
    """The config that `source` names. Raises ValueError as `config.load`, and for one without the groups of a run."""
    config = config_lib.load(source.file, source.variant, source.overrides)
    if not isinstance(config, Experiment):
        raise ValueError(f"EXPERIMENT in {source.file} is no subclass of Experiment; see research/train/settings.py")
    return config
