"""Compares the number of bytes of samples in the header of a sound file with those that are present.

libsndfile reads the rest of a truncated file without an error.
"""

import struct
from typing import NamedTuple

_UNKNOWN = 0x7FFF0000  # larger sizes mean unknown, in files written to a pipe


class Data(NamedTuple):
    """The offset of the samples, their number of bytes by the header (None: unknown), and the bytes present."""

    begin: int
    declared: int | None
    found: int


def data(content: bytes) -> Data | None:
    """Locates the samples of a WAV, RF64, AIFF or AU file, or of the last page of an Ogg file; None for other files."""
    kind, form = content[:4], content[8:12]
    if kind in (b"RIFF", b"RF64") and form == b"WAVE":
        return _chunks(content, "<", b"data", 0)
    if kind == b"FORM" and form in (b"AIFF", b"AIFC"):
        return _chunks(content, ">", b"SSND", 8)
    if kind == b".snd" and len(content) >= 12:
        begin, size = struct.unpack_from(">II", content, 4)
        return _data(content, begin, None if size >= _UNKNOWN else size)
    if kind == b"OggS":
        page = content.rfind(b"OggS")
        begin = page + 27 + (content[page + 26] if page + 26 < len(content) else 0)
        return _data(content, begin, sum(content[page + 27 : begin]) if begin <= len(content) else 1)
    return None


def lost_pages(content: bytes) -> int:
    """The number of missing pages of an Ogg file, by the sequence numbers of each stream."""
    if content[:4] != b"OggS":
        return 0
    offset, last, lost = 0, {}, 0
    while content[offset : offset + 4] == b"OggS" and offset + 27 <= len(content):
        stream, number = struct.unpack_from("<II", content, offset + 14)
        lost += max(0, number - last.get(stream, number - 1) - 1)
        last[stream] = number
        sizes = content[offset + 27 : offset + 27 + content[offset + 26]]
        offset += 27 + len(sizes) + sum(sizes)
    return lost


def with_sizes(content: bytes) -> bytes:
    """`content` with the true sizes filled in if it is a WAV file whose header has size 0 or unknown."""
    found = data(content)
    if content[:4] != b"RIFF" or found is None or found.declared is not None or not 0 < found.found < _UNKNOWN:
        return content
    whole = bytearray(content)
    struct.pack_into("<I", whole, 4, len(content) - 8)
    struct.pack_into("<I", whole, found.begin - 4, found.found)
    return bytes(whole)


def _chunks(content: bytes, order: str, wanted: bytes, offset: int) -> Data:
    """The chunk `wanted`, in which samples begin after `offset` bytes."""
    position, long_size = 12, 0
    while position + 8 <= len(content):
        kind, size = content[position : position + 4], struct.unpack_from(f"{order}I", content, position + 4)[0]
        begin = position + 8
        if kind == b"ds64" and begin + 16 <= len(content):  # RF64: sizes of 64 bits
            long_size = struct.unpack_from("<Q", content, begin + 8)[0]
        if kind == wanted:
            if content[:4] == b"RF64" and size == 0xFFFFFFFF:
                return _data(content, begin + offset, long_size)
            return _data(content, begin + offset, None if _unknown(content, size, begin) else size - offset)
        position = begin + size + size % 2
    return Data(len(content), 1, 0)


def _unknown(content: bytes, size: int, begin: int) -> bool:
    if size >= _UNKNOWN:
        return size > len(content) - begin
    # A killed recorder leaves size 0; the size of the whole file is then wrong too.
    (whole,) = struct.unpack_from("<I", content, 4)
    return content[:4] == b"RIFF" and size == 0 and len(content) > begin and whole + 8 < len(content)


def _data(content: bytes, begin: int, declared: int | None) -> Data:
    return Data(begin, declared, max(0, len(content) - begin))
