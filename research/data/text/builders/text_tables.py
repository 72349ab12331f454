"""Reads tables of texts; the delimiter, quoting and header are detected from the content."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

SIDES = ("source", "target")  # the columns of a two-column table without a header
DELIMITERS = {"\t": "tab", ",": "comma", ";": "semicolon"}
_SNIFFED = 20  # lines or rows used for the detection
# Words that occur in headers; two-letter ones are language codes.
_HEADINGS = frozenset(
    re.findall(
        r"\w+",
        """
        source src target tgt input output text texts sentence label labels class category sentiment review rating score
        question context answer answers references reference document article body title subject summary highlights
        premise hypothesis paraphrase translation original transcript id index english german french spanish chinese
        japanese korean russian arabic hindi en de fr es it pt nl ru zh ja ko ar hi cs pl tr vi th sv fi da uk
        """,
    )
)
_NAME = re.compile(r"[^\W\d][\w -]{0,39}")


class Table(NamedTuple):
    """The names of the columns, and each row with the number of its line."""

    names: tuple[str, ...]
    rows: list[tuple[int, list[str]]]
    blank: int  # the number of blank lines


class _Cell(NamedTuple):
    text: str
    quoted: bool


def parse(content: str, path: Path) -> Table:
    """Parses the content of the file `path`.

    Columns are separated by tabs, commas or semicolons. Two columns are SIDES unless there is a header; more columns
    need a header. Quotes follow RFC 4180; with tabs, quotes are text unless every quoted cell needs them, or all cells
    of its column have them.

    Raises:
        ValueError: Rows with different numbers of columns, an unclosed quote, or a first line that is ambiguous, a
            header or an example.
    """
    delimiter = _delimiter(content, path)
    rows = list(_cells(content, delimiter))
    if '"' in content and delimiter == "\t" and not _is_quoting(rows):
        lines = enumerate(content.split("\n"), start=1)
        rows = [(number, [_Cell(text, False) for text in line.split(delimiter)]) for number, line in lines]
    if delimiter != "\t":
        _check_quotes(rows, path)
    found = [(number, [cell.text for cell in cells]) for number, cells in rows]
    full = [(number, cells) for number, cells in found if any(cell.strip() for cell in cells)]
    if not full:
        raise ValueError(f"{path}, line 1 is empty; a table of texts needs a source and a target on every line")
    width = max(2, *(len(_trimmed(cells)) for _, cells in full[:_SNIFFED]))
    even = []
    for number, cells in full:
        cells = cells[:width] if len(_trimmed(cells)) <= width else cells  # without the empty cell after a trailing tab
        if len(cells) != width:
            wanted = f"{width} like the first lines" if width > 2 else "2"
            raise ValueError(
                f"{path}, line {number} has {len(cells)} {DELIMITERS[delimiter]}-separated columns; it must have "
                f"{wanted}"
            )
        even.append((number, cells))
    names = _header(even, delimiter, path)
    blank = len(found) - len(full) - (not any(found[-1][1]))  # the end of the file does not count as a line
    return Table(names or SIDES, even[1:] if names else even, blank)


def _delimiter(content: str, path: Path) -> str:
    lines = [line for line in content[:1_000_000].split("\n") if line.strip()][:_SNIFFED]
    if not lines:
        return "\t"
    is_csv = _is_csv(path)
    tabs = ["\t" in line for line in lines]
    if all(tabs) or (tabs[0] and not is_csv):
        return "\t"
    head = "\n".join(lines)
    for delimiter in (",", ";"):
        widths = {len(cells) for _, cells in _cells(head, delimiter)}
        if len(widths) == 1 and widths.pop() > 1:
            return delimiter
    return ("," if "," in lines[0] else ";") if is_csv else "\t"


def _is_csv(path: Path) -> bool:
    return path.name.removesuffix(".gz").lower().endswith(".csv")


def _cells(content: str, delimiter: str) -> Iterator[tuple[int, list[_Cell]]]:
    """The cells of each row, with the number of its first line; quoted cells may contain line breaks."""
    # Possessive quantifiers keep the time linear.
    end = f"(?=[{delimiter}\n]|\\Z)"
    cell = re.compile(f'"((?:[^"]++|"")*+)"{end}|([^{delimiter}\n]*+)')
    position, line, row, begun = 0, 1, [], 1
    while True:
        match = cell.match(content, position)
        assert match is not None  # a cell may be empty
        quoted = match[1] is not None
        row.append(_Cell(match[1].replace('""', '"') if quoted else match[2], quoted))
        line += match[0].count("\n") if quoted else 0
        position = match.end()
        if position < len(content) and content[position] == delimiter:
            position += 1
            continue
        yield begun, row
        if position >= len(content):
            return
        position, line, row = position + 1, line + 1, []
        begun = line


def _is_quoting(rows: Sequence[tuple[int, list[_Cell]]]) -> bool:
    """Whether quotes around tab-separated cells are delimiters, not part of the text."""
    columns: dict[int, list[_Cell]] = {}
    for _, cells in rows[1:] or rows:  # headers are seldom quoted
        for number, cell in enumerate(cells):
            if cell.text.strip() or cell.quoted:
                columns.setdefault(number, []).append(cell)
    for cells in columns.values():
        quoted = [cell for cell in cells if cell.quoted]
        if any("\t" in cell.text and "\n" in cell.text for cell in quoted):  # two rows that were parsed as one cell
            return False
        if any(cell.text.startswith('"') for cell in cells if not cell.quoted):
            return False
        if len(quoted) < len(cells) and not all(set(cell.text) & {'"', "\t", "\n"} for cell in quoted):
            return False
    return True


def _check_quotes(rows: Sequence[tuple[int, list[_Cell]]], path: Path) -> None:
    for number, cells in rows:
        if any(cell.text.startswith('"') for cell in cells if not cell.quoted):
            raise ValueError(
                f"{path}, line {number} has a quoted cell without a closing quote; double the quotes within text"
            )


def _is_example(first: Sequence[str], body: Sequence[Sequence[str]]) -> bool:
    """Whether the first row is an example, not a header: it has a sentence, or a value that recurs in its column."""
    return any(len(cell.split()) > 4 for cell in first) or any(
        cell == cells[column].strip() for column, cell in enumerate(first) for cells in body
    )


def _trimmed(cells: list[str]) -> list[str]:
    """The cells without empty ones at the end."""
    width = len(cells)
    while width and not cells[width - 1].strip():
        width -= 1
    return cells[:width]


def _header(rows: Sequence[tuple[int, list[str]]], delimiter: str, path: Path) -> tuple[str, ...] | None:
    """The names in the first row; None if it is an example. Raises ValueError if it is ambiguous."""
    number, first = rows[0]
    names = [cell.strip() for cell in first]
    names[0] = names[0] or "index"  # pandas leaves the name of the index empty
    named = all(map(_NAME.fullmatch, names)) and len(set(names)) == len(names)
    lower = tuple(name.lower() if name.lower() in SIDES else name for name in names)
    if len(names) > 2:
        if not named or _is_example(names, [cells for _, cells in rows[1:]]):
            raise ValueError(
                f"{path}, line {number} is not a header for its {len(names)} columns; put a line above, such as "
                f"{delimiter.join(('source', 'target', 'id'))!r}"
            )
        return lower
    if not named:
        return None
    if all(word in _HEADINGS for name in names for word in re.split(r"[\W_]+", name.lower())):
        return lower
    if not _is_csv(path) or any(" " in name for name in names):
        return None
    body = [cells for _, cells in rows[1:]]
    if any(2 * sum(" " in cells[column].strip() for cells in body) > len(body) for column in range(2)):
        return lower  # single words above sentences
    raise ValueError(
        f"{path}, line {number}: {delimiter.join(first)!r} may be a header or an example; put the header "
        f"'source{delimiter}target' above it or in its place"
    )
