"""Adafactor and LAMB on stacked layers, compared with a loop over the matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.parallel import mesh as mesh_lib
from research.parallel.sharding import optimizer_shardings
from research.train import optimizer

LAYERS, EMBED, HEADS, KV, MLP = 3, 16, 4, 8, 24
TABLE = (
    ("blocks/attention/(query|key|value)/kernel", ("layers", "embed", "heads", "kv")),
    ("blocks/attention/out/kernel", ("layers", "heads", "kv", "embed")),
    ("blocks/mlp/kernel", ("layers", "embed", "mlp")),
    ("blocks/norm/scale", ("layers", "embed")),
    ("embedding", ("vocab", "embed")),
)
SHAPES = {
    "embedding": (40, EMBED),
    "blocks": {
        "attention": {
            "query": {"kernel": (LAYERS, EMBED, HEADS, KV)},
            "value": {"kernel": (LAYERS, EMBED, HEADS, KV)},
            "out": {"kernel": (LAYERS, HEADS, KV, EMBED)},
        },
        "mlp": {"kernel": (LAYERS, EMBED, MLP)},
        "norm": {"scale": (LAYERS, EMBED)},
    },
}


def random(seed):
    """Parameters, the layers and projections of which have very different sizes."""
    rng = np.random.default_rng(seed)
    size = lambda shape: 4.0 ** rng.integers(-3, 3, (shape[0],) + (1,) * (len(shape) - 1))
    make = lambda shape: jnp.asarray(size(shape) * rng.normal(size=shape), jnp.float32)
    return jax.tree.map(make, SHAPES, is_leaf=lambda node: isinstance(node, tuple))


def matrices(tree):
    """Every matrix or vector by itself: {"name of the leaf", layer: array [rows, columns]}."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for layer, part in enumerate(leaf) if name.startswith("blocks") else [(0, leaf)]:
            if part.ndim == 3:
                part = part.reshape((EMBED, -1) if part.shape[0] == EMBED else (-1, EMBED))
            found[f"{name}/{layer}"] = part
    return found


def updates(transform, params, steps=3):
    """The last of several updates, and the state then."""

    @jax.jit
    def run(params):
        state = transform.init(params)
        for step in range(steps):
            grads = jax.tree.map(lambda leaf, step=step: jnp.cos(leaf * (step + 1)) * leaf, params)
            update, state = transform.update(grads, state, params)
            params = optax.apply_updates(params, update)
        return update, state

    return run(params)


SPECS = {
    "adafactor": optimizer.Adafactor(min_dim_size_to_factor=8, weight_decay=0.1, decay=("kernel",), warmup_steps=2),
    "adafactor with momentum": optimizer.Adafactor(min_dim_size_to_factor=8, momentum=0.9),
    "lamb": optimizer.Lamb(weight_decay=0.1, decay=("kernel",)),
}


@pytest.mark.parametrize("name", SPECS)
def test_every_matrix_is_updated_as_if_it_were_alone(name):
    params = random(0)
    stacked, _ = updates(optimizer.build(SPECS[name], 10, TABLE), params)
    alone, _ = updates(optimizer.build(SPECS[name], 10), matrices(params))  # a leaf each, as optax wants them
    assert matrices(stacked).keys() == alone.keys()
    for place, update in matrices(stacked).items():
        np.testing.assert_allclose(update, alone[place], rtol=2e-5, atol=1e-8, err_msg=place)


def test_heads_are_factored_where_each_is_too_small():
    _, state = updates(optimizer.build(SPECS["adafactor"], 10, TABLE), random(0))
    sizes = {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    of_query = {shape for path, shape in sizes.items() if "query" in path}
    assert of_query == {(LAYERS, EMBED), (LAYERS, HEADS * KV), (LAYERS, 1)}


@pytest.mark.parametrize("name", SPECS)
def test_its_state_lies_where_the_parameters_lie(name):
    params = random(0)
    mesh = mesh_lib.make_mesh({"data": 1, "fsdp": 2, "tensor": 4, "sequence": 1})
    state = jax.eval_shape(optimizer.build(SPECS[name], 10, TABLE).init, params)
    specs = jax.tree.map(lambda to: to.spec, optimizer_shardings(state, params, TABLE, mesh))
    lying = {}
    for (path, leaf), spec in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(specs), strict=True):
        if "query" in jax.tree_util.keystr(path) and leaf.shape[1:] != (1,):
            lying[leaf.shape] = tuple(spec)
    whole, rows, columns = (LAYERS, EMBED, HEADS * KV), (LAYERS, EMBED), (LAYERS, HEADS * KV)
    expected = {whole: (None, "fsdp", "tensor"), rows: (None, "fsdp"), columns: (None, "tensor")}
    assert lying and lying.items() <= expected.items()
    assert lying.keys() == {"lamb": {whole}, "adafactor": {rows, columns}}.get(name, expected.keys())
