"""The gradient of DP-SGD against a loop over examples, and its noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from research.parallel import mesh as mesh_lib
from research.parallel.sharding import constrain
from research.train import clipping, feed
from research.train.program import build_program
from tests.train import toy

CLIP = 4.0
SIZE = 16


class Net(nn.Module):
    """A hidden layer with layer norm and dropout, in the dtype of its input."""

    num_classes: int = 4
    dropout: float = 0.0
    logical_axes = (
        ("hidden/kernel", ("embed", "mlp")),
        ("norm/.*", (None,)),
        ("head/kernel", ("embed", "classes")),
        ("head/bias", ("classes",)),
    )

    @nn.compact
    def __call__(self, images, train=False):
        x = constrain(images.reshape(images.shape[0], -1), ("batch", "embed"))
        dtype = {"param_dtype": x.dtype}
        x = constrain(nn.Dense(16, use_bias=False, name="hidden", **dtype)(x), ("batch", "mlp"))
        x = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(nn.LayerNorm(name="norm", **dtype)(x)))
        return nn.Dense(self.num_classes, name="head", **dtype)(x)


def make_task(dropout=0.0):
    task = toy.make_task(mixup=0.0, label_smoothing=0.0)
    return type(task)(Net(dropout=dropout), task.image_shape, task.mean, task.std, task.spec)


def make_config(**settings):
    """SGD with learning rate 1 on padded batches, so that a step subtracts the gradient."""
    plain = {
        "optimizer.name": "sgd", "optimizer.learning_rate": 1.0, "optimizer.schedule": "constant",
        "optimizer.warmup_steps": 0, "optimizer.weight_decay": 0.0, "optimizer.clip_norm": 0.0, "train.ema": 0.0,
        "train.microbatches": 1, "privacy.clip_norm": CLIP, "privacy.sampling": "shuffle",
    }  # fmt: skip
    return toy.make_config(**(plain | settings))


@functools.cache
def batch(padding=3):
    """SIZE examples, the last ones of which are padding."""
    found = next(toy.Data().train_batches(0, SIZE))
    found["weight"][SIZE - padding :] = 0
    return found


@functools.cache
def built(config, task, devices):
    return build_program(config, task, mesh_lib.make_mesh(config.mesh.sizes, jax.devices()[:devices]))


def step(config, task, devices=1, k=0, given=None):
    """The gradient that a step uses, and its metrics, as float64 numbers on the host."""
    program = built(config, task, devices)
    before = jax.device_get(program.init())
    state = jax.device_put(before.replace(step=jnp.asarray(k)), jax.tree.map(lambda leaf: leaf.sharding, program.state))
    after, metrics = program.train_step(state, feed.to_mesh(given or batch(), program.batch_sharding))
    difference = lambda old, new: np.asarray(old, np.float64) - np.asarray(new, np.float64)
    return jax.tree.map(difference, before.params, jax.device_get(after.params)), jax.device_get(metrics)


def loop(task, params):
    """Abadi et al. (2016), algorithm 1, without noise: one example after the other, in float64 without JAX's vmap."""
    total, norms = jax.tree.map(lambda leaf: np.zeros(leaf.shape), params), []
    loss = lambda params, one: task.loss({"params": params}, one, task.totals(one), jax.random.key(0))[0]
    gradient = jax.jit(jax.grad(loss))
    for row in np.flatnonzero(batch()["weight"]):
        one = {name: array[row : row + 1] for name, array in batch().items()}
        grads = jax.device_get(gradient(params, one))
        assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {np.dtype(np.float64)}
        norms.append(np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(grads))))
        factor = min(1, CLIP / norms[-1])
        total = jax.tree.map(lambda sum, leaf, factor=factor: sum + factor * leaf, total, grads)
    return jax.tree.map(lambda leaf: leaf / SIZE, total), np.array(norms)


