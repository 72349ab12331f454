"""Losses against closed formulas in NumPy, the scores against scikit-learn; padding and void count nowhere."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from sklearn.metrics import jaccard_score

from research.metrics import calibration
from research.report import reliability
from research.tasks import region_losses, segmentation

NAMES = ("sky", "car", "tree")


class Pixelwise(nn.Module):
    """Logits of each pixel's own colour."""

    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(3, name="head")(images)


def make(model=None, **settings):
    spec = segmentation.SegmentationSpec(**settings)
    return segmentation.SegmentationTask(model or Pixelwise(), NAMES, (5, 6, 3), (100.0,) * 3, (50.0,) * 3, spec)


def make_batch(count=6, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (count, 5, 6, 3)).astype(np.uint8),
        "mask": rng.choice([0, 1, 2, 255], (count, 5, 6), p=[0.5, 0.2, 0.2, 0.1]).astype(np.uint8),
        "index": np.arange(count, dtype=np.int32),
        "weight": np.array([1] * (count - 2) + [0, 0], np.float32),
    }


def log_softmax(variables, batch):
    head = variables["params"]["head"]
    logits = (batch["image"].astype(np.float64) - 100) / 50 @ np.asarray(head["kernel"], np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.fixture(scope="module")
def variables():
    return jax.jit(make().init)(jax.random.key(0))


def loss_of(task, variables, batch):
    loss = lambda v, b: task.loss(v, b, task.totals(b), jax.random.key(1))
    return jax.jit(loss)(variables, batch)


def test_cross_entropy_is_weighted_by_the_class_of_each_pixel(variables):
    batch, weights = make_batch(), np.array([0.5, 3.0, 1.0])
    loss, (_, sums) = loss_of(make(class_weights=tuple(weights)), variables, batch)
    shown = batch["mask"][:4] < 3
    mask = batch["mask"][:4][shown]
    picked = log_softmax(variables, batch)[:4][shown][np.arange(len(mask)), mask]
    expected = -(weights[mask] * picked).sum() / weights[mask].sum()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(sums["loss"][0] / sums["loss"][1], expected, rtol=1e-5)
    assert sums["pixel_accuracy"][1] == shown.sum()


def test_dice_of_the_classes_that_an_image_shows(variables):
    batch = make_batch()
    batch["mask"][0] = np.where(batch["mask"][0] == 1, 0, batch["mask"][0])  # an image without cars
    plain, both = make(), make(region="dice", region_weight=0.7)
    probabilities, expected = np.exp(log_softmax(variables, batch)), []
    for p, mask in zip(probabilities[:4], batch["mask"], strict=False):
        p, mask = p[mask < 3], mask[mask < 3]
        terms = [
            1 - 2 * p[mask == c, c].sum() / (p[:, c].sum() + (mask == c).sum()) for c in range(3) if (mask == c).any()
        ]
        expected.append(np.mean(terms))
    difference = loss_of(both, variables, batch)[0] - loss_of(plain, variables, batch)[0]
    np.testing.assert_allclose(difference, 0.7 * np.mean(expected), rtol=1e-4)


def test_lovasz_of_certain_predictions_is_one_minus_iou():
    rng = np.random.default_rng(0)
    mask = rng.choice([0, 1, 2, 255], (8, 7, 9)).astype(np.uint8)
    predicted = rng.integers(0, 3, mask.shape)
    losses = jax.jit(region_losses.lovasz)(np.eye(3, dtype=np.float32)[predicted], mask)
    for loss, truth, guess in zip(losses, mask, predicted, strict=True):
        kept = truth < 3
        expected = 1 - jaccard_score(truth[kept], guess[kept], labels=np.unique(truth[kept]), average=None)
        np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)


def test_lovasz_lies_between_its_corners_and_pulls_towards_the_truth():
    mask = np.array([[[0, 0, 1, 1]]], np.uint8)
    loss = jax.jit(lambda logits: region_losses.lovasz(jax.nn.softmax(logits), mask).sum())
    logits = jnp.zeros((1, 1, 4, 2))
    # All errors are 1/2: half of the loss 1 of a prediction that is wrong everywhere.
    np.testing.assert_allclose(loss(logits), 0.5, rtol=1e-6)
    gradient = jax.grad(loss)(logits)[0, 0]
    assert (gradient[jnp.arange(4), mask[0, 0]] <= 0).all() and float(jnp.abs(gradient).sum()) > 0


