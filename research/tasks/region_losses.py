"""Losses of segmentation that do not add over pixels: functions of probabilities and masks to a loss an image."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def dice(probabilities: jax.Array, mask: jax.Array) -> jax.Array:
    """The Dice loss [batch] of each image: 1 - 2 |p t| / (|p| + |t|), the mean over the classes that it shows.

    As Milletari et al., 2016, but not squared below. `probabilities` are [batch, height, width, classes].
    """
    truth, shown, probabilities = _regions(probabilities, mask)
    overlap = (probabilities * truth).sum((1, 2))
    sizes = probabilities.sum((1, 2)) + truth.sum((1, 2))
    return _mean_of_shown(1 - 2 * overlap / jnp.maximum(sizes, 1), shown)


def lovasz(probabilities: jax.Array, mask: jax.Array) -> jax.Array:
    """The Lovász-softmax loss [batch] of each image (Berman et al., 2018), the mean over its classes."""
    truth, shown, probabilities = _regions(probabilities, mask)
    flat = lambda x: x.reshape(x.shape[0], -1, x.shape[-1]).swapaxes(1, 2)  # [batch, classes, pixels]
    # Void pixels have error 0, so they come last in the order and change nothing.
    errors, truth = flat(jnp.abs(truth - probabilities)), flat(truth)
    order = jnp.argsort(-jax.lax.stop_gradient(errors))
    errors, truth = (jnp.take_along_axis(x, order, axis=-1) for x in (errors, truth))
    size = truth.sum(-1, keepdims=True)
    seen = truth.cumsum(-1)
    jaccard = 1 - (size - seen) / (size + (1 - truth).cumsum(-1))
    gradient = jnp.diff(jaccard, prepend=0)
    return _mean_of_shown((errors * gradient).sum(-1), shown)


REGIONS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {"dice": dice, "lovasz": lovasz}


def _regions(probabilities: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The true regions as one-hot vectors, whether each class is shown [batch, classes], probabilities outside void."""
    truth = jax.nn.one_hot(mask, probabilities.shape[-1])
    valid = truth.sum(-1, keepdims=True)
    return truth, truth.any((1, 2)), probabilities * valid


def _mean_of_shown(losses: jax.Array, shown: jax.Array) -> jax.Array:
    return (losses * shown).sum(-1) / jnp.maximum(shown.sum(-1), 1)