@pytest.fixture(scope="module")
def initial():
    """The parameters with which `step` begins."""
    return jax.device_get(built(make_config(), make_task(), 1).init())


@pytest.fixture(scope="module")
def looped(initial):
    with jax.enable_x64(True):
        task = make_task()
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), initial.params)
        return loop(task, params)


MESH = {"data": 2, "fsdp": 2, "tensor": 2, "sequence": 1}


@pytest.mark.parametrize(("sizes", "microbatches"), [({}, 1), (MESH, 2)], ids=["one device", "2x2x2"])
def test_gradients_are_clipped_as_by_a_loop_over_examples(sizes, microbatches, looped):
    expected, norms = looped
    assert 0 < (norms > CLIP).sum() < len(norms), "some are clipped, and some are not"
    overrides = {"train.microbatches": microbatches} | ({"mesh": sizes} if sizes else {})
    grads, metrics = step(make_config(**overrides), make_task(), devices=8 if sizes else 1)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-7), grads, expected)
    assert metrics["clipped"] == pytest.approx((norms > CLIP).mean())


def test_an_example_changes_the_sum_by_the_clipping_threshold_at_most():
    """Whatever it is: here an image so bright that its gradient is huge, and one whose gradient is not finite."""
    task, one = make_task(), {name: array[:1] for name, array in batch().items()}
    params = jax.jit(task.init)(jax.random.key(0))["params"]
    loss = lambda params, one, key: task.loss({"params": params}, one, task.totals(one), key)
    clipped = jax.jit(
        lambda given: clipping.clipped_sum(loss, params, given, np.zeros(1, int), jax.random.key(0), 1e-3)
    )
    for image in (one["image"] * np.float32(1e4), one["image"] * np.float32(np.nan)):
        grads, _ = clipped(one | {"image": image})
        assert float(optax.global_norm(grads)) <= 1e-3 * (1 + 1e-5)


NOISY = {"privacy.noise_multiplier": 3.0}


def test_neither_mesh_nor_microbatches_change_noise_and_dropout():
    task = make_task(dropout=0.5)
    one, _ = step(make_config(**NOISY), task, k=3)
    other, _ = step(make_config(**NOISY, **{"train.microbatches": 4, "mesh": MESH}), task, devices=8, k=3)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-6), other, one)


def test_noise_is_normal_with_the_deviation_of_the_config():
    """Without examples, the gradient is the noise: normal with deviation noise_multiplier * clip_norm / batch size."""
    empty = batch() | {"weight": np.zeros(SIZE, np.float32)}
    first, metrics = step(make_config(**NOISY), make_task(dropout=0.5), given=empty)
    values = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(first)]) / (3.0 * CLIP / SIZE)
    count = len(values)
    assert abs(values.mean()) < 4 / np.sqrt(count) and abs(values.var() - 1) < 4 * np.sqrt(2 / count)
    assert metrics["loss"] == 0 and metrics["clipped"] == 0
    many = clipping.noisy_mean({"a": jnp.zeros(100_000), "b": jnp.zeros(100_000)}, 0, jnp.asarray(5), 3.0, 2)
    drawn = np.stack([many["a"], many["b"]]) / 1.5
    assert drawn.var() == pytest.approx(1, abs=4 * np.sqrt(2 / 200_000))
    assert (np.abs(drawn) > 1.959964).mean() == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 200_000))
    assert abs(np.corrcoef(*drawn)[0, 1]) < 4 / np.sqrt(100_000), "every parameter has noise of its own"


def test_noise_differs_between_steps_and_seeds_and_is_the_same_again():
    noise = lambda seed, step: np.asarray(clipping.noisy_mean(jnp.zeros(10_000), seed, jnp.asarray(step), 1.0, 1))
    assert np.array_equal(noise(0, 1), noise(0, 1))
    for other in (noise(0, 2), noise(1, 1)):
        assert abs(np.corrcoef(noise(0, 1), other)[0, 1]) < 4 / np.sqrt(10_000)
