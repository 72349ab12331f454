"""Traces of single steps."""

import gzip
import json

import jax.numpy as jnp
import pytest

from research.measure.profile import Profile


def test_a_trace_holds_the_steps_that_were_asked_for_and_is_written_once(tmp_path):
    profile = Profile("2:3", tmp_path)
    written = [profile.at(step, jnp.arange(step + 1.0) * 2) for step in range(1, 9)]
    assert written == [None] * 4 + [tmp_path] + [None] * 3  # after step 5
    (perfetto,) = tmp_path.rglob("perfetto_trace.json.gz")
    assert len(json.loads(gzip.decompress(perfetto.read_bytes()))["traceEvents"]) > 10
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1


def test_a_run_that_ends_inside_the_trace_still_writes_it(tmp_path):
    profile = Profile("1:100", tmp_path)
    assert profile.at(1, jnp.zeros(3)) is None
    assert profile.close(jnp.zeros(3)) == tmp_path and list(tmp_path.rglob("*.xplane.pb"))
    assert profile.close(jnp.zeros(3)) is None


@pytest.mark.parametrize("text", ["5", "0:3", "3:0", "a:b", "-1:2", "1:2:3"])
def test_other_texts_are_refused(tmp_path, text):
    with pytest.raises(ValueError, match="must be STEP:COUNT"):
        Profile(text, tmp_path)


def test_nothing_is_traced_unless_asked(tmp_path):
    profile = Profile("", tmp_path)
    assert [profile.at(step, 0) for step in range(3)] == [None] * 3
    assert not list(tmp_path.iterdir())
