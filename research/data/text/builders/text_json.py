"""Reads texts from JSON: objects, one per line or in an array, or SQuAD's articles (v1.1 and v2.0)."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from research.data.builders import text_files

Value = str | list[str] | None  # None: missing
Record = dict[str, Any]


def records(content: str, path: Path) -> tuple[list[tuple[str, Record]], int]:
    """The objects in a JSON file with their locations, for messages; and the number of blank lines.

    The file holds objects, one per line; or an array of them; or `{"data": [...]}` with them or SQuAD's articles.
    Raises ValueError for anything else.
    """
    start = content.lstrip()[:1]
    if start == "[" or (start == "{" and not _is_lines(content)):
        return _whole(text_files.parse_json(content, str(path)), path), 0
    found, blank = [], 0
    for number, line in enumerate(content.removesuffix("\n").split("\n"), start=1):
        if not line.strip():
            blank += 1
            continue
        where = f"{path}, line {number}"
        value = text_files.parse_json(line, where)
        if not isinstance(value, dict):
            raise ValueError(f"{where} is a JSON {type(value).__name__}; it must be an object")
        found.append((where, value))
    if not found:
        raise ValueError(f"{path}, line 1 is empty; it must hold JSON objects")
    return found, blank


def _is_lines(content: str) -> bool:
    """Whether the first nonblank line is a complete JSON value, and not a SQuAD file on one line."""
    line = next(line for line in content.split("\n") if line.strip())
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return content.lstrip()[1:2] not in ("", "\n", "\r") and content.count("\n") > 0 and line.rstrip().endswith("}")
    return not (isinstance(value, dict) and isinstance(value.get("data"), list))


def _whole(value: Any, path: Path) -> list[tuple[str, Record]]:
    items = value.get("data") if isinstance(value, dict) else value
    if not isinstance(items, list) or not items:
        raise ValueError(
            f"{path} is a JSON {type(value).__name__} without examples; it must hold an array of objects, one object "
            'per line, or {"data": [...]} as in SQuAD'
        )
    named = [(f"{path}, item {number}", item) for number, item in enumerate(items, start=1)]
    for where, item in named:
        if not isinstance(item, dict):
            raise ValueError(f"{where} is a JSON {type(item).__name__}; it must be an object")
    if "paragraphs" not in items[0]:
        return named
    return [(where, question) for where, article in named for question in _questions(article, where)]


def _questions(article: Mapping[str, Any], where: str) -> Iterator[Record]:
    """The questions of one of SQuAD's articles: {"title", "paragraphs": [{"context", "qas": [{"question", ...}]}]}."""
    try:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                yield {
                    "id": qa.get("id", ""),
                    "title": article.get("title", ""),
                    "context": paragraph["context"],
                    "question": qa["question"],
                    # In v2.0, impossible questions have `plausible_answers` instead, which are not used.
                    "answers": {"text": [answer["text"] for answer in qa.get("answers", [])]},
                }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{where} is not a SQuAD article ({type(error).__name__}: {error}); it needs paragraphs with "
            "context and qas, each of these with question and answers"
        ) from None


def texts(record: Record) -> dict[str, Value | dict[str, list[str]]]:
    """The values of an object as texts; nested objects other than answers are skipped.

    Numbers and booleans are converted to JSON, null and NaN to None. From `answers` (a list of texts, a list of objects
    with a `text`, or an object with a list `text`) are derived `answer`, the first of them or "", and `references`, all
    of them, unless the object has these keys.
    """
    found: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            if isinstance(value.get("text"), list):
                found[key] = {"text": _several(value["text"])}
        elif isinstance(value, list):
            found[key] = _several(value)
        else:
            found[key] = _text(value)
    answers = found.get("answers")
    if isinstance(answers, dict | list):
        several = answers["text"] if isinstance(answers, dict) else answers
        found.setdefault("answer", several[0] if several else "")
        found.setdefault("references", several)
    return found


def _several(values: list[Any]) -> list[str]:
    plain = (value.get("text") if isinstance(value, dict) else value for value in values)
    return [text for text in map(_text, plain) if text is not None]


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return json.dumps(value, ensure_ascii=False)
