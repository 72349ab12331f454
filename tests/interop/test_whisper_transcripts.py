"""A Whisper as it is: what it writes, token for token what transformers generates; windows, fall-backs, bad folders."""

import json
import math
import re

import jax
import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from experiments.speech_recognition import whisper as command
from research.cli.experiments import config_class
from research.data.sound.files import Sound
from research.interop import whisper
from research.models.whisper_decoding import Rules, Written
from research.tasks import long_form
from tests.interop import reference
from tests.interop.reference import torch

pytestmark = pytest.mark.usefixtures("quick_compilation")
# 40 tokens of text and then those of prompts, as in published ones; 30 timestamps up to 0.58 s, windows of 0.4 s.
NAMES = (
    "endoftext", "startoftranscript", "en", "de", "translate", "transcribe", "startoflm", "startofprev", "nospeech",
    "notimestamps",
)  # fmt: skip
EOS, START, DE, TRANSCRIBE, BEFORE, NO_SPEECH, NO_TIMES = 40, 41, 43, 45, 47, 48, 49
VOCABULARY, WINDOW, LENGTH, MELS = 80, 40, 28, 10
SUPPRESS, FIRST, INITIAL = (1, 2, 44, 46, 47), (3, EOS), 8
GREEDY = long_form.Fallbacks((0.0,), None, None, None)


def tokenizer():
    """40 letters, each a token, and the special tokens; a space is "Ġ", as in GPT-2."""
    letters = ["Ġ", *"abcdefghijklmnopqrstuvwxyz0123456789.,?"][:40]
    made = tokenizers.Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens([f"<|{name}|>" for name in NAMES])
    return made


def generation_settings():
    return {
        "suppress_tokens": list(SUPPRESS), "begin_suppress_tokens": list(FIRST), "max_initial_timestamp_index": INITIAL,
        "is_multilingual": True, "no_timestamps_token_id": NO_TIMES, "prev_sot_token_id": BEFORE, "max_length": LENGTH,
        "lang_to_id": {"<|en|>": 42, "<|de|>": DE}, "task_to_id": {"translate": 44, "transcribe": TRANSCRIBE},
        "return_timestamps": False, "decoder_start_token_id": START, "eos_token_id": EOS, "pad_token_id": EOS,
        "bos_token_id": EOS,
    }  # fmt: skip


def write(folder, theirs):
    reference.save(theirs, folder)
    tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "generation_config.json").write_text(json.dumps(generation_settings()))
    return folder


@pytest.fixture(scope="module")
def theirs():
    made = reference.whisper(
        vocab_size=VOCABULARY, max_source_positions=WINDOW // 2, max_target_positions=LENGTH, eos_token_id=EOS,
        pad_token_id=EOS, bos_token_id=EOS, decoder_start_token_id=START,
    )  # fmt: skip
    with torch.no_grad():
        made.model.decoder.embed_tokens.weight *= 0.25  # else the tied logits are largest for the token that was read
        made.model.decoder.embed_positions.weight *= 2
        made.model.decoder.embed_tokens.weight[EOS] *= 2.5  # so that transcripts end, some early
    for name, value in generation_settings().items():
        setattr(made.generation_config, name, value)
    return made.eval()


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    return write(tmp_path_factory.mktemp("whisper"), theirs)


@pytest.fixture(scope="module")
def ours(folder):
    return whisper.open_whisper(str(folder), config_class)


def spectrogram(frames, seed=0):
    return np.random.default_rng(seed).normal(0, 1.5, (frames, MELS)).astype(np.float32)


def generate(theirs, frames, **options):
    with torch.no_grad():
        features = torch.tensor(frames[None]).mT.contiguous()
        return theirs.generate(features, task="transcribe", temperature=0.0, **options)