@pytest.mark.parametrize("region", ["none", *region_losses.REGIONS])
def test_losses_of_parts_add_up_and_padding_and_void_count_nowhere(variables, region):
    task, batch = make(region=region, class_weights=(1.0, 2.0, 3.0)), make_batch()
    totals = task.totals(batch)
    whole = loss_of(task, variables, batch)[0]
    parts = [{k: v[i::2] for k, v in batch.items()} for i in range(2)]
    part_loss = jax.jit(lambda part: task.loss(variables, part, totals, jax.random.key(1)))
    losses = [part_loss(part) for part in parts]
    np.testing.assert_allclose(sum(loss for loss, _ in losses), whole, rtol=1e-5)
    total, weight = (sum(aux[1]["loss"][k] for _, aux in losses) for k in range(2))
    np.testing.assert_allclose(total / weight, whole, rtol=1e-5)
    other = {**batch, "image": batch["image"].copy()}
    other["image"][batch["mask"] == 255] = 0
    other["image"][4:], other["mask"] = 255, np.where(np.arange(6)[:, None, None] < 4, batch["mask"], 2)
    np.testing.assert_allclose(loss_of(task, variables, other)[0], whole, rtol=1e-6)
    gradient = jax.grad(lambda v: loss_of(task, v, batch)[0])(variables)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_scores_are_those_of_one_confusion_matrix(variables):
    task, batch = make(), make_batch()
    halves = [{k: v[i::2] for k, v in batch.items()} for i in range(2)]
    sums = [jax.jit(task.evaluate)(variables, half)["confusion"] for half in halves]
    confusion, pixels = (np.sum([np.asarray(each[k], np.float64) for each in sums], 0) for k in range(2))
    truth, guess = batch["mask"][:4], log_softmax(variables, batch)[:4].argmax(-1)
    kept = truth < 3
    expected = [[((truth == i) & (guess == j)).sum() for j in range(3)] for i in range(3)]
    np.testing.assert_array_equal(confusion, expected)
    assert pixels == kept.sum()
    scores = task.derived({"confusion": confusion / pixels})
    each = jaccard_score(truth[kept], guess[kept], average=None)
    np.testing.assert_allclose([scores[f"iou_{name}"] for name in NAMES], each, rtol=1e-6)
    np.testing.assert_allclose(scores["miou"], each.mean(), rtol=1e-6)
    np.testing.assert_allclose(scores["pixel_accuracy"], (truth == guess)[kept].mean(), rtol=1e-6)
    np.testing.assert_array_equal(task.predict(variables, batch)["mask"][:4], guess)


def test_the_saved_calibration_is_that_of_all_labelled_pixels(variables, tmp_path):
    class Masks:
        class_names = NAMES
        reference = staticmethod(lambda split, index: {"name": "", "mask": batch["mask"][index][:5, :4]})

    batch = make_batch()
    outputs = jax.device_get(jax.jit(make().predict)(variables, batch)) | {
        key: batch[key] for key in ("index", "weight")
    }
    scorer = segmentation.SegmentationScorer(Masks, "test")
    scorer.add(outputs)
    scorer.save(tmp_path / "predictions.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    found, what = reliability.bins(lines)
    truth, shares = batch["mask"][:4, :, :4], np.exp(log_softmax(variables, batch))[:4, :, :4]
    right = (truth == shares.argmax(-1))[truth < 3]
    confidence = np.round(shares.max(-1) * 255)[truth < 3] / 255
    expected = calibration.equal_width(confidence, right)
    assert what == "class" and len(found) == calibration.BINS
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_a_class_that_nowhere_occurs_has_no_score():
    scores = segmentation.scores(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]), NAMES)
    assert scores == {"miou": (0.75 + 0.8) / 2, "pixel_accuracy": 7 / 8, "iou_sky": 0.75, "iou_car": 0.8}


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"class_weights has 2 values; give \(\) or one for each of the 3 classes"):
        make(class_weights=(1.0, 2.0))
    with pytest.raises(ValueError, match=r"region='shape' is unknown; choose from dice, lovasz, none"):
        make(region="shape")


def test_per_image_standardization_removes_affine_intensity_changes(variables):
    batch, task = make_batch(), make(per_image_standardization=True)
    batch["image"] //= 4
    logits = jax.jit(task._logits)
    dim, bright = (
        np.asarray(logits(variables, batch | {"image": each})) for each in (batch["image"], 3 * batch["image"] + 20)
    )
    np.testing.assert_allclose(dim, bright, atol=1e-4)
    pixels = batch["image"].astype(float)
    each = (pixels - pixels.mean((1, 2, 3), keepdims=True)) / pixels.std((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(dim, each @ np.asarray(variables["params"]["head"]["kernel"], float), atol=1e-4)
    grey = np.full_like(batch["image"], 7)
    np.testing.assert_array_equal(logits(variables, batch | {"image": grey}), np.zeros_like(dim))


def test_with_flip_tta_the_mask_of_a_flipped_image_is_flipped():
    class Leaning(nn.Module):
        """Logits that differ from left to right, so that an image and its mirror image get other masks."""

        @nn.compact
        def __call__(self, images, train=False):
            return nn.Dense(3, name="head")(images) * jnp.arange(images.shape[2])[:, None]

    batch = make_batch()
    mirrored = {name: batch[name][:, :, ::-1] for name in ("image", "mask")}
    for average in (False, True):
        task = make(Leaning(), flip_tta=average)
        variables = jax.jit(task.init)(jax.random.key(0))
        predict, evaluate = jax.jit(task.predict), jax.jit(task.evaluate)
        masks, turned = (np.asarray(predict(variables, each)["mask"]) for each in (batch, batch | mirrored))
        losses = [float(evaluate(variables, each)["loss"][0]) for each in (batch, batch | mirrored)]
        assert (masks == turned[:, :, ::-1]).all() == average
        assert np.isclose(*losses) == average
