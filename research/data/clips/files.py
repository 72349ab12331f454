"""Video files of any container and codec that FFmpeg reads, as a few upright frames evenly spaced in time, by PyAV."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from research.data.clips import matroska

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
FEWEST = 4  # frames that a clip must have
MOST_STRETCHED = 10  # how many times as wide as high, or the reverse, a pixel may be
_WAITING = 512  # frames that are kept at a time at most
_COMPLETE = 0.95  # the share of its announced length from which a file counts as whole
_EXACT = 1e-6  # s, by which rounding may move a timestamp
_UNNAMED_RATE = 25.0  # frames a second, where neither timestamps nor a rate are given


class Video(NamedTuple):
    """JPEGs evenly spaced in time, and what is wrong with the file all the same ("": nothing)."""

    frames: list[bytes]
    warning: str


def read(path: str | Path, count: int, side: int) -> Video:
    """`count` frames of a file as they are to be seen: rotated by its display matrix, its pixels made square.

    The frames are those on screen at `count` evenly spaced times from the first frame to the last, whatever the frame
    rate does; frames of a clip that has fewer are repeated. Their shorter side has `side` px at most. Of a file that
    ends too early, or is damaged after its first frames, what can be decoded counts, with a warning.

    Raises:
        ValueError: In one line with the file: it cannot be decoded, holds no video, or has fewer than FEWEST frames.
    """
    import av
    from av.error import FFmpegError

    wrong = lambda what: ValueError(f"video {str(path)!r} {what}")
    found, warning = None, ""
    try:
        # An open file and no protocol: a playlist in disguise must not open other files, nor a name be an address.
        with (
            open(path, "rb") as file,
            av.open(file, "r", metadata_errors="replace", options={"protocol_whitelist": "none"}) as container,
        ):
            stream = _video_stream(container)
            if stream is None:
                raise wrong("holds no video, only sound or other data")
            shape = _Shape(stream.sample_aspect_ratio, side)
            if not 1 / MOST_STRETCHED <= shape.aspect <= MOST_STRETCHED:
                raise wrong(f"has pixels {shape.aspect:g} times as wide as high; at most {MOST_STRETCHED} are allowed")
            usual = 1 / (float(stream.average_rate or 0) or _UNNAMED_RATE)
            found = _Thinned(shape, usual)
            try:
                for time, frame in _timed(container.decode(stream), usual):
                    found.add(time, frame)
                # Of an AVI file without its end FFmpeg estimates the duration, but the number of frames is announced.
                promised = max(float((stream.duration or 0) * stream.time_base), stream.frames * usual)
                if found.seen and found.seconds < _COMPLETE * promised:
                    warning = f"is truncated: it holds {found.seconds:.1f} of {promised:.1f} s"
                elif missing := matroska.missing_bytes(file):
                    warning = f"is truncated: {missing:,} bytes are missing"
            except (FFmpegError, OSError) as error:
                if not found.seen:
                    raise
                warning = f"is damaged after frame {found.seen} ({_reason(error)})"
    except (FFmpegError, OSError) as error:
        raise wrong(f"cannot be decoded: {_reason(error)}") from None
    if found.seen < FEWEST:
        raise wrong(f"has {found.seen} frames; {FEWEST} are needed at least")
    return Video([_encode(frame) for frame in found.spread(count)], warning)


class _Shape:
    """How decoded frames become small images as they are to be seen."""

    def __init__(self, aspect: Any, side: int):
        self.aspect, self._side = float(aspect or 1), side  # the width of a pixel divided by its height

    def __call__(self, frame: Any):
        """The image of a PyAV frame."""
        width, height = frame.width * max(1, self.aspect), frame.height / min(1, self.aspect)
        factor = min(1, self._side / min(width, height))
        image = frame.to_image(width=max(1, round(width * factor)), height=max(1, round(height * factor)))
        return _upright(image, frame.side_data.get("DISPLAYMATRIX"))


def _upright(image, matrix: Any):
    """`image` turned and mirrored as FFmpeg's display matrix says, by the nearest multiple of 90 degrees."""
    from PIL import Image

    if matrix is None:
        return image
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()  # (x, y) goes to (a x + c y, b x + d y)
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, a, d = image.transpose(Image.Transpose.TRANSPOSE), c, b
    if a < 0:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if d < 0 else image


class _Thinned:
    """The frames of a video in little memory: of a long one, those on screen at the points of an even grid of times."""

    def __init__(self, shape: _Shape, usual: float):
        self.seen = 0
        self._shape, self._usual = shape, usual  # `usual` is how long a frame without a duration is on screen
        self._kept: list[tuple[float, Any]] = []
        self._waiting: tuple[float, Any] | None = None  # an image only if it is on screen at a grid point
        self._start, self._step = 0.0, 0.0  # s; step 0: every frame is kept

    def add(self, time: float, frame: Any) -> None:
        """Takes the next frame."""
        if not self.seen:
            self._start = time
        elif self._waiting and self._index(time) != self._index(self._waiting[0]):
            self._kept.append((self._waiting[0], self._shape(self._waiting[1])))
        if len(self._kept) > _WAITING:
            self._step = 2 * (self._step or (time - self._start) / _WAITING)
            self._kept = list({self._index(kept): (kept, image) for kept, image in self._kept}.values())
        self._waiting = time, frame
        self.seen += 1

    def _index(self, time):
        """The first point of the grid from `time` on; of frames with the same one, the last is on screen there."""
        return np.ceil((time - self._start) / self._step) if self._step else time

    @property
    def _last(self) -> tuple[float, Any]:
        """The last frame and its time."""
        assert self._waiting is not None, "no frame was added"
        return self._waiting

    @property
    def seconds(self) -> float:
        """From the beginning of the first frame to the end of the last."""
        last, frame = self._last
        return last + (float((frame.duration or 0) * (frame.time_base or 0)) or self._usual) - self._start

    def spread(self, count: int) -> Sequence[Any]:
        """`count` images, each the one on screen at its time."""
        last, frame = self._last
        kept = [*self._kept, (last, self._shape(frame))]
        # Up to the last frame, or into it where it stays for long.
        length = max(last - self._start, self.seconds * (1 - 1 / count))
        wanted = np.linspace(self._start, self._start + length, count)
        if self._step:
            wanted = self._start + self._step * np.round((wanted - self._start) / self._step)
        times = np.array([time for time, _ in kept])
        shown = np.searchsorted(times, wanted + _EXACT, side="right") - 1
        return [kept[max(0, index)][1] for index in shown]


def _timed(frames: Iterator[Any], usual: float) -> Iterator[tuple[float, Any]]:
    """Frames with times in seconds that only grow: one without a time, or back in time, comes `usual` later."""
    last = -usual
    for frame in frames:
        time = frame.time
        last = float(time) if time is not None and (time > last or last == -usual) else last + usual
        yield last, frame


def _video_stream(container: Any):
    """The first stream of moving images (not the cover of a record); None where there is none."""
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    return None


def _encode(image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())
