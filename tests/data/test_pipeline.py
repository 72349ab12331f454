"""Batch k is a function of (seed, k): brute force over a source of numbers."""

import itertools
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.data import pipeline
from tests.data.conftest import ROOT


class Numbers:
    """0, 1, 2, ... `size`; counts how often it is read."""

    def __init__(self, size):
        self.size, self.reads = size, 0

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        self.reads += 1
        return {"number": range(self.size)[index]}


def draw(example, rng):
    return {"number": np.int32(example["number"]), "noise": rng.integers(0, 2**31, 3)}


def double(example):
    return {"number": np.int32(2 * example["number"])}


def take(count, size, *args, **kwargs):
    """The first `count` batches of a source of `size` numbers."""
    iterator = pipeline.train_batches(Numbers(size), draw, *args, **kwargs)
    batches = list(itertools.islice(iterator, count))
    iterator.close()
    return batches


def assert_same(first, second):
    assert len(first) == len(second)
    for left, right in zip(first, second, strict=True):
        assert left.keys() == right.keys()
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(1, 40),
    batch_size=st.integers(1, 12),
    seed=st.integers(0, 2**40),
    start=st.integers(0, 30),
    data=st.data(),
)
def test_batch_k_is_the_same_from_any_start_and_for_any_rows(size, batch_size, seed, start, data):
    first = data.draw(st.integers(0, batch_size - 1))
    rows = slice(first, data.draw(st.integers(first + 1, batch_size)))
    whole = take(start + 2, size, seed, batch_size)[start:]
    part = take(2, size, seed, batch_size, start=start, rows=rows)
    assert_same([{name: array[rows] for name, array in batch.items()} for batch in whole], part)


