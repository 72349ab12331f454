"""Sounds as batches: a function of (seed, step), every example once, nothing but its own sound in its row."""

import numpy as np
import pytest
import soundfile

from research.data import prepare
from research.data.sound import audio, joining, speech
from research.data.sound import files as sound_files
from research.data.sound.builders import dial_tones
from tests import samples

SETTINGS = {
    "name": "dial_tones", "sample_rate": 8000, "mels": 20, "max_seconds": 1.2, "target_length": 8, "vocab_size": 64,
    "vocab_type": "bpe",
}  # fmt: skip
AUGMENT = {"speed": 0.1, "noise": 0.5, "frequency_masks": 1, "frequency_width": 5, "time_masks": 1, "time_width": 9}
DOWNSAMPLING = 4


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("sounds"))
    prepare.prepare("dial_tones", data_dir=path)
    return path


@pytest.fixture
def load(place):
    spec = lambda other: speech.SpeechSpec(**{"dir": place, **SETTINGS, **other})
    return lambda **other: samples.prepared(speech.load(spec(other), DOWNSAMPLING))


def test_a_batch_has_the_arrays_that_are_promised(load):
    data = load()
    assert data.counts == {"train": 400, "validation": 40, "test": 40}
    assert (data.frames, *speech.encoder_lengths(data.spec, DOWNSAMPLING)) == (120, 30, 30)
    batch = next(data.train_batches(0, 4))
    kinds = {name: (array.dtype.name, array.shape) for name, array in batch.items()}
    sides = {f"target{end}": ("int32", (4, 8)) for end in ("", "_segments", "_positions")}
    sides |= {f"source{end}": ("int32", (4, 30)) for end in ("_segments", "_positions")}
    sides["source"] = ("float32", (4, 120, 20))
    assert kinds == sides | {"index": ("int32", (4,)), "weight": ("float32", (4,))}


