"""What only a GPU can show: `JAX_PLATFORMS=cuda,cpu python -m pytest tests/parallel/test_gpu.py`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.measure import flops
from research.models import dot_product
from tests.parallel import equivalence

if jax.default_backend() != "gpu":
    pytest.skip("needs a GPU and JAX_PLATFORMS=cuda,cpu", allow_module_level=True)

ONE = (1, 1, 1, 1)


@pytest.mark.parametrize(
    "name", ["vit", "vit_22b", "resnet", "convnext", "t5", "vaswani", "copying", "speech", "faces"]
)
def test_a_step_on_a_gpu_is_the_step_of_a_cpu(name):
    """In float64: in float32 a GPU rounds to TF32 unless told not to."""
    cpu, gpu = (equivalence.step(name, ONE, "float64", platform) for platform in ("cpu", "gpu"))
    equivalence.check(cpu, gpu, 1e-11)


@pytest.mark.parametrize("shape", [(2, 197, 6, 64), (2, 64, 4, 32), (1, 1024, 2, 128)])
def test_cudnn_attention_is_attention(shape):
    """The fused kernel in bfloat16 against the formula in float32, forward and backward, to bfloat16's rounding."""
    rng = np.random.default_rng(0)
    parts = [jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for _ in range(3)]
    weights = jnp.asarray(rng.normal(size=shape), jnp.float32)

    def grads(implementation, dtype):
        loss = lambda *parts: (dot_product.attention(*parts, implementation).astype(jnp.float32) * weights).sum()
        return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(*(part.astype(dtype) for part in parts))

    with jax.default_matmul_precision("highest"):
        value, exact = grads("xla", jnp.float32)
        fused_value, fused = grads("cudnn", jnp.bfloat16)
    assert abs(fused_value - value) < 0.01 * equivalence.norm(weights)
    for mine, theirs in zip(fused, exact, strict=True):
        assert equivalence.norm(np.float64(mine) - np.float64(theirs)) < 0.02 * equivalence.norm(theirs)


def test_the_operations_of_cudnn_attention_count():
    shape = (2, 196, 4, 64)
    parts = [jax.ShapeDtypeStruct(shape, jnp.bfloat16)] * 3
    for implementation in ("cudnn", "xla"):
        loss = functools.partial(lambda parts, name: dot_product.attention(*parts, name).sum(), name=implementation)
        assert flops.training_flops(loss, parts) == 6 * 2 * 2 * 4 * 196**2 * 64


def test_auto_takes_cudnn_where_it_can_be_had():
    query = jnp.ones((2, 196, 4, 64), jnp.bfloat16)
    text = jax.jit(dot_product.attention).lower(query, query, query).compile().as_text()
    assert "cudnn" in text
    masked = jax.jit(lambda x: dot_product.attention(x, x, x, mask=jnp.ones((1, 1, 196, 196), bool)))
    assert "__cudnn$fmha" not in masked.lower(query).compile().as_text()
