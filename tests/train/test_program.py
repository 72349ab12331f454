"""The step against a plain re-implementation, and against itself with other microbatches and meshes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.parallel import mesh as mesh_lib
from research.parallel import sharding
from research.train import feed, optimizer
from research.train.program import build_program
from tests.train import toy


def build(task=None, devices=1, **overrides):
    config = toy.make_config(**overrides)
    return build_program(
        config, task or toy.make_task(), mesh_lib.make_mesh(config.mesh.sizes, jax.devices()[:devices])
    )


@functools.cache
def batch(k=0):
    return next(toy.Data().train_batches(0, 16, start=k))


def test_one_step_equals_plain_jax_and_optax():
    config, task = toy.make_config(**{"train.microbatches": 1}), toy.make_task()
    program = build(task, **{"train.microbatches": 1})
    state = jax.device_get(program.init())
    transform = optimizer.build(config.optimizer, config.train.steps)
    rng = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 0)
    loss = lambda params: task.loss({"params": params, **state.mutable}, batch(), task.totals(batch()), rng)
    (value, (mutable, _)), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
    updates, _ = transform.update(grads, transform.init(state.params), state.params)
    params = optax.apply_updates(state.params, updates)
    ema = jax.tree.map(lambda old, new: old + (1 - 0.1) * (new - old), state.ema, {"params": params, **mutable})

    new, metrics = program.train_step(program.init(), feed.to_mesh(batch(), program.batch_sharding))
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], optax.global_norm(grads), rtol=1e-5)
    close = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-6)
    jax.tree.map(close, new.params, params)
    jax.tree.map(close, new.mutable, dict(mutable))
    jax.tree.map(close, new.ema, ema)
    assert int(new.step) == 1


def test_microbatches_add_up_to_the_whole_batch():
    # Without what is random or sees one microbatch only: dropout, mixup and batch norm's own statistics.
    task = toy.make_task(mixup=0.0)
    task = type(task)(PlainNet(), task.image_shape, task.mean, task.std)
    results = []
    for microbatches in (1, 4):
        program = build(task, **{"train.microbatches": microbatches})
        state, metrics = program.train_step(program.init(), feed.to_mesh(batch(), program.batch_sharding))
        results.append((jax.device_get(state), jax.device_get(metrics)))
    (whole, whole_metrics), (parts, parts_metrics) = results
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), parts.params, whole.params)
    for name, value in whole_metrics.items():
        np.testing.assert_allclose(parts_metrics[name], value, rtol=1e-5)


class PlainNet(toy.Net):
    """The toy without dropout and batch norm."""

    @toy.nn.compact
    def __call__(self, images, train=False):
        x = toy.nn.relu(toy.nn.Dense(self.width, use_bias=False, name="hidden")(images.reshape(images.shape[0], -1)))
        return toy.nn.Dense(self.num_classes, name="head")(x)


FROZEN = ("hidden", "head/bias")


@pytest.mark.parametrize(
    ("name", "microbatches"), [("adamw", 1), ("sgd", 1), ("adafactor", 1), ("lamb", 1), ("adamw", 4)]
)
def test_frozen_parameters_have_no_gradient_no_state_and_stay_as_they_were(name, microbatches):
    settings = {"optimizer.name": name, "train.microbatches": microbatches, "optimizer.weight_decay": 0.1}
    whole, part = build(**settings), build(**settings, **{"optimizer.freeze": FROZEN})
    config, task = toy.make_config(**settings), toy.make_task()
    assert part.num_params == whole.num_params == whole.num_trained == part.num_trained + 16 * 16 + 4
    names = [sharding.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(part.state.opt_state)]
    assert not [each for each in names if "hidden" in each or each.endswith("head/bias")]
    before = jax.device_get(part.init())
    after, _ = part.train_step(part.init(), feed.to_mesh(batch(), part.batch_sharding))
    for tree in (after.params, after.ema["params"]):
        np.testing.assert_array_equal(tree["hidden"]["kernel"], before.params["hidden"]["kernel"])
        np.testing.assert_array_equal(tree["head"]["bias"], before.params["head"]["bias"])
    if microbatches > 1:
        return
    # What is trained takes the step of optax on a tree of its own.
    rng = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 0)
    loss = lambda params: task.loss({"params": params, **before.mutable}, batch(), task.totals(batch()), rng)[0]
    grads = jax.grad(loss)(before.params)
    own = lambda tree: {"head": {"kernel": tree["head"]["kernel"]}, "norm": tree["norm"]}
    transform = optimizer.build(config.optimizer, config.train.steps, task.logical_axes)
    updates, _ = transform.update(own(grads), transform.init(own(before.params)), own(before.params))
    expected = optax.apply_updates(own(before.params), updates)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-6), own(after.params), expected)


def test_freezing_everything_or_nothing_that_is_there_is_refused():
    with pytest.raises(ValueError, match=r"config.optimizer.freeze=\('.',\) matches every parameter"):
        build(**{"optimizer.freeze": (".",)})
    with pytest.raises(ValueError, match=r"config.optimizer.freeze has 'encoder', which matches no parameter"):
        build(**{"optimizer.freeze": ("encoder",)})


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2), (1, 4, 2)])
def test_any_mesh_takes_the_same_step(sizes):
    one, many = (
        build(),
        build(devices=8, mesh=dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)) | {"sequence": 1}),
    )
    states = []
    for program in (one, many):
        state = program.init()
        for k in range(2):
            state, metrics = program.train_step(state, feed.to_mesh(batch(k), program.batch_sharding))
        states.append(jax.device_get((state.params, state.ema, metrics["loss"])))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), states[0], states[1])


def test_the_step_lowers_from_abstract_arguments_and_donates_its_state():
    program = build(devices=8)
    abstract = toy.make_task().example(16)
    text = program.train_step.lower(program.state, abstract).as_text()
    assert "jax.buffer_donor" in text or "tf.aliasing_output" in text
    assert program.num_params == sum(leaf.size for leaf in jax.tree.leaves(program.state.params)) == 356


def test_padding_does_not_change_an_evaluation():
    program = build()
    variables = program.init().evaluated
    batches = list(toy.Data().eval_batches("validation", 8))
    padded = batches[-1]
    assert padded["weight"].sum() == 4
    noise = np.random.default_rng(0).integers(0, 256, padded["image"].shape).astype(np.uint8)
    other = padded | {"image": np.where(padded["weight"][:, None, None, None] > 0, padded["image"], noise)}
    sums = [
        jax.device_get(program.eval_step(variables, feed.to_mesh(b, program.batch_sharding))) for b in (padded, other)
    ]
    assert sums[0] == sums[1]
    assert sums[0]["accuracy"][1] == 4


def test_bad_batches_are_refused():
    mesh = mesh_lib.make_mesh(toy.make_config().mesh.sizes)
    with pytest.raises(ValueError, match=r"train.batch_size=20 must be a multiple of 16"):
        feed.check_batch(toy.make_config(**{"train.batch_size": 20}).train, mesh)
    with pytest.raises(ValueError, match=r"train.eval_batch_size=4 must be a multiple of 8"):
        feed.check_batch(toy.make_config(**{"train.eval_batch_size": 4}).train, mesh)


def test_ema_of_the_first_steps_is_warmed_up():
    program = build()
    state, _ = program.train_step(program.init(), feed.to_mesh(batch(), program.batch_sharding))
    start, now = program.init().params["head"]["kernel"], state.params["head"]["kernel"]
    np.testing.assert_allclose(state.ema["params"]["head"]["kernel"], start + 0.9 * (now - start), rtol=1e-5, atol=1e-7)
    assert jnp.abs(now - start).max() > 0


class Bfloat16Net(toy.Net):
    """One dense layer with parameters in bfloat16."""

    @toy.nn.compact
    def __call__(self, images, train=False):
        flat = images.reshape(images.shape[0], -1).astype(jnp.bfloat16)
        return toy.nn.Dense(self.num_classes, name="head", dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)(flat)


def test_gradients_and_averages_of_bfloat16_parameters_are_summed_in_float32():
    task = toy.make_task(mixup=0.0)
    task = type(task)(Bfloat16Net(), task.image_shape, task.mean, task.std)
    program = build(task, **{"train.microbatches": 16})
    state, metrics = program.train_step(program.init(), feed.to_mesh(batch(), program.batch_sharding))

    first = jax.device_get(program.init())
    totals, key = task.totals(batch()), jax.random.key(0)
    one = lambda row: jax.grad(lambda params: task.loss({"params": params}, row, totals, key)[0])(first.params)
    rows = [jax.tree.map(lambda leaf, index=index: leaf[index : index + 1], batch()) for index in range(16)]
    sums = jax.tree.map(lambda *parts: sum(np.asarray(part, np.float64) for part in parts), *map(one, rows))
    np.testing.assert_allclose(metrics["grad_norm"], optax.global_norm(sums), rtol=1e-5)

    start, now = (np.asarray(params["head"]["kernel"], np.float32) for params in (first.params, state.params))
    average = state.ema["params"]["head"]["kernel"]
    assert (average.dtype, state.params["head"]["kernel"].dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_allclose(average, start + 0.9 * (now - start), rtol=8e-3)  # XLA may round `now` afterwards
    assert np.any(average != average.astype(jnp.bfloat16).astype(np.float32))
