"""Which examples a page shows, and which data sets may be shown in a page that is published."""

from collections.abc import Callable
from typing import Any

import numpy as np

ImageOf = Callable[[str, int], np.ndarray | None]  # from a split and an index; None if it is not shown

# Synthetic data, handwritten digits, blood cells and street scenes. Faces, clips of people and people's words are not
# among them, nor are folders of users.
PUBLIC = (
    "babi", "bccd_voc", "boxed_shapes", "camvid", "coloured_shapes", "dial_tones", "digits", "moving_digits",
    "random_patterns", "spelled_numbers",
)  # fmt: skip


def is_public(name: str) -> bool:
    """Whether examples of the data set `name` may be shown in a page that is published."""
    return name.partition("/")[0].partition(":")[0] in PUBLIC


def no_image(split: str, index: int) -> None:
    """An ImageOf that shows nothing."""


def images(data: Any) -> ImageOf:
    """The images of a data set as a model receives them, uint8 [height, width, channels]; clips have frames first."""
    return lambda split, index: data.eval_transform(data.source(split)[index])["image"]
