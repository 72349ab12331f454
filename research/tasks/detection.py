"""Object detection: the losses of FCOS (Tian et al., 2019), and non-maximum suppression within the compiled step."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float

from research.metrics import box_scores
from research.metrics import metric as metric_lib
from research.models import box_ops
from research.models.detector import FcosOutputs, points
from research.parallel.sharding import Table, constrain
from research.spec import Role, Spec, checks, field
from research.spec.contracts import Batch, LossAux, Outputs, Sums, Totals, Variables

REGRESSION_RANGE_STRIDES = 8  # level i regresses boxes with max(l, t, r, b) in (4 s_i, 8 s_i]; s_i is its stride
_SHARE = checks.between(0, 1)


class DetectionSpec(Spec, tag="detection"):
    """The losses of training, and the postprocessing of predictions."""

    radius: float = field(
        default=1.5, check=checks.above(0) & checks.at_most(1e6),
        doc="centre sampling: points within this many strides of the centre of a box are positive",
    )  # fmt: skip
    focal_alpha: float = field(default=0.25, check=_SHARE, doc="weight of the positives in the focal loss")
    focal_gamma: float = field(default=2.0, check=checks.between(0, 100), doc="exponent of the focal loss")
    box_loss_weight: float = field(default=1.0, check=checks.between(0, 1e6), doc="weight of the GIoU loss")
    score_threshold: float = field(
        default=0.05, role=Role.INFERENCE, check=_SHARE, doc="score threshold of predicted boxes"
    )
    nms_iou: float = field(
        default=0.6, role=Role.INFERENCE, check=_SHARE,
        doc="IoU threshold of non-maximum suppression, which is done per class",
    )  # fmt: skip
    candidates: int = field(
        default=400, role=Role.INFERENCE, check=checks.at_least(1), doc="boxes per image before non-maximum suppression"
    )
    max_detections: int = field(
        default=100, role=Role.INFERENCE, check=checks.at_least(1), doc="predicted boxes per image"
    )
    display_threshold: float = field(
        default=0.4,
        role=Role.INFERENCE,
        check=_SHARE,
        renamed="shown_from",
        doc="score threshold for drawing boxes in `predict`",
    )
    select_by: str = field(
        default="map", check=checks.one_of("loss", *box_scores.NAMES),
        doc="metric that selects the best checkpoint",
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class DetectionTask:
    """Detection with a model from images to FcosOutputs.

    A batch holds `image` uint8 [batch, height, width, 3], `boxes` float32 [batch, max_boxes, 4] (left, top, right and
    bottom in px), `labels` int32 and `box_weight` float32 [batch, max_boxes], 0 for padding, `index` int32
    [batch] and `weight` float32 [batch], 0 for padding. `mean` and `std` are per channel, in units of 0..255.
    """

    model: nn.Module
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    max_boxes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    spec: DetectionSpec

    @property
    def selection(self) -> tuple[str, str]:
        """The metric that selects the best checkpoint, and "max" or "min"."""
        return self.spec.select_by, metric_lib.mode(self.spec.select_by)

    @property
    def logical_axes(self) -> Table:
        """The table from parameter path to logical axes."""
        return self.model.logical_axes

    def example(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes and dtypes of a batch, for compiling ahead of time."""
        array = lambda shape, dtype: jax.ShapeDtypeStruct((batch_size, *shape), dtype)
        return {
            "image": array(self.image_shape, jnp.uint8),
            "boxes": array((self.max_boxes, 4), jnp.float32),
            "labels": array((self.max_boxes,), jnp.int32),
            "box_weight": array((self.max_boxes,), jnp.float32),
            "index": array((), jnp.int32),
            "weight": array((), jnp.float32),
        }

    def init(self, rng: jax.Array) -> Variables:
        """Initial variables: `params` and, for models with batch norm, `batch_stats`."""
        return self.model.init(rng, jnp.zeros((1, *self.image_shape), jnp.float32))

    def totals(self, batch: Batch) -> Totals:
        """The normalisers of the loss: the number of positive points, and the sum of their centre-ness."""
        targets = self.targets(batch)
        at_least = lambda total: jnp.where(total > 0, total, 1)
        return {
            "positives": at_least(targets["positive"].sum()),
            "centreness": at_least(targets["centreness"].sum()),
            "examples": at_least(batch["weight"].sum()),
        }

    def loss(
        self, variables: Variables, batch: Batch, totals: Totals, rng: jax.Array
    ) -> tuple[Float[Array, ""], LossAux]:
        """`(loss, (new batch statistics, sums))` for training; the losses of microbatches add up."""
        mutable = [name for name in variables if name != "params"]
        outputs, new = self._apply(variables, batch, train=True, mutable=mutable, rngs={"dropout": rng})
        sums = self._losses(outputs, batch)
        normalisers = {"class_loss": "positives", "box_loss": "centreness", "centre_loss": "positives"}
        parts = {name: sums[name][0] / totals[normaliser] for name, normaliser in normalisers.items()}
        loss = parts["class_loss"] + self.spec.box_loss_weight * parts["box_loss"] + parts["centre_loss"]
        # The sums over all microbatches, divided by the normalisers, are the loss.
        return loss, (new, sums | {"loss": (loss * totals["examples"], batch["weight"].sum())})

    def evaluate(self, variables: Variables, batch: Batch) -> Sums:
        """The sums of the three losses, each with its normaliser."""
        return self._losses(self._apply(variables, batch), batch)

    def derived(self, means: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The loss of a whole split."""
        mean = lambda name: means.get(name, 0.0)  # a split without objects has none
        return {"loss": float(mean("class_loss") + mean("centre_loss") + self.spec.box_loss_weight * mean("box_loss"))}

    def predict(self, variables: Variables, batch: Batch, rng: jax.Array | None = None) -> Outputs:
        """`boxes` [batch, max_detections, 4] in px, `scores` and `labels` [batch, max_detections], best first.

        A score is the square root of class probability times centre-ness; 0 for padding.
        """
        del rng
        outputs = self._apply(variables, batch)
        probabilities = jax.nn.sigmoid(outputs.class_logits) * jax.nn.sigmoid(outputs.centreness)[..., None]
        scores = jnp.sqrt(probabilities).reshape(len(batch["index"]), -1)
        classes = len(self.class_names)
        scores, index = jax.lax.top_k(scores, min(self.spec.candidates, scores.shape[1]))
        labels = index % classes
        boxes = jnp.take_along_axis(self._boxes(outputs.distances), (index // classes)[..., None], axis=1)
        kept = box_ops.suppress(boxes, labels, scores >= self.spec.score_threshold, self.spec.nms_iou)
        best, order = jax.lax.top_k(jnp.where(kept, scores, 0), min(self.spec.max_detections, scores.shape[1]))
        chosen = jnp.take_along_axis(boxes, order[..., None], axis=1)
        return {"boxes": chosen, "scores": best, "labels": jnp.take_along_axis(labels, order, axis=1)}

    def check_selection(self, means: Collection[str], scored: bool) -> None:
        """See Task.check_selection."""
        metric_lib.check(self.spec.select_by, means, scored)

    def scorer(self, data: box_scores.BoxDataset, split: str) -> box_scores.CocoScorer:
        """Computes mAP on the host."""
        return box_scores.CocoScorer(data, split)

    def targets(self, batch: Batch) -> dict[str, jax.Array]:
        """The target of each point, by the rules of FCOS with centre sampling.

        Returns:
            `positive` [batch, points]: 1 if the point is assigned a box, 0 for background and padding; `label` and
            `box` [batch, points, 4] of that box, the smallest of several; `centreness` of the point in the box, or 0.
        """
        point, level = self._points()
        strides = np.array(self.model.strides, np.float32)
        stride, first, last = strides[level], level == 0, level == len(strides) - 1
        boxes = batch["boxes"][:, None]  # [batch, 1, boxes, 4]
        near = point[None, :, None] - boxes[..., :2]  # [batch, points, boxes, 2]
        far = boxes[..., 2:] - point[None, :, None]
        farthest = jnp.maximum(near, far).max(-1)
        low, high = (
            np.where(first, 0, REGRESSION_RANGE_STRIDES / 2 * stride),
            np.where(last, np.inf, REGRESSION_RANGE_STRIDES * stride),
        )
        centre = (boxes[..., :2] + boxes[..., 2:]) / 2
        central = jnp.abs(point[None, :, None] - centre).max(-1) < self.spec.radius * stride[:, None]
        inside = jnp.minimum(near, far).min(-1) > 0
        level_fits = (farthest > low[:, None]) & (farthest <= high[:, None])
        weight = batch["box_weight"] * batch["weight"][:, None]
        taken = inside & central & level_fits & (weight[:, None] > 0)
        areas = jnp.where(taken, box_ops.area(boxes), jnp.inf)
        chosen = areas.argmin(-1)
        positive = taken.any(-1)
        pick = lambda values: jnp.take_along_axis(values, chosen, axis=1)
        box = jnp.stack([pick(batch["boxes"][..., side]) for side in range(4)], -1)
        label = pick(batch["labels"])
        around = jnp.stack([point - box[..., :2], box[..., 2:] - point], -1)  # [batch, points, 2, 2]
        shares = around.min(-1) / jnp.maximum(around.max(-1), 1e-6)
        centreness = jnp.sqrt(jnp.maximum(shares.prod(-1), 0))
        return {
            "positive": positive.astype(jnp.float32),
            "label": label,
            "box": box,
            "centreness": jnp.where(positive, centreness, 0.0),
        }

    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        return points(*self.image_shape[:2], self.model.strides)

    def _apply(self, variables: Variables, batch: Batch, train: bool = False, **options) -> Any:
        images = (batch["image"].astype(jnp.float32) - jnp.asarray(self.mean)) / jnp.asarray(self.std)
        images = constrain(images, ("batch", "height", "width", None))
        return self.model.apply(variables, images, train=train, **options)

    def _boxes(self, distances: jax.Array) -> jax.Array:
        """Boxes [batch, points, 4] from the distances of the points to their sides, clipped to the canvas."""
        point, (height, width, _) = self._points()[0], self.image_shape
        corners = jnp.concatenate([point - distances[..., :2], point + distances[..., 2:]], axis=-1)
        return corners.clip(0, jnp.array([width, height] * 2, corners.dtype))

    def _losses(self, outputs: FcosOutputs, batch: Batch) -> Sums:
        """Focal loss of the classes, GIoU weighted by centre-ness, cross-entropy of centre-ness, with normalisers."""
        targets = self.targets(batch)
        positive, centreness = targets["positive"], targets["centreness"]
        labels = jax.nn.one_hot(targets["label"], len(self.class_names)) * positive[..., None]
        class_loss = optax.losses.sigmoid_focal_loss(
            outputs.class_logits, labels, alpha=self.spec.focal_alpha, gamma=self.spec.focal_gamma
        )
        class_loss = class_loss * batch["weight"][:, None, None]
        point = self._points()[0]
        boxes = jnp.concatenate([point - outputs.distances[..., :2], point + outputs.distances[..., 2:]], axis=-1)
        box_loss = (1 - box_ops.generalised_iou(boxes, targets["box"])) * centreness
        centre_loss = optax.losses.sigmoid_binary_cross_entropy(outputs.centreness, centreness) * positive
        return {
            "class_loss": (class_loss.sum(), positive.sum()),
            "box_loss": (box_loss.sum(), centreness.sum()),
            "centre_loss": (centre_loss.sum(), positive.sum()),
        }
