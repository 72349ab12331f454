"""Moving digits, generated from the scans that ship with scikit-learn (see digits.py), without a download.

A digit moves on a torus, so its position carries no information: in a single frame, all positions are equally likely.
"""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from research.data.clips.builders.clips import Clip, ClipBuilder

SIZES = {"train": 2000, "validation": 200, "test": 400}
FRAMES, SIDE = 8, 16  # px
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}  # rows, columns
SPEEDS = {"slow": 1, "fast": 2}  # px a frame
SEED = 0


class MovingDigits(ClipBuilder, skip_registration=True):
    """Splits of 2,000 / 200 / 400 clips of a digit that moves in a straight line; splits share no scans.

    moving_digits/motion   eight classes, four directions at two speeds: left_slow, left_fast, ...
    moving_digits/sense    two classes, left and right, at either speed: one is the other played backwards
    """

    BUILDER_CONFIGS = [  # noqa: RUF012  TFDS reads it from the class.
        tfds.core.BuilderConfig(name=name) for name in ("motion", "sense")
    ]

    def _info(self):
        names = ["left", "right"]
        if self.builder_config.name == "motion":
            names = [f"{direction}_{speed}" for direction in DIRECTIONS for speed in SPEEDS]
        return self.clip_info(FRAMES, (SIDE, SIDE, 1), names)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split, self._clips(split)) for split in SIZES}

    def _clips(self, split: str) -> Iterator[Clip]:
        from sklearn.datasets import load_digits

        loaded: Any = load_digits()  # a Bunch
        scans = loaded.images  # [1797, 8, 8] of 0 to 16
        names = self.info.features["label"].names
        part = list(SIZES).index(split)
        for index in range(SIZES[split]):
            rng = np.random.default_rng([SEED, part, index])
            label = names[index % len(names)]
            direction, _, speed = label.partition("_")
            speed = SPEEDS[speed or list(SPEEDS)[rng.integers(len(SPEEDS))]]
            scan = scans[rng.integers(len(scans) // len(SIZES)) * len(SIZES) + part]
            frames = move(scan, np.array(DIRECTIONS[direction]) * speed, rng.integers(0, SIDE, 2))
            yield Clip(f"{split} {index} {label}", [_encode(frame) for frame in frames], label)


def move(scan: np.ndarray, step: np.ndarray, start: np.ndarray) -> np.ndarray:
    """uint8 [FRAMES, SIDE, SIDE]: a scan [8, 8] of 0 to 16 at `start` (row, column), moved on by `step` each frame."""
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    canvas[: scan.shape[0], : scan.shape[1]] = np.round(scan * (255 / 16))
    return np.stack([np.roll(canvas, start + number * step, (0, 1)) for number in range(FRAMES)])


def _encode(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="PNG")
    return buffer.getvalue()
