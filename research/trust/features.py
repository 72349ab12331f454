"""The features by which a model tells examples apart: those before its last layer, or its embedding."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from research.data.sound.speech import Speech
from research.models.bert import Bert
from research.tasks.classification import ImageTask
from research.tasks.faces import FaceTask
from research.tasks.retrieval import RetrievalTask
from research.trust.gradients import Tap

Features = Callable[[Any, Mapping[str, Any]], jax.Array]  # from variables and a batch; [batch, features]

_HEAD = Tap("head", of_input=True)


def of(task: Any) -> Features:
    """The function that computes the features of a task.

    Faces and retrieved texts: their embedding. Classifiers: the input of their last layer. Others: the mean over
    positions of what the encoder, or the backbone at its coarsest resolution, makes of them.
    """
    if isinstance(task, FaceTask | RetrievalTask):
        return lambda variables, batch: task.predict(variables, dict(batch), jax.random.key(0))["embedding"]
    if isinstance(task, ImageTask):
        return lambda variables, batch: _HEAD.read(lambda: task.logits(variables, dict(batch)))
    if hasattr(task.model, "backbone"):
        return lambda variables, batch: _coarsest(lambda: task.predict(variables, batch))
    return lambda variables, batch: _encoded(task.model, variables, batch)


def _coarsest(run: Callable[[], Any]) -> jax.Array:
    return Tap("backbone").read(run)[-1].mean((1, 2))


def _encoded(model: Any, variables: Any, batch: Mapping[str, Any]) -> jax.Array:
    source = [batch[f"source{part}"] for part in ("", "_segments", "_positions")]
    types = [batch.get("source_types")] if isinstance(model, Bert) else []
    encoded = model.apply(variables, *source, *types, method="encode")
    real = source[1] > 0
    return jnp.einsum("ble,bl->be", encoded, real / real.sum(1, keepdims=True))


def collect(
    features: Features, variables: Any, batches: Iterable[Mapping[str, np.ndarray]], count: int, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """The indices of the first `most` examples of batches, [examples], and their features [examples, features].

    Padding is left out, and so is what follows the `count` examples of a split: galleries and candidates. Of several
    rows of one example, such as windows of a text, the first is taken.
    """
    compute = jax.jit(features)
    found: dict[int, np.ndarray] = {}
    for batch in batches:
        rows = np.asarray(jax.device_get(compute(variables, dict(batch))), np.float32)
        for index, weight, row in zip(batch["index"], batch["weight"], rows, strict=True):
            if weight > 0 and index < count:
                found.setdefault(int(index), row)
        if len(found) >= most:
            break
    indices = np.array(sorted(found))[:most]
    return indices, np.stack([found[index] for index in indices.tolist()])


def batches(data: Any, split: str, rows: int) -> Iterator[Mapping[str, np.ndarray]]:
    """The examples of a split, of train too, as they are evaluated."""
    return _sounds(data, split, rows) if isinstance(data, Speech) else data.eval_batches(split, rows)


def _sounds(data: Speech, split: str, rows: int) -> Iterator[Mapping[str, np.ndarray]]:
    """Those of train are not joined, and left out if they are too long."""
    source = data.utterances(split)
    for begin in range(0, len(source), rows):
        parts = {index: source[index][0] for index in range(begin, min(begin + rows, len(source)))}
        parts = {index: part for index, part in parts.items() if len(part) <= data.longest}
        if parts:
            yield {**data.arrays(list(parts.values())), "index": np.array(list(parts))}
