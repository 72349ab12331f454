"""Decodes MP3, MP4 (m4a), AAC, AMR, WMA and Matroska (webm) files with PyAV."""

import io
import re

import numpy as np

# The first bytes of a file -> FFmpeg's demuxer. FFmpeg must not detect it, since some demuxers open other files.
_READERS = {
    rb".{4}(ftyp|moov|mdat|wide|free|skip)": "mp4",
    rb"\x1aE\xdf\xa3": "matroska",
    rb"ID3|\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff]": "mp3",
    rb"\xff[\xf0\xf1\xf8\xf9]": "aac",
    rb"#!AMR": "amr",
    rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "asf",
}
_SLACK = 4096, 0.05  # tolerance in samples and s for padding by encoders and containers
_LENIENT = 2  # invalid packets that are tolerated, such as tags in the stream


def reader(content: bytes) -> str:
    """The name of FFmpeg's demuxer for a file; "" if none of _READERS matches."""
    return next((name for start, name in _READERS.items() if re.match(start, content[:12], re.DOTALL)), "")


def decode(content: bytes, kind: str) -> tuple[np.ndarray, int]:
    """The samples, float32 [samples, channels], and the rate of a file, with the demuxer `kind`.

    Raises ValueError, with the end of a sentence, for a file that is damaged, truncated or without sound.
    """
    import av
    from av.error import FFmpegError, InvalidDataError

    parts, damaged = [], 0
    try:
        with av.open(io.BytesIO(content), "r", format=kind, metadata_errors="replace") as container:
            if not container.streams.audio:
                raise ValueError("holds no sound")
            stream = container.streams.audio[0]
            resampler = av.AudioResampler(format="fltp")  # changes neither rate nor channels
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except InvalidDataError:
                    damaged += 1
                    continue
                parts += [part.to_ndarray() for frame in frames for part in resampler.resample(frame)]
            parts += [part.to_ndarray() for part in resampler.resample(None)] if parts else []
            rate, promised = resampler.rate if parts else 0, _seconds(stream, container, content)
    except (FFmpegError, OverflowError) as error:
        raise ValueError(
            f"cannot be decoded ({getattr(error, 'strerror', error)}); it is damaged, or FFmpeg lacks its codec"
        ) from None
    if not parts or damaged > _LENIENT:
        raise ValueError(f"cannot be decoded ({damaged} of its packets are invalid); it is damaged")
    samples = np.concatenate(parts, axis=1).T
    if promised * rate > len(samples) + _SLACK[0] + _SLACK[1] * rate:
        raise ValueError(f"is truncated: it holds {len(samples) / rate:.2f} of {promised:.2f} s")
    return samples, rate


def _seconds(stream, container, content: bytes) -> float:
    """The duration in the header of a file; 0 if there is none, or only an estimate from its size."""
    kind = container.format.name
    if kind == "mp3" and not re.search(rb"Xing|Info", content[: 1 << 20]):
        return 0.0
    if kind == "mp3" or kind.startswith("mov"):
        return float((stream.duration or 0) * stream.time_base)
    return (container.duration or 0) / 1e6 if kind.startswith("matroska") else 0.0
