"""The shared part of the text-to-text experiments: an encoder-decoder that maps a source text to a target text.

The experiments differ in data, prompt and metrics, which their configs define.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from research import predicting
from research.cli import experiments
from research.data import recorded
from research.data.text import dataset as text
from research.models.seq2seq import Seq2Seq, Seq2SeqSpec
from research.parallel import processes
from research.spec import field
from research.tasks import seq2seq, span_extraction
from research.train import trainer
from research.train.settings import Experiment


class Answer(NamedTuple):
    """A generated text and its score: the sum of its token log-probabilities, as normalised by beam search."""

    text: str
    score: float


class TextToText(Experiment):
    """Config of an encoder-decoder that maps a source text to a target text."""

    data: text.TextSpec = field(default=text.TextSpec(), doc="the texts")
    model: Seq2SeqSpec = field(default=Seq2SeqSpec(), doc="the model")
    task: seq2seq.Seq2SeqTaskSpec = field(default=seq2seq.Seq2SeqTaskSpec(), doc="the loss and decoding")

    def build(self, known: recorded.Recorded | None = None) -> tuple[seq2seq.Seq2SeqTask, text.Text]:
        """The task and the data set, with `known` the one that a run has recorded; nothing is computed yet."""
        data = text.load(self.data, known)
        words = data.vocabulary
        return self.make_task(words.size, bos=words.bos, eos=words.eos, unk=words.unk), data

    def make_task(self, vocab_size: int, **special: int) -> seq2seq.Seq2SeqTask:
        """The task for a vocabulary of `vocab_size` tokens; `special` are the ids bos, eos and unk."""
        lengths = self.data.source_length, self.data.target_length
        model = Seq2Seq(
            self.model,
            vocab_size=vocab_size,
            max_source_length=lengths[0],
            max_target_length=max(lengths[1], self.task.max_decode_length),
            sentence_length=self.data.sentence_length,
            dtype=self.precision.compute,
            param_dtype=self.precision.params,
        )
        return seq2seq.Seq2SeqTask(model, self.task, *lengths, **special)


def show(answers: Sequence[Answer]) -> str:
    """The output for one text; if there are several, one line of score, tab and text for each."""
    return "\n".join(f"{each.score:.3f}\t{each.text}" if len(answers) > 1 else each.text for each in answers)


def record(answers: Sequence[Answer]) -> dict[str, Any]:
    """The outputs for one text as a record of a predictions file."""
    others = [each._asdict() for each in answers]
    return {"answer": answers[0].text, "score": answers[0].score} | ({"answers": others} if others[1:] else {})


def main(
    config: Any,
    workdir: str,
    mode: str,
    inputs: Sequence[str] = (),
    out: str = "",
    show: Callable[[Sequence[Answer]], str] = show,
    answering: Callable[[seq2seq.Seq2SeqTask, text.Text], seq2seq.Seq2SeqTask] = lambda task, data: task,
    record: Callable[[Sequence[Answer]], Mapping[str, Any]] = record,
) -> dict[str, Any] | None:
    """Runs one mode. `inputs` of `predict` are texts, text files with one text a line, or `-` for standard input.

    `predict` prints each text, a tab, and its outputs formatted by `show`. An invalid text has an empty output, so that
    `cut -f2-` prints a line for each text. The file `out` holds the records that `record` makes of the outputs.
    `answering` returns the task that predicts, from the config's task and the data set.
    """
    task, data = config.build(predicting.known(mode, workdir))
    if mode != "predict":
        return trainer.run(mode, config, task, data, workdir, experiments.load_weights, experiments.load_teacher)
    data.prepare_vocabulary()
    named = [each._replace(error=each.error or data.problem(each.content)) for each in predicting.texts(inputs)]
    with predicting.Asking(config, answering(task, data), data, workdir, out) as asking:
        for texts, _ in asking.batches(named, str, size=len(named)):
            found = zip(texts, _answers(task, data, texts, asking.outputs(data.encode(texts))), strict=True)
            for each in named:
                if not each.error:
                    given, answers = next(found)
                    lines = (f"{predicting.shown(given)}\t{line}" for line in show(answers).split("\n"))
                    asking.answer("\n".join(lines), {"input": given, **record(answers)})
                elif each.content is not None and processes.is_main():
                    print(f"{predicting.shown(each.content)}\t")


def answer(
    config: Any, task: seq2seq.Seq2SeqTask, data: text.Text, workdir: str, texts: Sequence[str]
) -> list[list[Answer]]:
    """The outputs of the selected checkpoint of a run for each text, best first, as many as `task` returns.

    Raises ValueError for an invalid text, see `text.Text.encode`.
    """
    return _answers(task, data, texts, trainer.predict(config, task, data, workdir, data.encode(texts)))


def _answers(task: Any, data: Any, texts: Sequence[str], outputs: Mapping[str, Any]) -> list[list[Answer]]:
    if isinstance(task, span_extraction.SpanExtractionTask):
        found = [each.answers for _, each in sorted(span_extraction.combine(outputs, task.spec).items())]
        cut = data.cut(data.given_contexts(texts), [[span[:2] for span in spans] for spans in found])
        scores = [[span.log_probability for span in spans] for spans in found]
        return [list(map(Answer, *each)) for each in zip(cut, scores, strict=True)]
    if "probabilities" in outputs:  # of all classes
        named = [zip(data.class_names, np.log(row), strict=True) for row in outputs["probabilities"]]
        return [sorted(itertools.starmap(Answer, each), key=lambda answer: -answer.score) for each in named]
    return [
        [Answer(data.vocabulary.decode(ids), float(score)) for ids, score in zip(tokens, scores, strict=True)]
        for tokens, scores in zip(outputs["tokens"], outputs["scores"], strict=True)
    ]
