"""Collective bytes of compiled programs against closed forms, and the analytic bounds, on 8 virtual CPU devices."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from research.measure.chips import CHIPS
from research.models import vit
from research.models.seq2seq import Seq2Seq, Seq2SeqSpec
from research.parallel import mesh as mesh_lib
from research.plan import bounds, estimate, hlo
from research.plan.collectives import Collective, collectives, total_bytes
from research.plan.compile import out_of_memory
from research.plan.roofline import axis_bandwidths, roofline
from research.plan.topology import Topology
from research.tasks import classification, seq2seq
from research.train.program import build_program
from tests.train import toy

ONES = dict.fromkeys(mesh_lib.AXES, 1)


def make_mesh(**sizes):
    return mesh_lib.make_mesh(ONES | sizes)


def compiled_bytes(function, mesh, *args, out=(), by="kind"):
    shaped = [jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec)) for shape, dtype, spec in args]
    text = jax.jit(function, out_shardings=NamedSharding(mesh, P(*out))).lower(*shaped).compile().as_text()
    return total_bytes(collectives(hlo.parse(text), dict(mesh.shape)), by)


# ---- Compiled programs.


def test_a_product_over_a_split_dimension_is_reduced_once():
    mesh = make_mesh(tensor=8)
    args = ((16, 64), jnp.float32, P(None, "tensor")), ((64, 32), jnp.float32, P("tensor", None))
    assert compiled_bytes(jnp.matmul, mesh, *args) == {"all-reduce": 2 * 16 * 32 * 4 * 7 // 8}
    assert compiled_bytes(jnp.matmul, mesh, *args, by="axes") == {("tensor",): 2 * 16 * 32 * 4 * 7 // 8}


def test_weights_that_are_gathered_in_a_scan_count_for_every_layer():
    mesh, layers, width = make_mesh(data=2, fsdp=4), 5, 32
    rows, whole = NamedSharding(mesh, P(("data", "fsdp"), None)), NamedSharding(mesh, P(None, None))

    def layer(x, weight):
        weight = jax.lax.with_sharding_constraint(weight, whole)
        return jax.lax.with_sharding_constraint(jnp.tanh(x @ weight), rows), None

    run = lambda x, weights: jax.lax.scan(layer, x, weights)[0]
    args = (
        ((64, width), jnp.float32, P(("data", "fsdp"), None)),
        ((layers, width, width), jnp.float32, P(None, "fsdp", None)),
    )
    expected = layers * width * width * 4 * 3 // 4
    found = compiled_bytes(run, mesh, *args, out=(("data", "fsdp"), None), by="axes")
    assert found == {("fsdp",): expected}


@pytest.mark.parametrize("microbatches", [1, 2])
def test_a_program_moves_what_the_bound_says(microbatches):
    """Data parallel: the gradients, and the few sums of batch norm and the loss."""
    config = toy.make_config(**{"train.microbatches": microbatches, "mesh.data": 8, "optimizer.clip_norm": 0.0})
    task = toy.make_task()
    program = build_program(config, task, make_mesh(data=8))
    batch = task.example(config.train.batch_size)
    text = program.train_step.lower(program.state, batch).compile().as_text()
    found = collectives(hlo.parse(text), dict(program.mesh.shape))
    gradients = 2 * 4 * program.num_params * 7 / 8
    assert estimate.lower_bound_bytes(config, task, program) == round(gradients)
    assert gradients <= total_bytes(found)["all-reduce"] <= microbatches * (gradients + 2 * 4 * 8 * 16)


# ---- The analytic bound of a ViT, written out.


MODEL = vit.ViT.of(10, image_size=32, patch_size=8, width=64, depth=3, mlp_dim=128, num_heads=8, pool="mean")
TASK = classification.ClassificationTask(MODEL, (32, 32, 3), (0.0,), (1.0,))
BLOCKS = 3 * (4 * 64 * 64 + 2 * 64 * 128)  # the matrices of the layers
BATCH = 64
TOKENS = 16


@functools.cache
def bound(compute="bfloat16", microbatches=1, **sizes):
    config = toy.make_config(
        **{"precision.compute": compute, "train.microbatches": microbatches, "train.batch_size": BATCH}
    )
    program = build_program(config, TASK, make_mesh(**sizes))
    return estimate.lower_bound_bytes(config, TASK, program), program.num_params


def test_data_parallelism_reduces_the_gradients():
    found, params = bound(data=8)
    assert found == round(2 * 2 * params * 7 / 8)


def test_fsdp_gathers_twice_and_scatters_once_a_microbatch():
    once, params = bound(fsdp=8)
    assert once == pytest.approx(3 * 2 * params * 7 / 8, rel=0.03)  # biases are split over nothing
    assert bound(fsdp=8, microbatches=4)[0] == pytest.approx(4 * once, rel=0.03)
    assert bound(fsdp=8, compute="float32")[0] == 2 * once


def test_data_and_fsdp_reduce_the_own_shard_only():
    found, params = bound(data=2, fsdp=4)
    assert found == pytest.approx(3 * 2 * params * 3 / 4 + 2 * 2 * params / 4 * 1 / 2, rel=0.03)


def test_tensor_parallelism_reduces_activations():
    found, _ = bound(tensor=8)
    assert found == round(3 * 16 * BATCH * TOKENS * 64 * 7 / 8)  # 16 B D a layer: attention and MLP, in bf16
    found_with_data, params = bound(data=2, tensor=4)
    activations = 3 * 16 * (BATCH / 2) * TOKENS * 64 * 3 / 4
    weights = 2 * 2 * (BLOCKS / 4 + params - BLOCKS) * 1 / 2
    assert found_with_data == pytest.approx(activations + weights, rel=0.01)


def test_sequence_parallelism_gathers_keys_and_values():
    block = 2 * BATCH * TOKENS * 64
    mesh = ONES | {"sequence": 8}
    assert bounds.activation_bytes(TASK, mesh, BATCH, 2) == pytest.approx(3 * 4 * block * 7 / 8)


def test_an_encoder_decoder_has_two_stacks_and_cross_attention():
    spec = Seq2SeqSpec(width=64, encoder_depth=2, decoder_depth=3, num_heads=8, kv_dim=4, mlp_dim=64)
    lengths, ids = {"source_length": 12, "target_length": 8}, {"bos": 3, "eos": 1, "unk": 2}
    task = seq2seq.Seq2SeqTask(Seq2Seq(spec, 50), seq2seq.Seq2SeqTaskSpec(), **lengths, **ids)
    tokens = {"source": BATCH * 12, "target": BATCH * 8}
    tensor = 2 * 4 * (2 * 2 * tokens["source"] + 3 * 3 * tokens["target"]) * 64 * 7 / 8
    assert bounds.activation_bytes(task, ONES | {"tensor": 8}, BATCH, 2) == pytest.approx(tensor)
    attended = 2 * tokens["source"] + 3 * (tokens["source"] + tokens["target"])
    sequence = 2 * 4 * attended * 8 * 4 / 2 * 3 / 4  # halved by data
    found = bounds.activation_bytes(task, ONES | {"data": 2, "sequence": 4}, BATCH, 2)
    assert found == pytest.approx(sequence)


# ---- Rooflines.


def slice_of(name, shape):
    return Topology(name, CHIPS[name], shape, jax.devices()[:8], real=False)


def test_what_takes_longest_bounds_the_step():
    topology = slice_of("v5e", (2, 4))
    roof = roofline(topology, "bfloat16", 8 * 197e12, 0.5 * 819e9, {("data",): 90e9}, {("data",): 45e9})
    assert roof.times == {"compute": 1.0, "hbm": 0.5, "links": 2.0}
    assert (roof.bound_by, roof.step_time_s) == ("links", 2.0)


def test_a_ring_is_twice_as_fast_as_a_line_and_two_dimensions_as_one():
    topology = slice_of("v5p", (2, 4, 1))
    mesh = make_mesh(data=2, fsdp=4)
    found = [Collective("c", "all-reduce", axes, 1, 1, True) for axes in (("data",), ("fsdp",), ("data", "fsdp"))]
    assert axis_bandwidths(topology, mesh, found) == {
        ("data",): 90e9,  # two chips in a line
        ("fsdp",): 180e9,  # four close into a ring
        ("data", "fsdp"): 270e9,
    }


def test_an_unknown_peak_stays_unknown():
    roof = roofline(slice_of("v5e", (2, 4)), "float64", 1e12, None, {}, {})
    assert roof.compute_s is None and roof.hbm_s is None and roof.bound_by == "links"


# ---- Memory.


def test_out_of_memory_is_read_from_the_message():
    message = (
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 37.60G of 15.75G hbm. Exceeded hbm capacity "
        "by 21.85G.\n\nTotal hbm usage >= 37.86G:\n    reserved        258.00M\n    program          37.00G\n"
        "    arguments       617.65M"
    )
    memory = out_of_memory(message)
    assert not memory.fits
    assert memory.peak == round(37.6 * 2**30) and memory.arguments == round(617.65 * 2**20)
    assert out_of_memory("INTERNAL: something else") is None
