"""Zero-shot transcription with a Whisper in a folder of Hugging Face: its weights, its tokens, what it suppresses."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from research import config as config_lib
from research.data.sound import audio
from research.data.sound.files import Sound
from research.data.text.whisper_words import WhisperVocabulary
from research.interop import checkpoints, loading, preprocessing, strict_json
from research.models import whisper_decoding
from research.models.speech import Recogniser
from research.tasks import long_form

_GENERATION = "generation_config.json"
_SMALLEST_OF_MANY = 51_865  # tokens of a published model that knows more than one language


@dataclasses.dataclass(frozen=True)
class Generation:
    """What generation_config.json says, in the place of OpenAI's code.

    Attributes:
        suppress: Tokens that are never written.
        suppress_first: Tokens that are not written first.
        max_initial: The highest first timestamp, in steps of 0.02 s; None: any.
        multilingual: Whether a prompt names language and task.
    """

    suppress: tuple[int, ...]
    suppress_first: tuple[int, ...]
    max_initial: int | None
    multilingual: bool


@dataclasses.dataclass(frozen=True)
class Settings:
    """How is transcribed.

    Attributes:
        language: A code such as "en"; empty: the most likely one of the first window.
        task: "transcribe", or "translate", into English.
        timestamps: Whether segments have times.
        prompt: A text that is given as what was said before.
        condition: Whether earlier windows are given as what was said before, see long_form.transcribe.
        fallbacks: When a window is transcribed again.
        seed: Of the draws at temperatures above 0.
    """

    language: str = ""
    task: str = "transcribe"
    timestamps: bool = False
    prompt: str = ""
    condition: bool = False
    fallbacks: long_form.Fallbacks = dataclasses.field(default_factory=long_form.Fallbacks)
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Transcript:
    """The language, and the segments of a sound."""

    language: str
    segments: tuple[long_form.Segment, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Whisper:
    """A model with its words; `transcribe` takes sounds of any length and rate."""

    model: Recogniser
    variables: Any
    words: WhisperVocabulary
    mel: audio.LogMel
    generation: Generation

    @property
    def window(self) -> int:
        """The frames that the model takes, 30 s in published ones."""
        return self.model.max_source_length * self.model.spec.downsampling

    def spectrogram(self, sound: Sound) -> np.ndarray:
        """float32 [frames, mels]; silence follows a sound that is shorter than a window."""
        samples = audio.resample(sound.samples, sound.rate, self.mel.rate)
        missing = self.window * self.mel.hop - len(samples)
        return self.mel(np.pad(samples, (0, max(missing, 0))))

    def transcribe(self, sound: Sound, settings: Settings = Settings()) -> Transcript:
        """What is said in a sound. Raises ValueError for a language or task that the model does not know."""
        return self.transcribe_frames(self.spectrogram(sound), settings)

    def transcribe_frames(self, frames: np.ndarray, settings: Settings = Settings()) -> Transcript:
        """As `transcribe`, of a spectrogram [frames, mels]."""
        encode = lambda window: self._encode(self.variables, window[None].astype(np.float32))
        language = settings.language
        if not self.generation.multilingual:
            if language or settings.task != "transcribe":
                raise ValueError(
                    "this model knows one language alone and cannot translate; leave out language, and task"
                )
        elif not language:
            language = self.language(encode(_padded(frames[: self.window], self.window)))
        prompt = self.words.prompt(language, settings.task, settings.timestamps)
        length = self.model.max_target_length
        before = self.words.encode(f" {settings.prompt.strip()}") if settings.prompt.strip() else []
        segments = long_form.transcribe(
            frames, self.window, self.model.spec.downsampling, encode, self._decoder(prompt, settings),
            self.words.decode, self.words.no_timestamps + 1, settings.fallbacks, before, settings.condition,
            length // 2 - 1, self.mel.hop / self.mel.rate,
        )  # fmt: skip
        return Transcript(language, tuple(segments))

    def language(self, encoded: jax.Array) -> str:
        """The code of the most likely language of an encoded window."""
        logits = np.asarray(self._first(self.variables, encoded))[0]
        return max(self.words.languages, key=lambda code: logits[self.words.languages[code]])

    def _decoder(self, prompt: Sequence[int], settings: Settings) -> long_form.Decode:
        """Transcribes a window after a prompt; each call draws anew."""
        numbers, length = itertools.count(), self.model.max_target_length
        rules = whisper_decoding.Rules(
            self.words.eos, self.words.no_timestamps, settings.timestamps, self.generation.suppress,
            self.generation.suppress_first, self.generation.max_initial,
        )  # fmt: skip

        def decode(encoded: jax.Array, before: Sequence[int], temperature: float) -> long_form.Attempt:
            given = [*self.words.before(before), *prompt]
            tokens = np.zeros((1, length), np.int32)
            tokens[0, : len(given)] = given
            rng = jax.random.fold_in(jax.random.key(settings.seed), next(numbers))
            start = len(given) - len(prompt)
            found = self._write(self.variables, encoded, tokens, len(given), start, temperature, rng, rules=rules)
            written = np.asarray(found.tokens)[0, len(given) : int(found.ends[0])].tolist()
            mean = float(found.log_probability[0]) / max(len(written), 1)
            ended = written[-1:] == [self.words.eos]
            return long_form.Attempt(written[:-1] if ended else written, mean, float(found.no_speech[0]))

        return decode

    @functools.cached_property
    def _encode(self) -> Callable[..., jax.Array]:
        return jax.jit(lambda variables, frames: self._apply(variables, "encode", frames, *self._rows(len(frames))))

    @functools.cached_property
    def _first(self) -> Callable[..., jax.Array]:
        """Logits [rows, vocab] of what follows <|startoftranscript|>."""

        def first(variables: Any, encoded: jax.Array) -> jax.Array:
            one = jnp.ones((len(encoded), 1), jnp.int32)
            segments, _ = self._rows(len(encoded))
            return self._apply(variables, "decode", encoded, segments, self.words.start * one, one, 0 * one)[:, 0]

        return jax.jit(first)

    @functools.cached_property
    def _write(self) -> Callable[..., whisper_decoding.Decoded]:
        def write(variables, encoded, tokens, count, start, temperature, rng, rules):
            segments, _ = self._rows(len(encoded))
            cache = self._apply(variables, "init_cache", encoded, segments, self.model.max_target_length)
            step = lambda *args: self._apply(variables, "decode_step", *args)
            no_speech = self.words.no_speech
            return whisper_decoding.transcribe(step, cache, tokens, count, start, rules, no_speech, temperature, rng)

        return jax.jit(write, static_argnames="rules")

    def _apply(self, variables: Any, method: str, *args: Any) -> Any:
        return cast(Any, self.model.apply(variables, *args, method=method))

    def _rows(self, count: int) -> tuple[jax.Array, jax.Array]:
        """Segments and positions of `count` whole windows."""
        shape = count, self.model.max_source_length
        return jnp.ones(shape, jnp.int32), jnp.broadcast_to(jnp.arange(shape[1]), shape)


def _padded(frames: np.ndarray, length: int) -> np.ndarray:
    return np.pad(frames, ((0, length - len(frames)), (0, 0)))


def open_whisper(path: str, experiments: config_lib.Experiments) -> Whisper:
    """The Whisper in a folder with config.json, .safetensors and tokenizer.json; generation_config.json is used, too.

    Raises ValueError, in one line, for what is absent or damaged, and for models of other kinds.
    """
    checkpoint = checkpoints.open_checkpoint(path, experiments)
    if checkpoint.kind != "whisper":
        raise ValueError(f"{path} is of the kind {checkpoint.kind!r}; only folders of whisper are transcribed with")
    folder, model = checkpoints.folder_of(checkpoint), cast(Recogniser, checkpoint.make_model())
    file = folder / checkpoints.TOKENIZER
    if not file.is_file():
        raise ValueError(f"{file} is missing; copy it from where the weights come from")
    words = WhisperVocabulary(file, model.vocab_size)
    mels = checkpoints.channels(checkpoint)
    sound = preprocessing.of_sounds(folder, mels, model.max_source_length * model.spec.downsampling)
    names = {field.name for field in dataclasses.fields(audio.MelSpec)}
    spec = audio.MelSpec(
        **{name: value for name, value in sound.items() if name in names}, normalise="whisper", pad_mode="reflect"
    )
    shapes = loading.abstract(model, mels)
    plan = loading.plan(checkpoint, model, loading.leaves_of(shapes), exact=True)
    return Whisper(model, jax.device_put(plan.variables(shapes)), words, audio.LogMel(spec), generation(folder, words))


def generation(folder: Path, words: WhisperVocabulary) -> Generation:
    """What generation_config.json in a folder says; without it, as OpenAI's code does but for punctuation.

    Raises ValueError for values of another type.
    """
    file = folder / _GENERATION
    first = (*words.encode(" "), words.eos)
    if not file.is_file():
        return Generation(words.of_prompts, first, 50, words.size >= _SMALLEST_OF_MANY)
    found = strict_json.read(file)
    limit, many = (
        found.get("max_initial_timestamp_index"),
        found.get("is_multilingual", words.size >= _SMALLEST_OF_MANY),
    )
    if not (limit is None or (isinstance(limit, int) and 0 <= limit < 1500)) or not isinstance(many, bool):
        raise ValueError(
            f"{file}: max_initial_timestamp_index={limit!r} must be a number from 0 to 1499, and is_multilingual="
            f"{many!r} true or false"
        )
    suppress, suppress_first = (_tokens(file, found, name, words.size) for name in ("suppress", "begin_suppress"))
    return Generation(suppress, suppress_first, limit, many)


def _tokens(file: Path, found: Mapping[str, Any], name: str, size: int) -> tuple[int, ...]:
    tokens = found.get(f"{name}_tokens") or []
    if not isinstance(tokens, list) or not all(isinstance(token, int) and 0 <= token < size for token in tokens):
        raise ValueError(f"{file}: {name}_tokens must be a list of tokens below {size:,}")
    return tuple(tokens)


def lines(transcript: Transcript, words: WhisperVocabulary, timestamps: bool) -> Iterator[str]:
    """The text, or a line for each segment: `[0.00 --> 3.20] text`."""
    texts = [words.decode(segment.tokens).strip() for segment in transcript.segments]
    if not timestamps:
        yield " ".join(filter(None, texts))
        return
    for segment, text in zip(transcript.segments, texts, strict=True):
        yield f"[{segment.start:.2f} --> {segment.end:.2f}] {text}"
