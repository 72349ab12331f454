"""Archives made like the real ones, and the real one, where ../shared/data is there; LibriSpeech's layout."""

import io
import zipfile

import numpy as np
import pytest
import soundfile

from research.data import prepare, sources
from research.data.sound import files as sound_files
from research.data.sound import speech
from research.data.sound.builders import dial_tones, fsdd
from tests.data.text.test_builders import SHARED, attempt

RATE = fsdd.RATE


def encoded(samples, rate=RATE, kind="WAV"):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype="PCM_16")
    return buffer.getvalue()


def take(digit, speaker, number):
    """A sound that tells who says what."""
    return 0.5 * dial_tones.tone(digit, 80 + 10 * fsdd.SPEAKERS.index(speaker) + number)


def write_fsdd(folder, **replaced):
    folder.mkdir()
    with zipfile.ZipFile(folder / "recordings.zip", "w") as archive:
        for digit in range(10):
            for speaker in fsdd.SPEAKERS:
                for number in range(fsdd.TAKES):
                    name = f"{digit}_{speaker}_{number}"
                    content = replaced.get(f"r{name}", encoded(take(digit, speaker, number)))
                    if content is not None:
                        archive.writestr(f"recordings/{name}.wav", content)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("fsdd")
    write_fsdd(root / "archives")
    for name in ("isolated", "strings", "without_theo"):
        prepare.prepare(f"fsdd/{name}", manual_dir=str(root / "archives"), data_dir=str(root))
    return root


def examples(root, name):
    prepared = sources.Prepared(sources.open_builder(name, str(root)), name, 0.1)
    return {
        split: [prepared.source(split)[index] for index in range(count)] for split, count in prepared.counts.items()
    }


def identities(found):
    """Who says what in which take, by the length and the text of each isolated example."""
    said = set()
    for example in found:
        speaker, digit = example["speaker"].decode(), fsdd.WORDS.index(example["text"].decode())
        number = len(example["audio"]) * 1000 // RATE - 80 - 10 * fsdd.SPEAKERS.index(speaker)
        expected = sound_files.to_int16(take(digit, speaker, number))
        assert np.abs(example["audio"].astype(int) - expected).max() <= 1 and int(example["rate"]) == RATE
        said.add((digit, speaker, number))
    assert len(said) == len(found)
    return said


def every(takes, speakers=fsdd.SPEAKERS):
    return {(digit, speaker, number) for digit in range(10) for speaker in speakers for number in takes}


def test_isolated_digits_follow_the_official_rule(made):
    found = examples(made, "fsdd/isolated")
    assert identities(found["test"]) == every(range(5))
    assert identities(found["validation"]) == every(range(5, 10))
    assert identities(found["train"]) == every(range(10, 50))


def test_an_unseen_speaker_is_not_in_train(made):
    found = examples(made, "fsdd/without_theo")
    assert identities(found["test"]) == every(range(50), ["theo"])
    assert identities(found["validation"]) == every(range(50), ["yweweler"])
    assert identities(found["train"]) == every(range(50), ["george", "jackson", "lucas", "nicolas"])


def test_strings_hold_what_their_list_says(made):
    found, recordings = examples(made, "fsdd/strings"), fsdd.read_recordings(made / "archives/recordings.zip")
    assert identities(found["train"]) == every(range(10, 50))
    lists = {"validation": fsdd.draw_strings("validation", recordings), "test": fsdd.read_strings()}
    for split, takes in (("validation", range(5, 10)), ("test", range(5))):
        texts = sorted(" ".join(fsdd.WORDS[digit] for digit, _ in string.takes) for string in lists[split])
        assert sorted(example["text"].decode() for example in found[split]) == texts
        assert {number for string in lists[split] for _, number in string.takes} <= set(takes)
        by_text = {}
        for string in lists[split]:
            by_text.setdefault((string.speaker, " ".join(fsdd.WORDS[d] for d, _ in string.takes)), []).append(string)
        for example in found[split][:20]:
            strings = by_text[example["speaker"].decode(), example["text"].decode()]
            lengths = {
                sum(len(recordings[digit, string.speaker, number]) for digit, number in string.takes)
                + sum(RATE * pause // 1000 for pause in string.pauses_ms)
                for string in strings
            }
            assert len(example["audio"]) in lengths


def test_the_stored_test_strings_are_those_that_were_drawn(made):
    strings = fsdd.read_strings()
    assert len(strings) == 300 and all(1 <= len(string.takes) <= 8 for string in strings)
    assert {len(string.takes) for string in strings} == set(range(1, 9))
    assert {string.speaker for string in strings} == set(fsdd.SPEAKERS)
    assert all(10 <= string.snr_db <= 30 and string.colour in (0, 1) for string in strings)
    columns = (
        (
            each.speaker,
            " ".join(f"{digit}_{take}" for digit, take in each.takes),
            " ".join(map(str, each.pauses_ms)),
            str(each.snr_db),
            str(each.colour),
        )
        for each in strings
    )
    assert "".join("\t".join(row) + "\n" for row in columns) == fsdd.TEST_STRINGS.read_text()


def test_a_changed_list_is_noticed(tmp_path, monkeypatch):
    changed = tmp_path / "strings.tsv"
    changed.write_text(fsdd.TEST_STRINGS.read_text().replace("theo", "lucas", 1))
    monkeypatch.setattr(fsdd, "TEST_STRINGS", changed)
    with pytest.raises(ValueError, match="was changed: its digest is"):
        fsdd.read_strings()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "lacks 1 of 3,000 recordings, such as 3_lucas_7.wav"),
        (encoded(take(3, "lucas", 7))[:-40], "recordings/3_lucas_7.wav' is truncated"),
        (encoded(take(3, "lucas", 7), 16_000), "3_lucas_7.wav has the rate 16000 Hz; FSDD has 8000"),
    ],
)
def test_bad_recordings_are_named(tmp_path, content, message):
    folder = write_fsdd(tmp_path / "a", r3_lucas_7=content)
    assert message in attempt("fsdd/isolated", folder, tmp_path)


