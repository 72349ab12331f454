"""The vocabulary of a Whisper: a `tokenizer.json` with BPE, whose other tokens say language, task and time."""

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from research.data.text.tokenizer import TokenizerVocabulary

_LANGUAGE = re.compile(r"<\|([a-z]{2,3})\|>")
TASKS = ("transcribe", "translate")


class WhisperVocabulary(TokenizerVocabulary):
    """As TokenizerVocabulary, with the tokens of Whisper's prompts. No token is padding; text ends before `eos`."""

    def __init__(self, path: Path, size: int):
        """The vocabulary in a file. Raises ValueError where it is none of a Whisper with `size` tokens."""
        super().__init__(lambda: path, size)
        names = ("startoftranscript", "startofprev", "notimestamps", *TASKS)
        for name in ("<|endoftext|>", *(f"<|{name}|>" for name in names)):
            try:
                self.id_of(name)
            except ValueError:
                raise ValueError(
                    f"{path} has no token {name}, so it is not of a Whisper; copy that of the weights"
                ) from None
        if self.pieces > size or self.no_timestamps + 1 >= size:
            raise ValueError(
                f"{path} has {self.pieces:,} tokens and timestamps from {self.no_timestamps + 1:,} on, but the model "
                f"has {size:,}; copy the file that was published with the weights"
            )

    @property
    def eos(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The end of a transcript; tokens below it are text."""
        return self.id_of("<|endoftext|>")

    @property
    def start(self) -> int:
        """The token after which a transcript begins."""
        return self.id_of("<|startoftranscript|>")

    @property
    def no_timestamps(self) -> int:
        """The token of a prompt that asks for none; the timestamps are numbered after it."""
        return self.id_of("<|notimestamps|>")

    @property
    def no_speech(self) -> int:
        """The token that says that nothing is said, whatever it is called."""
        return self.no_timestamps - 1

    @cached_property
    def languages(self) -> dict[str, int]:
        """The token of each language, by its code."""
        tokens = self._processor.get_vocab(with_added_tokens=True).items()
        found = {match[1]: index for token, index in tokens if (match := _LANGUAGE.fullmatch(token))}
        return dict(sorted(found.items(), key=lambda item: item[1]))

    @property
    def of_prompts(self) -> tuple[int, ...]:
        """The tokens of prompts that are never a part of a transcript."""
        names = ("startoftranscript", "startofprev", *TASKS)
        return (*(self.id_of(f"<|{name}|>") for name in names), self.no_speech)

    def prompt(self, language: str, task: str, timestamps: bool) -> list[int]:
        """What comes before a transcript; without a language, of a model that knows one alone, no task either.

        Raises ValueError for an unknown language or task.
        """
        found = [self.start]
        if language:
            if language not in self.languages:
                raise ValueError(f"language {language!r} is unknown; choose from {', '.join(self.languages)}")
            if task not in TASKS:
                raise ValueError(f"task {task!r} is unknown; choose from {', '.join(TASKS)}")
            found += [self.languages[language], self.id_of(f"<|{task}|>")]
        return found if timestamps else [*found, self.no_timestamps]

    def before(self, tokens: Sequence[int]) -> list[int]:
        """How tokens of what was said before come before a prompt; nothing where there are none."""
        return [self.id_of("<|startofprev|>"), *tokens] if tokens else []

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without any others."""
        return self._processor.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, without timestamps and what else is no text."""
        return self._processor.decode([index for index in np.asarray(ids, int).tolist() if index < self.eos])
