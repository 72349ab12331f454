"""The whitened CNN against NumPy and torch, and its initial values against closed formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models import whitened_cnn
from research.models.whitened_cnn import WhitenedCNN
from tests.models.test_cnn_forward import conv, float64, gelu, images, randomised, windows

TINY = {"widths": (8, 4), "logit_scale": 0.25, "epsilon": 1e-3}


def photos(count=40, size=9, channels=3):
    """uint8 images of correlated px and channels."""
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(count, size, size, 1)) + 0.4 * rng.normal(size=(count, size, size, channels))
    return np.clip(120 + 40 * (noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2)), 0, 255).astype(np.uint8)


def test_the_forward_pass_equals_numpy():
    """Of images whose sides are odd after the whitening and even after the first pool."""
    model, x = WhitenedCNN.of(5, **TINY), images(size=14)
    variables = randomised(model, x)
    params, stats = float64(variables["params"]), float64(variables["batch_stats"])

    def norm(x, name):
        return (x - stats[name]["mean"]) / np.sqrt(stats[name]["var"] + 1e-3) + params[name]["bias"]

    y = gelu(conv(x.astype(np.float64), params["whitening"]))
    for stage in ("stage1", "stage2"):
        y = windows(conv(y, params[f"{stage}_conv1"], padding=1), 2, 2, 0).max((-1, -2))
        y = gelu(norm(y, f"{stage}_norm1"))
        y = gelu(norm(conv(y, params[f"{stage}_conv2"], padding=1), f"{stage}_norm2"))
    expected = 0.25 * y.max((1, 2)) @ params["head"]["kernel"]
    np.testing.assert_allclose(jax.jit(model.apply)(variables, x), expected, rtol=1e-4, atol=1e-5)


def test_gradients_equal_those_of_torch():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    functional = torch.nn.functional
    model, x = WhitenedCNN.of(5, **TINY), images(count=4, size=10)
    variables = randomised(model, x)

    def loss(params):
        variables_ = {"params": params, "batch_stats": variables["batch_stats"]}
        logits, _ = model.apply(variables_, x, train=True, mutable=["batch_stats"])
        return jnp.square(logits).sum()

    found = jax.jit(jax.grad(loss))(variables["params"])
    params = jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf, np.float64), requires_grad=True), variables)[
        "params"
    ]
    kernel = lambda name: params[name]["kernel"].permute(3, 2, 0, 1)

    def norm(y, name):
        return functional.batch_norm(y, None, None, None, params[name]["bias"], training=True, eps=1e-3)

    y = torch.tensor(x, dtype=torch.float64).permute(0, 3, 1, 2)
    y = functional.gelu(functional.conv2d(y, kernel("whitening"), params["whitening"]["bias"]))
    for stage in ("stage1", "stage2"):
        y = functional.max_pool2d(functional.conv2d(y, kernel(f"{stage}_conv1"), padding=1), 2)
        y = functional.gelu(norm(y, f"{stage}_norm1"))
        y = functional.gelu(norm(functional.conv2d(y, kernel(f"{stage}_conv2"), padding=1), f"{stage}_norm2"))
    (0.25 * y.amax((2, 3)) @ params["head"]["kernel"]).square().sum().backward()
    for name, leaves in params.items():
        for leaf, value in leaves.items():
            expected = value.grad.numpy()
            np.testing.assert_allclose(
                found[name][leaf], expected, rtol=2e-3, atol=2e-4 * np.abs(expected).max(), err_msg=f"{name}/{leaf}"
            )


@pytest.mark.parametrize("channels", [1, 3])
def test_whitened_patches_are_uncorrelated_with_second_moments_of_one(channels):
    pixels, mean, std = photos(channels=channels), [110.0, 120.0, 130.0][:channels], [50.0, 60.0, 70.0][:channels]
    model = WhitenedCNN.of(5, whitening_epsilon=1e-9)
    kernel = model.from_images([pixels[:25], pixels[25:]], mean, std)["whitening/kernel"]
    count = 4 * channels
    assert kernel.shape == (2, 2, channels, 2 * count)
    outputs = conv((pixels - np.array(mean)) / std, {"kernel": kernel.astype(np.float64)}).reshape(-1, 2 * count)
    np.testing.assert_allclose(outputs[:, :count], -outputs[:, count:], rtol=1e-6, atol=1e-6)
    half = outputs[:, :count]
    np.testing.assert_allclose(half.T @ half / len(half), np.eye(count), atol=1e-4)


def test_small_eigenvalues_are_damped():
    """With eigenvalues 4 and 1 and an epsilon of 0.5: second moments of 4 / 4.5 and 1 / 1.5."""
    moments = np.diag([1.0, 4.0, 1.0, 1.0])
    kernel = whitened_cnn.whitening(moments, 1, 0.5).reshape(4, 8)
    whitened = kernel[:, :4].T @ moments @ kernel[:, :4]
    np.testing.assert_allclose(whitened, np.diag([4 / 4.5, *[1 / 1.5] * 3]), atol=1e-6)


def test_the_moments_depend_neither_on_the_order_nor_on_the_batches():
    pixels, scale = photos(), ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    whole = whitened_cnn.second_moments([pixels], *scale)
    parts = whitened_cnn.second_moments([pixels[30:], pixels[:7], pixels[7:30]], *scale)
    np.testing.assert_array_equal(whole, parts)


@pytest.mark.parametrize(("inputs", "outputs"), [(4, 4), (3, 7), (6, 2)])
def test_a_dirac_kernel_passes_its_input_on(inputs, outputs):
    kernel = whitened_cnn.dirac(jax.random.key(1), (3, 3, inputs, outputs))
    x = images(size=5)[..., [0, 1, 2, 0, 1, 2][:inputs]].astype(np.float64)
    y = conv(x, {"kernel": np.asarray(kernel, np.float64)}, padding=1)
    same = min(inputs, outputs)
    np.testing.assert_array_equal(y[..., :same], x[..., :same])
    further = np.asarray(kernel[..., same:])
    bound = (9 * inputs) ** -0.5
    assert np.abs(further).max(initial=0) <= bound
    if outputs > inputs:
        np.testing.assert_allclose(further.std(), bound / 3**0.5, rtol=0.2)


def test_images_that_pooling_would_leave_nothing_of_are_refused():
    model = WhitenedCNN.of(5, widths=(4, 4, 4))
    assert jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), jnp.zeros((1, 9, 9, 3)))[0]).shape == (1, 5)
    with pytest.raises(ValueError, match=r"^images are 8 x 9 px; .*at least 9 px.*config\.data\.image_size"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 9, 3))))
