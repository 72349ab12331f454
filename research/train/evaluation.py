"""Evaluation on a whole split, exact under padding."""

from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from research.train.feed import ahead, local_rows
from research.train.program import Program


def evaluate(
    program: Program, data: Any, variables: Any, split: str, batch_size: int, stop: Callable[[], bool] = lambda: False
) -> dict[str, float] | None:
    """`{"split/metric": mean}` over every example of `split` once; None when `stop()` becomes true on the way.

    Sums and weights are added in float64 on the host, in the order of the batches.
    """
    rows = local_rows(program.batch_sharding, batch_size)
    totals: dict[str, np.ndarray] = {}
    running = deque()

    def collect():
        for name, pair in jax.device_get(running.popleft()).items():
            totals[name] = totals.get(name, 0) + np.asarray(pair, np.float64)

    for _, batch in ahead(data.eval_batches(split, batch_size, rows), program.batch_sharding):
        if stop():
            return None
        running.append(program.eval_step(variables, batch))
        if len(running) > 2:  # enough to keep the device busy, not so many that batches pile up in its memory
            collect()
    while running:
        collect()
    return {f"{split}/{name}": float(total / weight) for name, (total, weight) in totals.items()}
