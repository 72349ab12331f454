"""What a model of text answers on a mesh is what it answers on one device; test_equivalence.py has its training."""

import functools

import jax
import numpy as np
import pytest

from research.train import feed
from tests.parallel import equivalence


@functools.cache
def found(sizes):
    """The spans of answers, their scores, log(sum(exp)) of all, and the score of no answer."""
    with jax.enable_x64():
        program, task = equivalence.make_program("spans", sizes, "float64")
        variables = {"params": equivalence.first_state(program).params}
        batch = feed.to_mesh(equivalence.make_batch(task), program.batch_sharding)
        compiled = program.predict_step.lower(variables, batch, jax.random.key(0))
        return jax.device_get(
            compiled.compile({"xla_backend_optimization_level": 0})(variables, batch, jax.random.key(0))
        )


@pytest.mark.parametrize("sizes", [(2, 2, 1, 1), pytest.param((1, 2, 2, 2), marks=pytest.mark.long)])
def test_spans_on_a_mesh_are_those_of_one_device(sizes):
    one, many = found((1, 1, 1, 1)), found(sizes)
    np.testing.assert_array_equal(one["spans"], many["spans"])
    for name in ("scores", "log_z", "null"):
        np.testing.assert_allclose(one[name], many[name], rtol=1e-12)
    assert len(np.unique(one["scores"].round(4))) > 20  # the questions tell them apart


@functools.cache
def decoded(name, sizes, decoder):
    """Tokens and scores, of rows of one example each."""
    with jax.enable_x64():  # where rounding cannot choose between two tokens
        program, task = equivalence.make_program(name, sizes, "float64", decoder=decoder)
        batch = equivalence.make_batch(task)
        batch["source_segments"] = (batch["source_segments"] == 1).astype(np.int32)  # one example a row
        state = equivalence.first_state(program)
        variables = {"params": state.params}
        batch = feed.to_mesh(batch, program.batch_sharding)
        compiled = program.predict_step.lower(variables, batch, jax.random.key(0))
        return jax.device_get(
            compiled.compile({"xla_backend_optimization_level": 0})(variables, batch, jax.random.key(0))
        )


@pytest.mark.parametrize(
    ("name", "sizes", "decoder"),
    [("t5", (2, 2, 2, 1), "beam"), *(pytest.param(*case, marks=pytest.mark.long) for case in (
        ("t5", (1, 2, 2, 2), "beam"), ("t5", (2, 2, 2, 1), "greedy"), ("t5", (2, 2, 2, 1), "sample"),
        ("vaswani", (2, 2, 2, 1), "beam"), ("whisper", (2, 2, 2, 1), "beam"), ("whisper", (1, 1, 4, 2), "greedy"),
        ("speech", (1, 2, 2, 2), "ctc"), ("speech", (2, 2, 2, 1), "beam"), ("copying", (2, 2, 2, 1), "beam"),
    ))],
)  # fmt: skip
def test_decoding_on_a_mesh_is_that_of_one_device(name, sizes, decoder):
    one, many = (decoded(name, size, decoder) for size in ((1, 1, 1, 1), sizes))
    np.testing.assert_array_equal(one["tokens"], many["tokens"])
    np.testing.assert_allclose(one["scores"], many["scores"], rtol=1e-5)
    assert len(np.unique(one["scores"].round(4))) > 8  # the sources tell them apart
