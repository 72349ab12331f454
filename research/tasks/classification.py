"""Image classification: softmax cross-entropy with label smoothing, mixup and cutmix."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Shaped

from research.metrics import metric as metric_lib
from research.parallel.sharding import Table, constrain
from research.spec import Role, Spec, checks, contracts, field
from research.spec.contracts import Batch, ClassDataset, HostOutputs, LossAux, Outputs, Sums, Totals, Variables

FITTED = 5000  # training images from which initial values are computed, if there are so many
MAX_SAVED = 20  # probabilities per example in the predictions file

# (losses of examples [...], their logits [..., classes], the augmented batch) -> other losses, see distillation.py
Soften = Callable[[jax.Array, jax.Array, Batch], jax.Array]

# Test-time augmentation: (shift of the image down and to the right in px, weight of the view), each with its mirror.
VIEWS = {"flip": ((0, 1.0),), "flip_shift": ((0, 0.5), (1, 0.25), (-1, 0.25))}


class LabelSpec(Spec):
    """Softmax cross-entropy over classes."""

    label_smoothing: float = field(
        default=0.0, check=checks.from_up_to(0, 1), doc="label smoothing: probability spread over all classes"
    )


class ClassificationSpec(LabelSpec, tag="classification"):
    """Softmax cross-entropy with mixup, cutmix and test-time augmentation."""

    mixup: float = field(default=0.0, check=checks.between(0, 1000), doc="alpha of mixup (Zhang et al., 2018); 0: off")
    cutmix: float = field(default=0.0, check=checks.between(0, 1000), doc="alpha of cutmix (Yun et al., 2019); 0: off")
    tta: str = field(
        default="none", absent="none", role=Role.INFERENCE, check=checks.one_of("none", *VIEWS),
        doc="test-time augmentation: logits averaged over an image and its mirror image (flip), and over both of these "
        "shifted by 1 px along both diagonal directions, too (flip_shift; Jordan, 2024)",
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ImageTask:
    """Base class of tasks with image classifiers, without mixup, cutmix and scorer.

    A batch holds `image` uint8 [batch, height, width, channels] (of clips, [batch, frames, height, width, channels]),
    `label` int32 [batch], `index` int32 [batch] and `weight` float32 [batch], which is 0 for padding. `mean` and `std`
    are per channel, in units of 0..255.
    """

    model: nn.Module
    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    spec: LabelSpec

    # The metric that selects the best checkpoint, and "max" or "min".
    selection = ("accuracy", "max")
    served = "images"  # the name of the input of an exported program

    @property
    def logical_axes(self) -> Table:
        """The table from parameter path to logical axes."""
        return self.model.logical_axes

    def example(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes and dtypes of a batch, for compiling ahead of time."""
        vector = lambda dtype: jax.ShapeDtypeStruct((batch_size,), dtype)
        image = jax.ShapeDtypeStruct((batch_size, *self.image_shape), jnp.uint8)
        return {"image": image, "label": vector(jnp.int32), "index": vector(jnp.int32), "weight": vector(jnp.float32)}

    def init(self, rng: jax.Array) -> Variables:
        """Initial variables: `params` and, for models with batch norm, `batch_stats`."""
        return self.model.init(rng, jnp.zeros((1, *self.image_shape), jnp.float32))

    def from_data(self, data: contracts.Dataset) -> Mapping[str, np.ndarray]:
        """See contracts.DataDependent; of models with `from_images`, which get up to FITTED training images."""
        if not hasattr(self.model, "from_images"):
            return {}
        count = data.counts["train"]
        spread = max(1, count // FITTED)  # over the whole split, whose order may follow the classes
        batches = data.eval_batches("train", 500 * spread, slice(None, None, spread))
        with contextlib.closing(batches):
            images = (batch["image"][batch["weight"] > 0] for batch in batches)
            return cast(Any, self.model).from_images(images, self.mean, self.std)

    def totals(self, batch: Batch) -> Totals:
        """The normalisers of the loss, from the targets of the whole global batch."""
        return {"examples": jnp.maximum(batch["weight"].sum(), 1)}

    def loss(
        self, variables: Variables, batch: Batch, totals: Totals, rng: jax.Array
    ) -> tuple[Float[Array, ""], LossAux]:
        """`(loss, (new batch statistics, sums))` of training; losses of microbatches and devices are summed."""
        return self.softened_loss(variables, batch, totals, rng, lambda losses, logits, seen: losses)

    def softened_loss(
        self,
        variables: Variables,
        batch: Batch,
        totals: Totals,
        rng: jax.Array,
        soften: Soften,
    ) -> tuple[Float[Array, ""], LossAux]:
        """As `loss`, with `soften(losses, logits, batch)` in place of the losses; `batch` is augmented."""
        mix_rng, dropout_rng = jax.random.split(rng)
        images, targets = self._mix(mix_rng, self._normalise(batch["image"]), self._targets(batch["label"]))
        mutable = [name for name in variables if name != "params"]
        logits, new = self.model.apply(variables, images, train=True, mutable=mutable, rngs={"dropout": dropout_rng})
        losses = optax.losses.softmax_cross_entropy(logits, targets)
        seen = {**batch, "image": images * jnp.asarray(self.std) + jnp.asarray(self.mean)}
        losses = soften(losses, logits, seen) * batch["weight"]
        return losses.sum() / totals["examples"], (new, self._sums(losses, logits, batch))

    def logits(self, variables: Variables, batch: Batch) -> jax.Array:
        """Logits [batch, classes] of images in units of 0..255, in inference mode."""
        return self._logits(variables, batch)

    def evaluate(self, variables: Variables, batch: Batch) -> Sums:
        """Sums of unsmoothed cross-entropy and of correct predictions, each with its weight."""
        logits = self._logits(variables, batch)
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["label"]) * batch["weight"]
        return self._sums(losses, logits, batch)

    def predict(self, variables: Variables, batch: Batch, rng: jax.Array | None = None) -> Outputs:
        """Class probabilities [batch, classes]."""
        del rng
        return {"probabilities": jax.nn.softmax(self._logits(variables, batch))}

    def serve_inputs(self, batch: Any) -> dict[str, jax.ShapeDtypeStruct]:
        """See serving.Served; images are uint8, not normalised."""
        return {self.served: jax.ShapeDtypeStruct((batch, *self.image_shape), jnp.uint8)}

    def serve(self, variables: Variables, images: Shaped[Array, "batch ..."]) -> Float[Array, "batch classes"]:
        """Logits [batch, classes]."""
        return self._logits(variables, {"image": images})

    def derived(self, means: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Further metrics derived from the means of a split: none."""
        return {}

    def check_selection(self, means: Collection[str], scored: bool) -> None:
        """See Task.check_selection."""
        metric_lib.check(self.selection[0], means, scored)

    def _logits(self, variables: Variables, batch: Batch) -> jax.Array:
        return cast(jax.Array, self.model.apply(variables, self._normalise(batch["image"]), train=False))

    def _normalise(self, images: jax.Array) -> jax.Array:
        images = (images.astype(jnp.float32) - jnp.asarray(self.mean)) / jnp.asarray(self.std)
        frames = (None,) * (images.ndim - 4)
        return constrain(images, ("batch", *frames, "height", "width", None))

    def _targets(self, labels: jax.Array) -> jax.Array:
        return optax.losses.smooth_labels(jax.nn.one_hot(labels, self.model.num_classes), self.spec.label_smoothing)

    def _sums(self, losses: jax.Array, logits: jax.Array, batch: Batch) -> Sums:
        weight = batch["weight"].sum()
        correct = ((logits.argmax(-1) == batch["label"]) * batch["weight"]).sum()
        return {"loss": (losses.sum(), weight), "accuracy": (correct, weight)}

    def _mix(self, rng: jax.Array, images: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The mixed images and targets for training."""
        del rng
        return images, targets


@dataclasses.dataclass(frozen=True)
class LabelTask(ImageTask):
    """An ImageTask with a scorer that saves the class probabilities."""

    def scorer(self, data: ClassDataset, split: str) -> contracts.Scorer | None:
        """Collects the predictions for a split of `data` (an ImageDataset) on the host."""
        return ClassificationScorer(data, split)


@dataclasses.dataclass(frozen=True)
class ClassificationTask(LabelTask):
    """A LabelTask with mixup, cutmix and test-time augmentation."""

    spec: ClassificationSpec = dataclasses.field(default_factory=ClassificationSpec)

    def _logits(self, variables: Variables, batch: Batch) -> jax.Array:
        """Logits of images [batch, height, width, channels], averaged over their views; edges are reflected."""
        images, infer = batch["image"], super()._logits
        if self.spec.tta == "none":
            return infer(variables, batch)
        height, width = images.shape[1:3]
        padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
        total = jnp.zeros(())
        for shift, weight in VIEWS[self.spec.tta]:
            view = padded[:, 1 - shift : 1 - shift + height, 1 - shift : 1 - shift + width]
            both = (infer(variables, batch | {"image": each}) for each in (view, view[:, :, ::-1]))
            total = total + weight / 2 * sum(both, start=jnp.zeros(()))
        return total

    @property
    def mixes_examples(self) -> str:
        """The field that makes the loss of an example depend on others, see train/privacy.py; "" for none."""
        on = [name for name in ("mixup", "cutmix") if getattr(self.spec, name)]
        return f"config.task.{on[0]}={getattr(self.spec, on[0])}" if on else ""

    def _mix(self, rng: jax.Array, images: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mixup (Zhang et al., 2018) or cutmix (Yun et al., 2019), chosen with probability 1/2 if both are on.

        Each image is mixed with its neighbour in the microbatch, with its own random coefficient.
        """
        if not self.spec.mixup and not self.spec.cutmix:
            return images, targets
        coin_rng, mixup_rng, cutmix_rng = jax.random.split(rng, 3)
        count, height, width, _ = images.shape
        other_images, other_targets = jnp.roll(images, 1, 0), jnp.roll(targets, 1, 0)
        own = jnp.ones((count, 1, 1, 1))
        if self.spec.mixup:
            own = jax.random.beta(mixup_rng, self.spec.mixup, self.spec.mixup, (count, 1, 1, 1))
        if self.spec.cutmix:
            kept = ~_boxes(cutmix_rng, self.spec.cutmix, count, height, width)[..., None]
            use_cutmix = jax.random.bernoulli(coin_rng) if self.spec.mixup else True
            own = jnp.where(use_cutmix, kept.astype(images.dtype), own)
        share = jnp.broadcast_to(own, (count, height, width, 1)).mean((1, 2))
        return own * images + (1 - own) * other_images, share * targets + (1 - share) * other_targets


class ClassificationScorer:
    """Collects the class probabilities of a split."""

    def __init__(self, data: ClassDataset, split: str):
        self._data, self._split = data, split
        self._probabilities: dict[int, np.ndarray] = {}
        self.signatures: dict[str, str] = {}

    def add(self, outputs: HostOutputs) -> None:
        """Adds the outputs of `Task.predict` for a batch, with its `index` and `weight`."""
        for index, weight, row in zip(outputs["index"], outputs["weight"], outputs["probabilities"], strict=True):
            if weight > 0:
                self._probabilities[int(index)] = np.asarray(row)

    def result(self) -> dict[str, float]:
        """No scores; all metrics are sums of `Task.evaluate`."""
        return {}

    def save(self, path: Path) -> None:
        """Writes a line of JSON per example: its reference, the class `predicted`, and `probabilities` by class.

        With more than MAX_SAVED classes, only the most likely ones are written.
        """
        with path.open("w", encoding="utf-8") as file:
            for line in self.lines():
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def lines(self) -> list[dict[str, Any]]:
        """The lines that `save` writes, in the order of the split."""
        lines, names = [], self._data.class_names
        for index, row in sorted(self._probabilities.items()):
            kept = range(len(names)) if len(names) <= MAX_SAVED else np.argsort(-row)[:MAX_SAVED]
            shares = {names[number]: round(float(row[number]), 6) for number in kept}
            reference = self._data.reference(self._split, index)
            lines.append({**reference, "predicted": names[int(row.argmax())], "probabilities": shares})
        return lines


def unlabelled(images: Shaped[np.ndarray, "batch ..."]) -> dict[str, np.ndarray]:
    """A batch of unlabelled images [batch, height, width, channels], for prediction."""
    zeros = np.zeros(len(images), np.int32)
    return {"image": images, "label": zeros, "index": zeros - 1, "weight": zeros.astype(np.float32)}


def top_classes(probabilities: Float[np.ndarray, " classes"], class_names: Sequence[str], count: int = 5) -> str:
    """The `count` most likely classes by `probabilities` [classes], as a line for the user."""
    best = np.argsort(-probabilities)[:count]
    return ", ".join(f"{class_names[index]} {probabilities[index]:.1%}" for index in best)


def record(probabilities: Float[np.ndarray, " classes"], class_names: Sequence[str]) -> dict[str, Any]:
    """The most likely class by `probabilities` [classes], and all probabilities, for a predictions file."""
    shares = {name: round(float(share), 6) for name, share in zip(class_names, probabilities, strict=True)}
    return {"class": max(shares, key=lambda name: shares[name]), "probabilities": shares}


def _boxes(rng: jax.Array, alpha: float, count: int, height: int, width: int) -> jax.Array:
    """Masks [count, height, width] of boxes with Beta(alpha, alpha) distributed area shares, before clipping."""
    area_rng, y_rng, x_rng = jax.random.split(rng, 3)
    side = jnp.sqrt(jax.random.beta(area_rng, alpha, alpha, (count, 1)))

    def inside(rng, size):
        centre = jax.random.uniform(rng, (count, 1)) * size
        return jnp.abs(jnp.arange(size) + 0.5 - centre) < side * size / 2

    return inside(y_rng, height)[:, :, None] & inside(x_rng, width)[:, None, :]
