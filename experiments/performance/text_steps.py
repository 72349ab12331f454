"""Suite `text`: a T5 v1.1 trained and decoded by Tessera, and by transformers on PyTorch, in turns in one process.

`python -m experiments.performance.text_steps SIDE WORK SHAPES` is a process that does one kind of work on one side; it
prints the peak of its memory in bytes.
"""

import dataclasses
import importlib
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np

from experiments.performance.measurement import Measured, Measurement, say
from experiments.performance.memory import MIB, peak_resident_bytes
from experiments.performance.text_shapes import BEAMS, WORK, Shapes
from research import config as config_lib
from research.data.text import packing
from research.models.seq2seq import Seq2Seq, Seq2SeqSpec
from research.tasks.seq2seq import Seq2SeqTask, Seq2SeqTaskSpec
from research.train import feed, trainer
from research.train.settings import Experiment

T5_SMALL = Shapes()
PACKED = "configs/translation/multi30k_en_de.py:full"
GOALS = {"train": 1.2, "greedy": 3, "beam": 3}


class Tessera:
    """What `text_torch.PyTorch` does, by the program of the trainer, which is compiled here."""

    def __init__(self, shapes: Shapes, work: str):
        config = config_lib.complete(Experiment, shapes.config())
        task, rng = _task(shapes, work), jax.random.key(0)
        program = trainer.build(config, task, jax.devices()[:1])  # as many as PyTorch takes
        batch = task.example(shapes.batch_size)
        begun = time.perf_counter()
        if work == "train":
            compiled = program.train_step.lower(program.state, batch).compile()
        else:
            compiled = program.predict_step.lower(program.state.evaluated, batch, rng).compile()
        self.compile_s = time.perf_counter() - begun
        self.temporary_bytes = compiled.memory_analysis().temp_size_in_bytes
        self.num_params = program.num_params
        self._work, self._compiled, self._rng = work, compiled, rng
        self._state, self._batch = program.init(), feed.to_mesh(_batch(shapes), program.batch_sharding)

    def run(self) -> np.ndarray:
        """One training step, which returns its loss, or the tokens [batch, target length] of one decoding."""
        if self._work == "train":
            self._state, metrics = jax.block_until_ready(self._compiled(self._state, self._batch))
            return np.asarray(metrics["loss"])
        return np.asarray(self._compiled(self._state.evaluated, self._batch, self._rng)["tokens"][:, 0])


def measure(shapes: Shapes = T5_SMALL, pairs: int = 5, packed: str = PACKED) -> Measured:
    """For each kind of work the median over `pairs` of Tessera's speed / PyTorch's, tokens/s, compile time and memory.

    Beside them the padding of the training rows of a config. Raises ValueError where `missing` says why.
    """
    if missing():
        raise ValueError(f"the suite text cannot run: {missing()}; leave it out")
    padding = padding_share(packed)  # first, since these data may not be prepared
    measured = [each for work in WORK for each in compare(shapes, work, pairs)]
    for work in ("train", "beam"):
        measured += [
            Measurement(f"{work}: peak resident, {side}", peak_bytes(side, work, shapes) / MIB, "MiB")
            for side in ("Tessera", "PyTorch")
        ]
    yield shapes.name, measured
    yield packed, [Measurement("padding of packed rows", padding)]


def missing() -> str:
    """Why the comparison cannot be made here; empty where it can."""
    if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")):
        return "torch and transformers, of the extra [interop], are not installed"
    return "" if jax.default_backend() == "cpu" else "it compares CPUs, and JAX has found something faster"


def compare(shapes: Shapes, work: str, pairs: int) -> list[Measurement]:
    """Both sides do the work in turns, after a first time that is not counted."""
    tessera, pytorch = make("Tessera", shapes, work), make("PyTorch", shapes, work)
    seconds = []
    for pair in range(pairs + 1):
        seconds.append([_seconds(tessera), _seconds(pytorch)])
        newest = "{:.2f} s against {:.2f} s".format(*seconds[-1])
        say(f"  {work}: {f'{pair} of {pairs}' if pair else 'not counted'}: {newest}")
    ours, theirs = np.transpose(seconds[1:])
    tokens = shapes.count(work)
    return [
        Measurement(f"{work}: Tessera / PyTorch", statistics.median(theirs / ours), at_least=GOALS[work]),
        Measurement(f"{work}: Tessera", tokens / statistics.median(ours), "tokens/s"),
        Measurement(f"{work}: PyTorch", tokens / statistics.median(theirs), "tokens/s"),
        Measurement(f"{work}: compile time", tessera.compile_s, "s"),
        Measurement(f"{work}: temporaries", tessera.temporary_bytes / MIB, "MiB"),
    ]


def make(side: str, shapes: Shapes, work: str) -> Any:
    """One of the two sides, ready for one kind of work."""
    if side == "Tessera":
        return Tessera(shapes, work)
    return importlib.import_module("experiments.performance.text_torch").PyTorch(shapes, work)


def peak_bytes(side: str, work: str, shapes: Shapes) -> int:
    """The peak memory of a fresh process that does the work twice."""
    say(f"  {work}: memory of {side}")
    command = [sys.executable, "-m", "experiments.performance.text_steps", side, work]
    command.append(json.dumps(dataclasses.asdict(shapes)))
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def padding_share(config: str) -> float:
    """The part of the tokens of a config's training rows that is padding."""
    source = config_lib.Source.parse(config)
    _, data = config_lib.load(source.file, source.variant).build()
    data.prepare()
    limits = data.spec.source_length, data.spec.target_length
    return packing.padding_share(np.minimum(data.prepared.lengths("train"), limits), len(data.rows), limits)


def _seconds(side):
    begun = time.perf_counter()
    side.run()
    return time.perf_counter() - begun


def _task(shapes, work):
    # The layers of T5 v1.1 small are few enough to be compiled side by side.
    spec = Seq2SeqSpec(**shapes.model, dropout=shapes.dropout, unroll=shapes.model["encoder_depth"])
    beams = BEAMS.get(work, 1)
    decoding = Seq2SeqTaskSpec(
        decoder="greedy" if beams == 1 else "beam", beam_size=beams, max_decode_length=shapes.target_length
    )
    return Seq2SeqTask(
        Seq2Seq(spec, shapes.vocab_size), decoding, shapes.source_length, shapes.target_length,
        bos=3, unk=2, eos=-1,  # no token, so that nothing ends early
    )  # fmt: skip


def _batch(shapes):
    """Rows of one example each."""
    arrays = {"index": np.arange(shapes.batch_size, dtype=np.int32), "weight": np.ones(shapes.batch_size, np.float32)}
    for name, tokens in zip(("source", "target"), shapes.tokens(), strict=True):
        arrays[name], arrays[f"{name}_segments"] = tokens, np.ones_like(tokens)
        arrays[f"{name}_positions"] = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    return arrays


if __name__ == "__main__":
    worker = make(sys.argv[1], Shapes(**json.loads(sys.argv[3])), sys.argv[2])
    for _ in range(2):
        worker.run()
    print(peak_resident_bytes())
