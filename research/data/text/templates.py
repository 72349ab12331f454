"""Converts the fields of an example to the source and target texts of the model (the prompt).

A template is a format string over the fields of the data set, such as "question: {question} context: {context}".
"""

import dataclasses
import string
from collections.abc import Mapping
from typing import Any

import numpy as np

from research.spec import checks

REFERENCES = "references"  # in our builders, the field with the accepted texts, the target first


@dataclasses.dataclass(frozen=True)
class Template:
    """The texts of a data set.

    Attributes:
        source: A format string over the fields; an item of an empty list becomes "".
        target: Likewise, so that the target of a question without answer is "".
        references: The field with the accepted targets, a sequence of strings; "": only the target.
        unlabelled: Splits without targets, which are not used.
    """

    source: str
    target: str
    references: str = ""
    unlabelled: tuple[str, ...] = ()

    @property
    def source_fields(self) -> tuple[str, ...]:
        """The fields in `source`, in their order."""
        return _fields(self.source, "source")

    def check(self, name: str, fields: Mapping[str, Any]) -> None:
        """Raises ValueError for an invalid format string, or one with a field that the data set lacks."""
        for key in ("source", "target"):
            template = getattr(self, key)
            named = _fields(template, key)
            unknown = [field for field in named if field not in fields]
            if unknown or not named:
                what = f"has the unknown field {unknown[0]!r}" if unknown else "has no field"
                raise ValueError(
                    f"config.data.{key}={template!r} {what}; choose from those of {name!r}: {', '.join(fields)}"
                )

    def fits(self, fields: Mapping[str, Any]) -> bool:
        """Whether the data set has all fields of the template."""
        return all(name in fields for key in ("source", "target") for name in _fields(getattr(self, key), key))

    def texts(self, fields: Mapping[str, Any]) -> tuple[str, str]:
        """Source and target of an example whose values are strings, numbers or sequences of them.

        Raises ValueError for a template that does not fit the values.
        """
        return _fill(self.source, fields, "source"), _fill(self.target, fields, "target")

    def check_pair(self) -> None:
        """Raises ValueError unless `source` is a question and its context, with a tab between."""
        if self.source.count("\t") != 1 or not all(_fields(part, "source") for part in self.source.split("\t")):
            raise ValueError(
                f"config.data.source={self.source!r} must be the question, a tab and the context that contains the "
                "answer, such as '{question}\\t{context}'"
            )

    def pair(self, fields: Mapping[str, Any]) -> tuple[str, str]:
        """Question and context of an example, see `check_pair`. Raises ValueError if one of them is empty."""
        question, context = (_fill(part, fields, "source") for part in self.source.split("\t"))
        if not (question.strip() and context.strip()):
            raise ValueError(
                f"the {'context' if question.strip() else 'question'} of {self.source!r} is empty; fill it"
            )
        return question, context

    def accepted(self, fields: Mapping[str, Any]) -> tuple[str, ...]:
        """The accepted answers of an example, the target first."""
        value = fields
        for key in filter(None, self.references.split("/")):
            value = value.get(key, ())
        others = value if self.references else ()
        return tuple(dict.fromkeys((_fill(self.target, fields, "target"), *others)))


_QUESTION = "question: {question} context: {context}"
DEFAULTS = {
    "multi30k": Template("{en}", "{de}"),
    "spelled_numbers": Template("{words}", "{digits}"),
    "tatoeba_zh_en": Template("{zh}", "{en}"),
    "wmt14_translate": Template("{en}", "{de}"),
    "aeslc_jsonl": Template("{body}", "{subject}", REFERENCES),
    "cnn_dailymail": Template("{article}", "{highlights}"),
    "sst2_sentences": Template("{sentence}", "{sentiment}"),
    "glue/sst2": Template("{sentence}", "{label}", unlabelled=("test",)),
    "tweetqa": Template(_QUESTION, "{answer}", REFERENCES),
    "qamr": Template(_QUESTION, "{answer}", REFERENCES),
    "babi": Template(_QUESTION, "{answer}"),
    "squad": Template(_QUESTION, "{answers[text][0]}", "answers/text"),
}


def choose(name: str, source: str = "", target: str = "") -> Template:
    """The template of the data set `name` (configuration and version are optional); `source`, `target` override it."""
    plain = name.split(":")[0]
    default = DEFAULTS.get(plain) or DEFAULTS.get(plain.split("/")[0]) or Template("{source}", "{target}", REFERENCES)
    return dataclasses.replace(default, source=source or default.source, target=target or default.target)


class _Formatter(string.Formatter):
    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        try:
            return super().get_field(field_name, args, kwargs)
        except IndexError:  # such as answers[text][0] of a question without answer
            return "", field_name


def _fill(template: str, fields: Mapping[str, Any], key: str) -> str:
    try:
        return _Formatter().vformat(template, (), fields)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        brief = ", ".join(f"{name}={str(value)[:40]!r}" for name, value in fields.items())
        raise ValueError(
            f"config.data.{key}={template!r} does not fit ({type(error).__name__}: {error}) an example with {brief}"
        ) from None


def _fields(template: str, key: str) -> tuple[str, ...]:
    try:
        named = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise ValueError(f"config.data.{key}={template!r} is not a format string: {error}") from None
    return tuple(dict.fromkeys(field.split("[")[0].split(".")[0] for field in named))


def _parses(value: object) -> bool:
    try:
        list(string.Formatter().parse(str(value)))
    except ValueError:
        return False
    return True


FORMAT = checks.Check(_parses, "must be a format string, such as 'question: {question}'")


def plain(value: Any, feature: Any) -> Any:
    """Converts a TFDS value to plain Python: strings for bytes, names for class indices."""
    if isinstance(value, Mapping):
        inner = getattr(feature, "feature", feature)  # a sequence of dicts is read as a dict of sequences
        return {key: plain(item, inner[key]) for key, item in value.items()}
    if isinstance(value, list | np.ndarray) and np.ndim(value):
        return [plain(item, getattr(feature, "feature", feature)) for item in value]
    if isinstance(value, bytes):
        return value.decode()
    if hasattr(feature, "int2str"):
        number = int(value)  # pyright: ignore[reportArgumentType]  of a class label, which is one
        return feature.int2str(number) if number >= 0 else ""  # -1: not labelled
    return value.item() if isinstance(value, np.generic) else value
