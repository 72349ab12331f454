import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.data.text import packing

LIMITS = (24, 16)
LENGTHS = st.lists(st.tuples(st.integers(1, LIMITS[0]), st.integers(1, LIMITS[1])), min_size=1, max_size=200)


def plain_first_fit(lengths, limits):
    """The textbook's: every row stays open."""
    rows = []
    for example, length in enumerate(lengths):
        for row in rows:
            if all(sum(lengths[e][side] for e in row) + length[side] <= limits[side] for side in (0, 1)):
                row.append(example)
                break
        else:
            rows.append([example])
    return rows


@given(LENGTHS)
@settings(max_examples=100, deadline=None)
def test_first_fit_is_the_textbooks_while_few_rows_are_open(lengths):
    rows = packing.first_fit(np.array(lengths), LIMITS)
    assert [row.tolist() for row in rows] == plain_first_fit(lengths, LIMITS)


def lengths_like_captions(count, seed=0):
    """About as in Multi30k: log-normal, mean 16 tokens, the two sides alike but not equal."""
    rng = np.random.default_rng(seed)
    source = np.exp(rng.normal(2.65, 0.35, count))
    target = source * np.exp(rng.normal(0.02, 0.2, count))
    return np.clip(np.round(np.stack([source, target], axis=1)), 2, 64).astype(int)


def test_many_rows_hold_every_example_once_within_the_limits():
    lengths = lengths_like_captions(20_000)
    rows = packing.first_fit(lengths, (64, 64))
    assert len(rows) > 2 * packing.WINDOW
    assert sorted(np.concatenate(rows).tolist()) == list(range(20_000))
    for row in rows:
        assert (lengths[row].sum(axis=0) <= 64).all()
        assert (np.diff(row) > 0).all()


@pytest.mark.parametrize("limits", [(64, 64), (128, 128), (256, 256)])
def test_less_than_a_tenth_is_padding(limits):
    lengths = lengths_like_captions(20_000)
    share = packing.padding_share(lengths, len(packing.first_fit(lengths, limits)), limits)
    assert 0 < share < 0.1
    # What it replaces: one example a row wastes three quarters.
    assert packing.padding_share(lengths, len(lengths), limits) > 0.7


def test_padding_share_by_hand():
    assert packing.padding_share(np.array([[3, 1], [2, 2]]), rows=1, limits=(6, 4)) == pytest.approx(2 / 10)


def test_arrays_of_a_row_by_hand():
    row = [(np.array([7, 8, 1]), np.array([9, 1])), (np.array([5, 1]), np.array([6, 4, 1]))]
    arrays = packing.PackedToArrays(6, 5)(row)
    expected = {
        "source": [7, 8, 1, 5, 1, 0],
        "source_segments": [1, 1, 1, 2, 2, 0],
        "source_positions": [0, 1, 2, 0, 1, 0],
        "target": [9, 1, 6, 4, 1],
        "target_segments": [1, 1, 2, 2, 2],
        "target_positions": [0, 1, 0, 1, 2],
    }
    assert {name: array.tolist() for name, array in arrays.items()} == expected
    assert {array.dtype.name for array in arrays.values()} == {"int32"}


@given(LENGTHS, st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_each_example_is_in_the_smallest_bucket_that_holds_it(lengths, count):
    lengths = np.array(lengths)
    shapes = [(24, 16), (16, 8), (8, 8)][:count]
    for shape, members in packing.buckets(lengths, LIMITS, count):
        smaller = [other for other in shapes if other < shape]
        for member in members:
            assert (lengths[member] <= shape).all()
            assert not any((lengths[member] <= other).all() for other in smaller)
    found = np.concatenate([members for _, members in packing.buckets(lengths, LIMITS, count)])
    assert sorted(found.tolist()) == list(range(len(lengths)))


def test_bucket_shapes_halve_to_multiples_of_eight():
    lengths = np.array([[1, 1], [17, 1], [1, 40], [64, 72]])
    shapes = [shape for shape, _ in packing.buckets(lengths, (64, 72), 3)]
    assert shapes == [(16, 24), (32, 40), (64, 72)]
    assert [shape for shape, _ in packing.buckets(lengths[3:], (64, 72), 3)] == [(64, 72)], "no empty bucket"


def test_rows_of_examples():
    examples = [(np.array([n]), np.array([n, n])) for n in range(5)]
    packed = packing.Packed(examples, [np.array([3, 0]), np.array([4]), np.array([1, 2])])
    assert len(packed) == 3
    assert [[int(source[0]) for source, _ in packed[row]] for row in range(3)] == [[3, 0], [4], [1, 2]]