def test_a_row_holds_its_sound_and_transcript(load):
    data = load()
    records, source = data.prepared.raw.source("train"), data.source("train")
    for batch in [next(data.train_batches(0, 40))]:
        for row, index in enumerate(batch["index"]):
            record = records[index]
            assert record["audio"].dtype == np.int16
            samples = record["audio"] / np.float32(32768)
            features = data.eval_transform.mel(samples)
            np.testing.assert_allclose(batch["source"][row, : len(features)], features, atol=1e-5)
            assert not batch["source"][row, len(features) :].any()
            length = -(-len(features) // DOWNSAMPLING)
            assert batch["source_segments"][row].tolist() == [1] * length + [0] * (30 - length)
            assert batch["source_positions"][row].tolist() == [*range(length)] + [0] * (30 - length)
            assert data.vocabulary.decode(batch["target"][row]) == record["text"].decode()
            np.testing.assert_array_equal(source[index][0], samples)


@pytest.mark.parametrize("join", [1, 3])
def test_batches_are_a_function_of_seed_and_step(load, join):
    other = {"join": join, "join_count": 50, "max_seconds": 2.0, "target_length": 14, **AUGMENT}
    whole = [batch for batch, _ in zip(load(**other).train_batches(5, 8), range(9), strict=False)]
    for start, rows, workers, cache in ((4, None, 0, True), (6, slice(2, 6), 0, False), (7, [1, 5], 1, True)):
        batches = load(workers=workers, cache=cache, **other).train_batches(5, 8, start=start, rows=rows)
        for expected in whole[start:]:
            for name, array in next(batches).items():
                np.testing.assert_array_equal(array, expected[name][rows or slice(None)])
        batches.close()
    assert not np.array_equal(next(load(**other).train_batches(6, 8))["index"], whole[0]["index"])


def test_joined_examples_are_those_of_one_speaker_with_pauses(load):
    data = load(join=3, join_count=60, max_seconds=2.0, target_length=14, pause_ms=(40.0, 50.0))
    joined, speakers = data.source("train"), data.prepared.speakers("train")
    texts = [data.prepared.fields("train", index)["text"] for index in range(400)]
    parts = data.prepared.raw.source("train")
    counts = []
    for index in range(60):
        plan, (samples, ids) = joined.plan(index), joined[index]
        assert len({speakers[part] for part in plan.parts}) == 1 and len(plan.pauses_ms) == len(plan.parts) + 1
        assert data.vocabulary.decode(ids) == " ".join(texts[part] for part in plan.parts) and ids[-1] == 1
        sizes = [len(parts[part]["audio"]) for part in plan.parts]
        assert len(samples) == sum(sizes) + sum(8 * pause for pause in plan.pauses_ms) <= 16_000
        assert all(40 <= pause <= 50 for pause in plan.pauses_ms)
        first = 8 * plan.pauses_ms[0]
        assert not samples[:first].any()
        np.testing.assert_array_equal(samples[first:][: sizes[0]], parts[plan.parts[0]]["audio"] / np.float32(32768))
        counts.append(len(plan.parts))
    assert set(counts) == {1, 2, 3}
    few = load(join=3, join_count=60, max_seconds=2.0, target_length=5).source("train")
    assert max(len(few[index][1]) for index in range(60)) == 5
    other = load(join=3, join_count=60, join_seed=1, max_seconds=2.0, target_length=14).source("train")
    assert other.plan(0) != joined.plan(0)


def test_a_plan_keeps_what_fits():
    lengths = np.array([100.0, 700.0])
    for seed in range(50):
        plan = joining.draw(np.random.default_rng(seed), [0, 1], 5, (10, 20), lengths, 1000)
        total = sum(plan.pauses_ms) + lengths[list(plan.parts)].sum()
        assert total <= 1000 or len(plan.parts) == 1
        assert len(plan.pauses_ms) == len(plan.parts) + 1


def test_evaluation_covers_a_split_once_in_few_shapes(load):
    data, seen, shapes = load(eval_buckets=3), [], set()
    for batch in data.eval_batches("test", 16):
        shapes.add(batch["source"].shape[1:])
        assert batch["source_segments"].shape[1] == batch["source"].shape[1] // DOWNSAMPLING
        real = batch["index"] >= 0
        np.testing.assert_array_equal(batch["weight"], real)
        assert not batch["source"][~real].any() and not batch["source_segments"][~real].any()
        for index, ids in zip(batch["index"][real], batch["target"][real], strict=True):
            reference = data.reference("test", index)
            assert (data.vocabulary.decode(ids),) == reference["references"]
            assert reference["speaker"] in dial_tones.SPEAKERS and "audio" not in reference
        seen += batch["index"][real].tolist()
    assert sorted(seen) == list(range(40)) and 1 < len(shapes) <= 3


def test_other_rates_are_resampled(load):
    low, high = load(), load(sample_rate=16_000, highest_hz=4000.0)
    plain, fine = (data.source("test")[0][0] for data in (low, high))
    assert len(fine) == 2 * len(plain)
    np.testing.assert_allclose(fine[400:-400:2], plain[200:-200], atol=0.02)
    middle = slice(5, len(plain) // 80 - 5)
    features = [data.eval_transform.mel(data.source("test")[0][0])[middle] for data in (low, high)]
    assert np.corrcoef(features[0].ravel(), features[1].ravel())[0, 1] > 0.95


def test_sounds_that_are_too_long_are_refused_or_left_out(load, capsys):
    with pytest.raises(
        ValueError, match=r"dial_tones: \d+ of 400 train sounds are longer than config.data.train_seconds, the"
    ):
        load(max_seconds=0.4).counts  # noqa: B018
    with pytest.raises(ValueError, match=r"validation sounds are longer"):
        load(max_seconds=0.4, long_sounds="split").counts  # noqa: B018
    assert "train sounds are longer than config.data.train_seconds and are skipped" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"transcripts are longer than target_length=3 tokens, the longest has 5"):
        load(target_length=3).counts  # noqa: B018


def test_training_rows_may_be_shorter_than_what_is_evaluated(load):
    data = load(max_seconds=1.2, train_seconds=0.4, long_sounds="split")
    assert data.counts["train"] == 400 and data.frames == 120
    assert data.train_transform.frames == 40 and speech.encoder_lengths(data.spec, DOWNSAMPLING) == (10, 30)
    short = (data.prepared.seconds("train") <= 0.4).sum()
    assert 0 < short < 400 and len(data.source("train")) == short
    assert next(data.train_batches(0, 2))["source"].shape == (2, 40, 20)
    assert sum(batch["weight"].sum() for batch in data.eval_batches("test", 8)) == 40


def test_a_long_sound_to_predict_is_split_or_refused(load, capsys):
    tones = np.concatenate([np.append(dial_tones.tone(digit % 10, 90), np.zeros(320)) for digit in range(30)])
    sound = sound_files.Sound(tones.astype(np.float32), 8000)
    with pytest.raises(
        ValueError, match=r"sound 'a.wav' is 3.9 s long, longer than config.data.max_seconds=1.2; shorten it, or set"
    ):
        load().pieces(sound, "a.wav")
    data = load(long_sounds="split")
    parts = data.pieces(sound, "a.wav")
    assert f"it is split into {len(parts)} parts" in capsys.readouterr().err
    np.testing.assert_array_equal(np.concatenate(parts), sound.samples)
    batch = data.arrays(parts)
    assert batch["source"].shape == (len(parts), 120, 20) and batch["weight"].tolist() == [1] * len(parts)
    assert data.arrays([tones[:1600]])["source"].shape == (1, 32, 20)  # the smallest shape that holds it
    assert len(data.pieces(sound._replace(rate=32_000), "a.wav")) == 1


def test_unknown_settings_are_named(load):
    for key, value in {"long_sounds": "cut", "pause_ms": (3.0, 2.0), "join": 0, "max_seconds": 0.0, "mels": 0}.items():
        with pytest.raises(ValueError, match=f"^{key}="):
            load(**{key: value})
    with pytest.raises(ValueError, match="has the unknown field 'words'"):
        load(target="{words}")
    with pytest.raises(ValueError, match="has the features words, digits, parity; the feature audio"):
        load(name="spelled_numbers")


# ---- A folder.


def write_folder(root, rows=10, **options):
    root.mkdir(parents=True)
    lines = []
    for number in range(rows):
        digit = number % 10
        file = f"{number}.{'flac' if number % 2 else 'wav'}"
        samples = np.concatenate([dial_tones.tone(digit, 90)] * 3)
        soundfile.write(root / file, samples, 8000)
        lines.append(f"{file}\t{dial_tones.WORDS[digit]}\tspeaker{digit % 2}\n")
    (root / "transcripts.tsv").write_text("".join(lines))
    return root


def load_folder(root, **other):
    spec = speech.SpeechSpec(**{**SETTINGS, "name": f"folder:{root}", "dir": str(root.parent), **other})
    return samples.prepared(speech.load(spec, DOWNSAMPLING))


def test_a_folder_is_a_data_set(tmp_path):
    data = load_folder(write_folder(tmp_path / "own", 20))
    assert data.counts == {"train": 16, "validation": 2, "test": 2}
    words = {data.reference("train", index)["references"][0] for index in range(16)}
    assert words <= set(dial_tones.WORDS) and set(data.prepared.speakers("train")) == {"speaker0", "speaker1"}
    soundfile.write(tmp_path / "own/0.wav", np.stack([dial_tones.tone(0, 300)] * 2, 1), 44_100, subtype="PCM_24")
    changed = load_folder(tmp_path / "own")  # prepared anew
    rates = {int(record["rate"]) for split in changed.counts for record in changed.prepared.raw.source(split)}
    assert rates == {8000, 44_100} and changed.fingerprint != data.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda root: (root / "3.flac").unlink(),
            r"transcripts.tsv has a transcript of '3.flac', but there is no such",
        ),
        (lambda root: (root / "2.wav").write_bytes(b""), r"sound '.*own/2.wav' is empty"),
        (lambda root: (root / "2.wav").write_bytes((root / "2.wav").read_bytes()[:-99]), r"2.wav' is truncated"),
        (lambda root: (root / "transcripts.tsv").unlink(), "holds sounds but neither train.tsv nor transcripts.tsv"),
        (lambda root: (root / "train.tsv").write_text("0.wav\tzero\n"), "are both the train split"),
        (lambda root: (root / "test.tsv").write_text("0.wav\tzero\n"), "'0.wav' has two transcripts"),
        (lambda root: (root / "test.tsv").write_text("0.wav\n"), "line 1 has 1 tab-separated columns; it must have 2"),
        (lambda root: soundfile.write(root / "2.wav", np.zeros(99), 8000), r"sound '.*own/2.wav' is silent"),
    ],
)
def test_what_is_wrong_in_a_folder_is_named(tmp_path, change, message):
    root = write_folder(tmp_path / "own")
    change(root)
    with pytest.raises(ValueError, match=message) as caught:
        load_folder(root)
    assert "\n" not in str(caught.value)


def test_the_augmentation_is_that_of_the_config(load):
    data = load(**AUGMENT)
    assert data.train_transform.augment == audio.Augment(data.spec) and data.eval_transform.augment is None
