"""Suite `speech`: training and transcription with Whisper tiny, by Tessera and by transformers on PyTorch."""

import functools
import importlib
from typing import Any

import numpy as np

from experiments.performance import turns
from experiments.performance.measurement import Measured, Measurement
from experiments.performance.speech_shapes import RATE, Shapes
from research import config as config_lib
from research.data.sound import audio
from research.data.sound.utterances import UtterancesToArrays
from research.models.speech import Recogniser, RecogniserSpec
from research.tasks.speech import SpeechTask, SpeechTaskSpec
from research.train.settings import Experiment

WHISPER_TINY = Shapes()
GOALS = {"train": 1.2, "transcribe": 3}
SHORTENING = 2


def measure(shapes: Shapes = WHISPER_TINY, pairs: int = 5, compiled: bool = True) -> Measured:
    """For each kind of work the median over `pairs` of Tessera's speed / PyTorch's, how fast each is, and the bound.

    With `compiled`, torch.compile is tried for training as well. Raises ValueError if `turns.missing` gives a reason.
    """
    turns.require("speech")
    yield shapes.name, [each for work in shapes.work for each in compare(shapes, work, pairs, compiled)]


def compare(shapes: Shapes, work: str, pairs: int, compiled: bool) -> list[Measurement]:
    """Alternates the two sides, PyTorch with the fastest of its settings."""
    settings, pytorch = "", None
    if work == "train":
        settings, pytorch = turns.fastest_pytorch(work, functools.partial(make, "PyTorch", shapes, work), compiled)
    sides = {turns.OURS: make(turns.OURS, shapes, work), "PyTorch": pytorch or make("PyTorch", shapes, work)}
    seconds_of_sound = shapes.batch_size * shapes.input_s(work)
    rate = turns.Rate(lambda seconds: seconds / seconds_of_sound, "s a second of sound")
    return turns.compare(work, sides, {"PyTorch": GOALS[work.split()[0]]}, pairs, rate, settings)


def make(side: str, shapes: Shapes, work: str, **settings: Any) -> Any:
    """One of the two sides, set up for one kind of work; `settings` are those of PyTorch."""
    if side != turns.OURS:
        return importlib.import_module("experiments.performance.speech_torch").PyTorch(shapes, work, **settings)
    mel = audio.LogMel(audio.MelSpec(sample_rate=RATE, mels=shapes.mels, normalise="whisper"))
    sounds, targets = shapes.sounds(work), shapes.targets()
    to_arrays = UtterancesToArrays(mel, 0, shapes.target_length, SHORTENING).shaped(mel.frames(len(sounds[0])))

    def inputs():
        rows = [to_arrays(pair) for pair in zip(sounds, targets, strict=True)]
        numbers = {"index": np.arange(len(rows), dtype=np.int32), "weight": np.ones(len(rows), np.float32)}
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]} | numbers

    config = config_lib.complete(Experiment, shapes.config())
    task = _task(shapes, to_arrays.frames // SHORTENING)
    return turns.Tessera(config, task, inputs, "" if work == "train" else "tokens")


def _task(shapes, positions):
    spec = RecogniserSpec(**shapes.model, unroll=shapes.model["encoder_depth"])
    decoding = SpeechTaskSpec(decoder="greedy", max_decode_length=shapes.target_length)
    return SpeechTask(
        Recogniser(spec, shapes.vocab_size, max_target_length=448), decoding, positions, shapes.target_length,
        bos=3, unk=2, eos=-1, mels=shapes.mels,  # no token is -1, so decoding never ends early
    )  # fmt: skip
