"""Summarization: documents and their summaries."""

from research.text2text import TextToText


class Summarization(TextToText, tag="summarization"):
    """Documents and their summaries."""
