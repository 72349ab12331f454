"""Face recognition: softmax over people with an angular margin; scores of identification and verification."""

import dataclasses
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from research.metrics import face_scores
from research.metrics import metric as metric_lib
from research.models import faces
from research.spec import Role, checks, field, invalid
from research.spec.contracts import Batch, ClassDataset, HostOutputs, LossAux, Outputs, Sums, Totals, Variables
from research.tasks import classification

# The scores of each metric, and those that are also computed per group, as `name_column_label`.
METRICS = {
    "identification": ("identification",),
    "verification": ("auc", "eer", *(f"tar_at_far_{name}" for name in face_scores.RATES), "pair_accuracy"),
}
OF_GROUPS = ("identification", "auc", "pair_accuracy", "tar", "far")


class FaceSpec(classification.LabelSpec, tag="faces"):
    """Softmax with an angular margin, and the scores of embeddings."""

    margin: str = field(
        default="arcface",
        check=checks.one_of(*faces.MARGINS),
        doc="angular margin of the loss, see research/models/faces.py",
    )
    margin_size: float = field(default=0.5, doc="size of the margin: radians for arcface, cosine for cosface")
    scale: float = field(default=64.0, check=checks.above(0) & checks.at_most(1e6), doc="scale s of the cosines")
    flip_tta: bool = field(
        default=True, role=Role.INFERENCE, renamed="flip_average",
        doc="average the embeddings of an image and its mirror image (test-time augmentation)",
    )  # fmt: skip
    metrics: tuple[str, ...] = field(
        default=tuple(METRICS), check=checks.each(checks.one_of(*METRICS)), doc="scores of embeddings"
    )
    groups: tuple[str, ...] = field(
        default=(), role=Role.INFERENCE, doc="columns of the data by whose labels scores are grouped, too"
    )
    select_by: str = field(default="accuracy", doc="metric that selects the best checkpoint")
    threshold: float = field(
        default=0.0, role=Role.INFERENCE, check=checks.between(-1, 1),
        doc="for predict: similarity above which two images are of the same person; 0: chosen on validation",
    )  # fmt: skip

    def validate(self) -> None:
        """Raises FieldError for inconsistent fields."""
        known = ["accuracy", "loss", *(name for metric in self.metrics for name in METRICS[metric])]
        of_group = self.select_by.startswith(tuple(f"{name}_{group}_" for name in OF_GROUPS for group in self.groups))
        if self.select_by not in known and not of_group:
            raise invalid(self, "select_by", f"is not a score of config.task.metrics; choose from {', '.join(known)}")
        most = {"arcface": np.pi, "cosface": 2.0, "none": 0.0}[self.margin]
        if not 0 <= self.margin_size <= most:
            raise invalid(self, "margin_size", f"must be between 0 and {most:.4g} for {self.margin!r}")


