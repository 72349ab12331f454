import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from research.parallel import mesh as mesh_lib
from research.parallel import sharding

TABLE = (("dense/kernel", ("embed", "mlp")), ("dense/bias", ("mlp",)), (".*scale", (None,)))


def make_mesh(**sizes):
    return mesh_lib.make_mesh({"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1} | sizes)


def test_partition_spec_follows_the_rules():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    spec = sharding.partition_spec(("batch", "length", "heads", "kv"), (8, 5, 4, 3), sharding.ACTIVATION_RULES, mesh)
    assert spec == P(("data", "fsdp"), None, "tensor", None)
    assert sharding.partition_spec(("embed", "mlp"), (4, 6), sharding.PARAMETER_RULES, mesh) == P("fsdp", "tensor")


def test_an_axis_that_does_not_divide_stays_whole():
    mesh = make_mesh(fsdp=8)
    assert sharding.partition_spec(("embed", "mlp"), (12, 6), sharding.PARAMETER_RULES, mesh) == P(None, None)


def test_wrong_names_are_refused():
    mesh = make_mesh(tensor=8)
    with pytest.raises(ValueError, match="unknown logical axis 'depth'"):
        sharding.partition_spec(("depth",), (8,), sharding.PARAMETER_RULES, mesh)
    with pytest.raises(ValueError, match="mapped to the mesh axis"):
        sharding.partition_spec(("mlp", "heads"), (8, 8), sharding.PARAMETER_RULES, mesh)
    with pytest.raises(ValueError, match="no entry"):
        sharding.logical_axes("other/kernel", TABLE)


def test_constrain_acts_on_cpu_and_only_inside_a_program():
    mesh = make_mesh(data=4, tensor=2)
    x = jnp.ones((8, 3, 4))

    def traced(x):
        with sharding.constraints_for(mesh):
            return sharding.constrain(x * 2, ("batch", "length", "mlp"))

    y = jax.jit(traced)(x)
    assert y.sharding.spec == P("data", None, "tensor")
    assert y.addressable_shards[0].data.shape == (2, 3, 2)
    assert jax.jit(lambda x: sharding.constrain(x, ("batch", "length", "mlp")))(x).sharding.is_fully_replicated


def test_optimizer_state_lies_where_its_parameter_lies():
    mesh = make_mesh(fsdp=4, tensor=2)
    params = {"dense": {"kernel": jnp.zeros((8, 4)), "bias": jnp.zeros(4)}, "scale": jnp.zeros(3)}
    state = jax.eval_shape(optax.adamw(1e-3).init, params)
    placed = sharding.optimizer_shardings(state, params, TABLE, mesh)[0]
    for moments in (placed.mu, placed.nu):
        assert moments["dense"]["kernel"].spec == P("fsdp", "tensor")
        assert moments["dense"]["bias"].spec == P("tensor")
        assert moments["scale"].spec == P(None)
    assert placed.count.spec == P()


def test_batch_shards_counts_the_axes_that_split_a_batch():
    mesh = make_mesh(data=2, fsdp=2, sequence=2)
    assert sharding.batch_shards(mesh) == 4
    assert sharding.batch_sharding(mesh).shard_shape((8, 3)) == (2, 3)
    assert np.prod(mesh.devices.shape) == 8
