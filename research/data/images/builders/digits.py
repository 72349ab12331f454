"""Handwritten digits: 1,797 scans of 8x8 pixels in 17 grey levels that ship inside scikit-learn (no download).

The test part of the UCI "Optical Recognition of Handwritten Digits" set, E. Alpaydin and C. Kaynak, 1998.
"""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from research.data.images.builders.labelled import EncodedImage, ImageBuilder

TEST_FRACTION = 0.2
VALIDATION_FRACTION = 0.1  # of the rest
SPLIT_SEED = 0


class Digits(ImageBuilder, skip_registration=True):
    """Splits of 1,293 / 144 / 360, each with the classes in the same proportion."""

    channels = 1

    def _info(self):
        return self.image_info(__doc__, (8, 8, 1), [str(digit) for digit in range(10)])

    def _split_generators(self, dl_manager):
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        scans, labels = load_digits(return_X_y=True)
        split = lambda rows, size: train_test_split(
            rows, test_size=size, stratify=labels[rows], random_state=SPLIT_SEED
        )
        rest, test = split(np.arange(len(scans)), TEST_FRACTION)
        train, validation = split(rest, VALIDATION_FRACTION)
        parts = {"train": train, "validation": validation, "test": test}
        return {name: self._generate_examples(name, _images(scans, labels, rows)) for name, rows in parts.items()}


def _images(scans, labels, rows) -> Iterator[EncodedImage]:
    for row in sorted(rows):
        # Levels 0..16 to 0..255: the 17 levels stay apart, so nothing is lost.
        pixels = np.round(scans[row].reshape(8, 8) * (255 / 16)).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        yield EncodedImage("digits", f"{row:04}.png", buffer.getvalue(), str(labels[row]))
