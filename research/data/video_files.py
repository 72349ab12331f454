"""Video files of any container and codec that FFmpeg reads, as a few pictures evenly spaced over them, by PyAV."""

import io
from pathlib import Path

import numpy as np

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
FEWEST = 4  # frames that a clip must have
_WAITING = 512  # pictures that are kept at a time at most


def read(path: str | Path, count: int, side: int) -> list[bytes]:
    """`count` frames as JPEGs, evenly spaced from the first to the last, their shorter side `side` px at most.

    Frames of a clip that has less than `count` are repeated. Raises ValueError, with the file, for one that cannot be
    decoded and for one of less than FEWEST frames.
    """
    import av

    kept, every, seen = [], 1, 0
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                if seen % every == 0:
                    kept.append(_small(frame, side))
                seen += 1
                if len(kept) > _WAITING:  # every other one, from here on, too: a long video fits as well
                    kept, every = kept[::2], 2 * every
    except (av.FFmpegError, IndexError, OSError) as error:
        if not kept:
            raise ValueError(f"video {str(path)!r} cannot be decoded: {error}") from None
    if seen < FEWEST:
        raise ValueError(f"video {str(path)!r} has {seen} frames; {FEWEST} are needed at least")
    chosen = np.round(np.linspace(0, len(kept) - 1, count)).astype(int)
    return [_encode(kept[index]) for index in chosen]


def _small(frame, side: int):
    factor = min(1, side / min(frame.width, frame.height))
    return frame.to_image(width=round(frame.width * factor), height=round(frame.height * factor))


def _encode(image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()
