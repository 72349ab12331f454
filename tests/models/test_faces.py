"""Margins against closed formulas and differences; embeddings of length 1 over every backbone."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models import faces, resnet, vit

angles = np.linspace(0.01, math.pi - 0.01, 50)
RESNET = {"stage_sizes": (1,), "block": "basic", "width": 4, "stem": "cifar"}
VIT = {"image_size": 8, "patch_size": 4, "width": 8, "depth": 1, "mlp_dim": 8, "num_heads": 2}


def test_arcface_adds_to_the_angle_and_goes_on_falling():
    moved = np.asarray(faces.arcface(jnp.cos(angles), 0.5))
    inside = angles + 0.5 < math.pi
    np.testing.assert_allclose(moved[inside], np.cos(angles[inside] + 0.5), atol=1e-5)
    np.testing.assert_allclose(moved[~inside], (np.cos(angles) - 0.5 * math.sin(0.5))[~inside], atol=1e-5)
    assert (np.diff(moved) < 0).all()


def test_the_gradient_of_arcface_is_that_of_the_formula_and_finite_at_the_ends():
    inside = angles[angles + 0.6 < math.pi]
    gradients = jax.vmap(jax.grad(lambda cosine: faces.arcface(cosine, 0.5)))(jnp.cos(inside))
    np.testing.assert_allclose(gradients, np.sin(inside + 0.5) / np.sin(inside), rtol=2e-3)
    for cosine in (1.0, -1.0, 1.0000001):
        assert np.isfinite(jax.grad(lambda cosine: faces.arcface(cosine, 0.5))(jnp.float32(cosine)))


@pytest.mark.parametrize(("name", "margin", "moved"), [
    ("arcface", 0.3, lambda angle: math.cos(angle + 0.3)),
    ("cosface", 0.35, lambda angle: math.cos(angle) - 0.35),
    ("none", 0.0, math.cos),
])  # fmt: skip
def test_only_the_own_person_has_the_margin(name, margin, moved):
    angles = np.array([[0.2, 1.0, 2.0], [1.4, 0.6, 0.1]])
    logits = faces.margin_logits(jnp.cos(angles), jnp.array([1, 2]), name, margin, 16.0)
    expected = np.cos(angles)
    expected[0, 1], expected[1, 2] = moved(1.0), moved(0.1)
    np.testing.assert_allclose(logits, 16 * expected, rtol=1e-5)


def make(backbone, **settings):
    return faces.FaceModel.of(backbone, 5, **{"embed_dim": 6, **settings})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("flatten", [True, False])
def test_embeddings_have_length_1_and_cosines_are_those_with_the_centres(flatten, dtype):
    model = make(resnet.ResNet.of(0, dtype=dtype, **RESNET), flatten=flatten)
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    variables = model.init(jax.random.key(0), images)
    (embeddings, cosines), _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
    assert embeddings.dtype == cosines.dtype == jnp.float32
    assert variables["params"]["embedding"]["kernel"].shape == (4 * 64 if flatten else 4, 6)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    centres = np.asarray(variables["params"]["centres"])
    expected = np.asarray(embeddings) @ (centres / np.linalg.norm(centres, axis=0))
    np.testing.assert_allclose(cosines, expected, atol=1e-6)


def test_a_vit_can_be_the_backbone():
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
    for flatten, width in ((False, 8), (True, 4 * 8)):
        model = make(vit.ViT.of(0, **VIT), flatten=flatten)
        (embeddings, cosines), variables = jax.eval_shape(
            lambda model=model: model.init_with_output(jax.random.key(0), images)
        )
        assert embeddings.shape == (3, 6) and cosines.shape == (3, 5)
        assert variables["params"]["embedding"]["kernel"].shape == (width, 6)
