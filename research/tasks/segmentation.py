"""Semantic segmentation: weighted cross-entropy with Dice or Lovász loss, and scores from a confusion matrix."""

import dataclasses
import io
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol, TypedDict, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Shaped

from research.metrics import calibration
from research.metrics import metric as metric_lib
from research.parallel.sharding import Table, constrain
from research.spec import Role, Spec, checks, field
from research.spec.contracts import Batch, ClassDataset, HostOutputs, LossAux, Outputs, Sums, Totals, Variables
from research.tasks.region_losses import REGIONS

_NOT_ALL_ZERO = checks.Check(lambda value: not value or any(cast(tuple[float, ...], value)), "must not all be 0")


class SegmentationSpec(Spec, tag="segmentation"):
    """The losses of training, and the normalisation of images."""

    class_weights: tuple[float, ...] = field(
        default=(), check=checks.each(checks.between(0, 1e6)) & _NOT_ALL_ZERO,
        doc="class weights of the cross-entropy; (): 1 each",
    )  # fmt: skip
    region: str = field(
        default="none", check=checks.one_of("none", *REGIONS), doc="region loss that is added to the cross-entropy"
    )
    region_weight: float = field(default=1.0, check=checks.between(0, 1e6), doc="weight of the region loss")
    per_image_standardization: bool = field(
        default=False,
        renamed="standardise",
        doc="normalise each image by its mean and standard deviation over all channels (and padding), which removes "
        "its brightness",
    )
    flip_tta: bool = field(
        default=False, role=Role.INFERENCE, renamed="flip_average",
        doc="average the logits of an image and its mirror image (test-time augmentation)",
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SegmentationTask:
    """Segmentation with a model from images to logits per pixel.

    A batch holds `image` uint8 [batch, height, width, 3], `mask` uint8 [batch, height, width] (values from the number
    of classes on are void and ignored), `index` int32 [batch] and `weight` float32 [batch], 0 for padding. `mean` and
    `std` are per channel, in units of 0..255.
    """

    model: nn.Module
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    spec: SegmentationSpec

    # The metric that selects the best checkpoint, and "max" or "min".
    selection = ("miou", "max")

    def __post_init__(self) -> None:
        """Raises ValueError if the number of class weights differs from the number of classes."""
        weights = len(self.spec.class_weights)
        if weights not in (0, len(self.class_names)):
            raise ValueError(
                f"config.task.class_weights has {weights} values; give () or one for each of the "
                f"{len(self.class_names)} classes: {', '.join(self.class_names)}"
            )

    @property
    def logical_axes(self) -> Table:
        """The table from parameter path to logical axes."""
        return self.model.logical_axes

    def example(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes and dtypes of a batch, for compiling ahead of time."""
        array = lambda shape, dtype: jax.ShapeDtypeStruct((batch_size, *shape), dtype)
        return {
            "image": array(self.image_shape, jnp.uint8),
            "mask": array(self.image_shape[:2], jnp.uint8),
            "index": array((), jnp.int32),
            "weight": array((), jnp.float32),
        }

    def init(self, rng: jax.Array) -> Variables:
        """Initial variables: `params` and, for models with batch norm, `batch_stats`."""
        return self.model.init(rng, jnp.zeros((1, *self.image_shape), jnp.float32))

    def totals(self, batch: Batch) -> Totals:
        """The normalisers of the loss, from the masks of the whole global batch."""
        at_least = lambda total: jnp.where(total > 0, total, 1)
        return {"pixels": at_least(self._weights(batch).sum()), "examples": at_least(batch["weight"].sum())}

    def loss(
        self, variables: Variables, batch: Batch, totals: Totals, rng: jax.Array
    ) -> tuple[Float[Array, ""], LossAux]:
        """`(loss, (new batch statistics, sums))` for training; the losses of microbatches add up.

        Cross-entropy is a mean over pixels, weighted by class; the region loss is a mean over images.
        """
        mutable = [name for name in variables if name != "params"]
        logits, new = self._logits(variables, batch, train=True, mutable=mutable, rngs={"dropout": rng})
        weights = self._weights(batch)
        loss = (_cross_entropy(logits, batch["mask"]) * weights).sum() / totals["pixels"]
        sums = {"pixel_accuracy": self._accuracy(logits, batch)}
        if self.spec.region != "none":
            losses = REGIONS[self.spec.region](jax.nn.softmax(logits), batch["mask"]) * batch["weight"]
            loss += self.spec.region_weight * losses.sum() / totals["examples"]
            sums[self.spec.region] = (losses.sum(), batch["weight"].sum())
        # The sums over all microbatches, divided by the normalisers, are the loss.
        sums["loss"] = (loss * totals["examples"], batch["weight"].sum())
        return loss, (new, sums)

    def evaluate(self, variables: Variables, batch: Batch) -> Sums:
        """Sums of unweighted cross-entropy, and the confusion matrix [classes, classes] (truth, prediction)."""
        logits = self._averaged(variables, batch)
        valid = self._valid(batch)
        pixels = valid.sum()
        losses = _cross_entropy(logits, batch["mask"]) * valid
        return {"loss": (losses.sum(), pixels), "confusion": (self._confusion(logits, batch), pixels)}

    def predict(self, variables: Variables, batch: Batch, rng: jax.Array | None = None) -> Outputs:
        """The most likely class of each pixel and its probability in 1/255, uint8 [batch, height, width]."""
        del rng
        logits = self._averaged(variables, batch)
        confidence = jnp.round(jax.nn.softmax(logits).max(-1) * 255).astype(jnp.uint8)
        return {"mask": logits.argmax(-1).astype(jnp.uint8), "confidence": confidence}

    def derived(self, means: Mapping[str, np.ndarray]) -> dict[str, float]:
        """`scores` of the confusion matrix of the whole split."""
        classes = len(self.class_names)
        return scores(np.asarray(means.get("confusion", np.zeros((classes, classes)))), self.class_names)

    def check_selection(self, means: Collection[str], scored: bool) -> None:
        """See Task.check_selection."""
        metric_lib.check(self.selection[0], means, scored)

    def scorer(self, data: "MaskDataset", split: str) -> "SegmentationScorer":
        """Saves the predicted masks; all scores are derived from sums."""
        return SegmentationScorer(data, split)

    def _logits(self, variables: Variables, batch: Batch, train: bool = False, **options) -> Any:
        images = constrain(self._normalised(batch["image"].astype(jnp.float32)), ("batch", "height", "width", None))
        return self.model.apply(variables, images, train=train, **options)

    def _normalised(self, images: jax.Array) -> jax.Array:
        if not self.spec.per_image_standardization:
            return (images - jnp.asarray(self.mean)) / jnp.asarray(self.std)
        std = images.std((1, 2, 3), keepdims=True)
        return (images - images.mean((1, 2, 3), keepdims=True)) / jnp.maximum(std, 1)  # a constant image becomes 0

    def _averaged(self, variables: Variables, batch: Batch) -> jax.Array:
        logits = self._logits(variables, batch)
        if not self.spec.flip_tta:
            return logits
        mirrored = self._logits(variables, batch | {"image": batch["image"][:, :, ::-1]})
        return (logits + mirrored[:, :, ::-1]) / 2

    def _valid(self, batch: Batch) -> jax.Array:
        """1 for labelled pixels, 0 for void and padding, float32 [batch, height, width]."""
        return (batch["mask"] < len(self.class_names)) * batch["weight"][:, None, None]

    def _weights(self, batch: Batch) -> jax.Array:
        """The weight of each pixel in the cross-entropy."""
        if not self.spec.class_weights:
            return self._valid(batch)
        # Comparisons fuse with the following operations; a lookup would be a gather.
        each = sum(weight * (batch["mask"] == number) for number, weight in enumerate(self.spec.class_weights))
        return each * self._valid(batch)

    def _accuracy(self, logits: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        valid = self._valid(batch)
        return ((logits.argmax(-1) == batch["mask"]) * valid).sum(), valid.sum()

    def _confusion(self, logits: jax.Array, batch: Batch) -> jax.Array:
        """int32 [classes, classes]: the number of pixels of class i that are predicted as class j."""
        classes = len(self.class_names)
        truth = jax.nn.one_hot(batch["mask"], classes) * batch["weight"][:, None, None, None]
        # In float32 per image, which is exact up to 2^24 pixels, then in integers.
        counts = jnp.einsum("bhwi,bhwj->bij", truth, jax.nn.one_hot(logits.argmax(-1), classes))
        return counts.astype(jnp.int32).sum(0)


def scores(confusion: Shaped[np.ndarray, "classes classes"], class_names: tuple[str, ...]) -> dict[str, float]:
    """`miou`, `pixel_accuracy` and `iou_CLASS`, as fractions, from a confusion matrix in any unit.

    IoU is intersection over union of truth and prediction; a class that occurs in neither is omitted.
    """
    right = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - right
    each = {name: float(right[i] / union[i]) for i, name in enumerate(class_names) if union[i] > 0}
    mean = float(np.mean(list(each.values()))) if each else 0.0
    accuracy = float(right.sum() / max(confusion.sum(), 1e-12))
    return {"miou": mean, "pixel_accuracy": accuracy} | {
        f"iou_{name.replace(' ', '_')}": value for name, value in each.items()
    }


class MaskReference(TypedDict):
    """The ground truth of an image."""

    name: str  # of the image
    mask: np.ndarray  # uint8 [height, width]


class MaskDataset(ClassDataset, Protocol):
    """A data set of images with a class for every pixel."""

    def reference(self, split: str, index: int) -> MaskReference:
        """The mask of an image."""
        ...


class SegmentationScorer:
    """Collects the predicted masks of a split on the host, to save them."""

    signatures: Mapping[str, str] = {
        "miou": "one confusion matrix over the split, at the size of the masks, without void; classes that occur"
    }

    def __init__(self, data: MaskDataset, split: str):
        self._data, self._split = data, split
        self._masks: dict[int, bytes] = {}
        self._calibration: dict[int, list[calibration.Bin]] = {}

    def add(self, outputs: HostOutputs) -> None:
        """Adds the masks of a batch of predictions, and their `confidence` if they have it; padding has weight 0."""
        from PIL import Image

        for row in np.flatnonzero(outputs["weight"]):
            index, mask = int(outputs["index"][row]), np.asarray(outputs["mask"][row])
            buffer = io.BytesIO()
            Image.fromarray(mask).save(buffer, format="PNG")
            self._masks[index] = buffer.getvalue()
            if "confidence" in outputs:
                truth = self._data.reference(self._split, index)["mask"]
                part, labelled = tuple(map(slice, truth.shape)), truth < len(self._data.class_names)
                confidence = outputs["confidence"][row][part][labelled] / 255
                right = mask[part][labelled] == truth[labelled]
                self._calibration[index] = calibration.equal_width(confidence, right)

    def result(self) -> dict[str, float]:
        """No scores; all metrics are sums of `SegmentationTask.evaluate`."""
        return {}

    def save(self, path: Path) -> None:
        """Writes `INDEX.png` into the folder `predictions` beside `path`, and to `path` a line of JSON for each.

        A mask has the canvas size; the image `name` is in its upper left corner. `confusion` counts the pixels of each
        class (row) by predicted class (column); `calibration` has, for bins of the probability of the predicted class,
        the number of pixels, their mean probability and the share that is right.
        """
        folder = path.with_suffix("")
        folder.mkdir(exist_ok=True)
        with open(path, "w") as file:
            for index, encoded in sorted(self._masks.items()):
                mask = folder / f"{index:05}.png"
                mask.write_bytes(encoded)
                reference = self._data.reference(self._split, index)
                line = {"index": index, "name": reference["name"], "mask": f"{folder.name}/{mask.name}"}
                line |= {"classes": self._data.class_names, "confusion": self._confusion(encoded, reference["mask"])}
                if index in self._calibration:
                    line["calibration"] = self._calibration[index]
                file.write(json.dumps(line) + "\n")

    def _confusion(self, encoded: bytes, truth: np.ndarray) -> list[list[int]]:
        from PIL import Image

        classes, (height, width) = len(self._data.class_names), truth.shape
        predicted = np.asarray(Image.open(io.BytesIO(encoded)))[:height, :width]
        pairs = classes * truth.astype(int) + predicted
        counts = np.bincount(pairs[truth < classes], minlength=classes**2)
        return counts.reshape(classes, classes).tolist()


def _cross_entropy(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """The cross-entropy of each pixel [batch, height, width]; 0 for void."""
    return -(jax.nn.log_softmax(logits) * jax.nn.one_hot(mask, logits.shape[-1])).sum(-1)
