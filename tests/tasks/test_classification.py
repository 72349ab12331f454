"""The loss against closed formulas; sums that padding and microbatches cannot change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from research.tasks import classification


class Linear(nn.Module):
    num_classes: int = 3

    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(self.num_classes, name="head")(images.reshape(images.shape[0], -1))


def make(**settings):
    return classification.ClassificationTask(
        Linear(), (4, 4, 1), (100.0,), (50.0,), classification.ClassificationSpec(**settings)
    )


def make_batch(count=6, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (count, 4, 4, 1)).astype(np.uint8),
        "label": rng.integers(0, 3, count).astype(np.int32),
        "index": np.arange(count, dtype=np.int32),
        "weight": np.array([1] * (count - 2) + [0, 0], np.float32),
    }


def log_softmax(task, variables, batch):
    x = (batch["image"].astype(np.float64) - 100) / 50
    head = variables["params"]["head"]
    logits = x.reshape(len(x), -1) @ np.asarray(head["kernel"], np.float64) + np.asarray(head["bias"])
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_smoothed_cross_entropy_over_what_is_not_padding():
    task, batch = make(label_smoothing=0.3), make_batch()
    variables = task.init(jax.random.key(0))
    loss, (_, sums) = task.loss(variables, batch, task.totals(batch), jax.random.key(1))
    targets = 0.7 * np.eye(3)[batch["label"]] + 0.1
    expected = -(targets * log_softmax(task, variables, batch)).sum(-1)[:4]
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)
    np.testing.assert_allclose(sums["loss"][0], expected.sum(), rtol=1e-5)
    assert sums["loss"][1] == sums["accuracy"][1] == 4


def test_losses_of_parts_add_up_to_the_loss_of_the_whole():
    task, batch = make(), make_batch()
    variables, totals = task.init(jax.random.key(0)), task.totals(batch)
    parts = [{k: v[i::2] for k, v in batch.items()} for i in range(2)]
    whole = task.loss(variables, batch, totals, jax.random.key(1))[0]
    np.testing.assert_allclose(
        sum(task.loss(variables, p, totals, jax.random.key(1))[0] for p in parts), whole, rtol=1e-6
    )


def test_evaluation_and_prediction():
    task, batch = make(label_smoothing=0.3, mixup=1.0), make_batch()
    variables = task.init(jax.random.key(0))
    log_probabilities = log_softmax(task, variables, batch)
    sums = task.evaluate(variables, batch)
    rows = np.arange(4)
    np.testing.assert_allclose(sums["loss"][0], -log_probabilities[rows, batch["label"][:4]].sum(), rtol=1e-5)
    assert sums["accuracy"][0] == (log_probabilities.argmax(-1) == batch["label"])[:4].sum()
    np.testing.assert_allclose(task.predict(variables, batch)["probabilities"], np.exp(log_probabilities), rtol=1e-4)


@pytest.mark.parametrize("tta", ["flip", "flip_shift"])
def test_with_tta_logits_are_the_average_of_separate_predictions(tta):
    plain, task, batch = make(), make(tta=tta), make_batch()
    variables = plain.init(jax.random.key(0))
    padded = np.pad(batch["image"], ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    views = {"flip": [(1, 1.0)], "flip_shift": [(1, 0.5), (0, 0.25), (2, 0.25)]}[tta]  # first px, weight
    expected = 0
    for first, weight in views:
        view = padded[:, first : first + 4, first : first + 4]
        for each in (view, view[:, :, ::-1]):
            expected = expected + weight / 2 * plain.logits(variables, batch | {"image": each})
    np.testing.assert_allclose(task.logits(variables, batch), expected, rtol=1e-5, atol=1e-6)
    probabilities = jax.nn.softmax(expected)
    np.testing.assert_allclose(task.predict(variables, batch)["probabilities"], probabilities, rtol=1e-5)
    correct = (expected.argmax(-1) == batch["label"])[:4].sum()
    assert task.evaluate(variables, batch)["accuracy"][0] == correct
    # Training does not average.
    losses = [each.loss(variables, batch, each.totals(batch), jax.random.key(1))[0] for each in (plain, task)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("settings", [{"mixup": 0.5}, {"cutmix": 1.0}, {"mixup": 0.5, "cutmix": 1.0}])
def test_mixing_moves_pixels_and_targets_by_the_same_share(settings):
    # Images that are constant: the share of the neighbour can be read off the mean pixel.
    task = make(**settings)
    values = jnp.arange(64.0)
    images = jnp.broadcast_to(values[:, None, None, None], (64, 16, 16, 1))
    mixed, targets = task._mix(jax.random.key(3), images, jnp.eye(64))
    other = jnp.roll(values, 1)
    share = np.asarray(targets[jnp.arange(64), jnp.arange(64)])
    np.testing.assert_allclose(targets.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(mixed.mean((1, 2, 3)), share * values + (1 - share) * other, rtol=1e-4, atol=1e-4)
    assert (share < 0.999).mean() > 0 and len(np.unique(share)) > 8


def test_cutmix_pixels_come_from_one_of_two_images():
    images = jnp.broadcast_to(jnp.arange(32.0)[:, None, None, None], (32, 16, 16, 1))
    mixed, _ = make(cutmix=1.0)._mix(jax.random.key(0), images, jnp.eye(32))
    own, other = images, jnp.roll(images, 1, 0)
    assert bool(((mixed == own) | (mixed == other)).all())
