"""Gradual unfreezing: against a loop with an optimizer for each layer, on meshes, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from research.parallel import mesh as mesh_lib
from research.spec import FieldError
from research.train import feed, optimizer, unfreezing
from research.train.program import build_program
from tests.parallel import equivalence
from tests.train import toy
from tests.train.test_program import batch, build

TABLE = (
    ("embedding", ("vocab", "embed")),
    ("blocks/mlp/kernel", ("layers", "embed", "mlp")),
    ("blocks/norm/scale", ("layers", "embed")),
    ("head/kernel", ("embed", "classes")),
)
SHAPES = {"embedding": (6, 4), "blocks/mlp/kernel": (3, 4, 5), "blocks/norm/scale": (3, 4), "head/kernel": (4, 3)}
STAGES = ((2, "blocks/2/"), (4, "blocks/[01]/mlp"), (5, "blocks"), (7, "^embedding"))
FIRST = {"head/kernel": 0, "embedding": 7}
FIRST |= {f"blocks/{layer}/mlp/kernel": step for layer, step in enumerate((4, 4, 2))}
FIRST |= {f"blocks/{layer}/norm/scale": step for layer, step in enumerate((5, 5, 2))}
STEPS = 9


def tree(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def layers(flat):
    """The leaves with a leaf for each layer."""
    found = {name: leaf for name, leaf in flat.items() if not name.startswith("blocks")}
    for name, leaf in flat.items():
        if name.startswith("blocks"):
            found |= {name.replace("blocks/", f"blocks/{layer}/"): row for layer, row in enumerate(leaf)}
    return found


@pytest.mark.parametrize("name", ["adamw", "sgd", "adafactor"])
def test_it_is_a_loop_with_an_optimizer_for_each_layer_from_its_first_step_on(name):
    own = {"momentum": 0.9} if name == "sgd" else {"min_dim_size_to_factor": 2} if name == "adafactor" else {}
    spec = optimizer.OPTIMIZERS[name](
        learning_rate=0.3, warmup_steps=2, clip_norm=1.5, weight_decay=0.1, unfreeze=STAGES, **own
    )
    transform, rate = optimizer.build(spec, STEPS, TABLE), optimizer.schedule(spec, STEPS)
    params = traverse_util.unflatten_dict(tree(0), sep="/")
    state, update = transform.init(params), jax.jit(transform.update)
    expected, states = layers(tree(0)), {}

    def alone(path):
        late = lambda count: rate(count + FIRST[path])
        decay = 0.1 if path.endswith("kernel") else 0.0
        if name == "adamw":
            return optax.adamw(late, weight_decay=decay)
        if name == "sgd":
            return optax.chain(optax.add_decayed_weights(decay), optax.sgd(late, momentum=0.9))
        return optax.adafactor(late, min_dim_size_to_factor=2, weight_decay_rate=decay or None)

    for step in range(STEPS):
        grads = tree(step + 1)
        updates, state = update(traverse_util.unflatten_dict(grads, sep="/"), state, params)
        params = optax.apply_updates(params, updates)
        begun = {path: grad for path, grad in layers(grads).items() if FIRST[path] <= step}
        norm = np.sqrt(sum((grad.astype(np.float64) ** 2).sum() for grad in begun.values()))
        for path, grad in begun.items():
            value = jnp.asarray(expected[path])
            before = states.get(path) or alone(path).init(value)
            change, states[path] = alone(path).update(jnp.asarray(grad / max(norm / 1.5, 1)), before, value)
            expected[path] = np.asarray(value + change)
        found = layers(jax.device_get(traverse_util.flatten_dict(params, sep="/")))
        for path, value in found.items():
            np.testing.assert_allclose(value, expected[path], rtol=2e-5, atol=1e-6, err_msg=f"{path}, {step}")
            if path not in begun:
                np.testing.assert_array_equal(value, layers(tree(0))[path])
    assert set(begun) == set(FIRST)


def test_each_group_holds_the_state_of_its_own_layers_alone():
    spec = optimizer.AdamW(unfreeze=STAGES)
    params = traverse_util.unflatten_dict(tree(0), sep="/")
    state = optimizer.build(spec, STEPS, TABLE).init(params)[0]
    size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree) if leaf.ndim)
    assert {step: size(group) for step, group in state.groups.items()} == {
        "0": 2 * 12, "2": 2 * (20 + 4), "4": 2 * 2 * 20, "5": 2 * 2 * 4, "7": 2 * 24,
    }  # fmt: skip


def test_until_a_step_it_trains_as_if_the_rest_were_frozen():
    gradual = build(**{"optimizer.unfreeze": ((2, "hidden"),), "optimizer.clip_norm": 0.0, "train.ema": 0.0})
    plain = build(**{"optimizer.freeze": ("hidden",), "optimizer.clip_norm": 0.0, "train.ema": 0.0})
    assert gradual.num_trained == gradual.num_params > plain.num_trained
    ours, theirs = gradual.init(), plain.init()
    before = jax.device_get(ours.params["hidden"])
    for k in range(3):
        ours, _ = gradual.train_step(ours, feed.to_mesh(batch(k), gradual.batch_sharding))
        theirs, _ = plain.train_step(theirs, feed.to_mesh(batch(k), plain.batch_sharding))
        if k < 2:
            jax.tree.map(np.testing.assert_array_equal, jax.device_get(ours.params["hidden"]), before)
            np.testing.assert_allclose(ours.params["head"]["kernel"], theirs.params["head"]["kernel"], rtol=1e-5)
    assert np.abs(ours.params["hidden"]["kernel"] - before["kernel"]).max() > 1e-4


def test_a_step_on_a_mesh_is_the_step_of_one_device():
    results = []
    for sizes in ((1, 1, 1), (2, 2, 2)):
        config = toy.make_config(
            mesh=dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)),
            optimizer={
                "name": "sgd", "momentum": 0.9, "learning_rate": 0.1, "clip_norm": 1.0,
                "unfreeze": ((1, "blocks/1/"), (2, "blocks|patches")),
            },
        )  # fmt: skip
        devices = jax.devices()[: int(np.prod(sizes))]
        task = equivalence.make_task("vit", "float32")
        program = build_program(config, task, mesh_lib.make_mesh(config.mesh.sizes, devices))
        rows = feed.to_mesh(equivalence.make_batch(task), program.batch_sharding)
        state = equivalence.first_state(program)
        step = program.train_step.lower(state, rows).compile({"xla_backend_optimization_level": 0})
        for _ in range(3):
            state, _ = step(state, rows)
        moments = program.state.opt_state[0].groups["1"][1][0].trace["blocks"]["mlp"]["up"]["kernel"]
        results.append((jax.device_get(state.params), moments))
    (one, _), (many, moments) = results
    assert moments.shape[0] == 1 and moments.sharding.spec == jax.P(None, "fsdp", "tensor")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, many)


def test_bad_stages_are_refused():
    with pytest.raises(FieldError, match=r"unfreeze=.* must be \(step, regular expression\) pairs with steps of 1"):
        optimizer.AdamW(unfreeze=((0, "head"),))
    with pytest.raises(FieldError, match=r"must be .* pairs with steps of 1 or more"):
        optimizer.AdamW(unfreeze=((3, "("),))
    with pytest.raises(ValueError, match=r"config.optimizer.unfreeze has \(12, 'hidden'\), but config.train.steps=12"):
        toy.make_config(**{"optimizer.unfreeze": ((12, "hidden"),)})
    with pytest.raises(ValueError, match=r"unfreeze has 'blocks/7/', which matches no parameter that is trained"):
        unfreezing.check(((1, "blocks/7/"),), traverse_util.unflatten_dict(tree(0), sep="/"), TABLE)
    with pytest.raises(ValueError, match=r"leaves nothing to train before step 2; leave some parameters out"):
        build(**{"optimizer.unfreeze": ((2, "hidden|norm"), (3, "head"))})
    with pytest.raises(ValueError, match=r"'hidden', which matches no parameter that is trained"):
        build(**{"optimizer.unfreeze": ((2, "hidden"),), "optimizer.freeze": ("hidden",)})
