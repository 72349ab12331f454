"""Question answering: by a decoder (generative), by a span of the context (extractive), or by retrieval of texts."""

from typing import Any

from research.data import recorded
from research.data.text import pairs, spans
from research.models.bert import Bert, BertSpec
from research.models.seq2seq import Seq2SeqSpec
from research.spec import FieldError, field, invalid
from research.tasks.retrieval import RetrievalSpec, RetrievalTask
from research.tasks.seq2seq import Seq2SeqTaskSpec
from research.tasks.span_extraction import SpanExtractionSpec, SpanExtractionTask
from research.text2text import TextToText

_OF_ENCODERS = (SpanExtractionSpec, RetrievalSpec)


class QuestionAnswering(TextToText, tag="question_answering"):
    """Questions about texts: a decoder generates answers, or an encoder such as BERT extracts it or retrieves texts."""

    model: Seq2SeqSpec | BertSpec = field(default=Seq2SeqSpec(), doc="the model")
    task: Seq2SeqTaskSpec | SpanExtractionSpec | RetrievalSpec = field(
        default=Seq2SeqTaskSpec(), doc="the loss, and how answers are made; span_extraction or retrieval with bert"
    )

    def validate(self) -> None:
        """Raises FieldError for a task that does not fit the model, and for data fields that it does not support."""
        super().validate()
        is_encoder = isinstance(self.model, BertSpec)
        if is_encoder != isinstance(self.task, _OF_ENCODERS):
            fitting = " or ".join(repr(each.tag) for each in (_OF_ENCODERS if is_encoder else (Seq2SeqTaskSpec,)))
            problem = f"={self.task.tag!r} must be {fitting} with model.name={self.model.tag!r}"
            raise FieldError(("task", "name"), problem)
        if is_encoder and self.data.sentence_length:
            raise invalid(self.data, "sentence_length", "must be 0 with model.name='bert'").below("data")
        if self.is_retrieval and self.train.microbatches > 1:
            why = "must be 1 with task.name='retrieval', whose negatives are those of the whole batch"
            raise invalid(self.train, "microbatches", why).below("train")

    @property
    def is_extractive(self) -> bool:
        """Whether answers are spans of the context, not generated text."""
        return isinstance(self.task, SpanExtractionSpec)

    @property
    def is_retrieval(self) -> bool:
        """Whether texts are retrieved by their embeddings, instead of answering questions."""
        return isinstance(self.task, RetrievalSpec)

    def build(self, known: recorded.Recorded | None = None) -> tuple[Any, Any]:
        """The task and the data set, or the data that a run has recorded; nothing is read or computed yet."""
        if isinstance(self.task, SpanExtractionSpec):
            data = spans.load(self.data, self.task.doc_stride, known, self.task.min_span_f1)
        elif isinstance(self.task, RetrievalSpec):
            data = pairs.load(self.data, known)
        else:
            return super().build(known)
        return self.make_task(data.vocabulary.size), data

    def make_task(self, vocab_size: int, **special: int) -> Any:
        """The task for a vocabulary size and, for a decoder, special ids; no vocabulary file is needed."""
        lengths = self.data.source_length, self.data.target_length
        if isinstance(self.task, SpanExtractionSpec):
            return SpanExtractionTask(self._encoder(vocab_size, lengths[0], num_classes=2), self.task, *lengths)
        if isinstance(self.task, RetrievalSpec):
            encoder = self._encoder(vocab_size, max(lengths), num_classes=0)
            return RetrievalTask(encoder, self.task, *lengths, pairs.most_pairs(self.data))
        return super().make_task(vocab_size, **special)

    def _encoder(self, vocab_size: int, max_length: int, num_classes: int) -> Bert:
        """The encoder, with token logits if `num_classes` is above 0."""
        assert isinstance(self.model, BertSpec)  # checked by `validate`
        return Bert(
            self.model,
            vocab_size=vocab_size,
            num_classes=num_classes,
            of_tokens=num_classes > 0,
            max_length=max_length,
            dtype=self.precision.compute,
            param_dtype=self.precision.params,
        )