@dataclasses.dataclass(frozen=True)
class FaceTask(classification.ImageTask):
    """A classification.ImageTask for a models.faces.FaceModel; labels from num_classes on are unseen people."""

    spec: FaceSpec

    @property
    def selection(self) -> tuple[str, str]:
        """The metric that selects the best checkpoint, and "max" or "min"."""
        return self.spec.select_by, metric_lib.mode(self.spec.select_by)

    def loss(
        self, variables: Variables, batch: Batch, totals: Totals, rng: jax.Array
    ) -> tuple[Float[Array, ""], LossAux]:
        """`(loss, (new batch statistics, sums))` for training; the losses of microbatches add up."""
        mutable = [name for name in variables if name != "params"]
        images = self._normalise(batch["image"])
        (_, cosines), new = self.model.apply(variables, images, train=True, mutable=mutable, rngs={"dropout": rng})
        logits = faces.margin_logits(cosines, batch["label"], self.spec.margin, self.spec.margin_size, self.spec.scale)
        losses = optax.losses.softmax_cross_entropy(logits, self._targets(batch["label"])) * batch["weight"]
        return losses.sum() / totals["examples"], (new, self._sums(losses, cosines, batch))

    def evaluate(self, variables: Variables, batch: Batch) -> Sums:
        """Sums of cross-entropy without margin, and of correct predictions, over images of known people."""
        _, cosines = self._embed(variables, self._normalise(batch["image"]))
        known = batch["label"] < self.model.num_classes
        batch = batch | {"label": jnp.where(known, batch["label"], 0), "weight": batch["weight"] * known}
        own = jax.nn.one_hot(batch["label"], self.model.num_classes)
        losses = optax.losses.softmax_cross_entropy(self.spec.scale * cosines, own)
        return self._sums(losses * batch["weight"], cosines, batch)

    def predict(self, variables: Variables, batch: Batch, rng: jax.Array | None = None) -> Outputs:
        """L2-normalised embeddings, float32 [batch, embed_dim]."""
        del rng
        images = self._normalise(batch["image"])
        embeddings, _ = self._embed(variables, images)
        if self.spec.flip_tta:
            embeddings = faces.unit(embeddings + self._embed(variables, images[:, :, ::-1])[0])
        return {"embedding": embeddings}

    def check_selection(self, means: Collection[str], scored: bool) -> None:
        """See Task.check_selection."""
        metric_lib.check(self.spec.select_by, means, scored and bool(self.spec.metrics))

    def scorer(self, data: "FaceDataset", split: str) -> "FaceScorer | None":
        """Scores the embeddings of a split of `data` on the host; None without metrics.

        Raises ValueError for an unknown group, and if there are no people or pairs to score.
        """
        for column in self.spec.groups:
            if column not in data.columns:
                known = f"choose from {', '.join(data.columns)}" if data.columns else "this data set has none"
                raise ValueError(f"config.task.groups={self.spec.groups}: there is no column {column!r}; {known}")
        if "identification" in self.spec.metrics and not data.known(split):
            raise ValueError(
                f"no person in the {split} split of {data.name!r} has images in earlier splits, so identification "
                'cannot be scored; set config.task.metrics=("verification",)'
            )
        if "verification" in self.spec.metrics:
            data.pairs(split)
        return FaceScorer(self.spec.metrics, self.spec.groups, data, split) if self.spec.metrics else None

    def _embed(self, variables: Variables, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        return cast(tuple[jax.Array, jax.Array], self.model.apply(variables, images, train=False))


class PairLike(Protocol):
    """Two images, and whether they are of the same person."""

    @property
    def first(self) -> str:
        """The path of one image."""
        ...

    @property
    def second(self) -> str:
        """The path of the other."""
        ...

    @property
    def same(self) -> int:
        """1 if both are of the same person, else 0."""
        ...

    @property
    def fold(self) -> int:
        """The fold of the protocol."""
        ...


class FaceDataset(ClassDataset, Protocol):
    """A data set of images of people, whose references hold `path`, `person`, `gallery` and a text for each column."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The labels by which scores can be grouped."""
        ...

    def known(self, split: str) -> set[str]:
        """The people of a split who have images in its gallery."""
        ...

    def pairs(self, split: str) -> Sequence[PairLike]:
        """The pairs of a split."""
        ...


class FaceScorer:
    """Collects the embeddings of a split, its gallery included, and scores identification and verification."""

    def __init__(self, metrics: tuple[str, ...], groups: tuple[str, ...], data: FaceDataset, split: str):
        self._metrics, self._groups, self._data, self._split = metrics, groups, data, split
        self._embeddings: dict[int, np.ndarray] = {}
        self.signatures: dict[str, str] = {}

    def add(self, outputs: HostOutputs) -> None:
        """Adds the outputs of `Task.predict` for a batch, with its `index`."""
        for index, embedding in zip(outputs["index"], outputs["embedding"], strict=True):
            if index >= 0:  # not by weight, which is 0 for images of the gallery
                self._embeddings[int(index)] = embedding

    def result(self) -> dict[str, float]:
        """{score: value}; with groups, also `name_column_label`."""
        found = {}
        if "identification" in self._metrics:
            found |= self._identification(self._identified())
        if "verification" in self._metrics:
            found |= self._verification(self._verified())
        return found

    def save(self, path: Path) -> None:
        """Writes a line of JSON for each identified image and each pair, from which all scores can be recomputed.

        {"path", "person", "nearest", "found", "similarity"}: the most similar image of the gallery, and its person
        {"path1", "path2", "same", "fold", "similarity"}; both with the labels of their groups
        """
        with path.open("w", encoding="utf-8") as file:
            for line in self._lines():
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _lines(self) -> Iterator[dict[str, Any]]:
        if "identification" in self._metrics:
            yield from self._identified()
        if "verification" in self._metrics:
            yield from self._verified()

    def _identified(self) -> list[dict[str, Any]]:
        images = [(self._data.reference(self._split, index), index) for index in sorted(self._embeddings)]
        gallery = [(image, index) for image, index in images if image["gallery"]]
        known = {image["person"] for image, _ in gallery}  # others cannot be identified
        probes = [(image, index) for image, index in images if not image["gallery"] and image["person"] in known]
        rows = lambda part: np.stack([self._embeddings[index] for _, index in part])
        lines = []
        for (image, _), row, similarity in zip(probes, *face_scores.nearest(rows(probes), rows(gallery)), strict=True):
            nearest = gallery[row][0]
            match = {"nearest": nearest["path"], "found": nearest["person"], "similarity": round(float(similarity), 6)}
            groups = {column: image[column] for column in self._groups}
            lines.append({"path": image["path"], "person": image["person"], **match, **groups})
        return lines

    def _verified(self) -> list[dict[str, Any]]:
        own, gallery = {}, {}  # separate, since images of different splits may have the same path
        for index in sorted(self._embeddings):
            image = self._data.reference(self._split, index)
            (gallery if image["gallery"] else own)[image["path"]] = image, self._embeddings[index]
        lines = []
        for pair in self._data.pairs(self._split):
            ours, theirs = own.get(pair.first), gallery.get(pair.second) or own.get(pair.second)
            if ours is None or theirs is None:
                missing = pair.second if ours else pair.first
                raise ValueError(
                    f"{self._data.name!r}: a pair has the image {missing!r}, which is not in "
                    f"{self._split}; fix the pairs file"
                )
            (first, embedding), (second, other) = ours, theirs
            paths = {"path1": pair.first, "path2": pair.second, "same": pair.same, "fold": pair.fold}
            groups = {column: [first[column], second[column]] for column in self._groups}
            lines.append({**paths, "similarity": round(float(embedding @ other), 6), **groups})
        return lines

    def _identification(self, lines: list[dict[str, Any]]) -> dict[str, float]:
        right = np.array([line["person"] == line["found"] for line in lines])
        found = {"identification": float(right.mean())}
        for column in self._groups:
            of = np.array([line[column] for line in lines])
            for label in sorted(set(of) - {""}):
                found[f"identification_{column}_{label}"] = float(right[of == label].mean())
        return found

    def _verification(self, lines: list[dict[str, Any]]) -> dict[str, float]:
        column_of = lambda name: np.array([line[name] for line in lines])
        pairs = column_of("similarity"), column_of("same"), column_of("fold")
        found = face_scores.verify(*pairs)
        for column in self._groups:
            of = column_of(column)  # [pairs, 2]
            for label in sorted(set(of.ravel()) - {""}):
                members = (of == label).all(1)
                if members.any():
                    scores = face_scores.verify_group(*pairs, members)
                    found |= {f"{name}_{column}_{label}": value for name, value in scores.items()}
        return found
