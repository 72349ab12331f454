"""Low-rank adaptation: gradients by the chain rule, meshes, what stays as it was, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from research.config import Source
from research.parallel import mesh as mesh_lib
from research.train import feed, settings
from research.train.lora import is_update
from research.train.program import build_program
from tests.parallel import equivalence
from tests.train import toy

EVERY = {"rank": 3, "kernels": ("kernel$",)}


@functools.cache
def program(name="vit", dtype="float32", rank=3, kernels=("attention/.*/kernel", "mlp/.*/kernel"), train=("^head/",)):
    """One on one device, with plain gradient descent."""
    config = toy.make_config(
        **{
            "lora": {"rank": rank, "kernels": kernels, "train": train},
            "optimizer": {"name": "sgd", "momentum": 0.9, "learning_rate": 0.1, "schedule": "constant"},
            "train.microbatches": 1,
        }
    )
    task = equivalence.make_task(name, dtype)
    return build_program(config, task, mesh_lib.make_mesh(config.mesh.sizes, jax.devices()[:1])), task


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


def merged(params):
    """Kernels [layers, ...] with their updates, in another way than the library merges them."""
    found = flat(params)
    for path in [path for path in found if path.endswith("lora_a")]:
        down, up = found.pop(path), found.pop(path[:-1] + "b")
        kernel = path.removesuffix("lora_a") + "kernel"
        update = [np.tensordot(a, b, 1) for a, b in zip(down, up, strict=True)]
        found[kernel] = found[kernel] + np.stack(update)
    return traverse_util.unflatten_dict(found, sep="/")


def test_gradients_are_those_of_the_merged_kernels_by_the_chain_rule():
    with jax.enable_x64(True):
        adapted, task = program(dtype="float64")
        batch = equivalence.make_batch(task)
        state = equivalence.first_state(adapted)
        before = jax.device_get(state)
        after, metrics = adapted.train_step(state, feed.to_mesh(batch, adapted.batch_sharding))
        rng = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 0)
        loss = lambda params: task.loss({"params": params}, batch, task.totals(batch), rng)[0]
        value, grads = jax.jit(jax.value_and_grad(loss))(merged(before.params))
        np.testing.assert_allclose(metrics["loss"], value, rtol=1e-12)
        found = flat(jax.device_get(optax.tree_utils.tree_get(after.opt_state, "trace")))
    grads, params = flat(jax.device_get(grads)), flat(before.params)
    assert {path for path in found if not is_update(path)} == {"head/kernel", "head/bias"}
    for path, ours in found.items():
        where, _, last = path.rpartition("/")
        expected = grads.get(path)
        if expected is None:
            down, up, of_kernel = params[f"{where}/lora_a"], params[f"{where}/lora_b"], grads[f"{where}/kernel"]
            inputs = down.ndim - 2
            rows = range(ours.shape[0])
            if last == "lora_a":
                expected = [
                    np.tensordot(of_kernel[i], up[i], [range(inputs, of_kernel.ndim - 1), range(1, up.ndim - 1)])
                    for i in rows
                ]
            else:
                expected = [np.tensordot(down[i], of_kernel[i], [range(inputs), range(inputs)]) for i in rows]
        np.testing.assert_allclose(ours, np.stack(expected), rtol=1e-9, atol=1e-12 * np.abs(ours).max())


def test_it_begins_as_the_model_that_it_adapts_and_all_else_stays_as_it_was():
    adapted, task = program()
    plain, _ = program(rank=0)
    sizes = {path: leaf.size for path, leaf in flat(adapted.state.params).items()}
    own = {path: size for path, size in sizes.items() if is_update(path) or path.startswith("head/")}
    assert adapted.num_trained == sum(own.values()) < adapted.num_params
    assert adapted.optimizer_bytes < 4 * sum(own.values()) + 100 < plain.optimizer_bytes
    state = adapted.init()
    before, base = flat(jax.device_get(state.params)), flat(jax.device_get(plain.init().params))
    for path, leaf in base.items():
        np.testing.assert_array_equal(before[path], leaf)
    for path, leaf in before.items():
        if path.endswith("lora_b"):
            assert not leaf.any()
        elif path.endswith("lora_a"):
            inputs = np.prod(leaf.shape[1:-1])
            assert np.abs(leaf).max() <= inputs**-0.5
            # The standard deviation of numbers that are uniform within +-a is a / sqrt(3).
            assert leaf.std() == pytest.approx((3 * inputs) ** -0.5, rel=0.25)
            assert np.abs(leaf[0] - leaf[1]).max() > 0  # each layer has its own
    batch = feed.to_mesh(equivalence.make_batch(task), adapted.batch_sharding)
    for _ in range(3):  # the head begins at zero, then B, so that A's gradient is zero for two steps
        state, _ = adapted.train_step(state, batch)
    for path, leaf in flat(jax.device_get(state.params)).items():
        assert np.array_equal(leaf, before[path]) == (path not in own), path


@pytest.mark.long
def test_a_step_on_a_mesh_is_the_step_of_one_device():
    one, many = (equivalence.step("t5", sizes, "float64", lora_rank=3) for sizes in ((1, 1, 1, 1), (2, 2, 2, 1)))
    equivalence.check(one, many, 1e-12)


def test_updates_lie_where_their_kernels_do():
    adapted, _ = equivalence.make_program("t5", (1, 2, 4, 1), "float32", lora=EVERY)
    found = {path: leaf.sharding.spec for path, leaf in flat(adapted.state.params).items()}
    query, out = (f"encoder/blocks/attention/{name}" for name in ("query", "out"))
    assert found[f"{query}/kernel"] == jax.P(None, "fsdp", "tensor", None)
    assert found[f"{query}/lora_a"] == jax.P(None, "fsdp", None)
    assert found[f"{query}/lora_b"] == jax.P(None, None, "tensor", None)
    assert found[f"{out}/lora_a"] == jax.P(None, "tensor", None, None)


def test_eleven_billion_parameters_are_adapted_with_the_optimizer_state_of_a_few_million():
    words = ["lora.rank=8", "lora.train=()", "mesh.fsdp=4", "mesh.tensor=2", "optimizer=adamw"]
    config = settings.load(Source.parse("configs/translation/wmt14_en_de_t5_11b.py:full", words))
    task, _ = config.build()
    large = build_program(config, task, mesh_lib.make_mesh(config.mesh.sizes, jax.devices()))
    # Of queries and values of 24 + 24 + 24 layers (the decoder's attend twice), 4,096 wide, 64 heads of 64.
    assert large.num_trained == 72 * 2 * 8 * (4096 + 64 * 64)
    assert large.num_params - large.num_trained > 11e9
    assert large.optimizer_bytes <= 8 * large.num_trained + 100


def test_patterns_that_fit_no_kernel_of_a_dense_layer_are_refused():
    with pytest.raises(ValueError, match=r"config.lora.kernels has 'attn', which matches no kernel such as "):
        program(kernels=("attn",))
    with pytest.raises(
        ValueError, match=r"config.lora.kernels matches .*, with the axes height, width, .*; only dense"
    ):
        program("resnet", kernels=("kernel",))


def test_the_update_of_one_layer_in_closed_form():
    from research.models.dense import Dense

    layer, x = Dense((2, 3), axis=(-2, -1)), jax.random.normal(jax.random.key(1), (5, 4, 6))
    params = layer.init(jax.random.key(0), x)["params"]
    down, up = jnp.ones((4, 6, 1)), jnp.arange(6.0).reshape(1, 2, 3)
    y = layer.apply({"params": {**params, "lora_a": down, "lora_b": up}}, x)
    expected = layer.apply({"params": params}, x) + x.sum((1, 2))[:, None, None] * up[0]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
