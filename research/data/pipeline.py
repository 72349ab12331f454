"""Batches as a function of (seed, step), over any random-access source and any transform.

A source is anything with `len(source)` and `source[i]`; a transform turns one example into a flat dict of NumPy
arrays of fixed shape, of any kind of data. Every example gets two more:

    index   int32     position in the source, or -1 for padding
    weight  float32   1, or 0 for padding

Batch k does not depend on the step at which the run started, on `workers`, `prefetch` or the number of processes that
share the batch. Each epoch is a permutation of the source; batches cross the ends of epochs, so none is short.
"""

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
    transform: Callable[[Example, np.random.Generator], Batch],
    seed: int,
    batch_size: int,
    start: int = 0,
    rows: slice | Sequence[int] | None = None,
    workers: int = 0,
    prefetch: int = 2,
) -> Batches:
    """Yields the shuffled batches `start`, `start + 1`, ... without end.

    Args:
        source: The examples.
        transform: Called as `transform(example, rng)`; the generator depends on (seed, example, epoch) alone.
        seed: Of the order and the augmentation.
        batch_size: The size of the global batch.
        start: The number of the first batch.
        rows: The rows of each batch to yield; None: all.
        workers: Worker processes; 0: one thread of this process.
        prefetch: The batches that each worker keeps ready.
    """
    import grain

    dataset = (
        grain.MapDataset.range(len(source))
        # Before the shuffle, so that the random numbers belong to the example and the epoch, not to the position.
        .random_map(_Augmented(source, transform), seed=derive_seed(seed, "augment"))
        .shuffle(seed=derive_seed(seed, "shuffle"))
        .repeat()
    )
    return _iterate(dataset, batch_size, start, rows, workers, prefetch)


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
    return _iterate(_Padded(source, transform, batch_size), batch_size, 0, rows, workers, prefetch)


def derive_seed(seed: int, purpose: str) -> int:
    """A 32-bit seed for one purpose.

    Grain shuffles epoch e with seed + e, so neighbouring seeds would repeat each other's epochs, and two steps given
    one seed draw the same numbers: hashing keeps them apart.
    """
    return int.from_bytes(hashlib.sha256(f"{purpose}/{seed}".encode()).digest()[:4], "little")


def _iterate(dataset, batch_size, start, rows, workers, prefetch) -> Batches:
    import grain

    batches = grain.MapDataset.source(_Batches(dataset, batch_size, rows))[start:]
    # One thread: more would only contend for the interpreter lock, and training needs the cores.
    batches = batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=max(1, prefetch)))
    if workers:
        _mark_absl_flags_parsed()
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=max(1, prefetch))
        batches = batches.mp_prefetch(options, worker_init_fn=_init_worker)
    return _until_closed(iter(batches))


def _until_closed(batches) -> Batches:
    """Yields the batches; closing this generator ends the worker processes, which leaving a `for` loop does not."""
    try:
        yield from batches
    except RuntimeError as error:
        if "Worker process was terminated" not in str(error):
            raise
        code = re.search(r"exit code (-?\d+)", str(error))
        raise Failure(
            f"a data worker was killed{f' (exit code {code[1]})' if code else ''}, as happens when memory runs out; "
            "the same command resumes from the last checkpoint, fewer data.workers need less memory"
        ) from error
    finally:
        batches.close()


class _Augmented:
    """Position -> randomly transformed example."""

    def __init__(self, source, transform):
        self._source, self._transform = source, transform

    def __call__(self, index, rng):
        return _numbered(self._transform(self._source[index], rng), index, weight=1)


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
        blank = {name: np.zeros_like(value) for name, value in self._transform(self._source[0]).items()}
        return _numbered(blank, index=-1, weight=0)


class _Batches:
    """The rows `rows` of consecutive batches; the rows of other processes are never decoded.

    Not grain's `batch` after a selection of rows: its bookkeeping per example costs as much as decoding a 32 px JPEG.
    """

    def __init__(self, dataset, batch_size, rows):
        self._dataset, self._batch_size = dataset, batch_size
        self._rows = np.arange(batch_size)[rows or slice(None)].tolist()

    def __len__(self):
        return len(self._dataset) // self._batch_size

    def __getitem__(self, index):
        examples = [self._dataset[index * self._batch_size + row] for row in self._rows]
        return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def _numbered(example, index, weight):
    return {**example, "index": np.int32(index), "weight": np.float32(weight)}


def _mark_absl_flags_parsed():
    """Grain hands flag values to its workers, which fails where nobody parsed them: notebooks and tests."""
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
