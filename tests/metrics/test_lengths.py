"""Quartiles of lengths."""

import pytest

from research.metrics.lengths import quarters


def test_lengths_are_divided_into_quarters():
    lengths = list(range(1, 101))
    names = quarters(lengths)
    assert [names.count(name) for name in sorted(set(names))] == pytest.approx([25] * 4, abs=1)
    for length, name in zip(lengths, names, strict=True):
        low, high = map(int, name.split("-"))
        assert low <= length <= high
    assert quarters([3, 3, 3]) == ["3", "3", "3"]


def test_a_quartile_of_one_length_is_named_by_it():
    assert sorted(set(quarters([1] * 4 + [2] * 4 + [3] * 4 + [4] * 4 + [19]))) == ["01", "02", "03", "04-19"]
