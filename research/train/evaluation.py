"""Evaluation on a whole split, exact under padding."""

import contextlib
from collections import deque
from collections.abc import Callable

import jax
import numpy as np

from research.measure import progress
from research.parallel import processes
from research.spec.contracts import DataT, Outputs, Program, Scorer, Sums, Task, Variables
from research.train.feed import local_rows, prefetch_to_device


def evaluate(
    program: Program,
    task: Task[DataT],
    data: DataT,
    variables: Variables,
    split: str,
    batch_size: int,
    stop: Callable[[], bool] = lambda: False,
    scorer: Scorer | None = None,
    seed: int = 0,
) -> dict[str, float] | None:
    """Evaluates `split`, every example once.

    Sums and weights are accumulated in float64 on the host, in the order of the batches. The metrics are their means,
    those that the task derives from the means, and the results of the `scorer` (on process 0). A metric of total weight
    0 is omitted. A sum may be an array, such as a confusion matrix, from which the task derives metrics.

    Returns:
        `{"split/metric": value}`; None if `stop()` becomes true before the end.
    """
    rows = local_rows(program.batch_sharding, batch_size)
    totals: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    running: deque[tuple[Sums, Outputs]] = deque()

    def collect():
        sums, outputs = jax.device_get(running.popleft())
        for name, pair in sums.items():
            total, weight = (np.asarray(each, np.float64) for each in pair)
            before = totals.get(name)
            totals[name] = (before[0] + total, before[1] + weight) if before else (total, weight)
        if outputs and scorer and processes.is_main():
            scorer.add(outputs)

    count = data.counts[split]
    with (
        contextlib.closing(data.eval_batches(split, batch_size, rows)) as batches,
        progress.bar(count, f"evaluating {split}", "examples", hidden=not processes.is_main(), brief=True) as bar,
    ):
        for number, (_, batch) in enumerate(prefetch_to_device(batches, program.batch_sharding)):
            if stop():
                return None
            rng = jax.random.fold_in(jax.random.key(seed), number)  # for sampling decoders
            outputs = program.predict_step(variables, batch, rng) if scorer else {}
            running.append((program.eval_step(variables, batch), outputs))
            if len(running) > 2:  # keeps the device busy, with at most three batches in its memory
                collect()
                bar.update(min(batch_size, count - bar.n))
    while running:
        collect()
    means = {name: total / weight for name, (total, weight) in totals.items() if weight}
    values = {name: float(mean) for name, mean in means.items() if not np.ndim(mean)}
    values |= task.derived(means)
    if scorer and processes.is_main():
        values |= scorer.result()
    return {f"{split}/{name}": value for name, value in values.items()}
