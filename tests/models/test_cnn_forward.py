"""The CNNs against forward passes in NumPy, written from the papers and torchvision's explicit paddings.

Sizes are even on purpose: there a strided "SAME" convolution would give the same shapes from a shifted image.
"""

import functools
import math

import jax
import numpy as np
import pytest

from research.models import alexnet, convnext, efficientnet, resnet


def images(count=2, size=16):
    return np.random.default_rng(1).normal(size=(count, size, size, 3)).astype(np.float32)


def randomised(model, x):
    """Random variables without the zeros and ones of a fresh model, which would hide a mistake; variances positive."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key == "var":
            return rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
        fan_in = math.prod(leaf.shape[:-1])
        return rng.normal(0, max(fan_in, 4) ** -0.5, leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(lambda: model.init(jax.random.key(0), x)))


def windows(x, size, stride, padding, fill=0.0):
    """[batch, rows, columns, channels, size, size]: what each output position sees."""
    pad = (padding, padding)
    x = np.pad(x, ((0, 0), pad, pad, (0, 0)), constant_values=fill)
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))[:, ::stride, ::stride]


def conv(x, p, stride=1, padding=0):
    x = np.einsum("bijchw,hwco->bijo", windows(x, p["kernel"].shape[0], stride, padding), p["kernel"], optimize=True)
    return x + p.get("bias", 0)


def max_pool(x, padding=0):
    return windows(x, 3, 2, padding, -np.inf).max((-1, -2))


def relu(x):
    return np.maximum(x, 0)


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def layer_norm(x, p):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def numpy_resnet(x, variables, stem, stages, bottleneck):
    params, stats = float64(variables["params"]), float64(variables["batch_stats"])

    def norm(x, p, s):
        return (x - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"]

    x = conv(x, params["conv1"], 2, 3) if stem == "imagenet" else conv(x, params["conv1"], 1, 1)
    x = relu(norm(x, params["norm1"], stats["norm1"]))
    x = max_pool(x, padding=1) if stem == "imagenet" else x
    for stage in range(1, stages + 1):
        p, s = params[f"stage{stage}_block1"], stats[f"stage{stage}_block1"]
        stride = 1 if stage == 1 else 2
        # (name, stride, padding) of each convolution; v1.5 puts a bottleneck's stride into its 3x3.
        plan = [("1", 1, 0), ("2", stride, 1), ("3", 1, 0)] if bottleneck else [("1", stride, 1), ("2", 1, 1)]
        y = x
        for i, step, padding in plan:
            y = norm(conv(y, p["conv" + i], step, padding), p["norm" + i], s["norm" + i])
            y = y if (i, step, padding) == plan[-1] else relu(y)
        if "shortcut_conv" in p:
            x = norm(conv(x, p["shortcut_conv"], stride), p["shortcut_norm"], s["shortcut_norm"])
        x = relu(x + y)
    return dense(x.mean((1, 2)), params["head"])


@pytest.mark.parametrize(("stem", "block"), [("imagenet", "bottleneck"), ("cifar", "basic")])
def test_resnet_equals_numpy(stem, block):
    model = resnet.ResNet.of(5, stage_sizes=(1, 1), block=block, width=4, stem=stem)
    variables = randomised(model, images())
    expected = numpy_resnet(images(), variables, stem, 2, block == "bottleneck")
    np.testing.assert_allclose(jax.jit(model.apply)(variables, images()), expected, rtol=1e-4, atol=1e-4)


def test_convnext_equals_numpy():
    model = convnext.ConvNeXt.of(5, stage_sizes=(1, 1), widths=(4, 8))
    variables = randomised(model, images())
    params = float64(variables["params"])
    x = layer_norm(conv(images(), params["stem"], 4), params["stem_norm"])
    for stage in (1, 2):
        if stage == 2:
            x = conv(layer_norm(x, params["downsample_norm1"]), params["downsample1"], 2)
        p = params[f"stage{stage}_block1"]
        y = np.einsum("bijchw,hwc->bijc", windows(x, 7, 1, 3), p["depthwise"]["kernel"][:, :, 0])
        y = layer_norm(y + p["depthwise"]["bias"], p["norm"])
        x = x + p["layer_scale"] * dense(gelu(dense(y, p["up"])), p["down"])
    expected = dense(layer_norm(x.mean((1, 2)), params["norm"]), params["head"])
    np.testing.assert_allclose(jax.jit(model.apply)(variables, images()), expected, rtol=1e-4, atol=1e-4)


def relu6(x):
    return np.clip(x, 0, 6)


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("size", [16, 19])
def test_efficientnet_equals_numpy(padding, size):
    """Images whose side is even, too: there "same" pads after the image alone."""
    spec = {"stage_sizes": (1, 2), "widths": (8, 6), "kernel_sizes": (3, 5), "stage_strides": (1, 2)}
    model, x = efficientnet.EfficientNet.of(5, padding=padding, **spec), images(size=size)
    variables = randomised(model, x)
    params, stats = float64(variables["params"]), float64(variables["batch_stats"])

    def padded(x, kernel, stride):
        before = after = kernel // 2
        if padding == "same" and stride == 2:
            total = kernel - 2 + x.shape[1] % 2  # all but the part of the kernel that is over the last px
            before, after = total // 2, total - total // 2
        return np.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))

    def norm(x, p, s):
        return (x - s["mean"]) / np.sqrt(s["var"] + 1e-3) * p["scale"] + p["bias"]

    def block(x, name, stride, kernel, expands):
        p, s, y = params[name], stats[name], x
        if expands:
            y = relu6(norm(conv(y, p["expand_conv"]), p["expand_norm"], s["expand_norm"]))
        seen = windows(padded(y, kernel, stride), kernel, stride, 0)
        y = np.einsum("bijchw,hwc->bijc", seen, p["depthwise"]["kernel"][:, :, 0])
        y = conv(relu6(norm(y, p["depthwise_norm"], s["depthwise_norm"])), p["project_conv"])
        y = norm(y, p["project_norm"], s["project_norm"])
        return x + y if y.shape == x.shape else y

    y = relu6(norm(conv(padded(x, 3, 2), params["conv1"], 2), params["norm1"], stats["norm1"]))
    y = fine = block(y, "stage1_block1", 1, 3, False)
    y = coarse = block(block(y, "stage2_block1", 2, 5, True), "stage2_block2", 1, 5, True)
    y = relu6(norm(conv(y, params["head_conv"]), params["head_norm"], stats["head_norm"])).mean((1, 2))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    close(jax.jit(model.apply)(variables, x), dense(y, params["head"]))
    backbone = efficientnet.EfficientNet.of(0, padding=padding, **spec)
    for found, wanted in zip(jax.jit(backbone.apply)(variables, x), (fine, coarse), strict=True):
        close(found, wanted)
    assert backbone.strides == (2, 4)


def test_alexnet_equals_numpy():
    model, x = alexnet.AlexNet.of(5, mlp_dim=8), images(1, 64)
    variables = randomised(model, x)
    params = float64(variables["params"])
    expected = max_pool(relu(conv(x, params["conv1"], 4, 2)))
    expected = max_pool(relu(conv(expected, params["conv2"], 1, 2)))
    for name in ("conv3", "conv4", "conv5"):
        expected = relu(conv(expected, params[name], 1, 1))
    expected = max_pool(expected).reshape(1, -1)
    for name in ("dense1", "dense2"):
        expected = relu(dense(expected, params[name]))
    expected = dense(expected, params["head"])
    np.testing.assert_allclose(jax.jit(model.apply)(variables, x), expected, rtol=1e-4, atol=1e-4)
