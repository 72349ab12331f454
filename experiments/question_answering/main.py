"""Question answering: train, evaluate or use an encoder-decoder on questions about a text. See README.md."""

from research import huge_pages, interrupt
from research.train import preemption

if __name__ == "__main__":
    huge_pages.enable()
    preemption.exit_on_sigterm()  # before the slow imports, so that SIGTERM always means 75
    interrupt.end_on_interrupt()

from collections.abc import Sequence
from typing import Any

from experiments.question_answering.experiment import QuestionAnswering
from research import text2text
from research.cli import experiment


def main(
    config: QuestionAnswering, workdir: str, mode: str, inputs: Sequence[str] = (), out: str = ""
) -> dict[str, Any] | None:
    """Runs one mode; `inputs` are what `predict` answers: a question, a tab and its text, files of them, or `-`.

    The parts stand in the order of the config's `data.source`; `-` is standard input.
    """
    return text2text.main(config, workdir, mode, inputs, out)


if __name__ == "__main__":
    experiment.run(main)
