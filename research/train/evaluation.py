"""Evaluation on a whole split, exact under padding."""

import contextlib
from collections import deque
from collections.abc import Callable

import jax
import numpy as np

from research.measure import progress
from research.parallel import processes
from research.spec.contracts import DataT, Outputs, Program, Scorer, Sums, Task, Variables
from research.train.feed import ahead, local_rows


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
    """`{"split/metric": value}` over every example of `split` once; None when `stop()` becomes true on the way.

    Sums and weights are added in float64 on the host, in the order of the batches; their means and what the task
    derives from them are the metrics, and with a `scorer` what it makes of the predictions too (process 0 scores).
    A sum that no example has a weight in has no mean, and is left out.
    A sum may be an array, such as a confusion matrix: its mean is for the task alone to derive metrics from.
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
        for number, (_, batch) in enumerate(ahead(batches, program.batch_sharding)):
            if stop():
                return None
            rng = jax.random.fold_in(jax.random.key(seed), number)  # for answers that are sampled
            outputs = program.predict_step(variables, batch, rng) if scorer else {}
            running.append((program.eval_step(variables, batch), outputs))
            if len(running) > 2:  # enough to keep the device busy, not so many that batches pile up in its memory
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
