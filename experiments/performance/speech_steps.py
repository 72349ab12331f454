"""Suite `speech`: Whisper tiny trained and listened with by Tessera, and by transformers on PyTorch, in turns."""

import functools
import importlib
import importlib.util
import statistics
import time
from typing import Any

import jax
import numpy as np

from experiments.performance.measurement import Measured, Measurement, say
from experiments.performance.memory import MIB
from experiments.performance.speech_shapes import RATE, Shapes
from research import config as config_lib
from research.data.sound import audio
from research.data.sound.utterances import UtterancesToArrays
from research.models.speech import Recogniser, RecogniserSpec
from research.tasks.speech import SpeechTask, SpeechTaskSpec
from research.train import feed, trainer
from research.train.settings import Experiment

WHISPER_TINY = Shapes()
GOALS = {"train": 1.2, "transcribe": 3}
SHORTENING = 2


class Tessera:
    """What `speech_torch.PyTorch` does, by the program of the trainer, which is compiled here."""

    def __init__(self, shapes: Shapes, work: str):
        config = config_lib.complete(Experiment, shapes.config())
        mel = audio.LogMel(audio.MelSpec(sample_rate=RATE, mels=shapes.mels, normalise="whisper"))
        self._sounds, targets = shapes.sounds(work), shapes.targets()
        self._to_arrays = UtterancesToArrays(mel, 0, shapes.target_length, SHORTENING).shaped(
            mel.frames(len(self._sounds[0]))
        )
        task, rng = _task(shapes, self._to_arrays.frames // SHORTENING), jax.random.key(0)
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
        self._work, self._compiled, self._rng, self._targets = work, compiled, rng, targets
        self._to_mesh = functools.partial(feed.to_mesh, placement=program.batch_sharding)
        self._state, self._batch = program.init(), self._to_mesh(self._inputs())

    def run(self) -> np.ndarray:
        """One training step, which returns its loss, or the tokens [batch, target length] of what is recognised."""
        if self._work == "train":
            self._state, metrics = jax.block_until_ready(self._compiled(self._state, self._batch))
            return np.asarray(metrics["loss"])
        batch = self._to_mesh(self._inputs())
        return np.asarray(self._compiled(self._state.evaluated, batch, self._rng)["tokens"][:, 0])

    def _inputs(self):
        rows = [self._to_arrays(pair) for pair in zip(self._sounds, self._targets, strict=True)]
        numbers = {"index": np.arange(len(rows), dtype=np.int32), "weight": np.ones(len(rows), np.float32)}
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]} | numbers


def measure(shapes: Shapes = WHISPER_TINY, pairs: int = 5) -> Measured:
    """For each kind of work the median over `pairs` of Tessera's speed / PyTorch's, and how fast each side is.

    Raises ValueError where `missing` says why.
    """
    if missing():
        raise ValueError(f"the suite speech cannot run: {missing()}; leave it out")
    yield shapes.name, [each for work in shapes.work for each in compare(shapes, work, pairs)]


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
    ours, theirs = np.transpose(seconds[1:]) / (shapes.batch_size * shapes.input_s(work))
    unit = "s a second of sound"
    return [
        Measurement(f"{work}: Tessera / PyTorch", statistics.median(theirs / ours), at_least=GOALS[work.split()[0]]),
        Measurement(f"{work}: Tessera", statistics.median(ours), unit),
        Measurement(f"{work}: PyTorch", statistics.median(theirs), unit),
        Measurement(f"{work}: compile time", tessera.compile_s, "s"),
        Measurement(f"{work}: temporaries", tessera.temporary_bytes / MIB, "MiB"),
    ]


def make(side: str, shapes: Shapes, work: str) -> Any:
    """One of the two sides, ready for one kind of work."""
    if side == "Tessera":
        return Tessera(shapes, work)
    return importlib.import_module("experiments.performance.speech_torch").PyTorch(shapes, work)


def _seconds(side):
    begun = time.perf_counter()
    side.run()
    return time.perf_counter() - begun


def _task(shapes, positions):
    spec = RecogniserSpec(**shapes.model, unroll=shapes.model["encoder_depth"])
    decoding = SpeechTaskSpec(decoder="greedy", max_decode_length=shapes.target_length)
    return SpeechTask(
        Recogniser(spec, shapes.vocab_size, max_target_length=448), decoding, positions, shapes.target_length,
        bos=3, unk=2, eos=-1, mels=shapes.mels,  # no token is -1, so that nothing ends early
    )  # fmt: skip
