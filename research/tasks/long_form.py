"""Long sounds in windows, as Whisper transcribes them (Radford et al., 2022, section 4.5): segments and fall-backs."""

import dataclasses
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

SECONDS = 0.02  # between two timestamps


@dataclasses.dataclass(frozen=True)
class Fallbacks:
    """When a window is transcribed again at the next temperature, and when it is skipped.

    Attributes:
        temperatures: In their order; 0 takes the most likely tokens.
        compression_ratio: Of a text that repeats itself: above it, again. None: never.
        log_probability: The mean over tokens; below it, again. None: never.
        no_speech: With a probability of no speech above it and a log-probability below `log_probability`, the window is
            skipped. None: never.
    """

    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    compression_ratio: float | None = 2.4
    log_probability: float | None = -1.0
    no_speech: float | None = 0.6


class Attempt(NamedTuple):
    """What was written for a window: tokens without prompt and EOS, their mean log-probability, P(no speech)."""

    tokens: list[int]
    log_probability: float
    no_speech: float


class Segment(NamedTuple):
    """A part of a transcript: from and to which second it is said, its tokens, and the temperature."""

    start: float
    end: float
    tokens: list[int]
    temperature: float


Decode = Callable[[Any, Sequence[int], float], Attempt]  # of an encoded window, what was said before, and a temperature


def transcribe(
    frames: np.ndarray,
    window: int,
    stride: int,
    encode: Callable[[np.ndarray], Any],
    decode: Decode,
    text: Callable[[Sequence[int]], str],
    first_timestamp: int,
    fallbacks: Fallbacks = Fallbacks(),
    prompt: Sequence[int] = (),
    condition: bool = False,
    most_before: int = 223,
    seconds: float = 0.01,
) -> Iterator[Segment]:
    """The segments of a spectrogram, window after window.

    A window begins where the last pair of timestamps of the one before ended; without one, behind it.

    Args:
        frames: float32 [frames, mels], of any length.
        window: The frames that the model takes; a last, shorter window is padded with 0.
        stride: Frames per timestamp.
        encode: What `decode` is given, of a window [window, mels].
        decode: Transcribes a window.
        text: The text of tokens.
        first_timestamp: The token of 0.00; later ones are timestamps.
        fallbacks: When a window is transcribed again.
        prompt: Tokens that are given as what was said before: to each window or, with `condition`, before all.
        condition: Whether the tokens of earlier segments are given as what was said before, unless the window before
            was transcribed at a temperature of 0.5 or more.
        most_before: How many such tokens are given at most, the last ones.
        seconds: The length of a frame.
    """
    before, seek, low = list(prompt), 0, True
    while seek < len(frames):
        part = frames[seek : seek + window]
        encoded = encode(np.pad(part, ((0, window - len(part)), (0, 0))))
        given = before[max(0, len(before) - most_before) :] if low else []
        attempt, temperature, skipped = _with_fallbacks(decode, encoded, given, text, fallbacks)
        if skipped:
            seek += len(part)
            continue
        found, offset = _segments(attempt.tokens, first_timestamp, len(part), stride, seconds)
        yield from (Segment(seek * seconds + a, seek * seconds + b, ids, temperature) for a, b, ids in found)
        seek += offset
        if condition:
            low = temperature < 0.5
            for _, _, ids in found:
                twice = len(ids) > 2 and min(ids[-2:]) >= first_timestamp  # the second begins the next one
                before += ids[:-1] if twice else ids


def _with_fallbacks(
    decode: Decode, encoded: Any, before: Sequence[int], text: Callable[[Sequence[int]], str], fallbacks: Fallbacks
) -> tuple[Attempt, float, bool]:
    """The attempt at the first temperature that is good enough, else at the last; whether it is no speech."""
    limit, attempt, temperature = fallbacks.log_probability, None, 0.0
    for temperature in fallbacks.temperatures:
        attempt = decode(encoded, before, temperature)
        is_low = limit is not None and attempt.log_probability < limit
        if is_low and fallbacks.no_speech is not None and attempt.no_speech > fallbacks.no_speech:
            return attempt, temperature, True
        most = fallbacks.compression_ratio
        if not is_low and (most is None or compression_ratio(text(attempt.tokens)) <= most):
            break
    if attempt is None:
        raise ValueError("fallbacks.temperatures=() must hold at least one temperature, such as 0.0")
    return attempt, temperature, False


def compression_ratio(text: str) -> float:
    """How many times shorter zlib makes the text, in bytes of UTF-8."""
    content = text.encode()
    return len(content) / len(zlib.compress(content))


def _segments(
    tokens: list[int], first_timestamp: int, frames: int, stride: int, seconds: float
) -> tuple[list[tuple[float, float, list[int]]], int]:
    """The segments of a window of so many frames, in seconds from its begin; and where the next window begins."""
    is_time = [token >= first_timestamp for token in tokens]
    second = lambda token: (token - first_timestamp) * SECONDS
    ends = [index + 1 for index in range(len(tokens) - 1) if is_time[index] and is_time[index + 1]]
    if not ends:  # the whole window is one segment
        times = [token for token, each in zip(tokens, is_time, strict=True) if each]
        end = second(times[-1]) if times and times[-1] != first_timestamp else frames // stride * seconds * stride
        return [(0.0, end, tokens)], frames
    single = is_time[-2:] == [False, True]  # nothing is said after the last timestamp
    if single:
        ends.append(len(tokens))
    else:
        ends[-1] += 1  # with the timestamp at which the next window begins
    found, begin = [], 0
    for end in ends:
        part = tokens[begin:end]
        last = part[-1 if end != ends[-1] or single else -2]
        found.append((second(part[0]), second(last), part))
        begin = end
    return found, frames if single else (tokens[begin - 2] - first_timestamp) * stride
