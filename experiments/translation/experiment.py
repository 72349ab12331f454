"""Translation: pairs of sentences."""

from research.text2text import TextToText


class Translation(TextToText, tag="translation"):
    """Pairs of sentences."""
