"""Suite `adapt`: fine-tuning the same weights on the same texts, by Tessera and by transformers on PyTorch, in turns.

Both sides take the batches of the config in its order, so that losses can be compared step by step. Tessera packs the
texts of a batch into rows, as the config says; transformers pads them to the longest one, as its collator does.
"""

import importlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from experiments.performance import turns
from experiments.performance.bound import training
from experiments.performance.measurement import Measured, Measurement, load
from research import files
from research.cli import experiments
from research.train import feed, trainer

CONFIG = "configs/sentiment/sst2_minilm.py:cpu"
STEPS = 20
SAME = 1e-3  # goal: the largest difference of the losses of a step
GOAL = 1.0
# What both sides leave out, so that they do the same. Everything is decayed, as PyTorch does.
WORDS = (
    "precision.compute=float32", "model.dropout=0", "optimizer.schedule=constant", "optimizer.warmup_steps=0",
    "optimizer.clip_norm=0", "optimizer.decay=['']",
)  # fmt: skip
Batch = Mapping[str, np.ndarray]


def measure(config: str = CONFIG, steps: int = STEPS, words: tuple[str, ...] = WORDS) -> Measured:
    """The largest difference of the losses over `steps` steps, and the median of Tessera's speed / that of PyTorch.

    Raises ValueError if `turns.missing` gives a reason, if the data are not prepared, or if the weights are missing.
    """
    turns.require("adapt")
    loaded, task, data = load(config, words)
    data.prepare()
    yield " ".join([config, *(f"--config.{word}" for word in words)]), compare(loaded, task, data, steps)


def compare(config: Any, task: Any, data: Any, steps: int) -> list[Measurement]:
    """The sides alternate; the uncounted run is the first step of the training, which is compared, too."""
    ours = Tessera(config, task, data)
    theirs = make_pytorch(config, task, data, ours.variables)
    sides: dict[str, Any] = {turns.OURS: ours, "PyTorch": theirs}
    rate = turns.Rate(lambda seconds: seconds * 1e3, "ms")
    measured = turns.compare("step", sides, {"PyTorch": GOAL}, steps - 1, rate)
    losses = np.array([ours.losses, theirs.losses])
    return [
        Measurement(f"largest difference of losses, {steps} steps", np.abs(losses[0] - losses[1]).max(), at_most=SAME),
        *(
            Measurement(f"loss of step {step}: {name}", row[step - 1])
            for step in (1, steps)
            for name, row in zip(sides, losses, strict=True)
        ),
        *measured,
        *(Measurement(f"tokens of a step, with padding: {name}", side.tokens) for name, side in sides.items()),
    ]


class Tessera:
    """The program of the trainer with the initial weights of the config; each run takes the next batch."""

    def __init__(self, config: Any, task: Any, data: Any):
        program = trainer.build(config, task, jax.devices()[:1])  # as much as PyTorch
        state = program.init()
        if config.train.init_from:
            state = experiments.load_weights(config.train, task, program, data).state(state)
        self.variables = jax.device_get(state.variables)
        rows = config.train.batch_size
        begun = time.perf_counter()
        self._step = program.train_step.lower(program.state, task.example(rows)).compile()
        self.compile_s = time.perf_counter() - begun
        self.temporary_bytes = self._step.memory_analysis().temp_size_in_bytes
        self.num_params, self.phases = program.num_params, training(task, program, rows)
        self.dtype, self.tokens, self.losses = config.precision.compute, rows * task.source_length, []
        self._state, self._batches, self._sharding = state, batches(config, data), program.batch_sharding

    def run(self) -> None:
        """A training step on the next batch; its loss is added to `losses`."""
        batch = feed.to_mesh(next(self._batches), self._sharding)
        self._state, metrics = jax.block_until_ready(self._step(self._state, batch))
        self.losses.append(float(metrics["loss"]))


def batches(config: Any, data: Any) -> Iterator[Batch]:
    """The training batches of a config, in order."""
    return data.train_batches(config.seed, config.train.batch_size)


def unpacked(batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens and mask [texts, longest] and classes [texts] of a batch of packed rows."""
    texts, classes = [], []
    for row, segments, targets, present in zip(
        *(batch[name] for name in ("source", "source_segments", "target", "target_segments")), strict=True
    ):
        for index in np.flatnonzero(present):
            texts.append(row[segments == index + 1])
            classes.append(targets[index])
    tokens = np.zeros((len(texts), max(map(len, texts))), np.int64)
    mask = np.zeros_like(tokens)
    for index, text in enumerate(texts):
        tokens[index, : len(text)], mask[index, : len(text)] = text, 1
    return tokens, mask, np.array(classes, np.int64)


def make_pytorch(config: Any, task: Any, data: Any, variables: Any) -> Any:
    """The other side, with the weights in `variables`."""
    module = importlib.import_module("experiments.performance.adapt_torch")
    return module.PyTorch(config, task.model, variables, (unpacked(batch) for batch in batches(config, data)))


def missing() -> str:
    """Why the suite cannot run although the others against PyTorch can; empty if it can."""
    weights = load(CONFIG)[0].train.init_from
    try:
        files.located(weights)
    except ValueError as error:
        return str(error)
    return ""
