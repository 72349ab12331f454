"""Detects truncated Matroska and WebM files by size, since the duration in their header is that of the longest track.

The layout is that of RFC 8794 (EBML) and RFC 9559 (Matroska): an EBML header, then a segment that holds all the rest.
"""

from typing import BinaryIO

_HEADER, _SEGMENT = 0x1A45DFA3, 0x18538067


def missing_bytes(file: BinaryIO) -> int:
    """The number of bytes missing at the end of a file; 0 for any other format.

    Also 0 if the file does not state its size, such as one written to a pipe.
    """
    file.seek(0)
    if _number(file, marked=True) != _HEADER:
        return 0
    header = _number(file)
    if header is None:
        return 0
    file.seek(header, 1)
    kind, size = _number(file, marked=True), _number(file)
    if kind != _SEGMENT or size is None:
        return 0
    begin = file.tell()
    return max(0, begin + size - file.seek(0, 2))


def _number(file: BinaryIO, marked: bool = False) -> int | None:
    """A variable-length integer of EBML, including its length marker bit if `marked`.

    None for an unknown size (all bits 1) and at the end of the file.
    """
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    rest = file.read(length - 1)
    if len(rest) < length - 1:
        return None
    value = int.from_bytes(first + rest)
    if marked:
        return value
    value &= (1 << 7 * length) - 1
    return None if value == (1 << 7 * length) - 1 else value
