"""Sentiment: train, evaluate or use an encoder-decoder that calls sentences positive or negative. See README.md."""

from research import interrupt
from research.train import preemption

if __name__ == "__main__":
    preemption.exit_on_sigterm()  # before the slow imports, so that SIGTERM always means 75
    interrupt.end_on_interrupt()

import math
from collections.abc import Sequence
from typing import Any

from experiments.sentiment.experiment import Sentiment
from research import text2text
from research.cli import experiment
from research.tasks.class_words import ClassWords


def main(
    config: Sentiment, workdir: str, mode: str, inputs: Sequence[str] = (), out: str = ""
) -> dict[str, Any] | None:
    """Runs one mode; `inputs` are what `predict` judges: sentences, files of them, or `-` for standard input."""
    return text2text.main(
        config,
        workdir,
        mode,
        inputs,
        out,
        show,
        lambda task, data: ClassWords.of(task, data.distinct_targets()),
        record,
    )


def show(answers: Sequence[text2text.Answer]) -> str:
    """Every sentiment and its probability, the most likely first; those of all sentiments add up to 1."""
    return ", ".join(f"{each.text} {math.exp(each.score):.1%}" for each in answers)


def record(answers: Sequence[text2text.Answer]) -> dict[str, Any]:
    """The most likely sentiment, and the probabilities of all, for a file of answers."""
    return {"answer": answers[0].text, "probabilities": {each.text: math.exp(each.score) for each in answers}}


if __name__ == "__main__":
    experiment.run(main)
