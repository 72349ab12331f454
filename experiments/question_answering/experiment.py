"""Question answering: questions about a text, answered in words of a decoder or by a part of the text."""

from typing import Any

from research.data import recorded
from research.data.text import spans
from research.models.bert import Bert, BertSpec
from research.models.seq2seq import Seq2SeqSpec
from research.spec import FieldError, field, invalid
from research.tasks.seq2seq import Seq2SeqTaskSpec
from research.tasks.span_extraction import SpanExtractionSpec, SpanExtractionTask
from research.text2text import TextToText


class QuestionAnswering(TextToText, tag="question_answering"):
    """Questions about a text: a decoder writes the answer, or an encoder such as BERT finds it in the text."""

    model: Seq2SeqSpec | BertSpec = field(default=Seq2SeqSpec(), doc="the model")
    task: Seq2SeqTaskSpec | SpanExtractionSpec = field(
        default=Seq2SeqTaskSpec(), doc="the loss, and how answers are made; span_extraction with bert"
    )

    def validate(self) -> None:
        """Raises FieldError for a task that is not for the model, and for texts that it cannot be shown."""
        super().validate()
        if self.is_extractive != isinstance(self.task, SpanExtractionSpec):
            fitting = SpanExtractionSpec.tag if self.is_extractive else Seq2SeqTaskSpec.tag
            problem = f"={self.task.tag!r} must be {fitting!r} with model.name={self.model.tag!r}"
            raise FieldError(("task", "name"), problem)
        if self.is_extractive and self.data.sentence_length:
            raise invalid(self.data, "sentence_length", "must be 0 with model.name='bert'").below("data")

    @property
    def is_extractive(self) -> bool:
        """Whether answers are parts of the context, and no words of a decoder."""
        return isinstance(self.model, BertSpec)

    def build(self, known: recorded.Recorded | None = None) -> tuple[Any, Any]:
        """The task and the data set, or the data that a run has recorded; nothing is read or computed yet."""
        if not isinstance(self.task, SpanExtractionSpec):
            return super().build(known)
        data = spans.load(self.data, self.task.doc_stride, known)
        return self.make_task(data.vocabulary.size), data

    def make_task(self, vocab_size: int, **special: int) -> Any:
        """The task for a vocabulary of which only the size and, for a decoder, special ids need to be known."""
        if not isinstance(self.task, SpanExtractionSpec):
            return super().make_task(vocab_size, **special)
        model = Bert(
            self.model,
            vocab_size=vocab_size,
            num_classes=2,
            of_tokens=True,
            max_length=self.data.source_length,
            dtype=self.precision.compute,
            param_dtype=self.precision.params,
        )
        return SpanExtractionTask(model, self.task, self.data.source_length, self.data.target_length)
