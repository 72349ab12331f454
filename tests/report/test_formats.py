"""Numbers in tables say the right thing to the digits they show."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from research.report import formats


@given(st.floats(1e-12, 1e9) | st.floats(-1e9, -1e-12))
def test_numbers_keep_three_digits(value):
    assert float(formats.number(value).replace(",", "")) == pytest.approx(
        value, rel=0.05 if abs(value) < 1e-2 else 5e-3
    )


@given(st.integers(0, 10**11))
def test_counts_are_right_to_a_thousandth_or_a_digit(value):
    digits, suffix = re.fullmatch(r"([\d.,]+)([kMB]?)", formats.count(value)).groups()
    size = {"": 1, "k": 1e3, "M": 1e6, "B": 1e9}[suffix]
    assert float(digits.replace(",", "")) * size == pytest.approx(value, abs=0.051 * size if suffix else 0)


@given(st.integers(0, 10**7))
def test_durations_are_right_to_the_units_they_show(seconds):
    units = {"s": 1, "min": 60, "h": 3600, "d": 86400}
    parts = re.findall(r"(\d+) (s|min|h|d)", formats.duration(seconds))
    shown = sum(int(amount) * units[unit] for amount, unit in parts)
    assert 0 <= seconds - shown < units[parts[-1][1]]


@pytest.mark.parametrize(
    ("sizes", "text"),
    [({"data": 1, "fsdp": 1}, "1 device"), ({"data": 8, "fsdp": 1, "tensor": 2}, "data 8 x tensor 2")],
)
def test_meshes(sizes, text):
    assert formats.mesh(sizes) == text


def test_signs_of_differences():
    assert [formats.signed(value) for value in (0.2504, -0.5, 1e-8, -1e-8)] == ["+0.2504", "-0.5000", "0.0", "0.0"]
