"""Grad-CAM and gradients times input against closed forms of linear models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from research.models.alexnet import AlexNet
from research.models.convnext import ConvNeXt
from research.models.efficientnet import EfficientNet
from research.models.resnet import ResNet
from research.trust import gradients, looking
from research.trust.gradients import Tap


class Linear(nn.Module):
    """A convolution, the mean over positions, a dense layer."""

    @nn.compact
    def __call__(self, images):
        x = nn.Conv(5, (3, 3), name="conv")(images)
        return nn.Dense(4, name="head")(x.mean((1, 2)))


@pytest.fixture(scope="module")
def linear():
    images = np.random.default_rng(1).normal(size=(3, 6, 7, 2)).astype(np.float32)
    model = Linear()
    return model, jax.jit(model.init)(jax.random.key(0), images), images


def test_grad_cam_of_a_linear_model_is_its_weighted_feature_map(linear):
    """logit k = sum over channels c of W_ck mean(A_c), so the weight of channel c is W_ck over the positions."""
    model, variables, images = linear

    @jax.jit
    def computed(variables):
        logits = lambda: model.apply(variables, images)
        maps = nn.Conv(5, (3, 3)).apply({"params": variables["params"]["conv"]}, images)
        return gradients.grad_cam(Tap("conv"), lambda: logits().max(-1)), maps, logits()

    found, maps, logits = map(np.asarray, computed(variables))
    weights = np.asarray(variables["params"]["head"]["kernel"])[:, logits.argmax(-1)].T / 42
    np.testing.assert_allclose(found, np.maximum((maps * weights[:, None, None]).sum(-1), 0), atol=1e-6)


def test_gradients_times_input_of_a_linear_model_sum_to_the_logit_without_bias(linear):
    model, variables, images = linear
    params = {
        "conv": {"kernel": variables["params"]["conv"]["kernel"], "bias": np.linspace(0, 1, 5, dtype=np.float32)},
        "head": {"kernel": variables["params"]["head"]["kernel"], "bias": np.linspace(1, 2, 4, dtype=np.float32)},
    }

    @jax.jit
    def computed(params):
        run = lambda: model.apply({"params": params}, images)[:, 2]
        taps = Tap("head", of_input=True), Tap("", of_input=True)
        return [run(), *(gradients.times_input(tap, run) for tap in taps)]

    logits, of_head, of_images = map(np.asarray, computed(params))
    np.testing.assert_allclose(of_head, logits - params["head"]["bias"][2], atol=1e-5)
    # From the images on, the bias of the convolution contributes too, weighted by the head.
    bias = params["head"]["bias"][2] + params["conv"]["bias"] @ np.asarray(params["head"]["kernel"])[:, 2]
    np.testing.assert_allclose(of_images.sum((1, 2)), logits - bias, atol=1e-5)


def test_a_tap_reads_what_a_module_computes(linear):
    model, variables, images = linear
    run = lambda: model.apply(variables, images)
    read = jax.jit(lambda: [run(), Tap("").read(run), Tap("", of_input=True).read(run)])()
    np.testing.assert_allclose(read[1], read[0])
    np.testing.assert_allclose(read[2], images)
    with pytest.raises(ValueError, match="no module 'stage1' with a method __call__"):
        Tap("stage1").read(run)


@pytest.mark.parametrize(
    ("model", "side", "shape"),
    [
        (ResNet.of(3, stage_sizes=(1, 2), width=4, stem="half", block="basic"), 16, (4, 4)),
        (ConvNeXt.of(3, stage_sizes=(1, 1), widths=(4, 8)), 16, (2, 2)),
        (
            EfficientNet.of(3, stage_sizes=(1, 1), widths=(4, 8), kernel_sizes=(3, 3), stage_strides=(1, 2)),
            16,
            (4, 4),
        ),
        (AlexNet.of(3, mlp_dim=8), 67, (3, 3)),
    ],
    ids=["resnet", "convnext", "efficientnet", "alexnet"],
)
def test_the_last_feature_map_of_each_cnn_is_found(model, side, shape):
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    tap = Tap(looking.feature_map(model))
    run = lambda variables, images: gradients.grad_cam(tap, lambda: model.apply(variables, images).max(-1))
    assert jax.eval_shape(run, variables, images).shape == (2, *shape)
