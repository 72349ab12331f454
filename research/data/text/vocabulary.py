"""Sentencepiece vocabularies (Kudo and Richardson 2018): trained deterministically, or read from a file.

Text is not normalised (NFKC would turn a Chinese comma into an English one) except for white space, see `normalise`,
unless `fold_case` is set. With `byte_fallback`, decoding inverts encoding for any normalised text.
"""

import dataclasses
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from research.measure import progress

TYPES = ("unigram", "bpe", "char")
BOUNDARY = "\x1f"  # no token crosses it; `normalise` removes it from texts, since it is white space
# Training time is quadratic in the length of a word, and of a repetitive line: minutes for a megabyte. For training,
# words are therefore split after LONGEST_WORD characters, lines longer than LONGEST_LINE at spaces, and characters of a
# word beyond LONGEST_TRAINED are not used. Encoding has no such limits.
LONGEST_WORD, LONGEST_TRAINED, LONGEST_LINE = 1000, 20_000, 20_000
_SENTENCE = re.compile(rf"\S.{{0,{LONGEST_WORD - 1}}}(?!\S)")
_LONG = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")  # \S does not match BOUNDARY
_BLANK = re.compile(r"[^\S\n]")
_SPACES, _LINE_END = re.compile(r"[^\S\n]+"), re.compile(r"\s*\n\s*")
# Kana and the blocks of Chinese characters.
_CJK = re.compile("([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f])")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a trained vocabulary.

    Attributes:
        size: Maximum number of tokens, including special tokens, line end and bytes; a small text gives fewer.
        type: "unigram" (Kudo 2018), "bpe" (Sennrich et al. 2016) or "char".
        coverage: The share of the text's characters that are covered by the vocabulary.
        byte_fallback: Encode other characters as bytes (256 tokens) instead of `unk`.
        split_cjk: Make each Chinese or Japanese character a token.
        special_tokens: Strings that are always one token, such as "<question>".
        fold_case: Normalise text by NFKC and lower-case it; it decodes to the normalised text.
    """

    size: int = 8000
    type: str = "unigram"
    coverage: float = 0.9995
    byte_fallback: bool = True
    split_cjk: bool = True
    special_tokens: tuple[str, ...] = ()
    fold_case: bool = False

    def __post_init__(self):
        if self.type not in TYPES:
            raise ValueError(f"config.data.vocab_type={self.type!r} is unknown; choose from {', '.join(TYPES)}")
        if self.size < 5:
            raise ValueError(f"config.data.vocab_size={self.size} must be at least 5")
        if not 0.9 <= self.coverage <= 1:
            raise ValueError(f"config.data.vocab_coverage={self.coverage} must be between 0.9 and 1")

    def described(self) -> dict[str, Any]:
        """The settings by name, for the digest of the prepared folder; `fold_case`, added later, only if it is set."""
        fields = dataclasses.asdict(self)
        return fields if self.fold_case else {name: value for name, value in fields.items() if name != "fold_case"}


class Located(NamedTuple):
    """Token ids, and their character offsets, int64 [tokens, 2] (begin, end), see `trimmed`."""

    ids: list[int]
    offsets: np.ndarray


class Vocabulary:
    """Encodes and decodes between text and token ids, both without BOS and EOS.

    Attributes:
        size: The number of rows of a model's embedding, at least `pieces`, the number of tokens.
        pad: The id of padding.
        eos: The id of the end of a sequence.
        unk: The id of unknown characters.
        bos: The id of the start of a sequence; `pad` in a vocabulary without one, such as T5's.
        given: Whether it is a file named by the config; otherwise it is trained on the data.
    """

    pad, eos, unk = 0, 1, 2

    def __init__(self, path: Callable[[], Path], size: int, bos: int = 3):
        """The vocabulary in the file `path()`, which is called when the file is first needed."""
        self._path, self.size, self.bos = path, size, bos
        self.given = False

    @classmethod
    def of_file(cls, file: str, size: int, special_tokens: Sequence[str] = ()) -> "Vocabulary":
        """The vocabulary in a sentencepiece .model file. Raises ValueError if it does not fit.

        It must have pad 0, eos 1 and unk 2, every token of `special_tokens`, and at most `size` tokens.
        """
        path = Path(file).expanduser()
        vocabulary = cls(lambda: path, size)
        vocabulary.given = True
        processor = vocabulary._processor  # raises if there is no such file
        ids = (processor.pad_id(), processor.eos_id(), processor.unk_id())
        if ids != (cls.pad, cls.eos, cls.unk):
            raise ValueError(
                f"config.data.vocabulary={file!r} has pad, eos and unk at {ids}; they must be at "
                f"{(cls.pad, cls.eos, cls.unk)} (-1: it has none)"
            )
        if vocabulary.pieces > size:
            raise ValueError(
                f"config.data.vocab_size={size} is less than the {vocabulary.pieces} tokens of {file!r}; raise it"
            )
        for token in special_tokens:
            vocabulary.id_of(token)
        vocabulary.bos = processor.bos_id() if processor.bos_id() >= 0 else cls.pad
        return vocabulary

    @cached_property
    def serialized(self) -> bytes:
        """The content of the file. Raises ValueError if it cannot be read."""
        path = self._path()
        try:
            return path.read_bytes()
        except OSError as error:
            raise ValueError(f"vocabulary {str(path)!r} cannot be read: {error.strerror}") from None

    @cached_property
    def _processor(self):
        import sentencepiece

        try:
            return sentencepiece.SentencePieceProcessor(model_proto=self.serialized)
        except RuntimeError:
            raise ValueError(
                f"vocabulary {str(self._path())!r} is not a sentencepiece model; name another file"
            ) from None

    @cached_property
    def digest(self) -> str:
        """A hash of the file, 16 hex digits."""
        return hashlib.sha256(self.serialized).hexdigest()[:16]

    @property
    def pieces(self) -> int:
        """The number of tokens."""
        return self._processor.vocab_size()

    def id_of(self, token: str) -> int:
        """The id of one token. Raises ValueError if it is not in the vocabulary."""
        index = self._processor.piece_to_id(token)
        if index == self.unk and token != self._processor.id_to_piece(self.unk):
            raise ValueError(f"unknown special token {token!r}: it is not in the vocabulary {str(self._path())!r}")
        return index

    def ids_ending_in(self, characters: str) -> tuple[int, ...]:
        """The ids of the tokens whose last character is one of these."""
        pieces = map(self._processor.id_to_piece, range(self.pieces))
        return tuple(index for index, piece in enumerate(pieces) if piece[-1] in characters)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`."""
        return self._processor.encode(normalise(text))

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of all texts, on all cores."""
        return self._processor.encode([normalise(text) for text in texts], num_threads=-1)

    def encode_with_offsets(self, texts: Sequence[str]) -> list[Located]:
        """The tokens of all texts, without special tokens, and their character offsets."""
        from sentencepiece import sentencepiece_pb2

        plain = [_BLANK.sub(" ", text) for text in texts]  # of the same length
        read = sentencepiece_pb2.SentencePieceText.FromString  # pyright: ignore[reportAttributeAccessIssue]
        parsed = [read(each).pieces for each in self._processor.encode(plain, out_type="serialized_proto")]
        bounds = [np.array([(piece.begin, piece.end) for piece in each], np.int64).reshape(-1, 2) for each in parsed]
        return [
            Located([piece.id for piece in each], trimmed(text, _of_characters(text, ends)))
            for text, each, ends in zip(texts, parsed, bounds, strict=True)
        ]

    @property
    def pair_tokens(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """The special tokens before, between and after the texts of a pair: [CLS] question [SEP] context [SEP].

        Raises ValueError for a vocabulary without a token before a text.
        """
        if self.bos == self.pad:
            raise ValueError(
                f"vocabulary {str(self._path())!r} has no token before a text, such as [CLS]; one is needed"
            )
        return (self.bos,), (self.eos,), (self.eos,)

    def decode(self, ids: Iterable[int]) -> str:
        """The text up to the first EOS, without special ids and ids beyond the vocabulary."""
        kept = []
        for index in np.asarray(ids).tolist():
            if index == self.eos:
                break
            if index not in (self.pad, self.bos) and index < self.pieces:
                kept.append(index)
        return self._processor.decode(kept)


def normalise(text: str) -> str:
    """`text` with each run of white space replaced by a space, or by a line end if it holds one, and stripped."""
    return _LINE_END.sub("\n", _SPACES.sub(" ", text)).strip()


def trimmed(text: str, offsets: np.ndarray) -> np.ndarray:
    """The character offsets [tokens, 2] of tokens without the white space at their ends.

    A token without characters of its own (white space, or the first bytes of a character) gets the offsets of the next
    token that has some, or of the last such token. So all tokens have characters, unless the text is white space.
    """
    found = offsets.copy()
    for token, (begin, end) in enumerate(offsets.tolist()):
        part = text[begin:end]
        found[token] = begin + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip())
    has = np.flatnonzero(found[:, 0] < found[:, 1])
    if not len(has):
        return np.zeros_like(offsets)
    return found[has[np.minimum(np.searchsorted(has, np.arange(len(found))), len(has) - 1)]]


def _of_characters(text: str, offsets: np.ndarray) -> np.ndarray:
    """Converts offsets in UTF-8 bytes to offsets in characters."""
    sizes = [len(letter.encode()) for letter in text]
    return np.searchsorted(np.cumsum([0, *sizes]), offsets)


def train(texts: Iterable[str], settings: Settings) -> bytes:
    """Trains a sentencepiece model on `texts`: identical bytes for the same texts in the same order.

    Raises ValueError if `settings.size` is too small for the characters of the texts.
    """
    import sentencepiece

    serialized = io.BytesIO()
    bounded = settings.split_cjk and settings.type != "char"
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(texts, bounded),
            model_writer=serialized,
            model_type=settings.type,
            vocab_size=settings.size,
            hard_vocab_limit=False,
            character_coverage=settings.coverage,
            byte_fallback=settings.byte_fallback,
            # A line end is a token, so that summaries keep their line breaks.
            user_defined_symbols=["\n", *settings.special_tokens],
            pad_id=Vocabulary.pad,
            eos_id=Vocabulary.eos,
            unk_id=Vocabulary.unk,
            bos_id=3,
            unk_surface="\u2047",  # the default adds spaces, which Chinese text lacks
            normalization_rule_name="nfkc_cf" if settings.fold_case else "identity",
            pretokenization_delimiter=BOUNDARY if bounded else "",
            max_sentence_length=2**30,  # bytes; longer ones would be skipped without a warning
            input_sentence_size=0,  # all of them, in their order
            shuffle_input_sentence=False,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        needed = re.search(r"required_chars\. \d+ vs (\d+)", str(error))
        if not needed:
            raise ValueError(f"training a vocabulary on this text failed: {' '.join(str(error).split())}") from None
        raise ValueError(
            f"config.data.vocab_size={settings.size} is too small: the characters of the text alone need "
            f"{needed[1]} tokens; raise it, or lower config.data.vocab_coverage={settings.coverage}"
        ) from None
    return serialized.getvalue()


def _sentences(texts: Iterable[str], bounded: bool) -> Iterator[str]:
    left_out = 0
    for text in texts:
        for line in normalise(text).split("\n"):
            line = _CJK.sub(rf"{BOUNDARY}\1{BOUNDARY}", line) if bounded else line
            if _LONG.search(line):
                left_out += sum(max(0, len(word[0]) - LONGEST_TRAINED) for word in _LONG.finditer(line))
                line = _LONG.sub(_in_parts, line)
            yield from _SENTENCE.findall(line) if len(line) > LONGEST_LINE else (line,)
    if left_out:
        what = f"{left_out:,} characters of words of more than {LONGEST_TRAINED:,}"
        progress.say(f"the vocabulary is trained without {what}")


def _in_parts(word: re.Match) -> str:
    """The first LONGEST_TRAINED characters of a long word, split into words of at most LONGEST_WORD."""
    kept = word[0][:LONGEST_TRAINED]
    return " ".join(kept[start : start + LONGEST_WORD] for start in range(0, len(kept), LONGEST_WORD))
