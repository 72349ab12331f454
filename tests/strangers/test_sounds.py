"""Folders of sounds as people have them: what is read, what is refused, and what is left out and counted."""

import io
import struct
import unicodedata

import av
import numpy as np
import pytest
import soundfile

from research.data.sound import files as sound_files
from tests.running import run

RATE = 16_000
MAIN, CONFIG = "experiments.speech_recognition.main", "configs/speech_recognition/fsdd_strings.py:smoke"


def tone(seconds=0.3, rate=RATE, hertz=440.0):
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def encoded(samples=None, rate=RATE, **options):
    buffer = io.BytesIO()
    soundfile.write(buffer, tone() if samples is None else samples, rate, **({"format": "WAV"} | options))
    return buffer.getvalue()


def coded(path, samples, rate, codec="aac"):
    """A file as a phone writes it, by PyAV."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def power(samples):
    return float(np.mean(np.square(samples, dtype=np.float64)))


def loudest_hertz(sound):
    return np.argmax(np.abs(np.fft.rfft(sound.samples))) * sound.rate / len(sound.samples)


def folder(root, count=6, table=None, name="transcripts.tsv", **more):
    """`count` sounds and their list below `root`, and `more` files of any bytes."""
    root.mkdir()
    for number in range(count):
        (root / f"{number}.wav").write_bytes(encoded(tone(hertz=300 + 50 * number)))
    for file, content in more.items():
        (root / file).write_bytes(content)
    lines = [f"{number}.wav\tword {number}\n" for number in range(count)]
    (root / name).write_text("".join(lines) if table is None else table, "utf-8")
    return root


def prepare(root, *flags):
    return run(["research.data", "prepare", f"folder:{root}", f"--data_dir={root.parent / 'data'}", *flags])


def refused(outcome):
    """The line that says what is wrong; progress may come before it."""
    assert outcome.code == 2 and "Traceback" not in outcome.err, outcome
    line = outcome.err.splitlines()[-1]
    assert line.startswith("error: ")
    return line


# ---- Files.


@pytest.mark.parametrize("weights", [(1, -1), (1, -0.9), (0.6, -0.5, 0, 0)])
def test_channels_that_cancel_each_other_are_not_silence(tmp_path, weights):
    channels = np.stack([weight * tone() for weight in weights], 1)
    (tmp_path / "a.wav").write_bytes(encoded(channels + 0.1, subtype="FLOAT"))  # an offset is inaudible
    sound = sound_files.read(tmp_path / "a.wav")
    np.testing.assert_allclose(sound.samples - 0.1, tone() * weights[0], atol=1e-6)


@pytest.mark.parametrize("weights", [(1, 0), (1, 1), (1, -0.4), (1, 0, 0, 0, 0, 0, 0, 0)])
def test_other_channels_become_their_mean(tmp_path, weights):
    (tmp_path / "a.wav").write_bytes(encoded(np.stack([weight * tone() for weight in weights], 1), subtype="FLOAT"))
    np.testing.assert_allclose(sound_files.read(tmp_path / "a.wav").samples, tone() * np.mean(weights), atol=1e-6)


@pytest.mark.parametrize(("suffix", "rate", "options", "tolerance"), [
    ("wav", 8000, {"subtype": "PCM_U8"}, 0.01), ("wav", 8000, {"subtype": "ULAW"}, 0.02),
    ("WAV", 48_000, {"subtype": "PCM_24"}, 1e-6), ("flac", 16_000, {"format": "FLAC"}, 1e-4),
    ("aiff", 16_000, {"format": "AIFF"}, 1e-4), ("mp3", 44_100, {"format": "MP3"}, 0.02),
    ("ogg", 16_000, {"format": "OGG"}, 0.05), ("opus", 48_000, {"format": "OGG", "subtype": "OPUS"}, 0.05),
])  # fmt: skip
def test_formats(tmp_path, suffix, rate, options, tolerance):
    path, expected = tmp_path / f"a.{suffix}", tone(1.0, rate)
    path.write_bytes(encoded(expected, rate, **options))
    sound = sound_files.read(path)
    assert sound.rate == rate and len(sound.samples) == rate
    np.testing.assert_allclose(sound.samples[2000:-2000], expected[2000:-2000], atol=tolerance)


@pytest.mark.parametrize("suffix", ["m4a", "mp4", "aac", "mka"])
def test_sounds_of_phones(tmp_path, suffix):
    sound = sound_files.read(coded(tmp_path / f"a.{suffix}", tone(1.0), RATE))
    assert sound.rate == RATE and RATE <= len(sound.samples) <= RATE + 3 * 1024
    assert loudest_hertz(sound) == pytest.approx(440, abs=2)
    assert power(sound.samples[4000:12_000]) == pytest.approx(power(tone()), rel=0.05)


def test_floating_samples_beyond_one_make_a_sound_quieter(tmp_path):
    (tmp_path / "a.wav").write_bytes(encoded(10 * tone(), subtype="FLOAT"))
    np.testing.assert_allclose(sound_files.read(tmp_path / "a.wav").samples, tone() / np.abs(tone()).max(), atol=1e-5)


@pytest.mark.parametrize(("whole", "size"), [
    (0xFFFFFFFF, 0xFFFFFFFF), (36, 0), (0, 0), (0x7FFFF024, 0x7FFFF000), (0x80000024, 0x80000000),
])  # fmt: skip
@pytest.mark.parametrize("between", [b"", b"LIST\x04\0\0\0INFO"])
def test_a_wav_file_of_unknown_length_is_read_to_its_end(tmp_path, whole, size, between):
    samples = (tone() * 32767).astype("<i2")
    form = struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    head = b"RIFF" + struct.pack("<I", whole) + b"WAVEfmt " + form + between + b"data" + struct.pack("<I", size)
    (tmp_path / "a.wav").write_bytes(head + samples.tobytes())
    np.testing.assert_array_equal(sound_files.to_int16(sound_files.read(tmp_path / "a.wav").samples), samples)


def without_page(content, number):
    """An Ogg file that lacks one of its pages."""
    begins = [place for place in range(len(content)) if content.startswith(b"OggS", place)]
    return content[: begins[number]] + content[begins[number + 1] :]


def damaged(tmp_path):
    """What the message must say -> the bytes of a file."""
    long = tone(5.0)
    coded(tmp_path / "whole.m4a", long, RATE)
    nan = np.where(np.arange(9000) == 7, np.nan, tone(9000 / RATE))
    whole = {kind: encoded(long, format=kind) for kind in ("WAV", "AIFF", "RF64", "FLAC", "OGG", "MP3")}
    cut = {f"{kind}: truncated|cannot be decoded": content[: len(content) // 2] for kind, content in whole.items()}
    return cut | {
        "is damaged: 1 of its pages are missing": without_page(encoded(np.tile(long, 20), format="OGG"), 3),
        "is empty: it has no bytes": b"",
        "is empty: it has no samples": encoded(np.zeros(0, np.float32)),
        "samples that are not finite": encoded(nan, subtype="FLOAT"),
        "samples that are not finite ": encoded(np.full(9000, 1e300), subtype="DOUBLE"),
        "silent": encoded(np.full(9000, 0.25, np.float32)),
        "silent ": encoded(1e-6 * tone(), subtype="FLOAT"),
        "too short: it lasts 4 ms; at least 50 are needed": encoded(tone(0.004)),
        "cannot be decoded": b"\0\0\0\x18ftypM4A ",
        "cannot be decoded ": (tmp_path / "whole.m4a").read_bytes()[:20_000],
        "cannot be decoded  ": b"<html>404</html>",
        "cannot be decoded   ": b"ID3" + bytes(1000),
        "cannot be decoded    ": np.random.default_rng(0).bytes(5000),
        "cannot be decoded     ": b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n",
    }


def test_damaged_files_are_named_in_one_line(tmp_path, capfd):
    for message, content in damaged(tmp_path).items():
        path = tmp_path / "bad.wav"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message.rpartition(": trunc")[2].strip()) as caught:
            sound_files.read(path)
        assert type(caught.value) is ValueError and str(caught.value).startswith(f"sound '{path}' "), message
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


# ---- Folders.


def test_counts_of_what_was_read_and_what_not(tmp_path):
    table = "".join(f"{number}.wav\tword\n" for number in range(4))
    table += "tiny.wav\tword\nabsent.wav\tword\n5.wav\t-\nbad.m4a\tword\nmute.wav\tword\n"
    files = {"tiny.wav": encoded(tone(0.004)), "bad.m4a": b"\0\0\0\x18ftypM4A ", "mute.wav": encoded(np.zeros(RATE))}
    root = folder(tmp_path / "own", table=table, **files, **{"._0.wav": b"\0\5\x16\7", "more.wav": encoded()})
    assert "tiny.wav' is too short" in refused(prepare(root)) and "--skip_undecodable" in refused(prepare(root))
    outcome = prepare(root, "--skip_undecodable")
    assert outcome.code == 0
    for part in (
        "train 4", "1 shorter than 0.05 s, left out (tiny.wav)", "1 absent, left out (absent.wav)",
        "1 without words, left out (5.wav)", "2 unusable, left out (bad.m4a, mute.wav)",
        "2 in no list, ignored (4.wav, more.wav)", "1 hidden, ignored",
    ):  # fmt: skip
        assert part in outcome.out, (part, outcome.out)


def test_nothing_left_is_refused(tmp_path):
    root = folder(tmp_path / "own", 0, "a.m4a\tone\nb.m4a\ttwo\n", **{"a.m4a": b"\0\0\0\x18ftyp", "b.m4a": b"no"})
    assert "a.m4a' cannot be decoded" in refused(prepare(root))
    assert "none of the 2 sounds can be used; the last one: sound" in refused(prepare(root, "--skip_undecodable"))


@pytest.mark.parametrize(("table", "message"), [
    ("../x.wav\tone\n", "line 1: '../x.wav' is outside"),
    ("0.wav\tone\nclips/../../x.wav\tone\n", "line 2: 'clips/../../x.wav' is outside"),
    ("..\\x.wav\tone\n", r"line 1: '..\\x.wav' is outside"),
    ("/etc/hostname\tone\n", "line 1: '/etc/hostname' is outside"),
    ("C:\\x.wav\tone\n", r"line 1: 'C:\\x.wav' is outside"),
    ("0.wav\tone\n./0.wav\ttwo\n", "'./0.wav' has two transcripts"),
    ("0.wav\t\n", "line 1: the transcript '' of '0.wav' has no words"),
    ("0.wav\t...\n", "line 1: the transcript '...' of '0.wav' has no words"),
    ("9.wav\tone\n", "transcripts.tsv has a transcript of '9.wav', but there is no such file"),
    ("\tone\n", "line 1 has no file name"),
    ("path\tsentence\n", "holds only a header"),
    ("path\tsentence\tage\n0.wav\tone\n", "line 2 has 2 tab-separated columns; it must have 3"),
])  # fmt: skip
def test_lists_that_are_wrong(tmp_path, table, message):
    (tmp_path / "x.wav").write_bytes(encoded())
    assert message in refused(prepare(folder(tmp_path / "own", table=table)))


def stored(root):
    """The (transcript, speaker, main frequency) of everything that was prepared of a folder."""
    from research.data import sources

    prepared = sources.Prepared(sources.open_builder(f"folder:{root}", str(root.parent / "data")), "x", 0.1)
    found = []
    for split in ("train", "validation", "test"):
        for index in range(prepared.counts[split]):
            example = prepared.source(split)[index]
            sound = sound_files.Sound(sound_files.to_float(example["audio"]), int(example["rate"]))
            found.append((example["text"].decode(), example["speaker"].decode(), round(loudest_hertz(sound), -1)))
    return sorted(found)


def test_names_as_other_systems_write_them(tmp_path):
    root = tmp_path / "own"
    (root / "clips").mkdir(parents=True)
    names = [unicodedata.normalize("NFD", "über.wav"), "CAPITAL.WAV", "clips/a.wav", "clips/b.wav", "clips/c.wav"]
    for number, name in enumerate(names):
        (root / name).write_bytes(encoded(tone(hertz=300 + 50 * number)))
    listed = [unicodedata.normalize("NFC", "über.wav"), "CAPITAL.WAV", "clips\\a.wav", "./clips/b.wav", "c.wav"]
    lines = [f"{name}\t你好 {number}\r\n" for number, name in enumerate(listed)]
    (root / "transcripts.tsv").write_bytes(b"\xef\xbb\xbf" + "".join(lines).encode())
    assert prepare(root).code == 0
    assert stored(root) == [(f"你好 {number}", "", 300 + 50 * number) for number in range(5)]


def test_common_voice_as_it_is_downloaded(tmp_path):
    root = tmp_path / "cv"
    (root / "clips").mkdir(parents=True)
    row = lambda number: f"speaker{number % 3}\t{number}.mp3\tWord {number}.\t2\t0\t\t\ten\n"
    head = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\tlocale\n"
    for number in range(9):
        content = encoded(tone(1.0, 32_000, 300 + 50 * number), 32_000, format="MP3")
        (root / f"clips/{number}.mp3").write_bytes(content)
    lists = {"train": (0, 1, 2, 3), "dev": (4, 5), "test": (6, 7), "validated": range(8), "invalidated": (8,)}
    for name, numbers in lists.items():
        (root / f"{name}.tsv").write_text(head + "".join(map(row, numbers)))
    outcome = prepare(root)
    assert outcome.code == 0 and "train 4, validation 2, test 2" in outcome.out
    assert "1 in no list, ignored (clips/8.mp3)" in outcome.out
    assert stored(root) == [(f"Word {number}.", f"speaker{number % 3}", 300 + 50 * number) for number in range(8)]
    for name in ("train", "dev", "test"):
        (root / f"{name}.tsv").unlink()
    assert "train 8" in prepare(root).out  # validated.tsv alone


def test_a_list_of_videos_is_one_of_sounds(tmp_path):
    root = tmp_path / "own"
    root.mkdir()
    for number in range(3):
        coded(root / f"{number}.mp4", tone(0.5, hertz=300 + 50 * number), RATE)
    (root / "transcripts.tsv").write_text("".join(f"{number}.mp4\tword {number}\n" for number in range(3)))
    assert prepare(root).code == 0
    assert stored(root) == [(f"word {number}", "", 300 + 50 * number) for number in range(3)]


# ---- Prediction, which says what is wrong with its files before it looks for the run.


@pytest.fixture(scope="module")
def predict(tmp_path_factory):
    """The arguments that let a model hear files."""
    parent = tmp_path_factory.mktemp("run")
    settings = {"data.name": f"folder:{folder(parent / 'own', 12)}", "data.dir": parent / "data"}
    settings |= {"data.vocab_size": 24, "data.target_length": 16, "task.metrics": "('wer',)"}
    arguments = [MAIN, f"--config={CONFIG}", f"--workdir={parent / 'run'}", "--mode=predict"]
    return [*arguments, *(f"--config.{key}={value}" for key, value in settings.items())]


@pytest.mark.long
def test_prediction_names_a_file_that_it_cannot_use(predict, tmp_path):
    bad, path = damaged(tmp_path), tmp_path / "bad.m4a"
    too_short = "too short: it lasts 4 ms; at least 50 are needed"
    for message in (too_short, "cannot be decoded", "is empty: it has no bytes"):
        path.write_bytes(bad[message])
        line = refused(run([*predict, path]))
        assert message in line and str(path) in line


@pytest.mark.long
def test_a_long_sound_is_refused_or_split(predict, tmp_path):
    path = tmp_path / "long.mp3"
    path.write_bytes(encoded(np.tile(np.append(tone(0.5), np.zeros(4000, np.float32)), 93), format="MP3"))
    line = refused(run([*predict, path]))
    assert (
        "long.mp3' is 69.8 s long, longer than config.data.max_seconds=1.2; shorten it, or set config.data.long_sounds"
        in line
    )
    outcome = run([*predict, "--config.data.long_sounds=split", path])
    assert "long.mp3' is 69.8 s long, longer than config.data.max_seconds=1.2: it is split into" in outcome.err
    assert "checkpoint" in refused(outcome)
