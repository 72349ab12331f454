"""Time by HLO instruction."""

import jax
import jax.numpy as jnp
import pytest

from research.measure.profile import Profile
from research.report import instructions


def test_the_time_of_a_trace_is_summed_by_instruction(tmp_path):
    square = jax.jit(lambda x: (x @ x).sum())
    x = jnp.ones((400, 400))
    square(x)
    profile = Profile("1:3", tmp_path)
    for step in range(1, 5):
        profile.at(step, square(x))
    spent, steps = instructions.seconds(tmp_path)
    assert steps == 3 and any(name.startswith("dot") for name in spent)
    lines = instructions.lines({"dot.1": 0.006, "dot.2": 0.003, "copy": 0.0015}, steps)
    assert lines[1:3] == ["      3.00  dot", "      0.50  copy"] and lines[-3] == "      2.00  dot.1"
    with pytest.raises(ValueError, match="holds no trace; train with --profile"):
        instructions.seconds(tmp_path / "none")
