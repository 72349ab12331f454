import math

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.parallel import mesh

ONES = {"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1}


@given(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=4, max_size=4), st.sampled_from(mesh.AXES), st.integers(1, 8))
def test_free_axis_takes_what_is_left(sizes, free, rest):
    sizes = dict(zip(mesh.AXES, sizes, strict=True)) | {free: -1}
    fixed = math.prod(size for size in sizes.values() if size != -1)
    assert mesh.resolve(sizes, fixed * rest) == sizes | {free: rest}


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"data": 3}, "takes 3 devices, but there are 8"),
        ({"data": -1, "fsdp": 3}, "must divide 8"),
        ({"data": -1, "fsdp": -1}, "only one axis may be -1"),
        ({"data": 0}, "1 or more"),
    ],
)
def test_bad_sizes_are_refused(sizes, reason):
    with pytest.raises(ValueError, match=reason):
        mesh.resolve(ONES | sizes, 8)


def test_mesh_has_the_axes_in_order():
    made = mesh.make_mesh(ONES | {"data": 2, "tensor": 2, "fsdp": -1})
    assert dict(made.shape) == {"data": 2, "fsdp": 2, "tensor": 2, "sequence": 1}
    assert made.axis_types == (jax.sharding.AxisType.Auto,) * 4
