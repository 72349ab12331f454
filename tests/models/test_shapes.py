"""Annotations of shapes are checked in tests, and only there."""

from pathlib import Path

import jax.numpy as jnp
import jaxtyping
import pytest

from research.models import alexnet, attention, box_ops
from research.models.attention import Context, Heads


def test_an_array_of_the_wrong_rank_is_refused():
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'labels'"):
        box_ops.suppress(jnp.zeros((1, 2, 4)), jnp.zeros(2, int), jnp.ones((1, 2), bool), 0.5)


def test_an_axis_has_one_size_within_a_call():
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'valid'"):
        box_ops.suppress(jnp.zeros((1, 2, 4)), jnp.zeros((1, 2), int), jnp.ones((1, 3), bool), 0.5)


def test_modules_are_checked_where_they_are_called():
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'images'"):
        alexnet.AlexNet.of(10).init({}, jnp.zeros((63, 63, 3)))
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'x'"):
        attention.Attention(Heads(4, 1, 4), attention.nn.DenseGeneral).init({}, jnp.zeros((2, 4)), Context())


def test_the_library_itself_knows_no_checker():
    library = Path(box_ops.__file__).parents[1]
    assert [path for path in library.rglob("*.py") if "beartype" in path.read_text()] == []
