"""Suite `text`: training and decoding of T5 v1.1, by Tessera and by transformers on PyTorch, alternating.

`python -m experiments.performance.text_steps SIDE WORK SHAPES` is a process that does one kind of work on one side; it
prints the peak of its memory in bytes.
"""

import dataclasses
import functools
import importlib
import json
import subprocess
import sys
from typing import Any

import numpy as np

from experiments.performance import turns
from experiments.performance.measurement import Measured, Measurement, say
from experiments.performance.memory import MIB, peak_resident_bytes
from experiments.performance.text_shapes import WORK, Shapes, beams, dtype
from research import config as config_lib
from research.data.text import packing
from research.models.seq2seq import Seq2Seq, Seq2SeqSpec
from research.tasks.seq2seq import Seq2SeqTask, Seq2SeqTaskSpec
from research.train.settings import Experiment

T5_SMALL = Shapes()
PACKED = "configs/translation/multi30k_en_de.py:full"
GOALS = {"train": 1.2, "greedy": 3, "beam": 3}


def measure(shapes: Shapes = T5_SMALL, pairs: int = 5, packed: str = PACKED, compiled: bool = True) -> Measured:
    """For each kind of work the median over `pairs` of Tessera's speed / PyTorch's, tokens/s, the bound and memory.

    Beside them the padding of the training rows of a config. With `compiled`, torch.compile is tried as well. Raises
    ValueError if `turns.missing` gives a reason.
    """
    turns.require("text")
    padding = padding_share(packed)  # first, since this fails if the data are not prepared
    measured = [each for work in WORK for each in compare(shapes, work, pairs, compiled)]
    for work in ("train", "beam"):
        measured += [
            Measurement(f"{work}: peak resident, {side}", peak_bytes(side, work, shapes) / MIB, "MiB")
            for side in ("Tessera", "PyTorch")
        ]
    yield shapes.name, measured
    yield packed, [Measurement("padding of packed rows", padding)]


def compare(shapes: Shapes, work: str, pairs: int, compiled: bool) -> list[Measurement]:
    """Alternates the two sides, PyTorch with the fastest of its settings."""
    settings, pytorch = "", None
    if work == "train":
        settings, pytorch = turns.fastest_pytorch(work, functools.partial(make, "PyTorch", shapes, work), compiled)
    sides = {turns.OURS: make(turns.OURS, shapes, work), "PyTorch": pytorch or make("PyTorch", shapes, work)}
    rate = turns.Rate(lambda seconds: shapes.count(work) / seconds, "tokens/s")
    return turns.compare(work, sides, {"PyTorch": GOALS[work]} if work in GOALS else {}, pairs, rate, settings)


def make(side: str, shapes: Shapes, work: str, **settings: Any) -> Any:
    """One of the two sides, set up for one kind of work; the settings are those of PyTorch."""
    if side == turns.OURS:
        config = config_lib.complete(Experiment, shapes.config(work))
        output = "tokens" if beams(work) else ""
        return turns.Tessera(config, _task(shapes, work), functools.partial(_batch, shapes), output)
    return importlib.import_module("experiments.performance.text_torch").PyTorch(shapes, work, **settings)


def peak_bytes(side: str, work: str, shapes: Shapes) -> int:
    """The peak memory of a new process that does the work twice."""
    say(f"  {work}: memory of {side}")
    command = [sys.executable, "-m", "experiments.performance.text_steps", side, work]
    command.append(json.dumps(dataclasses.asdict(shapes)))
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def padding_share(config: str) -> float:
    """The share of padding in the training rows of a config."""
    source = config_lib.Source.parse(config)
    _, data = config_lib.load(source.file, source.variant).build()
    data.prepare()
    limits = data.spec.source_length, data.spec.target_length
    return packing.padding_share(np.minimum(data.prepared.lengths("train"), limits), len(data.rows), limits)


def _task(shapes, work):
    # T5 v1.1 small has few enough layers to unroll them.
    spec = Seq2SeqSpec(**shapes.model, dropout=shapes.dropout, unroll=shapes.model["encoder_depth"])
    decoding = Seq2SeqTaskSpec(
        decoder="beam" if beams(work) > 1 else "greedy", beam_size=max(1, beams(work)),
        max_decode_length=shapes.target_length,
    )  # fmt: skip
    dtypes = {"dtype": dtype(work), "param_dtype": dtype(work)}
    return Seq2SeqTask(
        Seq2Seq(spec, shapes.vocab_size, **dtypes), decoding, shapes.source_length, shapes.target_length,
        bos=3, unk=2, eos=-1,  # no token, so decoding never ends early
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
