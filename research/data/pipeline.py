"""Batches as a function of (seed, step), over any random-access source and any transform.

A source is anything with `len(source)` and `source[i]`; a transform maps one example to a flat dict of NumPy arrays of
fixed shape. Two arrays are added to every example:

    index   int32     index in the source, or -1 for padding
    weight  float32   1, or 0 for padding

Batch k does not depend on the step at which the run started, on `workers`, `prefetch` or the number of processes that
share the batch. Each epoch is a permutation of the source; batches may span two epochs, so all are full.
"""

import functools
import hashlib
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from research.command import Failure
from research.spec.contracts import Batches, HostBatch

Batch = HostBatch
Example = TypeVar("Example")


def train_batches(
    source: Sequence[Example],
    transform: Callable[..., Batch],
    seed: int,
    batch_size: int,
    start: int = 0,
    rows: slice | Sequence[int] | None = None,
    workers: int = 0,
    prefetch: int = 2,
    alternating: bool = False,
) -> Batches:
    """Yields the shuffled batches `start`, `start + 1`, ..., infinitely.

    Args:
        source: The examples.
        transform: Called as `transform(example, rng)`; the generator depends on (seed, example, epoch) alone.
        seed: Seed of the order and the augmentation.
        batch_size: The size of the global batch.
        start: The number of the first batch.
        rows: The rows of each batch to yield; None: all.
        workers: Number of worker processes; 0: one thread of this process.
        prefetch: Number of batches that each worker prefetches.
        alternating: Call `transform(example, rng, turn)`; the boolean `turn` of an example is random in the first
            epoch, and changes from each epoch to the next.
    """
    import grain

    count = len(source)
    first = np.random.default_rng(derive_seed(seed, "turn")).random(count) < 0.5 if alternating else None
    dataset = (
        grain.MapDataset.range(count)
        .map_with_index(functools.partial(_with_epoch, count))
        # Before the shuffle, so that random numbers depend on the example and the epoch, not on the order.
        .random_map(_Augmented(source, transform, first), seed=derive_seed(seed, "augment"))
        .shuffle(seed=derive_seed(seed, "shuffle"))
        .repeat()
    )
    return _iterate(_Batches(dataset, batch_size, rows), start, workers, prefetch)


def poisson_batches(
    source: Sequence[Example],
    transform: Callable[[Example, np.random.Generator], Batch],
    seed: int,
    rate: float,
    most: int,
    size: int,
    start: int = 0,
    rows: slice | Sequence[int] | None = None,
    workers: int = 0,
    prefetch: int = 2,
) -> Batches:
    """Yields the Poisson-sampled batches `start`, `start + 1`, ..., infinitely; other arguments as in `train_batches`.

    Every example is in batch k with probability `rate`, independently, as a function of (seed, k). The examples, in the
    order of the source, fill the first rows of `size`; the others are zeros of index -1 and weight 0.

    Raises ValueError, when it is read, for a batch of more than `most` examples.
    """
    return _iterate(_PoissonBatches(source, transform, seed, rate, (most, size), rows), start, workers, prefetch)


def eval_batches(
    source: Sequence[Example],
    transform: Callable[[Example], Batch],
    batch_size: int,
    rows: slice | Sequence[int] | None = None,
    workers: int = 0,
    prefetch: int = 2,
) -> Batches:
    """Yields the batches of the whole source in order; arguments as in `train_batches`.

    The last batch is padded with zeros of index -1 and weight 0.
    """
    return _iterate(_Batches(_Padded(source, transform, batch_size), batch_size, rows), 0, workers, prefetch)


def derive_seed(seed: int, purpose: str) -> int:
    """A 32-bit seed for one purpose, by hashing.

    Grain shuffles epoch e with seed + e, so runs with consecutive seeds would share shuffles, and shuffle and
    augmentation with the same seed would be correlated.
    """
    return int.from_bytes(hashlib.sha256(f"{purpose}/{seed}".encode()).digest()[:4], "little")


def _iterate(batches, start, workers, prefetch) -> Batches:
    import grain

    batches = grain.MapDataset.source(batches)[start:]
    # One thread: more would only contend for the interpreter lock, and training needs the cores.
    batches = batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=max(1, prefetch)))
    if workers:
        _mark_absl_flags_parsed()
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=max(1, prefetch))
        batches = batches.mp_prefetch(options, worker_init_fn=_init_worker)
    return _until_closed(iter(batches))


