"""`load(spec)`: images of people, and pairs of them for verification.

Any labelled images can be used, with people as classes; only builders of faces store names and pairs.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from research.data import pipeline, recorded
from research.data.images import classification, pairs
from research.data.images.spec import FaceDataSpec
from research.spec.contracts import Batches

NO_COLUMNS = ("image", "label", "path")


@dataclasses.dataclass(frozen=True)
class FaceDataset(classification.ImageDataset):
    """A classification.ImageDataset of people: `num_classes` counts those in train, `class_names` includes unseen ones.

    With `gallery`, evaluation batches also hold the gallery of the split, the enrolled images with which it is
    compared. They follow the images of the split, with continued indices and weight 0, so that they are not scored.
    """

    gallery: bool

    @cached_property
    def num_classes(self) -> int:
        """The number of people trained on; the labels of others are larger."""
        held_out = self._metadata.get("held_out", 0) if self.prepared.fit_on != "train" else 0
        return self._metadata.get("known", len(self.class_names)) + held_out

    @property
    def columns(self) -> tuple[str, ...]:
        """The labels by which scores can be grouped."""
        return tuple(key for key in self.prepared.builder.info.features if key not in NO_COLUMNS)

    @property
    def fingerprint(self) -> str:
        """As in PreparedDataset, including the pairs."""
        content = self.prepared.fingerprint
        stored = self._metadata.get("pairs")
        return hashlib.sha256(f"{content} {json.dumps(stored)}".encode()).hexdigest()[:16] if stored else content

    def eval_batches(self, split: str, batch_size: int, rows: slice | Sequence[int] | None = None) -> Batches:
        """As in PreparedDataset, followed by the gallery with weight 0: embedded, but not scored."""
        if not self.gallery:
            yield from super().eval_batches(split, batch_size, rows)
            return
        sources = [self.source(each) for each in (split, *gallery_of(split))]
        joined, count = _Joined(sources), len(sources[0])
        for batch in pipeline.eval_batches(joined, self.eval_transform, batch_size, rows, self.workers, self.prefetch):
            yield batch | {"weight": np.where(batch["index"] < count, batch["weight"], 0).astype(np.float32)}

    def reference(self, split: str, index: int) -> dict[str, Any]:
        """The labels of the image `index` of a split or its gallery.

        Returns:
            `path`, `person`, `label`, `gallery` (whether it is in the gallery) and a text for each of `columns`.
        """
        return self._references(split)[index]

    def known(self, split: str) -> set[str]:
        """The people of a split who have images in its gallery."""
        people = lambda gallery: {each["person"] for each in self._references(split) if each["gallery"] is gallery}
        return people(True) & people(False)

    def pairs(self, split: str) -> list[pairs.ImagePair]:
        """The stored pairs of a split or, if there are none, random ones.

        With a gallery, the second image of a random pair is from it. Raises ValueError if no pairs can be drawn.
        """
        if stored := self._metadata.get("pairs", {}).get(split):
            return [pairs.ImagePair(*pair) for pair in stored]
        of = lambda gallery: [
            (each["path"], each["person"]) for each in self._references(split) if each["gallery"] is gallery
        ]
        try:
            return pairs.draw(of(False), of(True))
        except ValueError as error:
            raise ValueError(f"the {split} split of {self.name!r}: {error}") from None

    @property
    def _metadata(self) -> Mapping[str, Any]:
        return self.prepared.builder.info.metadata or {}

    def _references(self, split: str) -> list[dict[str, Any]]:
        if split not in self._read:
            splits = (split, *(gallery_of(split) if self.gallery else ()))
            self._read[split] = [
                self._describe(each, index, each != split) for each in splits for index in range(self.counts[each])
            ]
        return self._read[split]

    @cached_property
    def _read(self) -> dict[str, list[dict[str, Any]]]:
        return {}

    def _describe(self, split: str, index: int, gallery: bool) -> dict[str, Any]:
        example = self.prepared.source(split)[index]
        label = int(example[self.eval_transform.label_key])
        path = example["path"].decode() if "path" in example else f"{split}/{index}"
        texts = {key: value.decode() for key in self.columns if isinstance(value := example[key], bytes)}
        return {"path": path, "person": self.class_names[label], "label": label, "gallery": gallery, **texts}


class _Joined(Sequence[Any]):
    """The concatenation of sources."""

    def __init__(self, sources: Sequence[Sequence[Any]]):
        self._sources = sources

    def __len__(self) -> int:
        return sum(map(len, self._sources))

    def __getitem__(self, index: int) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  no slices
        for source in self._sources:
            if index < len(source):
                return source[index]
            index -= len(source)
        raise IndexError(index)


def gallery_of(split: str) -> tuple[str, ...]:
    """The splits that form the gallery of `split`."""
    return {"train": (), "validation": ("train",), "test": ("train", "validation")}[split]


def load(spec: FaceDataSpec, gallery: bool, known: recorded.Recorded | None = None) -> FaceDataset:
    """The images of people that `spec` describes, see classification.load; with `gallery`, see FaceDataset."""
    images = classification.load(spec, known)
    return FaceDataset(
        **{field.name: getattr(images, field.name) for field in dataclasses.fields(images)}, gallery=gallery
    )
