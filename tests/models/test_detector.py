"""IoU and non-maximum suppression against plain loops; outputs belong to the locations of their cells."""

import jax
import numpy as np
import pytest

from research.models import box_ops, detector, resnet, vit
from research.parallel import sharding

RESNET = {"stage_sizes": (1, 1, 1), "block": "basic", "width": 4, "stem": "half"}
VIT = {"image_size": 24, "image_width": 40, "patch_size": 8, "width": 16, "depth": 1, "mlp_dim": 16, "num_heads": 2}
MODELS = {
    "resnet": detector.Detector.of(
        resnet.ResNet.of(0, **RESNET), 3, finest=1, extra=2, pyramid_channels=8, head_depth=1
    ),
    "vit": detector.Detector.of(vit.ViT.of(0, pool="mean", **VIT), 3, finest=1, pyramid_channels=8, head_depth=1),
}


def random_boxes(rng, *shape):
    corners = rng.uniform(0, 60, (*shape, 2))
    return np.concatenate([corners, corners + rng.uniform(1, 40, (*shape, 2))], -1).astype(np.float32)


def overlap(one, other):
    """IoU and generalised IoU of two boxes, one number after the other."""
    (a, b, c, d), (e, f, g, h) = one, other
    shared = max(0, min(c, g) - max(a, e)) * max(0, min(d, h) - max(b, f))
    union = (c - a) * (d - b) + (g - e) * (h - f) - shared
    around = (max(c, g) - min(a, e)) * (max(d, h) - min(b, f))
    return shared / union, shared / union - (around - union) / around


def test_overlaps():
    rng = np.random.default_rng(0)
    one, other = random_boxes(rng, 50), random_boxes(rng, 50)
    expected = np.array([overlap(*pair) for pair in zip(one, other, strict=True)])
    np.testing.assert_allclose(box_ops.iou(one, other), expected[:, 0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(box_ops.generalised_iou(one, other), expected[:, 1], rtol=1e-4, atol=1e-6)
    assert box_ops.iou(np.zeros(4), np.zeros(4)) == 0


def greedy(boxes, labels, valid, threshold):
    """The suppression of the textbooks: the best box stays and removes what is near it, then the next best."""
    stays = []
    for i in np.flatnonzero(valid):
        if all(labels[i] != labels[j] or overlap(boxes[i], boxes[j])[0] <= threshold for j in stays):
            stays.append(i)
    return stays


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.8])
def test_suppression_is_the_greedy_one_within_each_class(threshold):
    rng = np.random.default_rng(1)
    boxes, labels = random_boxes(rng, 8, 40), rng.integers(0, 2, (8, 40))
    boxes[:4] = boxes[:4, :1] + np.cumsum(rng.uniform(0, 3, (4, 40, 1)), 1)  # chains: each near the one before
    valid = rng.random((8, 40)) < 0.9
    stays = jax.jit(box_ops.suppress, static_argnums=3)(boxes, labels, valid, threshold)
    for row in range(8):
        assert list(np.flatnonzero(stays[row])) == greedy(boxes[row], labels[row], valid[row], threshold)


@pytest.mark.parametrize(("name", "size"), [("resnet", (45, 60)), ("vit", (24, 40))])
def test_every_location_has_outputs_and_every_parameter_logical_axes(name, size):
    model, images = MODELS[name], np.zeros((2, *size, 3), np.float32)
    found, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images))
    points, levels = detector.points(*size, model.strides)
    assert found.class_logits.shape == (2, len(points), 3) and found.centreness.shape == (2, len(points))
    assert found.distances.shape == (2, len(points), 4) and len(np.unique(levels)) == len(model.strides)
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        axes = sharding.logical_axes(sharding.path_name(path), model.logical_axes)
        assert len(axes) == leaf.ndim, sharding.path_name(path)


def test_locations_are_the_centres_of_their_cells():
    points, levels = detector.points(10, 16, (4, 8))
    assert [tuple(point) for point in points[levels == 1]] == [(4, 4), (12, 4), (4, 12), (12, 12)]
    assert [tuple(point) for point in points[:5]] == [(2, 2), (6, 2), (10, 2), (14, 2), (2, 6)]
    assert MODELS["resnet"].strides == (4, 8, 16, 32) and MODELS["vit"].strides == (4, 8, 16)


def test_a_change_in_an_image_changes_the_outputs_around_it():
    model, images = MODELS["resnet"], np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    apply = jax.jit(model.apply)
    before = apply(variables, images)
    assert bool((before.distances > 0).all())
    np.testing.assert_allclose(jax.nn.sigmoid(before.class_logits).mean(), detector.PRIOR, rtol=0.3)
    images[0, 50:56, 10:14] += 2.0
    change = np.abs(apply(variables, images).class_logits - before.class_logits).sum((0, -1))
    points, levels = detector.points(64, 64, model.strides)
    change, points = change[levels == 0], points[levels == 0]
    centre = (change[:, None] * points).sum(0) / change.sum()
    # Group norm and coarse levels spread a little of it everywhere.
    np.testing.assert_allclose(points[change.argmax()], (12, 53), atol=9)
    assert np.linalg.norm(centre - (12, 53)) < np.linalg.norm(centre - (52, 11))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"^finest=3 must be at least 0 and less than 3"):
        _ = detector.Detector.of(resnet.ResNet.of(0, **RESNET), 3, finest=3).strides
    with pytest.raises(ValueError, match=r"^patch_size=6 must be a multiple of 4"):
        _ = detector.Detector.of(
            vit.ViT.of(0, **(VIT | {"patch_size": 6, "image_size": 24, "image_width": 36})), 3
        ).strides