def test_an_unknown_form_is_named():
    with pytest.raises(ValueError, match="unknown data set 'fsdd/alone'; choose from fsdd/isolated, fsdd/strings"):
        sources.open_builder("fsdd/alone")
    with pytest.raises(ValueError, match="unknown data set 'digits/x'; 'digits' has no configurations"):
        sources.open_builder("digits/x")


def test_the_real_strings_are_a_function_of_seed_and_index():
    archive = SHARED / "fsdd/recordings.zip"
    if not archive.is_file():
        pytest.skip(f"no {archive}; set TESSERA_SHARED_DATA")
    recordings = fsdd.read_recordings(archive)
    assert fsdd.draw_strings("test", recordings) == fsdd.read_strings()
    digits = sum(len(string.takes) for string in fsdd.read_strings())
    assert digits > 1200


# ---- LibriSpeech.


def write_librispeech(folder):
    for part, count in (("train-clean-100", 3), ("dev-clean", 1), ("test-clean", 2)):
        for chapter in range(count):
            root = folder / "LibriSpeech" / part / "19" / str(chapter)
            root.mkdir(parents=True)
            lines = []
            for number in range(2):
                name = f"19-{chapter}-{number:04}"
                (root / f"{name}.flac").write_bytes(encoded(dial_tones.tone(number, 500), 16_000, "FLAC"))
                lines.append(f"{name} {fsdd.WORDS[number].upper()} OF {part.upper()}\n")
            (root / f"19-{chapter}.trans.txt").write_text("".join(lines))
    return folder


def test_librispeech_in_its_own_layout(tmp_path):
    folder = write_librispeech(tmp_path / "a")
    prepare.prepare("librispeech_flac/clean100", manual_dir=str(folder), data_dir=str(tmp_path))
    found = examples(tmp_path, "librispeech_flac/clean100")
    assert {split: len(of_split) for split, of_split in found.items()} == {"train": 6, "validation": 2, "test": 4}
    assert {example["text"].decode() for example in found["validation"]} == {"zero of dev-clean", "one of dev-clean"}
    assert {(example["speaker"], int(example["rate"]), len(example["audio"])) for example in found["test"]} == {
        (b"19", 16_000, 4000)
    }
    data = speech.load(speech.SpeechSpec(name="librispeech_flac/clean100", dir=str(tmp_path), vocab_size=40))
    assert data.prepare().counts["train"] == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "19-0-0001.flac").unlink(), "line 2 lists 19-0-0001, but there is no 19-0-0001.flac"),
        (lambda root: (root / "19-0-9.flac").write_bytes(b"x"), "19-0-9.flac has no transcript in 19-0.trans.txt"),
        (lambda root: (root / "19-0.trans.txt").write_text("19-0-0000\n"), "line 1 has no text"),
        (lambda root: (root / "19-0.trans.txt").unlink(), "holds no SPEAKER/CHAPTER/*.trans.txt; unpack dev-clean"),
    ],
)
def test_what_is_wrong_in_librispeech_is_named(tmp_path, change, message):
    folder = write_librispeech(tmp_path / "a")
    change(folder / "LibriSpeech/dev-clean/19/0")
    assert message in attempt("librispeech_flac/clean100", folder, tmp_path)


def test_a_chapter_without_its_transcripts_is_named(tmp_path):
    folder = write_librispeech(tmp_path / "a")
    (folder / "LibriSpeech/test-clean/19/1/19-1.trans.txt").unlink()
    message = attempt("librispeech_flac/clean100", folder, tmp_path)
    assert "test-clean/19/1 holds sounds but no .trans.txt; unpack test-clean.tar.gz again" in message
