"""Weights for the backbone of a detector, of a segmenter and of a model of faces."""

import types

import jax
import numpy as np
import pytest

from research.cli.experiments import config_class
from research.interop import checkpoints, layouts, loading, safetensors
from research.models import detector, faces, resnet, segmenter
from research.models.vit import ViT
from research.spec import flat
from tests.interop.test_init_from import SIZE, big_vision_file

RESNET = {"stage_sizes": (1, 1), "block": "basic", "width": 8, "stem": "half"}
VIT = SIZE | {"pool": "mean", "patch_size": 4}


def shapes_of(model, height, width):
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, height, width, 1), np.float32)))
    return variables, loading.leaves_of(variables)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    path = tmp_path_factory.mktemp("vit") / "vit.npz"
    _, params = big_vision_file(path, image_size=12, **VIT)
    return checkpoints.open_checkpoint(str(path), config_class), params


@pytest.mark.parametrize(
    "around",
    [
        lambda backbone: segmenter.Segmenter.of(backbone, 3, decoder="linear"),
        lambda backbone: detector.Detector.of(backbone, 3, pyramid_channels=8, head_depth=1),
        lambda backbone: faces.FaceModel.of(backbone, 3, embed_dim=8),
    ],
    ids=["segmenter", "detector", "faces"],
)
def test_the_backbone_is_loaded_and_what_is_around_it_is_fresh(pretrained, around):
    """Its positions are interpolated to an image that is wider than high, as an independent resampling does."""
    checkpoint, params = pretrained
    model = around(ViT.of(0, image_size=8, image_width=24, **VIT))
    variables, leaves = shapes_of(model, 8, 24)
    plan = loading.plan(checkpoint, model, leaves)
    inside = {path for path in leaves if path.startswith("backbone/")}
    assert set(plan.rows) == inside and set(plan.fresh) == leaves.keys() - inside != set()
    assert sorted(plan.left_over) == ["head/bias", "head/kernel"]
    loaded = plan.variables(variables)["params"]["backbone"]
    positions = loaded.pop("positions")
    expected = {name: leaf for name, leaf in params.items() if name not in ("head", "positions")}
    jax.tree.map(np.testing.assert_array_equal, loaded, expected)
    square = params["positions"].reshape(3, 3, -1)
    wide = jax.image.resize(square, (2, 6, square.shape[-1]), "bilinear")
    np.testing.assert_allclose(positions[0], wide.reshape(12, -1), rtol=1e-5, atol=1e-6)


def test_a_backbone_of_another_kind_is_refused(pretrained):
    model = segmenter.Segmenter.of(
        resnet.ResNet.of(0, stage_sizes=(1, 1), block="basic", width=8, stem="half"), 3, decoder_channels=(8,)
    )
    with pytest.raises(ValueError, match="holds a ViT, but the config has a Segmenter around a ResNet"):
        loading.plan(pretrained[0], model, shapes_of(model, 8, 8)[1])
    model = segmenter.Segmenter.of(ViT.of(0, image_size=8, **(VIT | {"depth": 3})), 3, decoder="linear")
    with pytest.raises(ValueError, match=r"config\.model\.depth=3, but .* was made with 2; set it to that"):
        loading.plan(pretrained[0], model, shapes_of(model, 8, 8)[1])


def run_of(model, tensors):
    """A checkpoint of a run of ours that holds these tensors."""
    specs = {name: safetensors.TensorSpec(value.shape, value.dtype) for name, value in tensors.items()}
    there = types.SimpleNamespace(specs=specs, read=tensors.__getitem__, there=lambda name: name)
    table = lambda model, paths: [layouts.Row(path, path) for path in paths]
    inner = model.backbone
    fields = {**flat(inner.spec), **flat(model.spec)}
    return checkpoints.Checkpoint("runs/other", "run", type(model), fields, {}, there, table, "(?!)", "", type(inner))


@pytest.mark.parametrize(
    ("old", "new"), [((16, 24), (24, 16)), ((12, 48), (16, 24)), ((8, 24), (16, 32)), ((24, 24), (16, 36))]
)
def test_positions_of_a_wide_image_are_interpolated_to_another(old, new):
    segment = lambda sides: segmenter.Segmenter.of(
        ViT.of(0, image_size=sides[0], image_width=sides[1] * (sides[0] != sides[1]), **VIT), 3, decoder="linear"
    )
    _, leaves = shapes_of(segment(old), *old)
    rng = np.random.default_rng(0)
    tensors = {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in leaves.items()}
    variables, leaves = shapes_of(segment(new), *new)
    plan = loading.plan(run_of(segment(old), tensors), segment(new), leaves)
    assert not plan.fresh and list(plan.resized) == ["backbone/positions"]
    positions = plan.variables(variables)["params"]["backbone"]["positions"]
    before = tensors["backbone/positions"].reshape(old[0] // 4, old[1] // 4, -1)
    expected = jax.image.resize(before, (new[0] // 4, new[1] // 4, before.shape[-1]), "bilinear")
    np.testing.assert_allclose(positions[0], expected.reshape(positions.shape[1:]), rtol=1e-5, atol=1e-6)


def test_a_run_around_a_backbone_of_another_kind_is_refused():
    around = lambda backbone: detector.Detector.of(backbone, 3, pyramid_channels=8, head_depth=1)
    theirs = around(resnet.ResNet.of(0, **RESNET))
    model = around(ViT.of(0, image_size=8, **VIT))
    with pytest.raises(ValueError, match="holds a Detector around a ResNet, but the config has a Detector around a V"):
        loading.plan(run_of(theirs, {}), model, shapes_of(model, 8, 8)[1])