@pytest.mark.parametrize("timestamps", [False, True])
def test_a_window_is_transcribed_token_for_token_as_by_transformers(theirs, ours, timestamps):
    prompt, found = ours.words.prompt("de", "transcribe", timestamps), []
    decode = ours._decoder(prompt, whisper.Settings("de", timestamps=timestamps))
    for seed in range(6):
        frames = spectrogram(WINDOW, seed)
        expected = generate(
            theirs, frames, language="de", return_timestamps=timestamps, force_unique_generate_call=True
        )[0].tolist()
        assert expected[: len(prompt)] == prompt
        attempt = decode(ours._encode(ours.variables, frames[None]), (), 0.0)
        written = expected[len(prompt) :]
        written = written[: written.index(EOS)] if EOS in written else written
        assert attempt.tokens == written
        assert not timestamps or NO_TIMES < written[0] <= NO_TIMES + 1 + INITIAL
        found.append(tuple(written))
    assert len(set(found)) > 3 and len(set(map(len, found))) > 1


def test_probabilities_are_those_of_transformers(theirs, ours):
    """The mean log-probability as its fall-backs take it, and that of no speech, by the plain model."""
    frames, prompt = spectrogram(WINDOW, 3), ours.words.prompt("de", "transcribe", False)
    attempt = ours._decoder(prompt, whisper.Settings("de"))(ours._encode(ours.variables, frames[None]), (), 0.0)
    tokens = [*prompt, *attempt.tokens, *([EOS] if len(attempt.tokens) + len(prompt) < LENGTH else [])]
    with torch.no_grad():
        logits = theirs(torch.tensor(frames[None]).mT, decoder_input_ids=torch.tensor([tokens])).logits[0].numpy()
    assert math.isclose(attempt.no_speech, np.exp(logits[0] - np.logaddexp.reduce(logits[0]))[NO_SPEECH], rel_tol=1e-4)
    total = 0.0
    for index in range(len(prompt), len(tokens)):
        row = logits[index - 1].astype(float)
        row[list(SUPPRESS) + (list(FIRST) if index == len(prompt) else [])] = -np.inf
        total += row[tokens[index]] - np.logaddexp.reduce(row)
    assert math.isclose(attempt.log_probability, total / (len(tokens) - len(prompt)), rel_tol=1e-3)


@pytest.mark.parametrize(("condition", "count"), [(False, 130), (True, 170)])
def test_long_sounds_have_the_segments_of_transformers(theirs, ours, condition, count):
    frames = spectrogram(count, 5)
    expected = generate(
        theirs, frames, language="de", return_timestamps=True, return_segments=True, condition_on_prev_tokens=condition,
    )["segments"][0]  # fmt: skip
    settings = whisper.Settings("de", timestamps=True, condition=condition, fallbacks=GREEDY)
    found = ours.transcribe_frames(frames, settings).segments
    assert len(found) > 2 and [each.tokens for each in found] == [each["tokens"].tolist() for each in expected]
    for one, other in zip(found, expected, strict=True):
        assert math.isclose(one.start, float(other["start"]), abs_tol=1e-6)
        assert math.isclose(one.end, float(other["end"]), abs_tol=1e-6)


def test_the_language_is_that_of_transformers(theirs, ours):
    codes = set()
    for seed in range(8):
        frames = spectrogram(WINDOW, seed)
        with torch.no_grad():
            expected = int(theirs.detect_language(torch.tensor(frames[None]).mT)[0])
        code = ours.transcribe_frames(frames, whisper.Settings(fallbacks=GREEDY)).language
        assert ours.words.languages[code] == expected
        codes.add(code)
    assert codes == {"en", "de"}


def test_a_prompt_comes_before_the_start(theirs, ours):
    frames = spectrogram(WINDOW, 2)
    given = [BEFORE, *ours.words.encode(" zoe")]
    expected = generate(theirs, frames, language="de", prompt_ids=torch.tensor(given), force_unique_generate_call=True)[
        0
    ].tolist()
    settings = whisper.Settings("de", prompt="zoe", fallbacks=GREEDY)
    (segment,) = ours.transcribe_frames(frames, settings).segments
    written = expected[expected.index(START) + 4 :]
    assert segment.tokens == (written[: written.index(EOS)] if EOS in written else written)


