"""FCOS's targets against plain loops, its losses against closed formulas; predictions pass non-maximum suppression."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from research.models import detector
from research.tasks import detection

NAMES, SHAPE, STRIDES = ("a", "b"), (32, 48, 3), (4, 8, 16)
POINTS, LEVELS = detector.points(*SHAPE[:2], STRIDES)


class Fixed(nn.Module):
    """Says the same of every image: its parameters."""

    strides: tuple[int, ...] = STRIDES

    @nn.compact
    def __call__(self, images, train=False):
        rows = images.shape[0]
        parameter = lambda name, *shape: self.param(name, nn.initializers.normal(1.0), (len(POINTS), *shape))
        every = lambda x: jnp.broadcast_to(x, (rows, *x.shape))
        distances = 10 * jnp.exp(0.3 * parameter("distances", 4))
        return detector.FcosOutputs(every(parameter("classes", 2)), every(distances), every(parameter("centre")))


def make(**settings):
    spec = detection.DetectionSpec(**settings)
    return detection.DetectionTask(Fixed(), NAMES, SHAPE, 4, (128.0,) * 3, (64.0,) * 3, spec)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(make().init)(jax.random.key(0))


def make_batch(count=4, seed=0):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 20, (count, 4, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(3, 28, (count, 4, 2))], -1).astype(np.float32)
    return {
        "image": rng.integers(0, 256, (count, *SHAPE)).astype(np.uint8),
        "boxes": boxes,
        "labels": rng.integers(0, 2, (count, 4)).astype(np.int32),
        "box_weight": (np.arange(4) < rng.integers(0, 5, (count, 1))).astype(np.float32),
        "index": np.arange(count, dtype=np.int32),
        "weight": np.array([1] * (count - 1) + [0], np.float32),
    }


def wanted(batch, row, point):
    """Which box a point is to find, by the rules of the paper, and how central it is; None where it is none."""
    (x, y), stride = POINTS[point], STRIDES[LEVELS[point]]
    low = 0 if LEVELS[point] == 0 else 4 * stride
    high = np.inf if LEVELS[point] == len(STRIDES) - 1 else 8 * stride
    best = None
    for number, (left, top, right, bottom) in enumerate(batch["boxes"][row].astype(np.float64)):
        sides = (x - left, y - top, right - x, bottom - y)
        central = max(abs(x - (left + right) / 2), abs(y - (top + bottom) / 2)) < 1.5 * stride
        if not (batch["box_weight"][row, number] and min(sides) > 0 and central and low < max(sides) <= high):
            continue
        area = (right - left) * (bottom - top)
        if best is None or area < best[0]:
            across, down = sorted(sides[::2]), sorted(sides[1::2])
            best = (area, number, np.sqrt(across[0] / across[1] * down[0] / down[1]))
    return best and best[1:]


def test_targets_follow_the_rules_of_the_paper():
    batch = make_batch(8)
    targets = jax.tree.map(np.asarray, jax.jit(make().targets)(batch))
    positives = 0
    for row in range(7):
        for point in range(len(POINTS)):
            expected = wanted(batch, row, point)
            assert targets["positive"][row, point] == (expected is not None)
            if expected:
                number, centreness = expected
                positives += 1
                np.testing.assert_array_equal(targets["box"][row, point], batch["boxes"][row, number])
                assert targets["label"][row, point] == batch["labels"][row, number]
                np.testing.assert_allclose(targets["centreness"][row, point], centreness, rtol=1e-5)
    assert positives > 30 and not targets["positive"][7].any() and not targets["centreness"][7].any()


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def loss_of(task, variables, batch, totals=None):
    loss = lambda v, b, t: task.loss(v, b, task.totals(b) if t is None else t, jax.random.key(0))
    return jax.jit(loss)(variables, batch, totals)


def test_the_loss_is_that_of_the_paper(variables):
    task, batch = make(box_loss_weight=2.0, focal_alpha=0.3, focal_gamma=1.5), make_batch()
    params = {name: np.asarray(value, np.float64) for name, value in variables["params"].items()}
    distances = 10 * np.exp(0.3 * params["distances"])
    classes = boxes = centres = positives = total_centreness = 0
    for row in range(3):
        for point, (x, y) in enumerate(POINTS):
            expected = wanted(batch, row, point)
            for label in range(2):
                true = expected is not None and batch["labels"][row, expected[0]] == label
                p = sigmoid(params["classes"][point, label])
                p_true, alpha = (p, 0.3) if true else (1 - p, 0.7)
                classes -= alpha * (1 - p_true) ** 1.5 * np.log(p_true)
            if expected:
                number, c = expected
                a, b, r, s = batch["boxes"][row, number]
                p, t, u, v = np.array([x, y, x, y]) + distances[point] * (-1, -1, 1, 1)
                shared = max(0, min(r, u) - max(a, p)) * max(0, min(s, v) - max(b, t))
                union = (r - a) * (s - b) + (u - p) * (v - t) - shared
                around = (max(r, u) - min(a, p)) * (max(s, v) - min(b, t))
                boxes += c * (1 - shared / union + (around - union) / around)
                p = sigmoid(params["centre"][point])
                centres -= c * np.log(p) + (1 - c) * np.log(1 - p)
                positives, total_centreness = positives + 1, total_centreness + c
    expected = classes / positives + 2 * boxes / total_centreness + centres / positives
    loss, (_, sums) = loss_of(task, variables, batch)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    np.testing.assert_allclose(sums["loss"][0] / sums["loss"][1], expected, rtol=1e-4)
    means = {name: float(total / weight) for name, (total, weight) in jax.jit(task.evaluate)(variables, batch).items()}
    np.testing.assert_allclose(task.derived(means)["loss"], expected, rtol=1e-4)


def test_losses_of_parts_add_up_and_padding_counts_nowhere(variables):
    task, batch = make(), make_batch()
    totals = jax.jit(task.totals)(batch)
    whole = loss_of(task, variables, batch)[0]
    parts = [{k: v[i::2] for k, v in batch.items()} for i in range(2)]
    np.testing.assert_allclose(sum(loss_of(task, variables, p, totals)[0] for p in parts), whole, rtol=1e-5)
    other = {k: v.copy() for k, v in batch.items()}
    other["boxes"][3], other["box_weight"][3] = (2, 2, 30, 30), 1
    other["boxes"][other["box_weight"] == 0] = 7
    np.testing.assert_allclose(loss_of(task, variables, other)[0], whole, rtol=1e-6)
    nothing = {**batch, "box_weight": np.zeros_like(batch["box_weight"])}
    sums = jax.jit(task.evaluate)(variables, nothing)
    assert task.derived({name: total / weight for name, (total, weight) in sums.items() if weight})["loss"] == 0
    gradient = jax.grad(lambda v: loss_of(task, v, nothing)[0])(variables)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_predictions_are_decoded_and_duplicates_suppressed():
    task, batch = make(score_threshold=0.3, nms_iou=0.5, max_detections=5), make_batch(2)
    classes, centre = np.full((len(POINTS), 2), -9.0), np.full(len(POINTS), 9.0)
    distances = np.ones((len(POINTS), 4))

    def see(point, label, probability, box):
        (x, y), (left, top, right, bottom) = POINTS[point], box
        classes[point, label] = np.log(probability / (1 - probability))
        distances[point] = (x - left, y - top, right - x, bottom - y)

    see(14, 0, 0.9, (4, 2, 20, 12))
    see(15, 0, 0.8, (5, 2, 20, 12))  # the same again
    see(16, 1, 0.7, (4, 2, 20, 13))  # the same place, another class
    see(79, 0, 0.5, (20, 16, 60, 40))  # beyond the border
    see(20, 0, 0.05, (30, 2, 40, 12))  # too unlikely
    params = {"classes": classes, "centre": centre, "distances": np.log(distances / 10) / 0.3}
    outputs = jax.tree.map(np.asarray, jax.jit(task.predict)({"params": params}, batch))
    np.testing.assert_allclose(outputs["scores"][1], [*np.sqrt([0.9, 0.7, 0.5]), 0, 0], atol=1e-3)
    assert list(outputs["labels"][1, :3]) == [0, 1, 0]
    expected = [(4, 2, 20, 12), (4, 2, 20, 13), (20, 16, 48, 32)]
    np.testing.assert_allclose(outputs["boxes"][1, :3], expected, atol=1e-3)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"select_by='best' is unknown; choose from loss, map"):
        make(select_by="best")
    with pytest.raises(ValueError, match=r"candidates=0 must be at least 1"):
        make(candidates=0)
    assert make(select_by="loss").selection == ("loss", "min") and make().selection == ("map", "max")
