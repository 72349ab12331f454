"""Sentiment: sentences and what they feel like, as a word."""

from research.text2text import TextToText


class Sentiment(TextToText, tag="sentiment"):
    """Sentences and what they feel like, as a word."""
