"""Sentiment: train, evaluate or use a model that calls sentences positive or negative. See README.md."""

from research import huge_pages, interrupt
from research.train import preemption

if __name__ == "__main__":
    huge_pages.enable()
    preemption.exit_on_sigterm()  # before the slow imports, so that SIGTERM always means 75
    interrupt.end_on_interrupt()

import math
from collections.abc import Sequence
from typing import Any

from experiments.sentiment.experiment import Sentiment
from research import text2text
from research.cli import experiment
from research.data.text import dataset as text
from research.tasks.class_words import ClassWords


def main(
    config: Sentiment, workdir: str, mode: str, inputs: Sequence[str] = (), out: str = ""
) -> dict[str, Any] | None:
    """Runs one mode; `inputs` of `predict` are sentences, files with one per line, or `-` for standard input."""
    # An encoder predicts class probabilities directly.
    answering = (lambda task, data: task) if config.is_classifier else _words
    return text2text.main(config, workdir, mode, inputs, out, show, answering, record)


def _words(task: Any, data: text.Text) -> ClassWords:
    """A task that predicts class probabilities from the likelihood of each class name."""
    return ClassWords.of(task, data.distinct_targets())


def show(answers: Sequence[text2text.Answer]) -> str:
    """All classes with their probabilities, which sum to 1, the most likely first."""
    return ", ".join(f"{each.text} {math.exp(each.score):.1%}" for each in answers)


def record(answers: Sequence[text2text.Answer]) -> dict[str, Any]:
    """The record of `--out`: the most likely class and the probabilities of all."""
    return {"answer": answers[0].text, "probabilities": {each.text: math.exp(each.score) for each in answers}}


if __name__ == "__main__":
    experiment.run(main)