def test_rules_of_timestamps_by_a_table():
    """Which tokens may follow, of 4 of text, an end, no-timestamps and 5 timestamps."""
    rules = Rules(eos=4, no_timestamps=5, timestamps=True, max_initial=1)
    text, times = set(range(4)), set(range(6, 11))
    cases = [
        ((), {6, 7}),  # the first is a timestamp, and an early one
        ((7,), text | {4, 5} - {5}),  # text follows the begin of a segment
        ((7, 0), text | {4} | {8, 9, 10}),  # or, after text, its end, which is later
        ((7, 0, 8), {4} | {8, 9, 10}),  # then the begin of the next, not before, or the end
        ((7, 0, 8, 8), text | {4}),
        ((7, 0, 8, 8, 1), text | {4} | {9, 10}),
    ]
    for written, expected in cases:
        is_time = [token > 5 for token in written]
        state = Written(
            np.array(not written),
            np.array([bool(is_time and is_time[-1])]),
            np.array([len(written) < 2 or is_time[-2]]),
            np.array([max((t for t in written if t > 5), default=-1)]),
        )
        # Text is far more likely, so that the sum of timestamps does not decide.
        logits = np.where(np.isin(np.arange(11), list(times)), -9.0, 1.0).astype(np.float32)[None]
        assert set(np.flatnonzero(np.isfinite(np.asarray(rules(logits, state)))[0])) == expected, written
    state = Written(np.array(False), np.array([False]), np.array([True]), np.array([6]))
    likely = np.zeros((1, 11), np.float32)  # four timestamps of equal shares are more likely than any other token
    assert set(np.flatnonzero(np.isfinite(np.asarray(rules(likely, state)))[0])) == {7, 8, 9, 10}


def attempts(answers, **settings):
    """The temperatures that are tried, and what is kept, of attempts [(text, log-probability, no speech), ...]."""
    tried = []

    def decode(encoded, before, temperature):
        text, *rest = answers[len(tried)]
        tried.append(temperature)
        return long_form.Attempt([ord(letter) for letter in text], *rest)

    text = lambda tokens: "".join(map(chr, tokens))
    frames = np.zeros((10, 1), np.float32)
    fallbacks = long_form.Fallbacks((0.0, 0.2, 0.4), **settings)
    found = list(long_form.transcribe(frames, 10, 2, lambda window: window, decode, text, 1000, fallbacks))
    return tried, [(text(each.tokens), each.temperature) for each in found]


def test_fall_backs_are_those_of_the_paper():
    assert attempts([("good", -0.5, 0.9)]) == ([0.0], [("good", 0.0)])  # likely, whatever no speech says
    assert attempts([("a" * 99, -0.1, 0), ("bad", -1.1, 0), ("good", -1, 0)]) == ([0.0, 0.2, 0.4], [("good", 0.4)])
    assert attempts([("x", -2, 0)] * 3) == ([0.0, 0.2, 0.4], [("x", 0.4)])  # the last one is kept
    assert attempts([("x", -1.1, 0.61)]) == ([0.0], [])  # nothing is said
    assert attempts([("x", -1.1, 0.61)], no_speech=None, log_probability=None) == ([0.0], [("x", 0.0)])
    assert attempts([("a" * 99, -0.1, 0)], compression_ratio=None) == ([0.0], [("a" * 99, 0.0)])
    assert long_form.compression_ratio("ab" * 200) > 2.4 > long_form.compression_ratio("what is said once") > 0


def test_draws_depend_on_the_seed_alone(ours):
    hot = long_form.Fallbacks((1.0,), None, None, None)
    tokens = lambda seed: (
        ours.transcribe_frames(spectrogram(90), whisper.Settings("en", fallbacks=hot, seed=seed)).segments
    )
    assert tokens(0) == tokens(0) != tokens(1)


