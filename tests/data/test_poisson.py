"""Poisson samples: their rates, their purity and their padding."""

import numpy as np
import pytest

from research.data import pipeline, splits

COUNT = 200


def transform(index, rng):
    return {"number": np.array([index]), "draw": np.float64(rng.random())}


def batches(steps, seed=0, rate=0.1, most=60, size=64, start=0, rows=None, workers=0):
    found = pipeline.poisson_batches(range(COUNT), transform, seed, rate, most, size, start, rows, workers)
    taken = [next(found) for _ in range(steps)]
    found.close()
    return taken


@pytest.fixture(scope="module")
def many():
    return batches(600)


def test_every_example_has_the_sampling_rate_independently(many):
    member = np.zeros((len(many), COUNT), bool)
    for step, batch in enumerate(many):
        member[step, batch["index"][batch["weight"] > 0]] = True
    steps = len(many)
    deviation = np.sqrt(0.1 * 0.9 / steps)
    assert np.abs(member.mean(0) - 0.1).max() < 5 * deviation
    assert abs(member.mean() - 0.1) < 4 * deviation / np.sqrt(COUNT)
    # Counts of a step are binomial, so their variance is that of independent examples; so are steps after one another.
    assert member.sum(1).var() == pytest.approx(COUNT * 0.09, rel=5 * np.sqrt(2 / steps))
    assert np.corrcoef(member[:-1].ravel(), member[1:].ravel())[0, 1] == pytest.approx(0, abs=4 / np.sqrt(member.size))


def test_padding_follows_the_examples_with_weight_0(many):
    for batch in many[:50]:
        real = int(batch["weight"].sum())
        assert batch["number"].shape == (64, 1) and (batch["weight"] == (np.arange(64) < real)).all()
        assert (batch["index"][real:] == -1).all() and not batch["number"][real:].any()
        assert (batch["number"][:real, 0] == batch["index"][:real]).all() and (np.diff(batch["index"][:real]) > 0).all()


def test_batches_are_a_function_of_seed_and_step(many):
    same = lambda one, other: all(np.array_equal(one[name], other[name]) for name in one)
    (later,) = batches(1, start=7)
    assert same(later, many[7])
    (worker,) = batches(1, start=7, workers=1)
    assert same(worker, many[7])
    parts = [batches(1, start=7, rows=rows)[0] for rows in (slice(0, 20), list(range(20, 64)))]
    assert same({name: np.concatenate([part[name] for part in parts]) for name in later}, many[7])
    (wider,) = batches(1, start=7, size=80)
    assert same({name: array[:64] for name, array in wider.items()}, many[7]), "padding alone depends on the mesh"
    assert not same(batches(1, seed=1, start=7)[0], many[7])


def test_a_sample_that_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match=r"the Poisson sample of step 0 has \d+ examples, more than 5"):
        batches(1, most=5)


def test_halves_are_complements_of_equal_size_and_independent():
    halves = [splits.half(COUNT, number) for number in range(1, 9)]
    for one, other in zip(halves[::2], halves[1::2], strict=True):
        assert sorted([*one, *other]) == list(range(COUNT)) and len(one) == len(other)
    common = [len(np.intersect1d(halves[0], other)) for other in halves[2:]]
    # Hypergeometric: mean 50, deviation 3.5.
    assert all(abs(each - 50) < 15 for each in common)
    part = splits.Part("train", np.arange(10, 30))
    assert splits.halved(part, 2, 100).rows.tolist() == (10 + splits.half(20, 2)).tolist()