@pytest.mark.parametrize(("size", "batch_size"), [(1, 4), (7, 3), (10, 10), (12, 5), (5, 16)])
def test_every_epoch_is_a_permutation_of_its_own(size, batch_size):
    epochs = 5
    batches = take(-(-size * epochs // batch_size), size, 3, batch_size)
    order = np.concatenate([batch["index"] for batch in batches])[: size * epochs].reshape(epochs, size)
    np.testing.assert_array_equal(np.sort(order), np.tile(np.arange(size), (epochs, 1)))
    if size >= 7:
        assert len({tuple(epoch) for epoch in order}) == epochs
    np.testing.assert_array_equal(batches[0]["number"], batches[0]["index"])
    assert all((batch["weight"] == 1).all() and batch["weight"].dtype == np.float32 for batch in batches)


def test_neighbouring_seeds_share_no_epoch():
    """Grain shuffles epoch e of seed s with s + e: without hashing, epoch 1 of seed 0 were epoch 0 of seed 1."""
    orders = {seed: take(3, 50, seed, 50) for seed in range(4)}
    seen = [tuple(epoch["index"]) for epochs in orders.values() for epoch in epochs]
    assert len(set(seen)) == len(seen)


def test_random_numbers_belong_to_example_and_epoch():
    by_example = lambda batches: {
        (index, position // 12): tuple(noise)
        for position, (index, noise) in enumerate(
            (index, noise) for batch in batches for index, noise in zip(batch["index"], batch["noise"], strict=True)
        )
    }
    small, large = by_example(take(12, 12, 5, 3)), by_example(take(3, 12, 5, 12))
    assert small == large, "the batch size must not change what is drawn for an example"
    assert len(set(small.values())) == len(small) == 36, "every example draws anew in every epoch"


class Turning:
    """Turns, beside the draws of `draw`."""

    def __call__(self, example, rng, turn):
        return draw(example, rng) | {"turn": np.bool_(turn)}


@pytest.mark.parametrize("batch_size", [8, 24, 31])  # whose batches span epochs, or not
def test_turns_alternate_between_the_epochs_of_each_example(batch_size):
    size, epochs = 24, 5
    stream = lambda start, **options: pipeline.train_batches(
        Numbers(size), Turning(), 7, batch_size, start, alternating=True, **options
    )
    batches = list(itertools.islice(stream(0), -(-size * epochs // batch_size)))
    indices, turns = (np.concatenate([batch[name] for batch in batches])[: size * epochs] for name in ("index", "turn"))
    table = np.zeros((epochs, size), bool)
    table[np.arange(size * epochs) // size, indices] = turns
    np.testing.assert_array_equal(table[1:], ~table[:-1])
    assert 4 <= table[0].sum() <= 20
    assert_same(batches[2:3], list(itertools.islice(stream(2), 1)))
    plain = [{name: array for name, array in batch.items() if name != "turn"} for batch in batches]
    assert_same(plain, take(len(batches), size, 7, batch_size))


def test_shuffle_and_augmentation_draw_from_different_seeds():
    assert len({pipeline.derive_seed(seed, purpose) for seed in range(50) for purpose in ("shuffle", "augment")}) == 100
    assert all(0 <= pipeline.derive_seed(seed, "shuffle") < 2**32 for seed in (0, 2**32, 2**63, -1))


def test_a_late_start_reads_nothing_before_it():
    source = Numbers(1000)
    batches = pipeline.train_batches(source, draw, seed=0, batch_size=8, start=10**7, prefetch=2)
    next(batches)
    batches.close()
    assert 8 <= source.reads <= 8 * 5


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_the_global_batch(processes):
    whole = take(5, 30, 1, 8)
    part = 8 // processes
    shares = [take(5, 30, 1, 8, rows=slice(p * part, (p + 1) * part)) for p in range(processes)]
    joined = [
        {name: np.concatenate([share[k][name] for share in shares]) for name in whole[k]} for k in range(len(whole))
    ]
    assert_same(whole, joined)


@pytest.mark.parametrize(("size", "batch_size"), [(1, 4), (8, 4), (10, 4), (3, 1)])
def test_evaluation_sees_every_example_once_in_order(size, batch_size):
    batches = list(pipeline.eval_batches(Numbers(size), double, batch_size))
    assert len(batches) == -(-size // batch_size)
    joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    real = np.arange(len(joined["index"])) < size
    np.testing.assert_array_equal(joined["weight"], real.astype(np.float32))
    np.testing.assert_array_equal(joined["index"], np.where(real, np.arange(len(real)), -1))
    np.testing.assert_array_equal(joined["number"], np.where(real, 2 * np.arange(len(real)), 0))


def test_evaluation_rows():
    whole = list(pipeline.eval_batches(Numbers(10), double, 4))
    halves = [list(pipeline.eval_batches(Numbers(10), double, 4, rows=rows)) for rows in (slice(0, 2), slice(2, 4))]
    joined = [
        {name: np.concatenate([left[name], right[name]]) for name in left} for left, right in zip(*halves, strict=True)
    ]
    assert_same(whole, joined)


def test_workers_change_nothing():
    expected = take(5, 30, 2, 4, start=10**7)
    for workers, prefetch in ((1, 1), (3, 2)):
        assert_same(expected, take(5, 30, 2, 4, start=10**7, workers=workers, prefetch=prefetch))
    expected = list(pipeline.eval_batches(Numbers(10), double, 4))
    assert_same(expected, list(pipeline.eval_batches(Numbers(10), double, 4, workers=1)))


PARENT = """
import multiprocessing
from research.data import pipeline
from tests.data.test_pipeline import Numbers, draw

if __name__ == "__main__":
    batches = pipeline.train_batches(Numbers(9), draw, seed=0, batch_size=2, workers=1)
    next(batches)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    for batch in batches:
        print(batch["index"], flush=True)
"""


def test_workers_leave_signals_to_their_parent_and_end_with_it(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, script], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert workers
        for worker in workers:
            os.kill(worker, signal.SIGTERM)
            os.kill(worker, signal.SIGINT)
        assert all(parent.stdout.readline() for _ in range(200)), "more batches than were ready when the signals came"
    finally:
        parent.kill()
    parent.communicate(timeout=30)  # the output ends when nobody holds it any more, which the workers do
