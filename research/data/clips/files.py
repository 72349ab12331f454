"""Decodes video files (any container and codec of FFmpeg, by PyAV) to a few upright frames, evenly spaced in time."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from research.data.clips import matroska

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
MIN_FRAMES = 4  # of a clip
MAX_PIXEL_ASPECT = 10  # limit of the pixel aspect ratio and of its inverse
_MAX_KEPT = 512  # frames in memory at a time
_COMPLETE = 0.95  # share of the duration in the header from which a file counts as complete
_EXACT = 1e-6  # s, tolerance for rounded timestamps
_UNNAMED_RATE = 25.0  # frames per second, if the file gives neither timestamps nor a rate


class Video(NamedTuple):
    """Frames as JPEG, evenly spaced in time, and a warning about a damaged file ("": none)."""

    frames: list[bytes]
    warning: str


def read(path: str | Path, count: int, side: int) -> Video:
    """Decodes `count` frames of a file: rotated by its display matrix, with square pixels.

    The frames are those displayed at `count` evenly spaced times from the first frame to the last, also at a variable
    frame rate; if the clip has fewer, frames are repeated. Their shorter side has at most `side` px. A file that is
    truncated, or damaged after its first frames, is used as far as it can be decoded, with a warning.

    Raises:
        ValueError: The file cannot be decoded, holds no video, or has fewer than MIN_FRAMES frames.
    """
    import av
    from av.error import FFmpegError

    wrong = lambda what: ValueError(f"video {str(path)!r} {what}")
    found, warning = None, ""
    try:
        # An open file and no protocol: a disguised playlist must not open other files, nor a file name be a URL.
        with (
            open(path, "rb") as file,
            av.open(file, "r", metadata_errors="replace", options={"protocol_whitelist": "none"}) as container,
        ):
            stream = _video_stream(container)
            if stream is None:
                raise wrong("holds no video, only sound or other data")
            shape = _Shape(stream.sample_aspect_ratio, side)
            if not 1 / MAX_PIXEL_ASPECT <= shape.aspect <= MAX_PIXEL_ASPECT:
                raise wrong(
                    f"has pixels {shape.aspect:g} times as wide as high; at most {MAX_PIXEL_ASPECT} are allowed"
                )
            usual = 1 / (float(stream.average_rate or 0) or _UNNAMED_RATE)
            found = _Subsampled(shape, usual)
            try:
                for time, frame in _timed(container.decode(stream), usual):
                    found.add(time, frame)
                # FFmpeg estimates the duration of a truncated AVI file, but its header has the number of frames.
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
    if found.seen < MIN_FRAMES:
        raise wrong(f"has {found.seen} frames; at least {MIN_FRAMES} are needed")
    return Video([_encode(frame) for frame in found.sample(count)], warning)


class _Shape:
    """Turns decoded frames into upright images of bounded size with square pixels."""

    def __init__(self, aspect: Any, side: int):
        self.aspect, self._side = float(aspect or 1), side  # the width of a pixel divided by its height

    def __call__(self, frame: Any):
        """The image of a PyAV frame."""
        width, height = frame.width * max(1, self.aspect), frame.height / min(1, self.aspect)
        factor = min(1, self._side / min(width, height))
        image = frame.to_image(width=max(1, round(width * factor)), height=max(1, round(height * factor)))
        return _upright(image, frame.side_data.get("DISPLAYMATRIX"))


def _upright(image, matrix: Any):
    """`image` rotated and flipped by FFmpeg's display matrix, to the nearest multiple of 90 degrees."""
    from PIL import Image

    if matrix is None:
        return image
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()  # (x, y) goes to (a x + c y, b x + d y)
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, a, d = image.transpose(Image.Transpose.TRANSPOSE), c, b
    if a < 0:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if d < 0 else image


class _Subsampled:
    """Collects the frames of a video in bounded memory; of a long one, those displayed at points of a time grid."""

    def __init__(self, shape: _Shape, usual: float):
        self.seen = 0
        self._shape, self._usual = shape, usual  # `usual`: duration in s of a frame without one
        self._kept: list[tuple[float, Any]] = []
        self._pending: tuple[float, Any] | None = None  # converted to an image only if displayed at a grid point
        self._start, self._step = 0.0, 0.0  # s; step 0: every frame is kept

    def add(self, time: float, frame: Any) -> None:
        """Adds the next frame."""
        if not self.seen:
            self._start = time
        elif self._pending and self._index(time) != self._index(self._pending[0]):
            self._kept.append((self._pending[0], self._shape(self._pending[1])))
        if len(self._kept) > _MAX_KEPT:
            self._step = 2 * (self._step or (time - self._start) / _MAX_KEPT)
            self._kept = list({self._index(kept): (kept, image) for kept, image in self._kept}.values())
        self._pending = time, frame
        self.seen += 1

    def _index(self, time):
        """The first grid point at or after `time`; of the frames with the same one, the last is displayed there."""
        return np.ceil((time - self._start) / self._step) if self._step else time

    @property
    def _last(self) -> tuple[float, Any]:
        """The last frame and its time."""
        assert self._pending is not None, "no frame was added"
        return self._pending

    @property
    def seconds(self) -> float:
        """The duration from the start of the first frame to the end of the last."""
        last, frame = self._last
        return last + (float((frame.duration or 0) * (frame.time_base or 0)) or self._usual) - self._start

    def sample(self, count: int) -> Sequence[Any]:
        """`count` images, displayed at evenly spaced times."""
        last, frame = self._last
        kept = [*self._kept, (last, self._shape(frame))]
        # Up to the last frame, or into it if it is long.
        length = max(last - self._start, self.seconds * (1 - 1 / count))
        wanted = np.linspace(self._start, self._start + length, count)
        if self._step:
            wanted = self._start + self._step * np.round((wanted - self._start) / self._step)
        times = np.array([time for time, _ in kept])
        shown = np.searchsorted(times, wanted + _EXACT, side="right") - 1
        return [kept[max(0, index)][1] for index in shown]


def _timed(frames: Iterator[Any], usual: float) -> Iterator[tuple[float, Any]]:
    """Frames with increasing times in s; for a missing or decreasing timestamp, the previous one plus `usual`."""
    last = -usual
    for frame in frames:
        time = frame.time
        last = float(time) if time is not None and (time > last or last == -usual) else last + usual
        yield last, frame


def _video_stream(container: Any):
    """The first video stream that is not an attached cover image; None if there is none."""
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
