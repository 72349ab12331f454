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


def test_an_axis_that_does_not_divide_is_padded_in_activations_and_left_whole_where_it_is_too_short():
    mesh = make_mesh(fsdp=2, sequence=4)

    @jax.jit
    def traced(x):
        with sharding.constraints_for(mesh) as used:
            y = (
                sharding.constrain(x * 2, ("batch", "length", "embed")),
                sharding.constrain(x[:, :3], (None, "length", None)),
            )
        assert used == {"fsdp", "sequence"}
        return y

    x = jnp.arange(2 * 17 * 3.0).reshape(2, 17, 3)
    text = traced.lower(x).as_text()
    assert '[{"fsdp"}, {"sequence"}, {}]' in text and "[{}, {}, {}]" in text
    np.testing.assert_array_equal(traced(x)[0], 2 * x)


def test_fsdp_falls_back_to_the_longest_axis_that_it_divides():
    mesh = make_mesh(fsdp=4, tensor=2)
    spec = lambda names, shape: sharding.parameter_spec(names, shape, mesh)
    assert spec(
        ("layers", "embed", "mlp"),
        (8, 6, 12),
    ) == P(None, None, "tensor")  # 12 / (2 * 4) leaves a rest
    assert spec(("layers", "embed", "mlp"), (8, 6, 16)) == P(None, None, ("tensor", "fsdp"))
    assert spec(("layers", "embed", "heads", "kv"), (8, 6, 2, 4)) == P(None, None, "tensor", "fsdp")
    assert spec(("height", "width", "channels_in", "channels"), (4, 4, 8, 6)) == P(None, None, "fsdp", None)
    assert spec(("mlp",), (16,)) == P("tensor")  # the rules do not give it to fsdp


def test_a_large_model_of_which_fsdp_splits_too_little_is_refused_with_the_list():
    def check(shapes, **sizes):
        mesh = make_mesh(**sizes)
        tree = {"dense": {"kernel": jax.ShapeDtypeStruct(shapes[0], jnp.float32)}}
        tree["scale"] = jax.ShapeDtypeStruct(shapes[1], jnp.float32)
        sharding.check_split(tree, sharding.parameter_shardings(tree, TABLE, mesh), mesh)

    wide = (80_000, 1250)  # exactly 1e8 with nothing else
    with pytest.raises(ValueError, match=r"fsdp=8 leaves 2.9% of 103,000,000 .* divides more of: scale \[3000000\]"):
        check((wide, (3_000_000,)), fsdp=8)
    check((wide, (2_000_000,)), fsdp=8)
    check((wide, (3_000_000,)), data=8)
    with pytest.raises(ValueError, match=r"leaves 100.0% .*dense/kernel \[33333, 3333\], scale \[7\]"):
        check(((33_333, 3333), (7,)), fsdp=8)
    check(((9999, 9999), (7,)), fsdp=8)  # less than 1e8


@pytest.mark.parametrize("axis", ["tensor", "sequence"])
def test_a_mesh_axis_that_splits_nothing_is_refused(axis):
    mesh = make_mesh(fsdp=4, **{axis: 2})
    other = {"tensor": "sequence", "sequence": "tensor"}[axis]
    reason = rf"mesh.{axis}=2, but this model has no axis that can be split .* set config.mesh.{axis}=1"
    with pytest.raises(ValueError, match=reason):
        sharding.check_used({"data", "fsdp", other}, mesh)
    sharding.check_used({axis}, mesh)
    sharding.check_used(set(), make_mesh(data=2, fsdp=4))


def test_the_rows_and_columns_of_adafactor_lie_with_their_parameter():
    mesh = make_mesh(fsdp=4, tensor=2)
    params = {"dense": {"kernel": jnp.zeros((256, 128)), "bias": jnp.zeros(4)}, "scale": jnp.zeros(3)}
    state = jax.eval_shape(optax.adafactor(1e-3).init, params)
    placed = sharding.optimizer_shardings(state, params, TABLE, mesh)[0]
    shapes = [state[0].v_row["dense"]["kernel"].shape, state[0].v_col["dense"]["kernel"].shape]
    specs = [placed.v_row["dense"]["kernel"].spec, placed.v_col["dense"]["kernel"].spec]
    assert dict(zip(shapes, specs, strict=True)) == {(256,): P("fsdp"), (128,): P("tensor")}
    assert placed.v["dense"]["kernel"].spec == P()  # a placeholder


def test_random_masks_are_the_same_on_every_mesh():
    assert jax.config.jax_threefry_partitionable
    draw = lambda: jax.random.bernoulli(jax.random.key(3), 0.5, (8, 17, 4))
    one = jax.jit(draw)()
    for spec in (P("data"), P(None, None, "tensor"), P("data", None, "tensor")):
        mesh = make_mesh(data=4, tensor=2)
        many = jax.jit(draw, out_shardings=jax.sharding.NamedSharding(mesh, spec))()
        np.testing.assert_array_equal(one, many)
