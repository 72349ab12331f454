"""The CNNs: batch norm and stages against closed formulas, paddings as torch has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models import alexnet, convnext, efficientnet, resnet

TINY_CONVNEXT = {"stage_sizes": (1,), "widths": (8,)}
TINY_EFFICIENTNET = {"stage_sizes": (1, 1), "widths": (4, 8), "kernel_sizes": (3, 5), "stage_strides": (1, 2)}
TINY_CIFAR = {"stage_sizes": (1, 1, 1), "block": "basic", "width": 4, "stem": "cifar"}
TINY_RESNET = {"stage_sizes": (1, 1), "block": "basic", "width": 4, "stem": "cifar"}


def images(count=3, size=8, seed=0):
    return np.random.default_rng(seed).normal(size=(count, size, size, 3)).astype(np.float32)


def test_batch_norm_uses_the_batch_in_training_and_the_average_in_evaluation():
    model = resnet.ResNet.of(5, momentum=0.8, **TINY_RESNET)
    variables = jax.jit(model.init)(jax.random.key(0), images())
    train = jax.jit(lambda v: model.apply(v, images(), train=True, mutable=["batch_stats"]))
    _, new = train(variables)
    kernel = variables["params"]["conv1"]["kernel"]
    x = jax.lax.conv_general_dilated(images(), kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    stats = new["batch_stats"]["norm1"]
    np.testing.assert_allclose(stats["mean"], 0.2 * x.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stats["var"], 0.8 + 0.2 * x.var((0, 1, 2)), rtol=1e-4)
    # Evaluation of one image does not depend on the others.
    evaluate = jax.jit(model.apply)
    all_, one = evaluate(variables, images()), evaluate(variables, images()[:1])
    np.testing.assert_allclose(all_[:1], one, rtol=1e-4, atol=1e-5)


def test_blocks_start_as_the_identity():
    block = resnet.Basic
    model = resnet.ResNet.of(5, **TINY_RESNET)
    params = jax.jit(model.init)(jax.random.key(0), images())["params"]
    assert (params["stage1_block1"]["norm2"]["scale"] == 0).all()
    assert "shortcut_conv" not in params["stage1_block1"] and "shortcut_conv" in params["stage2_block1"]
    assert block.expansion == 1


@pytest.mark.parametrize(
    ("model", "size", "paths"),
    [
        # Sizes that torchvision's explicit paddings give at 224 px.
        (
            resnet.ResNet.of(10, stage_sizes=(1, 1, 1, 1), block="bottleneck", width=8),
            224,
            {"stage4_block1": (7, 7, 256)},
        ),
        (
            resnet.ResNet.of(10, stage_sizes=(1, 1, 1), block="basic", width=4, stem="cifar"),
            32,
            {"stage3_block1": (8, 8, 16)},
        ),
        (convnext.ConvNeXt.of(10, stage_sizes=(1, 1, 1, 1), widths=(4, 8, 12, 16)), 224, {"stage4_block1": (7, 7, 16)}),
        (
            efficientnet.EfficientNet.of(10),
            224,
            {"stage2_block2": (56, 56, 24), "stage5_block3": (14, 14, 112), "stage7_block1": (7, 7, 320)},
        ),
        (alexnet.AlexNet.of(10, mlp_dim=8), 224, {"conv5": (13, 13, 256), "conv1": (55, 55, 64)}),
    ],
)
def test_feature_maps_have_the_published_sizes(model, size, paths):
    x = jnp.zeros((1, size, size, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), x))
    capture = lambda v: model.apply(v, x, capture_intermediates=True, mutable=["intermediates"])[1]["intermediates"]
    seen = jax.eval_shape(capture, variables)
    for path, shape in paths.items():
        assert seen[path]["__call__"][0].shape == (1, *shape)


def test_convnext_starts_near_the_identity_and_layer_scale_can_be_left_out():
    model = convnext.ConvNeXt.of(5, **TINY_CONVNEXT)
    params = jax.jit(model.init)(jax.random.key(0), images())["params"]
    np.testing.assert_allclose(params["stage1_block1"]["layer_scale"], 1e-6)
    without = jax.jit(convnext.ConvNeXt.of(5, stage_sizes=(1,), widths=(8,), layer_scale=0.0).init)(
        jax.random.key(0), images()
    )["params"]
    assert "layer_scale" not in without["stage1_block1"]


@pytest.mark.parametrize(
    "model",
    [
        resnet.ResNet.of(5, dtype="bfloat16", **TINY_RESNET),
        convnext.ConvNeXt.of(5, dtype="bfloat16", **TINY_CONVNEXT),
        efficientnet.EfficientNet.of(5, dtype="bfloat16", **TINY_EFFICIENTNET),
    ],
)
def test_parameters_and_logits_stay_in_float32(model):
    variables = jax.jit(model.init)(jax.random.key(0), images())
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert jax.eval_shape(model.apply, variables, images()).dtype == jnp.float32


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"^block=.wide. is unknown; choose from basic, bottleneck"):
        resnet.ResNet.of(5, block="wide").init(jax.random.key(0), images())
    with pytest.raises(ValueError, match=r"^widths=.* must have as many values as stage_sizes=\(1, 1\)"):
        efficientnet.EfficientNet.of(5, stage_sizes=(1, 1))
    with pytest.raises(ValueError, match=r"images are 8 x 8 px; AlexNet needs at least 63 px"):
        alexnet.AlexNet.of(5).init(jax.random.key(0), images())
