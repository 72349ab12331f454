"""Random patterns instead of faces: synthetic data for face recognition, without a download."""

import io
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from research.data.images.builders import faces
from research.data.images.builders.labelled import EncodedImage

PEOPLE, HELD_OUT, UNSEEN = 48, 6, 6
IMAGES = {"train": 12, "validation": 2, "test": 4}  # per known person
SIDE = 16  # px
SHIFT = 2  # px
SEED = 0


class RandomPatterns(faces.FaceBuilder, skip_registration=True):
    """Forty-eight smooth patterns, with a random shift, brightness and noise in every image; `light` is dim or bright.

    random_patterns/identification   576 / 96 / 192 images of all people
    random_patterns/verification     504 / 84 / 108: validation and test are six people each who are not in train
    """

    BUILDER_CONFIGS = [  # noqa: RUF012  TFDS reads it from the class.
        tfds.core.BuilderConfig(name="identification"),
        tfds.core.BuilderConfig(name="verification", version=tfds.core.Version("2.0.0")),  # 1.0.0: held-out images
    ]
    channels = 1
    columns = ("light",)

    def _info(self):
        names = [f"person{number:02}" for number in range(PEOPLE)]
        if self.builder_config.name == "identification":
            return self.face_info((SIDE, SIDE, 1), names, columns=self.columns)
        known, seen = PEOPLE - HELD_OUT - UNSEEN, PEOPLE - UNSEEN
        return self.face_info((SIDE, SIDE, 1), names[:known], names[seen:], self.columns, names[known:seen])

    def _split_generators(self, dl_manager):
        parts = {split: [] for split in IMAGES}
        splits = [split for split, count in IMAGES.items() for _ in range(count)]
        for person, name in enumerate(self.info.features["label"].names):
            for number, split in enumerate(splits):
                if self.builder_config.name == "identification":
                    parts[split].append((person, name, number))
                elif person >= PEOPLE - UNSEEN:
                    parts["test"].append((person, name, number))
                elif split != "test":  # as many images of a person as in `identification`
                    parts["train" if person < PEOPLE - HELD_OUT - UNSEEN else "validation"].append(
                        (person, name, number)
                    )
        return {split: self._generate_examples(split, _images(part)) for split, part in parts.items()}


def _images(part: list[tuple[int, str, int]]) -> Iterator[EncodedImage]:
    for person, name, number in part:
        pixels, light = draw(person, number)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        path = f"{name}/{number:02}.png"
        yield EncodedImage("random_patterns", path, buffer.getvalue(), name, {"path": path, "light": light})


def draw(person: int, number: int) -> tuple[np.ndarray, str]:
    """An image of a person, uint8 [SIDE, SIDE], and its light: a function of (SEED, person, number)."""
    coarse = np.random.default_rng([SEED, person]).uniform(0, 1, (5, 5)).astype(np.float32)
    side = SIDE + 2 * SHIFT
    pattern = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
    rng = np.random.default_rng([SEED, person, number + 1])
    top, left = rng.integers(0, 2 * SHIFT + 1, 2)
    bright = rng.random() < 0.5
    crop = pattern[top : top + SIDE, left : left + SIDE] * rng.uniform(*((0.8, 1) if bright else (0.4, 0.6)))
    crop = 255 * crop + rng.normal(0, 12, (SIDE, SIDE))
    return np.clip(crop, 0, 255).astype(np.uint8), "bright" if bright else "dim"
