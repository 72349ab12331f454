"""Feature maps and decoders: sizes, receptive fields, and the same features as the classifier's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models import pyramid, resnet, segmenter, vit
from research.parallel import sharding

RESNET = {"stage_sizes": (1, 1, 1), "block": "basic", "width": 4}
VIT = {
    "image_size": 24,
    "image_width": 36,
    "patch_size": 12,
    "width": 16,
    "depth": 1,
    "mlp_dim": 16,
    "num_heads": 2,
    "pool": "mean",
    "positions": "sincos",
}


def images(height=45, width=60, count=2):
    return np.random.default_rng(0).normal(size=(count, height, width, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("stem", "sizes"), [("imagenet", [(12, 15), (6, 8), (3, 4)]), ("half", [(23, 30), (12, 15), (6, 8)])]
)
def test_a_resnet_without_classes_gives_the_map_of_every_stage(stem, sizes):
    model = resnet.ResNet.of(0, stem=stem, **RESNET)
    maps = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images()))[0]
    assert [each.shape for each in maps] == [(2, *size, 4 * 2**k) for k, size in enumerate(sizes)]
    assert model.strides == ((4, 8, 16) if stem == "imagenet" else (2, 4, 8))


def test_its_coarsest_map_is_what_the_classifier_pools():
    classifier, backbone = resnet.ResNet.of(5, stem="half", **RESNET), resnet.ResNet.of(0, stem="half", **RESNET)
    variables = jax.jit(classifier.init)(jax.random.key(1), images())
    head = variables["params"]["head"]
    pooled = jax.jit(backbone.apply)(variables, images())[-1].mean((1, 2))
    expected = jax.jit(classifier.apply)(variables, images())
    np.testing.assert_allclose(pooled @ head["kernel"] + head["bias"], expected, rtol=1e-4, atol=1e-5)


def test_a_vit_without_classes_gives_its_patches_row_by_row():
    model = vit.ViT.of(0, **(VIT | {"pool": "cls", "depth": 1}))
    x = np.zeros((1, 24, 36, 3), np.float32)
    variables = model.init(jax.random.key(0), x)
    # A bright patch changes its own token most.
    bright = x.copy()
    bright[:, 12:, 24:] = 3.0
    change = np.abs(model.apply(variables, bright)[0] - model.apply(variables, x)[0]).sum(-1)[0]
    assert change.shape == (2, 3) and change.argmax() == 5
    assert model.strides == (12,)
    with pytest.raises(ValueError, match=r"image_size=24 and image_width=36, but images are 24 x 24"):
        model.init(jax.random.key(0), x[:, :, :24])
    with pytest.raises(ValueError, match=r"^image_width=35 must be a multiple of patch_size=12"):
        vit.ViT.of(0, **(VIT | {"image_width": 35}))


MODELS = {
    "unet": segmenter.Segmenter.of(
        resnet.ResNet.of(0, stem="half", **RESNET), 5, decoder="unet", decoder_channels=(8, 4)
    ),
    "fpn": segmenter.Segmenter.of(resnet.ResNet.of(0, **RESNET), 5, decoder="fpn", decoder_channels=(8, 4)),
    "linear": segmenter.Segmenter.of(vit.ViT.of(0, **VIT), 5, decoder="linear"),
    "vit": segmenter.Segmenter.of(vit.ViT.of(0, **VIT), 5, decoder="unet", decoder_channels=(8, 4, 4)),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_pixel_has_logits_and_every_parameter_logical_axes(name):
    model, size = MODELS[name], (24, 36) if name in ("linear", "vit") else (45, 60)
    logits, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images(*size)))
    assert (logits.shape, logits.dtype) == ((2, *size, 5), jnp.float32)
    names = [sharding.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(variables)]
    for path in names:
        axes = sharding.logical_axes(path, model.logical_axes)
        assert len(axes) == len(jax.tree.leaves(variables)[names.index(path)].shape), path


def test_a_linear_decoder_enlarges_the_logits_of_patches_bilinearly():
    model, x = MODELS["linear"], images(24, 36)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    head, patches = variables["params"]["head"], model.backbone.apply({"params": variables["params"]["backbone"]}, x)
    coarse = np.asarray(patches[0] @ head["kernel"] + head["bias"])
    fine = jax.jit(model.apply)(variables, x)
    # The corner that four patches of 12 px share lies amid pixels 11 and 12, and as far from the centre of each patch.
    corner = fine[:, 11:13, 11:13].mean((1, 2))
    np.testing.assert_allclose(corner, coarse[:, :2, :2].mean((1, 2)), rtol=1e-4, atol=1e-5)


def test_coarse_features_reach_the_finest_pyramid_level():
    maps = tuple(jnp.asarray(np.random.default_rng(k).normal(size=(1, n, n, 3))) for k, n in enumerate((9, 5, 3)))
    fpn = pyramid.FPN(4, 2, {"dtype": "float32", "param_dtype": "float32"})
    variables = fpn.init(jax.random.key(0), maps)
    before = fpn.apply(variables, maps)
    assert [each.shape for each in before] == [(1, n, n, 4) for n in (9, 5, 3, 2, 1)]
    changed = (*maps[:2], maps[2].at[0, 2, 2].add(1))
    after = fpn.apply(variables, changed)
    moved = np.abs(after[0] - before[0]).sum(-1)[0] > 1e-6
    assert moved[7:, 7:].all() and not moved[:6, :6].any(), "and its own corner alone"


def test_bad_settings_are_refused():
    for settings, message in (
        ({"decoder": "deep"}, "decoder='deep' is unknown; choose from fpn, linear, unet"),
        ({"decoder_channels": (8,)}, r"decoder_channels=\(8,\) has 1 entries; decoder='unet' needs one for each"),
        ({"decoder": "fpn"}, r"decoder_channels=\(\) has 0 entries; decoder='fpn' needs two"),
    ):
        with pytest.raises(ValueError, match=message):
            segmenter.Segmenter.of(resnet.ResNet.of(0, **RESNET), 5, **settings).init(jax.random.key(0), images())
