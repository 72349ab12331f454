"""Region losses for segmentation: functions of probabilities and masks that return a loss per image."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from research.models.shapes import AnyArray


def dice(
    probabilities: Float[Array, "batch height width classes"], mask: Integer[AnyArray, "batch height width"]
) -> Float[Array, " batch"]:
    """The Dice loss [batch] of each image: 1 - 2 |p t| / (|p| + |t|), averaged over the classes in its mask.

    As Milletari et al., 2016, without the squares in the denominator. `probabilities` are [batch, height, width,
    classes].
    """
    truth, present, probabilities = _regions(probabilities, mask)
    overlap = (probabilities * truth).sum((1, 2))
    sizes = probabilities.sum((1, 2)) + truth.sum((1, 2))
    return _mean_of_present(1 - 2 * overlap / jnp.maximum(sizes, 1), present)


def lovasz(
    probabilities: Float[Array, "batch height width classes"], mask: Integer[AnyArray, "batch height width"]
) -> Float[Array, " batch"]:
    """The Lovász-softmax loss [batch] of each image (Berman et al., 2018), averaged over the classes in its mask."""
    truth, present, probabilities = _regions(probabilities, mask)
    flat = lambda x: x.reshape(x.shape[0], -1, x.shape[-1]).swapaxes(1, 2)  # [batch, classes, pixels]
    # Void pixels have error 0, so they are sorted last and have no effect.
    errors, truth = flat(jnp.abs(truth - probabilities)), flat(truth)
    order = jnp.argsort(-jax.lax.stop_gradient(errors))
    errors, truth = (jnp.take_along_axis(x, order, axis=-1) for x in (errors, truth))
    size = truth.sum(-1, keepdims=True)
    seen = truth.cumsum(-1)
    jaccard = 1 - (size - seen) / (size + (1 - truth).cumsum(-1))
    gradient = jnp.diff(jaccard, prepend=0)
    return _mean_of_present((errors * gradient).sum(-1), present)


REGIONS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {"dice": dice, "lovasz": lovasz}


def _regions(probabilities: jax.Array, mask: AnyArray) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The one-hot masks, whether each class occurs [batch, classes], and the probabilities, 0 in void pixels."""
    truth = jax.nn.one_hot(mask, probabilities.shape[-1])
    valid = truth.sum(-1, keepdims=True)
    return truth, truth.any((1, 2)), probabilities * valid


def _mean_of_present(losses: jax.Array, present: jax.Array) -> jax.Array:
    return (losses * present).sum(-1) / jnp.maximum(present.sum(-1), 1)
