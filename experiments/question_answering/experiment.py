"""Question answering: questions about a text."""

from research.text2text import TextToText


class QuestionAnswering(TextToText, tag="question_answering"):
    """Questions about a text."""
