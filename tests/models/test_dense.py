"""Dense layers and norms against flax's, and the gradients of their CPU form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from research.models import dense, norms
from research.parallel import mesh as mesh_lib
from research.parallel import sharding

INIT = {"kernel_init": nn.initializers.lecun_normal(), "bias_init": nn.initializers.normal(0.3)}
DOUBLE = {"dtype": "float64", "param_dtype": "float64"}
PAIRS = {
    "matrix": (dense.Dense(7, **INIT, **DOUBLE), nn.Dense(7, **INIT, **DOUBLE)),
    "without bias": (dense.Dense(7, use_bias=False, **DOUBLE), nn.Dense(7, use_bias=False, **DOUBLE)),
    "to heads": (dense.Dense((3, 4), **INIT, **DOUBLE), nn.DenseGeneral((3, 4), **INIT, **DOUBLE)),
    "from heads": (
        dense.Dense(5, axis=(-2, -1), **INIT, **DOUBLE),
        nn.DenseGeneral(5, axis=(-2, -1), **INIT, **DOUBLE),
    ),
    "layer norm": (
        norms.LayerNorm(epsilon=1e-3, **DOUBLE),
        nn.LayerNorm(epsilon=1e-3, use_fast_variance=False, **DOUBLE),
    ),
    "norm without bias": (norms.LayerNorm(use_bias=False, **DOUBLE), nn.LayerNorm(use_bias=False, **DOUBLE)),
    "rms norm": (norms.RMSNorm(epsilon=1e-3, **DOUBLE), nn.RMSNorm(epsilon=1e-3, **DOUBLE)),
}


@pytest.fixture
def program():
    """As while a program for one CPU is traced."""
    mesh = mesh_lib.make_mesh({"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1}, jax.devices()[:1])
    with sharding.constraints_for(mesh):
        yield


def with_gradients(module, variables, x, weights):
    loss = lambda variables, x: (module.apply(variables, x) * weights).sum()
    return module.apply(variables, x), jax.jit(jax.grad(loss, (0, 1)))(variables, x)


@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients_are_those_of_flax_in_float64(program, name):
    ours, theirs = PAIRS[name]
    with jax.enable_x64():
        rng = np.random.default_rng(0)
        x = jnp.asarray(3 + rng.normal(size=(2, 6, 3, 4) if name == "from heads" else (2, 6, 8)))
        variables = theirs.init(jax.random.key(1), x)
        jax.tree.map(np.testing.assert_array_equal, ours.init(jax.random.key(1), x), variables)
        variables = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape), variables)
        weights = rng.normal(size=theirs.apply(variables, x).shape)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
        jax.tree.map(close, *(with_gradients(each, variables, x, weights) for each in (ours, theirs)))


def hlo(module, x):
    grad = jax.jit(jax.grad(lambda variables, x: (module.apply(variables, x) ** 2).sum()))
    return grad.lower(module.init(jax.random.key(0), x), x).as_text()


def test_on_a_cpu_kernel_and_bias_gradients_are_products_over_one_axis(program):
    text = hlo(dense.Dense(7), jnp.ones((2, 6, 8)))
    over_rows = [line for line in text.splitlines() if "contracting_dims = [0] x [0]" in line]
    assert len(over_rows) == 2 and all(line.count("tensor<12x") == 2 for line in over_rows)
    assert sum("tensor<12x1xf32>" in line for line in over_rows) == 1, "ones, for the bias"


@pytest.mark.parametrize(("platform", "devices"), [("tpu", 1), ("cpu", 2)])
def test_elsewhere_and_on_several_devices_nothing_is_merged(monkeypatch, platform, devices):
    monkeypatch.setattr(dense, "platform", lambda: platform)
    mesh = mesh_lib.make_mesh({"data": -1, "fsdp": 1, "tensor": 1, "sequence": 1}, jax.devices()[:devices])
    with sharding.constraints_for(mesh):
        text = hlo(dense.Dense(7), jnp.ones((8, 6, 8)))
    assert "tensor<48x" not in text
