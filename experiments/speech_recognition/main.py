"""Speech recognition: train, evaluate or use an encoder-decoder on sounds and their transcripts. See README.md."""

from research import huge_pages, interrupt
from research.train import preemption

if __name__ == "__main__":
    huge_pages.enable()
    preemption.exit_on_sigterm()  # before the slow imports, so that SIGTERM always means 75
    interrupt.end_on_interrupt()

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.speech_recognition.experiment import SpeechRecognition
from research import predicting
from research.cli import experiment, experiments
from research.data.sound import files as sound_files
from research.data.sound import speech as speech_data
from research.models import decoding
from research.tasks import speech
from research.train import trainer


class Transcript(NamedTuple):
    """A transcript, the geometric mean of its token probabilities, and the real-time factor.

    The real-time factor is the seconds per second of sound for spectrogram and model, without loading and compiling.
    """

    text: str
    confidence: float
    real_time_factor: float


def main(
    config: SpeechRecognition, workdir: str, mode: str, inputs: Sequence[str] = (), out: str = ""
) -> dict[str, Any] | None:
    """Runs one mode; `inputs` of `predict` are sound files, folders of them, patterns or `-`, see predicting.inputs."""
    task, data = config.build(predicting.known(mode, workdir))
    if mode != "predict":
        return trainer.run(mode, config, task, data, workdir, experiments.load_weights)
    data.prepare_vocabulary()
    named = predicting.files(inputs, (*sound_files.SUFFIXES, *sound_files.VIDEO_SUFFIXES), "sounds")
    with predicting.Asking(config, task, data, workdir, out) as asking:
        transcriber = None
        for (file,), (parts,) in asking.batches(named, lambda file: data.pieces(sound_files.read(file), file), size=1):
            transcriber = transcriber or make_transcriber(task, data, asking.predictor)
            transcript = transcriber(parts)
            figures = f"confidence {transcript.confidence:.1%}, real-time factor {transcript.real_time_factor:.3f}"
            record = {"input": file, "text": transcript.text, "confidence": transcript.confidence}
            asking.answer(f"{file}: {transcript.text} ({figures})", record)


def transcribe(
    config: SpeechRecognition, task: speech.SpeechTask, data: speech_data.Speech, workdir: str, files: Sequence[str]
) -> Iterator[Transcript]:
    """Transcribes sound files with the selected checkpoint of a run.

    Raises ValueError for a file that is not audio or too long, see sound_files.read and speech.Speech.pieces.
    """
    sounds = [data.pieces(sound_files.read(file), file) for file in files]  # errors first
    yield from map(make_transcriber(task, data, trainer.Predictor(config, task, data, workdir)), sounds)


def make_transcriber(
    task: speech.SpeechTask, data: speech_data.Speech, predict: trainer.Predictor
) -> Callable[[Sequence[np.ndarray]], Transcript]:
    """A function from the parts of a sound [samples] to its transcript; compilation is excluded from its timing."""
    compiled = set()

    def transcriber(parts: Sequence[np.ndarray]) -> Transcript:
        examples = data.arrays(parts)
        shape = examples["source"].shape
        if shape not in compiled:
            predict(examples)
            compiled.add(shape)
        begun = time.perf_counter()
        outputs = predict(data.arrays(parts))
        seconds = (time.perf_counter() - begun) / (sum(map(len, parts)) / data.eval_transform.mel.rate)
        text = " ".join(filter(None, (data.vocabulary.decode(tokens[0]) for tokens in outputs["tokens"])))
        return Transcript(text, confidence(task, outputs["tokens"][:, 0], outputs["scores"][:, 0]), seconds)

    return transcriber


def confidence(task: speech.SpeechTask, tokens: np.ndarray, scores: np.ndarray) -> float:
    """The geometric mean of the probabilities of `tokens` [parts, length], given the `scores` [parts] of the search.

    A part without tokens counts as one token, with the probability of the empty output.
    """
    counts = np.count_nonzero(tokens, axis=1)
    if task.spec.decoder == "beam":
        scores = scores * decoding.normaliser(counts, task.spec.length_penalty)
    return float(np.exp(scores.sum() / np.maximum(1, counts).sum()))


if __name__ == "__main__":
    experiment.run(main)
