"""What the experiments over text share: one encoder-decoder answers text with text.

They differ in data, prompt and score, which their configs say; here is all that they have in common.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research import config as config_lib
from research.data import text
from research.data.builders import text_files
from research.interop import start
from research.models.seq2seq import Seq2Seq, Seq2SeqSpec
from research.parallel import processes
from research.tasks import seq2seq
from research.train import trainer


class Answer(NamedTuple):
    """A text that the model gives, and its score: the sum of its log-probabilities, as the search normalises it."""

    text: str
    score: float


def defaults(config: Any) -> dict[str, Any]:
    """Every field that a config of these experiments may set, with its default."""
    return trainer.defaults(config) | {
        "data": text.TextSpec,
        "model": Seq2SeqSpec,
        "task": seq2seq.Seq2SeqTaskSpec,
    }


def build(config: Any) -> tuple[seq2seq.Task, text.Text]:
    """The task and the data of a config; nothing is read or computed yet."""
    data = text.load(text.TextSpec(**config_lib.plain(config.data)))
    spec = seq2seq.Seq2SeqTaskSpec(**config_lib.plain(config.task))
    model = Seq2Seq(
        Seq2SeqSpec(**config_lib.plain(config.model)),
        vocab_size=data.vocabulary.size,
        max_source_length=data.spec.source_length,
        max_target_length=max(data.spec.target_length, spec.max_decode_length),
        sentence_length=data.spec.sentence_length,
        dtype=config.precision.compute,
        param_dtype=config.precision.params,
    )
    task = seq2seq.Task(
        model,
        spec,
        source_length=data.spec.source_length,
        target_length=data.spec.target_length,
        bos=data.vocabulary.bos,
        eos=data.vocabulary.eos,
        unk=data.vocabulary.unk,
    )
    return task, data


def show(answers: Sequence[Answer]) -> str:
    """The answer to a text; where there are several, a line of score and text for each."""
    return "\n".join(f"{each.score:.3f}\t{each.text}" if len(answers) > 1 else each.text for each in answers)


def main(
    config: Any,
    workdir: str,
    mode: str,
    inputs: Sequence[str] = (),
    show: Callable[[Sequence[Answer]], str] = show,
    predicting: Callable[[seq2seq.Task, text.Text], seq2seq.Task] = lambda task, data: task,
) -> dict[str, Any] | None:
    """Runs one mode. `inputs` of `predict` are texts, text files with one text a line, or `-` for standard input.

    It prints what `show` makes of the answers to each text; they are given by the task that `predicting` makes.
    """
    task, data = build(config)
    if mode != "predict":
        return trainer.run(mode, config, task, data, workdir, start.find)
    texts = read_texts(inputs)
    for answers in answer(config, predicting(task, data), data, workdir, texts):
        if processes.is_main():
            print(show(answers))


def answer(config: Any, task: seq2seq.Task, data: text.Text, workdir: str, texts: Sequence[str]) -> list[list[Answer]]:
    """What the selected checkpoint of a run answers to each text, the best first, as many as `task` gives.

    Raises ValueError for a text that does not fit the data, see `text.Text.encode`.
    """
    outputs = trainer.predict(config, task, data, workdir, data.encode(texts))
    return [
        [Answer(data.vocabulary.decode(ids), float(score)) for ids, score in zip(tokens, scores, strict=True)]
        for tokens, scores in zip(outputs["tokens"], outputs["scores"], strict=True)
    ]


def read_texts(inputs: Sequence[str]) -> list[str]:
    """The texts that a command line names. Raises ValueError for a line that is empty or not UTF-8, with its place."""
    texts = []
    for given in inputs:
        if given == "-":
            texts += text_files.split_lines(sys.stdin.buffer.read(), "standard input")
        elif os.path.isfile(given):  # Path.is_file raises for a text that is too long for a file name
            texts += text_files.lines(Path(given))
        else:
            texts.append(given)
    if not texts:
        raise ValueError("there is nothing to answer; give a text, a file of texts or -, which is standard input")
    return texts
