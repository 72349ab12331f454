"""Resolves the inputs on a command line: files, folders, glob patterns and standard input."""

import glob
import itertools
import os
import sys
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.data.builders import text_files

TEXT_SUFFIXES = (".txt",)


class Named(NamedTuple):
    """An input and its name in predictions; or an `error` for a name without input."""

    name: str
    content: Any = None
    error: ValueError | None = None


def files(inputs: Sequence[str], suffixes: Container[str], what: str) -> list[Named]:
    """The files given by `inputs`.

    Args:
        inputs: files; folders, for all files of this kind below them, sorted; patterns such as "a/*.png";
            "-" for standard input, with a file name on each line.
        suffixes: the suffixes of the files of this kind, in lower case.
        what: their name in messages, such as "images".

    Returns:
        The files, which need not exist, each as its own content; with an error, inputs without any file.

    Raises:
        ValueError: Standard input is the only input, and it is empty.
    """
    found = []
    for given in _with_standard_input(inputs):
        paths = _matching(given, suffixes)
        if paths:
            found += [Named(path, path) for path in paths]
        else:
            problem = "holds no" if os.path.isdir(given) else "matches no"
            found.append(Named(given, error=ValueError(f"{given!r} {problem} {what}")))
    if not found:
        raise ValueError(f"standard input lists no {what}; give a file name on each line")
    return found


def texts(inputs: Sequence[str]) -> list[Named]:
    """The texts given by `inputs`: texts, text files with one text per line, folders of them, glob patterns, or "-".

    A folder without text files, or a pattern without matches, is taken as a text. An empty line, a file that is not
    UTF-8 and a missing file such as "none.txt" have an error.
    """
    found = []
    for given in inputs:
        if given == "-":
            found += _lines("standard input", sys.stdin.buffer.read)
            continue
        paths = _matching(given, TEXT_SUFFIXES)
        if paths and os.path.isfile(paths[0]):  # Path.is_file raises for a text that is too long for a file name
            for path in paths:
                found += _lines(path, lambda path=path: text_files.read(Path(path)))
        elif _is_path(given):
            found.append(
                Named(given, error=ValueError(f"{given!r}: no such file; give a text, or a text file that exists"))
            )
        else:
            found.append(Named(given, given))
    return found


def _is_path(given: str) -> bool:
    """Whether an input that is not a file must be meant as one: no white space, and the suffix of a text file."""
    return not any(letter.isspace() for letter in given) and given.lower().endswith(TEXT_SUFFIXES)


def _lines(name: str, read: Callable[[], bytes]) -> list[Named]:
    try:
        lines = text_files.any_lines(read(), name)
    except ValueError as error:
        return [Named(name, error=error)]
    where = (f"{name}, line {number}" for number in itertools.count(1))
    return [
        Named(line, line) if line.strip() else Named(place, "", ValueError(f"{place} is empty; fill or remove it"))
        for line, place in zip(lines, where, strict=False)
    ]


def _with_standard_input(inputs: Sequence[str]) -> Iterator[str]:
    for given in inputs:
        if given == "-":
            yield from (line.rstrip("\r\n") for line in sys.stdin if line.strip())
        else:
            yield given


def _matching(given: str, suffixes: Container[str]) -> list[str]:
    """The files of a folder or a pattern; for any other input, the input itself."""
    if os.path.isdir(given):
        return sorted(_below(given, suffixes))
    if glob.has_magic(given) and not os.path.lexists(given):
        return sorted(path for path in glob.glob(given, recursive=True) if os.path.isfile(path))
    return [given]


def _below(folder: str, suffixes: Container[str]) -> Iterator[str]:
    """The files with these suffixes below a folder, without hidden ones."""
    for path, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes:
                yield os.path.join(path, name)
