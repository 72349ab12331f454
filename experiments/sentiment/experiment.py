"""Sentiment: sentences and what they feel like, as a word that a decoder writes or as a class of an encoder."""

from typing import Any

from research.data import recorded
from research.data.text import dataset as text
from research.models.bert import Bert, BertSpec
from research.models.seq2seq import Seq2SeqSpec
from research.spec import FieldError, field, invalid
from research.tasks.seq2seq import Seq2SeqTaskSpec
from research.tasks.text_classification import TextClassificationSpec, TextClassificationTask
from research.text2text import TextToText


class Sentiment(TextToText, tag="sentiment"):
    """Sentences and what they feel like: a word that a decoder writes, or a class of an encoder such as BERT."""

    model: Seq2SeqSpec | BertSpec = field(default=Seq2SeqSpec(), doc="the model")
    task: Seq2SeqTaskSpec | TextClassificationSpec = field(
        default=Seq2SeqTaskSpec(), doc="the loss, and how answers are made; text_classification with bert"
    )

    def validate(self) -> None:
        """Raises FieldError for a task that is not for the model, and for texts that it cannot be shown."""
        super().validate()
        is_class_task = isinstance(self.task, TextClassificationSpec)
        if self.is_classifier != is_class_task:
            fitting = TextClassificationSpec.tag if self.is_classifier else Seq2SeqTaskSpec.tag
            problem = f"={self.task.tag!r} must be {fitting!r} with model.name={self.model.tag!r}"
            raise FieldError(("task", "name"), problem)
        if self.is_classifier and self.data.sentence_length:
            raise invalid(self.data, "sentence_length", "must be 0 with model.name='bert'").below("data")

    @property
    def is_classifier(self) -> bool:
        """Whether the model gives probabilities of classes, and writes no words."""
        return isinstance(self.model, BertSpec)

    def build(self, known: recorded.Recorded | None = None) -> tuple[Any, text.Text]:
        """The task and the data set, or the data that a run has recorded; nothing is read or computed yet."""
        if not isinstance(self.task, TextClassificationSpec):
            return super().build(known)
        data = text.load(self.data, known, self.task.classes)
        return self.make_task(data.vocabulary.size), data

    def make_task(self, vocab_size: int, **special: int) -> Any:
        """The task for a vocabulary of which only the size and, for a decoder, special ids need to be known."""
        if not isinstance(self.task, TextClassificationSpec):
            return super().make_task(vocab_size, **special)
        model = Bert(
            self.model,
            vocab_size=vocab_size,
            num_classes=len(self.task.classes),
            max_length=self.data.source_length,
            dtype=self.precision.compute,
            param_dtype=self.precision.params,
        )
        return TextClassificationTask(model, self.task, self.data.source_length, self.data.target_length)
