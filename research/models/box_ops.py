"""Boxes [..., 4] (left, top, right, bottom): overlaps, and non-maximum suppression."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.models.shapes import AnyArray


def area(boxes: Float[AnyArray, "*shape 4"]) -> Float[Array, "*shape"]:
    """The areas [...] of boxes; 0 for inverted ones."""
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def _overlap(one: AnyArray, other: AnyArray) -> tuple[jax.Array, jax.Array]:
    """The areas of intersection and union."""
    corners = jnp.maximum(one[..., :2], other[..., :2]), jnp.minimum(one[..., 2:], other[..., 2:])
    shared = area(jnp.concatenate(corners, axis=-1))
    return shared, area(one) + area(other) - shared


def iou(one: Float[AnyArray, "*#shape 4"], other: Float[AnyArray, "*#shape 4"]) -> Float[Array, "*#shape"]:
    """Intersection over union of boxes, with broadcasting; 0 if both are empty."""
    shared, union = _overlap(one, other)
    return shared / jnp.maximum(union, 1e-9)


def generalised_iou(one: Float[AnyArray, "*#shape 4"], other: Float[AnyArray, "*#shape 4"]) -> Float[Array, "*#shape"]:
    """Generalised IoU: IoU minus the share of the enclosing box outside of both (Rezatofighi et al., 2019)."""
    shared, union = _overlap(one, other)
    corners = jnp.minimum(one[..., :2], other[..., :2]), jnp.maximum(one[..., 2:], other[..., 2:])
    around = area(jnp.concatenate(corners, axis=-1))
    return shared / jnp.maximum(union, 1e-9) - (around - union) / jnp.maximum(around, 1e-9)


def suppress(
    boxes: Float[AnyArray, "batch boxes 4"],
    labels: Int[AnyArray, "batch boxes"],
    valid: Bool[AnyArray, "batch boxes"],
    threshold: float,
) -> Bool[Array, "batch boxes"]:
    """Non-maximum suppression within each class: a mask of the boxes that are kept, [batch, count].

    `boxes` [batch, count, 4] and `labels` [batch, count] are in descending order of score. A box is removed if a kept
    box before it has the same class and an IoU above `threshold` with it. Boxes that are not `valid` are removed.
    """
    count = boxes.shape[1]
    close = iou(boxes[:, :, None], boxes[:, None]) > threshold
    before = jnp.arange(count)[:, None] < jnp.arange(count)[None]
    # [batch, i, j]: box i, if it is kept, removes box j.
    removes = close & (labels[:, :, None] == labels[:, None]) & before & valid[:, :, None]

    # The mask is the only fixed point of this rule, and correct for the first n boxes after at most n iterations. A few
    # iterations are mostly enough, whereas a loop over boxes would need `count`.
    def body(carry):
        stays, _ = carry
        new = valid & ~(removes & stays[:, :, None]).any(1)
        return new, (new != stays).any()

    return jax.lax.while_loop(lambda carry: carry[1], body, (jnp.asarray(valid), jnp.array(True)))[0]
