"""Suite `images`: training steps of ViT-S/16, ResNet-50 and a U-Net by Tessera and by PyTorch, in turns.

Beside the ViT also by flax alone, see `image_linen.py`: what the library costs, or gains, over an example of its kind.
"""

import dataclasses
import functools
import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.performance import image_linen, turns
from experiments.performance.measurement import Measured, Measurement, load
from research.models.vit import SIZES, ViTSpec

GOAL = 1.2  # of each training step; by issue 19 ViT-S is to reach 1.0, ResNet-50 .75
LINEN_GOAL = 1.0
LAYOUTS = ("NCHW", "channels last")
# What both sides leave out, so that they do the same: schedules, clipping, averages of parameters, mixed images and
# losses of regions. Everything is decayed, as PyTorch does.
_PLAIN = (
    "precision.compute=float32",
    "optimizer.schedule=constant",
    "optimizer.warmup_steps=0",
    "optimizer.decay=['']",
)
_VIT = ("model.pool=cls", "model.positions=learned", "task.mixup=0", "optimizer.clip_norm=0")
_RESNET = (f"optimizer.learning_rate={0.1 * 16 / 256}",)  # of 16 images; see the config
_UNET = (
    "task.region=none", "task.class_weights=()", "task.per_image_standardization=False", "optimizer.clip_norm=0",
    "train.ema=0",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Step:
    """A training step: a config, what of it is changed, and the images of a batch."""

    name: str
    config: str
    overrides: tuple[str, ...] = ()
    batch_size: int = 16

    @property
    def words(self) -> tuple[str, ...]:
        """All overrides."""
        return (*_PLAIN, *self.overrides, f"train.batch_size={self.batch_size}")

    @property
    def command(self) -> str:
        """The config as a row names it."""
        return " ".join([self.config, *(f"--config.{word}" for word in self.words)])


STEPS = (
    Step(
        "ViT-S/16",
        "configs/image_classification/imagenet_vit_s16.py",
        (*_VIT, f"model.unroll={SIZES['S']['depth']}"),
    ),
    Step("ResNet-50", "configs/image_classification/imagenet_resnet50.py", _RESNET),
    Step("U-Net", "configs/driving_segmentation/camvid_unet.py:cpu", _UNET, batch_size=8),
)


def measure(steps: Sequence[Step] = STEPS, pairs: int = 5, compiled: bool = True) -> Measured:
    """For each step the median over `pairs` of Tessera's speed / that of the others, images/s, and the bound.

    PyTorch works with the fastest of its settings: eager or, if `compiled`, by torch.compile, and for convolutions in
    either layout. Raises ValueError where `turns.missing` says why.
    """
    turns.require("images")
    for step in steps:
        yield step.command, compare(step, pairs, compiled)


def compare(step: Step, pairs: int, compiled: bool) -> list[Measurement]:
    """All sides take the step in turns."""
    config, task, _ = load(step.config, step.words)
    batch, work = random_batch(task, step.batch_size), f"{step.name} train"
    is_vit = isinstance(config.model, ViTSpec)
    make = functools.partial(make_pytorch, config, task, batch)
    settings, pytorch = turns.fastest_pytorch(work, make, compiled, () if is_vit else LAYOUTS)
    sides: dict[str, Any] = {turns.OURS: turns.Tessera(config, task, lambda: batch), "PyTorch": pytorch}
    goals = {"PyTorch": GOAL}
    if is_vit:
        sides[image_linen.NAME] = image_linen.Linen(config, task, batch)
        goals[image_linen.NAME] = LINEN_GOAL
    rate = turns.Rate(lambda seconds: step.batch_size / seconds, "images/s")
    return turns.compare(work, sides, goals, pairs, rate, settings)


def make_pytorch(config: Any, task: Any, batch: dict[str, np.ndarray], **settings: Any) -> turns.Side:
    """PyTorch's side of a step."""
    return importlib.import_module("experiments.performance.image_torch").PyTorch(config, task, batch, **settings)


def random_batch(task: Any, batch_size: int) -> dict[str, np.ndarray]:
    """A batch of the task's shapes: random images and random labels of images or pixels, weight 1."""
    rng = np.random.default_rng(0)
    arrays = {name: np.zeros(spec.shape, spec.dtype) for name, spec in task.example(batch_size).items()}
    arrays["image"] = rng.integers(0, 256, arrays["image"].shape, np.uint8)
    target = arrays["mask" if "mask" in arrays else "label"]
    target[...] = rng.integers(0, task.model.num_classes, target.shape, target.dtype)
    arrays["weight"] += 1
    return arrays
