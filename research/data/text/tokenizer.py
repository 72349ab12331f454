"""Vocabularies of published models: `tokenizer.json` of the Hugging Face tokenizers library (BPE, WordPiece, Unigram).

Text is normalised only as the file defines. Special tokens that it adds before a text are part of the encoded text; the
one that it adds after a text, such as [SEP] or </s>, is EOS.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from research import files
from research.data.text.vocabulary import Located, Vocabulary, trimmed

TOKENIZER, SENTENCEPIECE = "tokenizer.json", "spiece.model"  # file names in the folders of published models
_MOST_BYTES = 100_000_000


class TokenizerVocabulary(Vocabulary):
    """A Vocabulary from a `tokenizer.json`, which defines `eos`, `unk` and `bos`; `pad` is 0."""

    def __init__(self, path: Callable[[], Path], size: int):
        """The vocabulary in the file `path()`, which is called when the file is first needed."""
        self._path, self.size, self.given = path, size, True

    def check(self, file: str, special_tokens: Sequence[str]) -> None:
        """Raises ValueError for a file that is not a tokenizer, or one that the models here cannot use."""
        first = self._processor.id_to_token(self.pad)
        if first not in self._special:
            raise ValueError(
                f"config.data.vocabulary={file!r} has {first!r} at id 0, which is padding here; it must be a special "
                "token"
            )
        if self._around[1] is None:
            raise ValueError(
                f"config.data.vocabulary={file!r} adds no token after a text, such as [SEP] or </s>; one is needed"
            )
        if self.pieces > self.size:
            raise ValueError(
                f"config.data.vocab_size={self.size} is less than the {self.pieces} tokens of {file!r}; set it to the "
                "number of rows of the model's embedding"
            )
        for token in special_tokens:
            self.id_of(token)

    @cached_property
    def _processor(self) -> Any:
        import tokenizers

        where = str(self._path())
        if len(self.serialized) > _MOST_BYTES:
            raise ValueError(
                f"vocabulary {where!r} has {len(self.serialized):,} bytes; at most {_MOST_BYTES:,} are allowed; copy "
                "it again"
            )
        try:
            processor = tokenizers.Tokenizer.from_str(self.serialized.decode())
        except Exception as error:  # noqa: BLE001  The library raises plain Exception.
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"vocabulary {where!r} is not a tokenizer.json ({reason}); copy it again") from None
        processor.no_padding()  # a file may contain padding and truncation settings
        processor.no_truncation()
        return processor

    @cached_property
    def _special(self) -> frozenset[str]:
        added = self._processor.get_added_tokens_decoder().values()
        return frozenset(token.content for token in added if token.special)

    @cached_property
    def _around(self) -> tuple[int | None, int | None]:
        """The ids of the first special token before every text and of the last one after it; None if there is none."""
        encoded = self._processor.encode("a")
        is_added = encoded.special_tokens_mask or [0]
        return encoded.ids[0] if is_added[0] else None, encoded.ids[-1] if is_added[-1] else None

    @property
    def eos(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]  read from the file, fixed in the base
        """The id of the token after every text, such as [SEP]; `check` ensures that there is one."""
        return self._around[1] or self.pad

    @property
    def bos(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The id of the token before every text, such as [CLS]; `pad` if there is none."""
        return self._around[0] or self.pad

    @cached_property
    def unk(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The id of unknown characters; EOS in a vocabulary that covers all characters."""
        model = json.loads(self.serialized)["model"]
        index = model.get("unk_id", self._processor.token_to_id(model.get("unk_token") or ""))
        return self.eos if index is None else index

    @cached_property
    def pieces(self) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]  computed once: decode needs it often
        """One more than the highest id."""
        return max(self._processor.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def id_of(self, token: str) -> int:
        """As in Vocabulary."""
        index = self._processor.token_to_id(token)
        if index is None:
            raise ValueError(f"unknown special token {token!r}: it is not in the vocabulary {str(self._path())!r}")
        return index

    def ids_ending_in(self, characters: str) -> tuple[int, ...]:
        """As in Vocabulary."""
        vocabulary = self._processor.get_vocab(with_added_tokens=True)
        return tuple(sorted(index for token, index in vocabulary.items() if token[-1:] in characters))

    def encode(self, text: str) -> list[int]:
        """The ids of `text` with special tokens except EOS."""
        return self._processor.encode(text).ids[:-1]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """As in Vocabulary."""
        return [each.ids[:-1] for each in self._processor.encode_batch(list(texts))]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[Located]:
        """As in Vocabulary."""
        encoded = self._processor.encode_batch(list(texts), add_special_tokens=False)
        bounds = (np.array(each.offsets, np.int64).reshape(-1, 2) for each in encoded)
        return [
            Located(each.ids, trimmed(text, offsets))
            for text, each, offsets in zip(texts, encoded, bounds, strict=True)
        ]

    @property
    def pair_tokens(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """As in Vocabulary, from the file's post-processor; none of the three may be empty."""
        encoded = self._processor.encode("a", "a")
        ids = np.array(encoded.ids)
        part = np.array([-1 if number is None else number for number in encoded.sequence_ids])
        first, second = (np.flatnonzero(part == number) for number in (0, 1))
        around = ids[: first[0]], ids[first[-1] + 1 : second[0]], ids[second[-1] + 1 :]
        if not all(map(len, around)):
            raise ValueError(
                f"vocabulary {str(self._path())!r} lacks special tokens before, between or after the texts of a pair, "
                "such as [CLS] question [SEP] context [SEP]; add them to its post_processor"
            )
        before, between, after = (tuple(each.tolist()) for each in around)
        return before, between, after

    def decode(self, ids: Iterable[int]) -> str:
        """As in Vocabulary."""
        kept = []
        for index in np.asarray(ids).tolist():
            if index == self.eos:
                break
            if index < self.pieces:
                kept.append(index)
        return self._processor.decode(kept, skip_special_tokens=True)


def open_vocabulary(file: str, size: int, special_tokens: Sequence[str] = ()) -> Vocabulary:
    """The vocabulary in a file, a folder or `package:NAME`: a sentencepiece model, or a tokenizer.json.

    Raises ValueError if there is none, or if it does not fit, see `Vocabulary.of_file`.
    """
    path = located(file)
    if not is_tokenizer(path):
        return Vocabulary.of_file(str(path), size, special_tokens)
    vocabulary = TokenizerVocabulary(lambda: path, size)
    vocabulary.check(file, special_tokens)
    return vocabulary


def located(file: str) -> Path:
    """The path of a vocabulary file, given the file, its folder, or `package:NAME` of an installed package."""
    path = files.located(file)
    if not path.is_dir():
        return path
    found = next((path / name for name in (TOKENIZER, SENTENCEPIECE) if (path / name).is_file()), None)
    if found is None:
        raise ValueError(f"config.data.vocabulary={file!r} holds neither {TOKENIZER} nor {SENTENCEPIECE}; name a file")
    return found


def is_tokenizer(path: Path) -> bool:
    """Whether a file is JSON, and therefore not a sentencepiece model, regardless of its name."""
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip()[:1] == b"{"
    except OSError:
        return False
