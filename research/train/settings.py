"""The groups of a config that all experiments share."""

import re

from research import config as config_lib
from research.data.spec import DataSpec
from research.parallel.mesh import MeshSpec
from research.spec import FieldError, Role, Spec, checks, field, invalid
from research.tasks.distillation import DistillSpec
from research.tracking import base as tracking
from research.train.lora import LoraSpec
from research.train.optimizer import SGD, Adafactor, AdamW, Lamb, Lion
from research.train.privacy import PrivacySpec

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
        default=1000, role=Role.RUNTIME, check=checks.between(0, 2**31 - 1),
        doc="steps between evaluations, each followed by a checkpoint; 0: only at the end, see evaluate --follow",
    )  # fmt: skip
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
        doc="the checkpoint that is scored on the test split: the last, or the best on the validation split",
    )  # fmt: skip
    test: bool = field(
        default=True, role=Role.RUNTIME, absent=True,
        doc="whether the checkpoint is scored on test at the end; false while settings are compared, as in a sweep",
    )  # fmt: skip
    score: str = field(
        default="test", check=checks.one_of("test", "all"),
        doc="the splits whose predictions are scored on the host (BLEU, mAP, ...): test only, or validation too",
    )  # fmt: skip
    profile: str = field(
        default="", role=Role.RUNTIME, doc="STEP:COUNT traces COUNT steps after step STEP; --profile sets it"
    )
    trackers: tuple[str, ...] = field(
        default=("tensorboard",), role=Role.RUNTIME, check=checks.each(checks.one_of(*tracking.NAMES)),
        doc="where metrics are shown beside metrics.jsonl: tensorboard, wandb, mlflow; --tracker adds one",
    )  # fmt: skip
    samples: bool = field(
        default=False, role=Role.RUNTIME,
        doc="whether trackers also get, at each evaluation, predictions and histograms of parameters and gradients",
    )  # fmt: skip
    ema: float = field(
        default=0.0, check=checks.from_up_to(0, 1),
        doc="decay of the evaluated moving average of the weights, min(ema, (1 + k) / (10 + k)) at step k; 0: off",
    )  # fmt: skip
    init_from: str = field(
        default="", doc="initial weights: a run directory, hf:ORG/NAME, or any other input of the import command"
    )
    init_skip: tuple[str, ...] = field(
        default=(), check=checks.each(checks.regex()),
        doc="regular expressions, searched in parameter paths: the parameters that init_from does not load",
    )  # fmt: skip

    def validate(self) -> None:
        """Raises FieldError for fields that contradict one another."""
        if self.init_skip and not self.init_from:
            raise invalid(self, "init_skip", "needs config.train.init_from, which is empty")
        if self.select == "best" and not self.eval_every:
            raise invalid(self, "select", "needs evaluations, but config.train.eval_every=0; set it, or use last")
        if len(set(self.trackers)) < len(self.trackers):
            raise invalid(self, "trackers", "names one twice; remove it")
        if self.profile and not re.fullmatch(r"\d+:[1-9]\d*", self.profile):
            raise invalid(self, "profile", "must be STEP:COUNT, e.g. 10:5")


class PrecisionSpec(Spec, tag="precision"):
    """The dtypes of parameters and of the computation."""

    params: str = field(default="float32", check=checks.one_of(*DTYPES), doc="dtype of the parameters")
    compute: str = field(default="float32", check=checks.one_of(*DTYPES), doc="dtype of activations and products")


class Experiment(config_lib.Config):
    """The base of all experiments; a subclass adds the specs of its `data`, `model` and `task`, and `build`."""

    optimizer: AdamW | SGD | Lion | Adafactor | Lamb = field(
        default=AdamW(), doc="optimizer and learning-rate schedule"
    )
    lora: LoraSpec = field(default=LoraSpec(), absent=LoraSpec(), doc="adapters of dense layers: LoRA and IA3")
    distill: DistillSpec = field(default=DistillSpec(), absent=DistillSpec(), doc="knowledge distillation")
    privacy: PrivacySpec = field(default=PrivacySpec(), absent=PrivacySpec(), doc="differentially private training")
    train: TrainSpec = field(default=TrainSpec(), doc="training loop, evaluation and checkpoints")
    mesh: MeshSpec = field(default=MeshSpec(), doc="device mesh")
    precision: PrecisionSpec = field(default=PrecisionSpec(), doc="dtypes of parameters and computation")

    def validate(self) -> None:
        """Raises FieldError if groups contradict one another; each group has already been validated."""
        warmup, steps = self.optimizer.warmup_steps, self.train.steps
        if warmup >= steps:
            problem = f"={warmup} must be less than config.train.steps={steps}"
            raise FieldError(("optimizer", "warmup_steps"), problem)
        late = [pair for pair in self.optimizer.unfreeze if pair[0] >= steps]
        if late:
            problem = f" has {late[0]}, but config.train.steps={steps}; name it in config.optimizer.freeze instead"
            raise FieldError(("optimizer", "unfreeze"), problem)
        data = getattr(self, "data", None)
        if isinstance(data, DataSpec) and data.fit_on != "train" and self.train.select == "best":
            problem = f"={data.fit_on!r} leaves no split to select a checkpoint on; set config.train.select=last"
            raise FieldError(("data", "fit_on"), problem)


def load(source: config_lib.Source) -> Experiment:
    """Loads the config of `source`. Raises ValueError as `config.load`, and if it is not an Experiment."""
    config = config_lib.load(source.file, source.variant, source.overrides)
    if not isinstance(config, Experiment):
        raise ValueError(f"EXPERIMENT in {source.file} is not a subclass of Experiment; see research/train/settings.py")
    return config
