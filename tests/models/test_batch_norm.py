"""Batch norm on one CPU: values, statistics and gradients are those of flax, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from research.models import layers
from research.models.batch_norm import channel_sums
from tests.models.test_depthwise import traced_for


@pytest.mark.parametrize("use_scale", [True, False])
@pytest.mark.parametrize("shape", [(16, 5, 4, 3), (3, 2, 6), (7, 4), (1, 9, 1, 2)])
def test_values_statistics_and_gradients_are_those_of_flax(shape, use_scale):
    settings = {"momentum": 0.8, "epsilon": 1e-3, "use_scale": use_scale, "use_running_average": False}
    ours = layers.batch_norm(param_dtype="float64", dtype="float64", **settings)()
    theirs = nn.BatchNorm(
        param_dtype=jnp.float64, dtype="float64", use_fast_variance=False, force_float32_reductions=False, **settings
    )
    rng = np.random.default_rng(0)
    with jax.enable_x64():
        x = jnp.asarray(3 + rng.normal(size=shape))
        variables = ours.init(jax.random.key(0), x)
        jax.tree.map(np.testing.assert_array_equal, variables, theirs.init(jax.random.key(0), x))
        variables = jax.tree.map(lambda leaf: leaf + rng.uniform(0.1, 1, leaf.shape), variables)
        weights = rng.normal(size=shape)

        def loss(module, params, x):
            y, new = module.apply({**variables, "params": params}, x, mutable=["batch_stats"])
            return (y * weights).sum(), (y, new)

        gradients = lambda module: jax.jit(jax.value_and_grad(functools.partial(loss, module), (0, 1), has_aux=True))
        with traced_for(1):
            lowered = gradients(ours).lower(variables["params"], x)
            found = gradients(ours)(variables["params"], x)
        assert "stablehlo.dot" in lowered.as_text()
        close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
        jax.tree.map(close, found, gradients(theirs)(variables["params"], x))


@pytest.mark.parametrize("batch", [1, 5, 8, 12, 22])
def test_channel_sums_are_those_over_all_axes_but_the_last(batch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, batch, 3, 4, 5)).astype(np.float32)
    found = channel_sums(lambda x, y: x * y, jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(found, (x.astype(np.float64) * y).sum((0, 1, 2))[None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("devices", "dtype"), [(2, "float32"), (1, "bfloat16")])
def test_elsewhere_it_is_that_of_flax(devices, dtype):
    norm = layers.batch_norm(param_dtype="float32", dtype=dtype, use_running_average=False)()
    x = jnp.ones((4, 3, 3, 8), dtype)
    variables = norm.init(jax.random.key(0), x)
    with traced_for(devices):
        text = jax.jit(lambda v, x: norm.apply(v, x, mutable=["batch_stats"])).lower(variables, x).as_text()
    assert "stablehlo.dot" not in text
