"""The shared parts of `predict`: its inputs, the handling of invalid ones, and the file of predictions."""

from research.predicting.asking import Asking, known, shown
from research.predicting.inputs import Named, files, texts

__all__ = ["Asking", "Named", "files", "known", "shown", "texts"]
