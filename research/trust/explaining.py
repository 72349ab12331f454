"""Test examples with the scores of their parts, see looking.py."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from research.trust import copies, looking

EXAMPLES, MOST = 8, 64


def examples(task: Any, data: Any, variables: Any, count: int, rows: int) -> list[dict[str, Any]]:
    """`count` random test examples, drawn with seed 0, as `{"index", "maps", ...}`; none if the task has no method.

    `maps` are lists of scores by method: of images [height, width], of clips [time, height, width], and of texts
    [tokens], with their `tokens`. The example is described by the fields of its reference.
    """
    explain = looking.of(task)
    if explain is None:
        return []
    chosen = np.random.default_rng(0).permutation(data.counts["test"])[:count]
    found = {}
    for batch in _batches(data, set(chosen.tolist()), rows):
        maps = explain(variables, batch)
        for row, index in enumerate(batch["index"].tolist()):
            if index not in found:  # the first window of a text
                found[index] = _example(data, batch, row, index, maps)
    return [found[index] for index in sorted(found)]


def _batches(data: Any, wanted: set[int], rows: int) -> Iterator[dict[str, np.ndarray]]:
    """The rows of the test batches with these indices."""
    for batch in data.eval_batches("test", rows):
        members = np.isin(batch["index"], list(wanted)) & (batch["weight"] > 0)
        if members.any():
            yield {name: array[members] for name, array in batch.items()}


def _example(data: Any, batch: Mapping[str, np.ndarray], row: int, index: int, maps: looking.Maps) -> dict[str, Any]:
    scores = {name: found[row] for name, found in maps.items()}
    described: dict[str, Any] = dict(copies.described(data, "test", index, shown=False))
    if "source" in batch:
        real = batch["source_segments"][row] > 0
        decode = data.vocabulary.decode
        described["tokens"] = [decode(np.atleast_1d(ids)) for ids in batch["source"][row][real]]
        scores = {name: values[real] for name, values in scores.items()}
    return described | {"maps": {name: np.round(values, 5).tolist() for name, values in scores.items()}}
