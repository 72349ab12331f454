"""Depthwise convolutions on one CPU: their values and gradients are those of XLA's convolution, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models import depthwise
from research.parallel import mesh as mesh_lib
from research.parallel import sharding


def traced_for(devices):
    """As while a program for so many CPUs is traced."""
    sizes = {"data": devices, "fsdp": 1, "tensor": 1, "sequence": 1}
    return sharding.constraints_for(mesh_lib.make_mesh(sizes, jax.devices()[:devices]))


def hlo(devices, dtype="float32"):
    module = depthwise.Depthwise(3, 2, dtype=dtype)
    x = jnp.ones((4, 6, 6, 8))
    variables = module.init(jax.random.key(0), x)
    with traced_for(devices):
        return (
            jax.jit(lambda *args: jax.grad(lambda *args: module.apply(*args).sum())(*args))
            .lower(variables, x)
            .as_text()
        )


def test_only_one_cpu_has_no_convolution():
    assert "stablehlo.convolution" not in hlo(1) and "stablehlo.convolution" in hlo(2)
    assert "stablehlo.convolution" in hlo(1, "bfloat16"), "whose sums would be rounded at every tap"


@pytest.mark.parametrize("kind", ["same", "symmetric"])
@pytest.mark.parametrize(
    ("batch", "size", "kernel", "stride"),
    [(1, (7, 5), 3, 1), (16, (6, 6), 3, 2), (3, (7, 8), 5, 2), (6, (4, 9), 5, 1), (2, (2, 3), 5, 2), (2, (5, 5), 4, 2)],
)
def test_values_and_gradients_are_those_of_a_convolution(batch, size, kernel, stride, kind):
    rng = np.random.default_rng(0)
    with jax.enable_x64():
        x, k = jnp.asarray(rng.normal(size=(batch, *size, 3))), jnp.asarray(rng.normal(size=(kernel, kernel, 1, 3)))
        padding = depthwise.paddings(size, kernel, stride, kind)
        convolve = functools.partial(depthwise.convolve, stride=stride, padding=padding)
        y = convolve(x, k)  # outside of a program: XLA's
        weights = rng.normal(size=y.shape)
        loss = lambda x, k: (convolve(x, k) * weights).sum()
        expected = jax.grad(loss, (0, 1))(x, k)
        with traced_for(1):
            ours, gradients = jax.jit(convolve)(x, k), jax.jit(jax.grad(loss, (0, 1)))(x, k)
    np.testing.assert_allclose(ours, y, rtol=1e-12, atol=1e-12)
    for found, wanted in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("side", "kernel", "stride"), [(8, 3, 2), (7, 3, 2), (8, 5, 1), (9, 5, 2), (1, 3, 2)])
def test_same_is_that_of_xla(side, kernel, stride):
    expected = jax.lax.padtype_to_pads((side,), (kernel,), (stride,), "SAME")
    assert depthwise.paddings((side, side), kernel, stride, "same")[0] == tuple(expected[0])