def test_short_sounds_are_followed_by_silence(ours):
    rate = ours.mel.rate
    sound = np.random.default_rng(0).normal(0, 0.1, rate // 10).astype(np.float32)
    frames = ours.spectrogram(Sound(sound, rate))
    assert frames.shape == (WINDOW, MELS) and np.ptp(frames[-5:]) < 1e-6 < np.ptp(frames[:5])
    assert len(ours.spectrogram(Sound(np.tile(sound, 30), rate))) == 300


# ---- Commands.


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed")
    path = tmp_path_factory.mktemp("sounds")
    for name, seconds in (("a", 0.3), ("b", 1.1)):
        samples = np.random.default_rng(len(name)).normal(0, 0.1, int(16_000 * seconds))
        soundfile.write(path / f"{name}.wav", samples, 16_000)
    (path / "c.wav").write_text("no sound")
    return path


def test_a_folder_of_sounds_is_transcribed(folder, ours, sounds, tmp_path, capsys):
    out = tmp_path / "said.jsonl"
    words = [str(folder), str(sounds), "--language=de", "--timestamps", "--temperatures", "0", f"--out={out}"]
    with pytest.raises(Exception, match="1 of 3 inputs could not be transcribed"):
        command.main(words)
    lines = capsys.readouterr().out.splitlines()
    assert lines and all(re.match(r".*/[ab]\.wav: \[\d\.\d\d --> \d\.\d\d\]", line) for line in lines)
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [each["input"][-5:] for each in records] == ["a.wav", "b.wav", "c.wav"] and "error" in records[2]
    assert len(lines) == sum(len(each.get("segments", ())) for each in records)
    command.main([str(folder), f"{sounds}/a.wav", "--language=de"])
    assert capsys.readouterr().out.startswith(f"{sounds}/a.wav: ")


def broken(tmp_path, theirs, change):
    folder = write(tmp_path, theirs)
    change(folder)
    return lambda: whisper.open_whisper(str(folder), config_class)


def settings_with(**changes):
    def change(folder):
        (folder / "generation_config.json").write_text(json.dumps(generation_settings() | changes))

    return change


def other_tokens(folder):
    made = tokenizers.Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    made.save(str(folder / "tokenizer.json"))


def many_tokens(folder):
    made = tokenizer()
    made.add_special_tokens([f"<|{number}|>" for number in range(40)])
    made.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing; copy it"),
        (other_tokens, "has no token <|endoftext|>, so it is not of a Whisper"),
        (many_tokens, "has 90 tokens and timestamps from 50 on, but the model has 80"),
        (settings_with(suppress_tokens=[80]), "suppress_tokens must be a list of tokens below 80"),
        (settings_with(begin_suppress_tokens="a"), "begin_suppress_tokens must be a list of tokens below 80"),
        (settings_with(max_initial_timestamp_index=-1), "max_initial_timestamp_index=-1 must be a number"),
    ],
)  # fmt: skip
def test_a_folder_that_does_not_fit_is_refused_in_one_line(tmp_path, theirs, change, message):
    with pytest.raises(ValueError) as caught:
        broken(tmp_path, theirs, change)()
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_model_does_not_know_is_refused(tmp_path, theirs, ours):
    with pytest.raises(ValueError, match="language 'xx' is unknown; choose from en, de"):
        ours.transcribe_frames(spectrogram(WINDOW), whisper.Settings("xx"))
    with pytest.raises(ValueError, match="--temperatures="):
        command.parsed(["folder", "a.wav", "--temperatures", "-1"])
    one = broken(tmp_path, theirs, settings_with(is_multilingual=False))()
    with pytest.raises(ValueError, match="this model knows one language alone"):
        one.transcribe_frames(spectrogram(WINDOW), whisper.Settings("en"))
    assert one.transcribe_frames(spectrogram(WINDOW), whisper.Settings(fallbacks=GREEDY)).language == ""


def test_without_generation_config_prompts_are_suppressed(tmp_path, theirs):
    made = broken(tmp_path, theirs, lambda folder: (folder / "generation_config.json").unlink())()
    assert set(made.generation.suppress) == {START, BEFORE, TRANSCRIBE, 44, NO_SPEECH}
    assert made.generation.suppress_first == (0, EOS) and made.generation.max_initial == 50
    assert made.words.decode([9, 0, 10, EOS, NO_TIMES + 3]) == "i j" and jax.tree.leaves(made.variables)
