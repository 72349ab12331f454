"""Interpolates learned position embeddings to a different patch grid."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import linen as nn

from research.interop.layouts import Row
from research.interop.safetensors import TensorSpec
from research.models.specs import EncoderSpec
from research.models.vit import ViTSpec

Grid = tuple[int, int]  # rows and columns


def grid_of(model: nn.Module) -> Grid | None:
    """The patch grid of a ViT, also as a backbone; None for other models."""
    spec = getattr(getattr(model, "backbone", model), "spec", None)
    if not isinstance(spec, EncoderSpec):
        return None
    width = spec.image_width if isinstance(spec, ViTSpec) else 0
    return spec.image_size // spec.patch_size, (width or spec.image_size) // spec.patch_size


def grid_of_fields(fields: Mapping[str, Any]) -> Grid | None:
    """The patch grid of a model with these fields; None if it is square."""
    width = fields.get("image_width", 0)
    return (fields["image_size"] // fields["patch_size"], width // fields["patch_size"]) if width else None


def differ(ours: Grid | None, theirs: Grid | None) -> bool:
    """Whether two grids with the same number of positions differ; an unknown grid is taken as square."""
    return ours[0] != ours[1] if ours and not theirs else ours != theirs


def source_shape(row: Row, shape: tuple[int, ...], theirs: TensorSpec, grid: Grid | None) -> tuple[int, ...] | None:
    """The shape, on our side, of position embeddings for another grid; None if more than the grid differs."""
    if len(theirs.shape) not in (2, 3):
        return None
    for length in (theirs.shape[-2], theirs.shape[-2] + 1):
        source = (1, length, shape[2])
        counts = (length, length - 1)  # without and with a class token
        is_grid = math.prod(grid) in counts if grid else any(round(n**0.5) ** 2 == n for n in counts)
        if is_grid and row.their_shape(source) == theirs.shape:
            return source
    return None


def resize(positions: np.ndarray, length: int, grid: Grid | None = None, old_grid: Grid | None = None) -> np.ndarray:
    """Resizes learned positions [1, length, width] bilinearly to a grid of another `length`, in float32.

    Grids that are not given are square. The position of a class token, which comes first if there is one in addition to
    the grid, is kept, dropped, or added as zeros.
    """
    side_of = lambda count: round(count**0.5) if round(count**0.5) ** 2 == count else round((count - 1) ** 0.5)
    old, new = old_grid or (side_of(positions.shape[1]),) * 2, grid or (side_of(length),) * 2
    old_cls, cls = positions.shape[1] - math.prod(old), length - math.prod(new)
    around = positions[0, old_cls:].astype(np.float32).reshape(*old, -1)
    down, across = (_linear_weights(*sides) for sides in zip(old, new, strict=True))
    resized = np.einsum("ya,xb,abd->yxd", down, across, around, optimize=True).reshape(math.prod(new), -1)
    first = positions[0, :1] if old_cls else np.zeros_like(resized[:1])
    return np.concatenate([first[:cls], resized])[None].astype(np.float32)


def _linear_weights(old: int, new: int) -> np.ndarray:
    """Weights [new, old] of linear interpolation between cell centres, with antialiasing when downsampling."""
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    distances = np.abs(centres[:, None] - np.arange(old)) / max(1.0, old / new)
    weights = np.maximum(0, 1 - distances)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
