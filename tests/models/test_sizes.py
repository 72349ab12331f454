"""Parameter counts of the papers, and a logical name for every axis of every parameter."""

import jax
import jax.numpy as jnp
import pytest

from research.models import alexnet, convnext, efficientnet, resnet, vit
from research.parallel.sharding import logical_axes, path_name

# The 22B model's block; its counts are for mean pooling, where the paper pools by attention.
LARGE = {"parallel": True, "qk_norm": True, "qkv_bias": False, "norm": "rms", "pool": "mean"}

# At 224 px and 1000 classes. ViT: Dosovitskiy et al., Zhai et al., Dehghani et al.; the others as torchvision
# counts; EfficientNet-Lite as timm does.
COUNTS = {
    "vit_ti16": (vit.ViT.of(1000, **vit.SIZES["Ti"]), 5_717_416),
    "vit_s16": (vit.ViT.of(1000, **vit.SIZES["S"]), 22_050_664),
    "vit_b16": (vit.ViT.of(1000, **vit.SIZES["B"]), 86_567_656),
    "vit_l16": (vit.ViT.of(1000, **vit.SIZES["L"]), 304_326_632),
    "vit_h14": (vit.ViT.of(1000, patch_size=14, **vit.SIZES["H"]), 632_045_800),
    "resnet18": (resnet.ResNet.of(1000, **resnet.SIZES["18"]), 11_689_512),
    "resnet50": (resnet.ResNet.of(1000, **resnet.SIZES["50"]), 25_557_032),
    "alexnet": (alexnet.AlexNet.of(1000), 61_100_840),
    "convnext_t": (convnext.ConvNeXt.of(1000, **convnext.SIZES["T"]), 28_589_128),
    "convnext_s": (convnext.ConvNeXt.of(1000, **convnext.SIZES["S"]), 50_223_688),
    "convnext_b": (convnext.ConvNeXt.of(1000, **convnext.SIZES["B"]), 88_591_464),
    "efficientnet_lite0": (efficientnet.EfficientNet.of(1000), 4_652_008),
    "efficientnet_lite1": (efficientnet.EfficientNet.of(1000, **efficientnet.SIZES["lite1"]), 5_416_680),
    "efficientnet_lite2": (efficientnet.EfficientNet.of(1000, **efficientnet.SIZES["lite2"]), 6_092_072),
    "efficientnet_lite3": (efficientnet.EfficientNet.of(1000, **efficientnet.SIZES["lite3"]), 8_197_096),
    "efficientnet_lite4": (efficientnet.EfficientNet.of(1000, **efficientnet.SIZES["lite4"]), 13_006_568),
}
ABOUT = {
    "vit_g14": (vit.ViT.of(1000, patch_size=14, **vit.SIZES["g"]), 1.01e9),
    "vit_22b14": (vit.ViT.of(1000, patch_size=14, **vit.SIZES["22B"], **LARGE), 21.7e9),
    "vit_s16_conv_sincos": (vit.ViT.of(1000, stem="conv", positions="sincos", **vit.SIZES["S"]), 22.0e6),
}


def variables(model):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3))))


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_are_those_of_the_papers(name):
    model, expected = COUNTS[name]
    assert sum(leaf.size for leaf in jax.tree.leaves(variables(model)["params"])) == expected


@pytest.mark.parametrize("name", ABOUT)
def test_large_and_modified_models_have_about_the_stated_size(name):
    model, expected = ABOUT[name]
    count = sum(leaf.size for leaf in jax.tree.leaves(variables(model)["params"]))
    assert abs(count / expected - 1) < 0.005


@pytest.mark.parametrize(
    "name", ["vit_b16", "vit_22b14", "vit_s16_conv_sincos", "resnet50", "alexnet", "convnext_t", "efficientnet_lite0"]
)
def test_every_leaf_has_one_name_for_each_axis(name):
    model, _ = (COUNTS | ABOUT)[name]
    for collection, tree in variables(model).items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            assert len(logical_axes(path_name(path), model.logical_axes)) == leaf.ndim, (collection, path_name(path))


def test_logical_axes_of_the_large_matrices_of_a_vit():
    names = lambda path: logical_axes(path, vit.LOGICAL_AXES)
    assert names("blocks/mlp/up/kernel") == ("layers", "embed", "mlp")
    assert names("blocks/attention/query/kernel") == ("layers", "embed", "heads", "kv")
    assert names("blocks/attention/out/kernel") == ("layers", "heads", "kv", "embed")