def _until_closed(batches) -> Batches:
    """Yields the batches; closing this generator ends the worker processes, unlike leaving a `for` loop over grain."""
    try:
        yield from batches
    except RuntimeError as error:
        if "Worker process was terminated" not in str(error):
            raise
        code = re.search(r"exit code (-?\d+)", str(error))
        raise Failure(
            f"a data worker was killed{f' (exit code {code[1]})' if code else ''}, possibly because memory ran out; "
            "the same command resumes from the last checkpoint, and fewer config.data.workers need less memory"
        ) from error
    finally:
        batches.close()


def _with_epoch(count, position, index):
    return position // count, index


class _Augmented:
    """(Epoch, index) -> randomly transformed example; `first` holds the turns of the first epoch, if any."""

    def __init__(self, source, transform, first):
        self._source, self._transform, self._first = source, transform, first

    def __call__(self, place, rng):
        epoch, index = place
        turn = () if self._first is None else (bool(self._first[index]) ^ (epoch % 2 == 1),)
        return _numbered(self._transform(self._source[index], rng, *turn), index, weight=1)


class _Padded:
    """The transformed examples of a source in order, padded with zeros to a multiple of `batch_size`."""

    def __init__(self, source, transform, batch_size):
        self._source, self._transform = source, transform
        self._length = -(-len(source) // batch_size) * batch_size

    def __len__(self):
        return self._length

    def __getitem__(self, index):
        if index < len(self._source):
            return _numbered(self._transform(self._source[index]), index, weight=1)
        return _blank(self._transform(self._source[0]))


class _Batches:
    """The rows `rows` of consecutive batches; the rows of other processes are not decoded.

    Replaces grain's `batch` after a selection of rows, whose overhead per example equals decoding a 32 px JPEG.
    """

    def __init__(self, dataset, batch_size, rows):
        self._dataset, self._batch_size = dataset, batch_size
        self._rows = np.arange(batch_size)[rows or slice(None)].tolist()

    def __len__(self):
        return len(self._dataset) // self._batch_size

    def __getitem__(self, index):
        examples = [self._dataset[index * self._batch_size + row] for row in self._rows]
        return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


class _PoissonBatches:
    """The rows `rows` of batches of random size, padded, see `poisson_batches`."""

    def __init__(self, source, transform, seed, rate, sizes, rows):
        self._source, self._transform, self._rate = source, transform, rate
        self._seeds = derive_seed(seed, "poisson"), derive_seed(seed, "augment")
        (self._most, size), self._rows = sizes, np.arange(sizes[1])[rows or slice(None)].tolist()
        assert self._most <= size

    def __len__(self):
        return 2**31  # steps are counted in int32

    def __getitem__(self, step):
        draws = np.random.default_rng((self._seeds[0], step)).random(len(self._source))
        drawn = np.flatnonzero(draws < self._rate).tolist()
        if len(drawn) > self._most:
            raise ValueError(f"the Poisson sample of step {step} has {len(drawn)} examples, more than {self._most}")
        examples = [self._example(drawn[row], step) if row < len(drawn) else None for row in self._rows]
        blank = self._blank if None in examples else {}
        full = [blank if example is None else example for example in examples]
        return {name: np.stack([example[name] for example in full]) for name in full[0]}

    def _example(self, index, step):
        rng = np.random.default_rng((self._seeds[1], index, step))
        return _numbered(self._transform(self._source[index], rng), index, weight=1)

    @functools.cached_property
    def _blank(self):
        return _blank(self._transform(self._source[0], np.random.default_rng(0)))


def _blank(example):
    """Padding with the shapes of `example`."""
    return _numbered({name: np.zeros_like(value) for name, value in example.items()}, index=-1, weight=0)


def _numbered(example, index, weight):
    return {**example, "index": np.int32(index), "weight": np.float32(weight)}


def _mark_absl_flags_parsed():
    """Grain passes absl flags to its workers, which fails if they were not parsed, as in notebooks and tests."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _init_worker(index, count):
    """Ignores signals, which the parent process handles (it finishes its step and saves), and exits with the parent."""
    del index, count
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker

    def follow_parent():
        parent.join()
        os._exit(1)  # the main thread may be blocked on a queue that has no reader any more

    threading.Thread(target=follow_parent, daemon=True).start()
