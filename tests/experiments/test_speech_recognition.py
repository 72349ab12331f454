"""Transcripts of sound files by a trained model, for many variations of the recording."""

import json
import math

import numpy as np
import pytest
import soundfile

from experiments.speech_recognition import main
from research import config as configs
from research.command import Failure
from research.data import prepare
from research.data.sound import audio
from research.data.sound.builders import dial_tones
from research.tasks import speech
from tests.experiments.conftest import ROOT

CONFIG = str(ROOT / "configs/speech_recognition/fsdd_strings.py")
SETTINGS = (
    "train.steps=1000", "train.eval_every=1000", "train.checkpoint_every=1000", "train.ema=0.9", "data.noise=0.5",
    "model.width=48", "model.dropout=0.0", "optimizer.learning_rate=4e-3", "optimizer.warmup_steps=40",
    "data.long_sounds=split", "data.frequency_masks=0",
)  # fmt: skip


def dialled(digits, gap=0.04):
    silence = np.zeros(round(gap * dial_tones.RATE), np.float32)
    parts = [silence, *(part for digit in digits for part in (dial_tones.tone(digit, 75), silence))]
    room = np.random.default_rng(0).normal(0, 1e-3, sum(map(len, parts)))
    return np.concatenate(parts) + room.astype(np.float32)


def words(digits):
    return " ".join(dial_tones.WORDS[digit] for digit in digits)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("speech")
    prepare.prepare("dial_tones", data_dir=str(root))
    config = configs.load(CONFIG, "smoke", (*SETTINGS, f"data.dir={root}"))
    result = main.main(config, str(root / "run"), "train")
    return config, str(root / "run"), result


def hear(trained, files, **task_settings):
    config, workdir, _ = trained
    overrides = [f"task.{key}={value}" for key, value in task_settings.items()]
    config = configs.load(CONFIG, "smoke", (*config.source.overrides, *overrides))
    return list(main.transcribe(config, *config.build(), workdir, [str(file) for file in files]))


@pytest.mark.long
def test_altered_recordings_say_the_same(trained, tmp_path):
    assert trained[2]["metrics"]["test/wer"] < 10
    assert set(trained[2]["metrics"]) >= {"test/wer_speaker_quick", "test/wer_speaker_slow", "test/cer"}
    digits = (3, 1, 4)
    plain, rng = dialled(digits), np.random.default_rng(0)
    noisy = audio.add_noise(plain, 20, rng)
    fast = audio.resample(plain, 8000, 44_100)
    alterations = {
        "plain.wav": (plain, 8000, "PCM_16"),
        "quiet.wav": (0.02 * plain, 8000, "PCM_24"),
        "loud.wav": (5 * plain, 8000, "FLOAT"),
        "noisy.flac": (noisy, 8000, "PCM_16"),
        "fast.wav": (fast, 44_100, "PCM_16"),
        "stereo.flac": (np.stack([fast, 0.5 * fast], 1), 44_100, "PCM_24"),
    }
    for name, (samples, rate, subtype) in alterations.items():
        soundfile.write(tmp_path / name, samples, rate, subtype=subtype)
    results = hear(trained, [tmp_path / name for name in alterations])
    assert {name: each.text for name, each in zip(alterations, results, strict=True)} == dict.fromkeys(
        alterations, words(digits)
    )
    assert all(0.5 < each.confidence <= 1 and 0 < each.real_time_factor < 5 for each in results)
    for decoder in ("beam", "greedy"):
        assert hear(trained, [tmp_path / "plain.wav"], decoder=decoder)[0].text == words(digits)


@pytest.mark.long
def test_a_long_sound_is_recognised_in_parts(trained, tmp_path, capsys):
    digits = (5, 0, 2, 8, 6, 7, 9, 1)
    soundfile.write(tmp_path / "long.wav", dialled(digits, gap=0.2), 8000)
    assert hear(trained, [tmp_path / "long.wav"])[0].text == words(digits)
    assert (
        "long.wav' is 2.4 s long, longer than config.data.max_seconds=1.2: it is split into" in capsys.readouterr().err
    )


@pytest.mark.long
def test_one_bad_file_among_good_ones_is_named_and_the_others_are_recognised(trained, tmp_path, capsys):
    soundfile.write(tmp_path / "good.wav", dialled((1,)), 8000)
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    config, workdir, _ = trained
    with pytest.raises(ValueError, match=r"sound '.*bad.wav' cannot be decoded"):
        main.main(config, workdir, "predict", [str(tmp_path / "bad.wav")])
    with pytest.raises(Failure, match="1 of 2 inputs are invalid"):
        main.main(config, workdir, "predict", [str(tmp_path)], str(tmp_path / "out.jsonl"))
    said = capsys.readouterr()
    assert said.out.startswith(f"{tmp_path / 'good.wav'}: one (")
    assert f"{tmp_path / 'bad.wav'}: cannot be decoded" in said.err
    bad, good = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert good["text"] == "one" and 0.5 < good["confidence"] <= 1 and "cannot be decoded" in bad["error"]


def test_confidence_is_the_mean_probability_of_a_token():
    config = configs.load(CONFIG, "smoke")
    tokens, scores = np.array([[7, 8, 1, 0], [9, 1, 0, 0]]), np.array([3 * math.log(0.9), 2 * math.log(0.9)])
    task = config.build()[0]
    assert main.confidence(task, tokens, scores) == pytest.approx(0.9)
    beam = configs.load(CONFIG, "smoke", ["task.decoder=beam", "task.length_penalty=0.7"])
    penalised = scores / ((5 + np.array([3, 2])) / 6) ** 0.7
    assert main.confidence(beam.build()[0], tokens, penalised) == pytest.approx(0.9)
    assert main.confidence(task, np.zeros((1, 4), int), np.array([-0.5])) == pytest.approx(math.exp(-0.5))
    # A part that says nothing counts beside one of two tokens.
    silent = main.confidence(task, np.array([[7, 8, 0, 0], [0, 0, 0, 0]]), np.log([0.81, 0.3]))
    assert silent == pytest.approx((0.81 * 0.3) ** (1 / 3))


def test_every_size_of_the_config_reaches_the_task():
    config = configs.load(CONFIG, "cpu", ["data.dir=/nowhere"])
    task, data = config.build()
    assert isinstance(task, speech.SpeechTask) and task.model.spec.downsampling == 4 and task.source_length == 120
    assert task.example(2)["source"].shape == (2, 480, 40) and data.frames == 640  # to learn from, and at most
    without = configs.load(CONFIG, "cpu", ["task.ctc_weight=0.0", "task.decoder=greedy"])
    assert task.model.ctc and not without.build()[0].model.ctc
