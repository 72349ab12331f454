"""Question answering: train, evaluate or use a model that answers questions about a text. See README.md."""

from research import huge_pages, interrupt
from research.train import preemption

if __name__ == "__main__":
    huge_pages.enable()
    preemption.exit_on_sigterm()  # before the slow imports, so that SIGTERM always means 75
    interrupt.end_on_interrupt()

import math
from collections.abc import Sequence
from typing import Any

from experiments.question_answering import nearest
from experiments.question_answering.experiment import QuestionAnswering
from research import text2text
from research.cli import experiment


def main(
    config: QuestionAnswering, workdir: str, mode: str, inputs: Sequence[str] = (), out: str = ""
) -> dict[str, Any] | None:
    """Runs one mode; `inputs` of `predict` are "QUESTION<TAB>CONTEXT", files of such lines, or `-` for standard input.

    The order of the parts is that of the config's `data.source`. For retrieval, inputs are the queries.
    """
    if config.is_retrieval and mode == "predict":
        return nearest.predict(config, workdir, inputs, out)
    if config.is_extractive:
        return text2text.main(config, workdir, mode, inputs, out, show, record=record)
    return text2text.main(config, workdir, mode, inputs, out)


def show(answers: Sequence[text2text.Answer]) -> str:
    """The answers, spans of the context, with their probabilities, one per line."""
    return "\n".join(f"{each.text or '(no answer)'} {math.exp(each.score):.1%}" for each in answers)


def record(answers: Sequence[text2text.Answer]) -> dict[str, Any]:
    """The record of `--out`: the best answer ("" for no answer), its probability and, if there are several, all."""
    found = [{"text": each.text, "probability": math.exp(each.score)} for each in answers]
    best = {"answer": answers[0].text, "probability": math.exp(answers[0].score)}
    return best | ({"answers": found} if found[1:] else {})


if __name__ == "__main__":
    experiment.run(main)
