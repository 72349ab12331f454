"""Summarization: train, evaluate or use an encoder-decoder on documents and their summaries. See README.md."""

from research import huge_pages, interrupt
from research.train import preemption

if __name__ == "__main__":
    huge_pages.enable()
    preemption.exit_on_sigterm()  # before the slow imports, so that SIGTERM always means 75
    interrupt.end_on_interrupt()

from collections.abc import Sequence
from typing import Any

from experiments.summarization.experiment import Summarization
from research import text2text
from research.cli import experiment


def main(
    config: Summarization, workdir: str, mode: str, inputs: Sequence[str] = (), out: str = ""
) -> dict[str, Any] | None:
    """Runs one mode; `inputs` of `predict` are texts, files with one per line, or `-` for standard input."""
    return text2text.main(config, workdir, mode, inputs, out)


if __name__ == "__main__":
    experiment.run(main)
