"""Groups of examples stand in one split together, whatever makes them."""

import collections
import dataclasses
import itertools
import re

import numpy as np
import pytest
import soundfile
from PIL import Image

from research.data import __main__ as command
from research.data import groups, prepare, sources
from research.data.images import classification
from research.data.images.spec import ImageSpec
from research.data.sound import speech
from research.data.sound.builders import dial_tones
from research.data.text import dataset as text


@pytest.mark.parametrize("most", [1, 3, 12])
@pytest.mark.parametrize("counts", [[50], [50, 100]])
def test_parts_hold_whole_groups_and_about_as_many_examples_as_asked(most, counts):
    rng = np.random.default_rng(most)
    sizes = rng.integers(1, most + 1, 200)
    values = rng.permutation(np.repeat([f"g{number}" for number in range(200)], sizes)).tolist()
    parts = groups.hold_out(values, counts)
    assert sorted(np.concatenate(parts)) == list(range(len(values)))
    held = [{values[index] for index in part} for part in parts]
    assert not any(one & other for one, other in itertools.combinations(held, 2))
    for part, wanted in zip(parts, counts, strict=False):
        assert abs(len(part) - wanted) <= most / 2
    again = groups.hold_out(values, counts)
    assert all((one == other).all() for one, other in zip(parts, again, strict=True))
    shuffled = groups.hold_out(values[::-1], counts)
    assert {values[::-1][index] for index in shuffled[0]} == held[0], "the order of the examples does not matter"


def test_groups_that_are_too_large_are_left_out():
    """A tenth of 1,100 examples is made of the small groups, not of the one that holds 1,000."""
    values = ["large"] * 1000 + [f"small{number // 10}" for number in range(100)]
    held, rest = groups.hold_out(values, [110])
    assert len(held) >= 90 and "large" in {values[index] for index in rest}
    held, rest = groups.hold_out(["large"] * 1000 + ["huge"] * 3000, [400])
    assert len(held) == 1000, "the smallest, where every one is too large"


def test_each_split_has_a_group_or_there_are_too_few():
    for number in range(20):
        values = [f"{number}{letter}" for letter in "abc"]
        assert [len(part) for part in groups.hold_out(values, [1, 1])] == [1, 1, 1]
        assert [len(part) for part in groups.hold_out(values, [9, 9])] == [1, 1, 1]
    with pytest.raises(ValueError, match="2 are too few to be divided among 3 splits"):
        groups.hold_out(["a", "b"], [1, 1])


def test_rules():
    values = ["a/x_1.wav", "a/x_2.wav", "b/x_1.wav"]
    of = lambda rule: groups.of_values(values, rule, "toy")
    assert of("path") == values
    assert of("path:parent") == ["a", "a", "b"]
    assert of("path:_([0-9])") == ["1", "2", "1"]
    with pytest.raises(ValueError, match="finds no group in 1 of 3 examples of 'toy', such as 'b/x_1"):
        of("path:^(a)")


@pytest.mark.parametrize("rule", ["a", "a:parent", "a:phrases", "a:x(.)y", ""])
def test_what_is_a_rule(rule):
    assert groups.RULE.accepts(rule)


@pytest.mark.parametrize("rule", [":parent", "a:", "a:folder", "a:(", "a:(.)(.)", 3, None])
def test_what_is_none(rule):
    assert not groups.RULE.accepts(rule)


def test_no_phrase_of_a_sentence_that_is_held_out_is_in_train():
    """Sentences of few words, and phrases of them, many of which several sentences have."""
    rng = np.random.default_rng(0)
    sentences = [" ".join(rng.choice(list("abcdefgh"), 8)) for _ in range(60)]
    texts = set(sentences)
    for sentence in sentences:
        words = sentence.split()
        for start in rng.integers(0, 6, 6):
            texts.add(" ".join(words[start : start + int(rng.integers(1, 5))]))
    texts = sorted(texts)
    inside = lambda part, whole: f" {part} " in f" {whole} "
    found = groups.of_values(texts, "text:phrases", "toy")
    assert all(inside(text, whole) for text, whole in zip(texts, found, strict=True))
    assert set(found) == {text for text in texts if not any(inside(text, each) for each in texts if each != text)}
    held, train = groups.hold_out(found, [60], exact_order=True)
    assert 30 < len(held) < 90
    held, train = ([texts[index] for index in part] for part in (held, train))
    assert not [part for part in train for whole in held if inside(part, whole)]
    assert collections.Counter([*held, *train]) == collections.Counter(texts)


# ---- One's own data.

SPLITS = ("train", "validation", "test")


def members(data, group):
    """Split -> the groups of its examples."""
    prepared = getattr(data.prepared, "raw", data.prepared)
    return {split: [group(prepared.source(split)[n]) for n in range(len(prepared.source(split)))] for split in SPLITS}


def check(data, group, asked=0.1):
    """That no group stands in two splits, that these have about the size asked for, and what is said of groups."""
    found = members(data, group)
    for one, other in itertools.combinations(SPLITS, 2):
        assert not set(found[one]) & set(found[other])
    total = sum(map(len, found.values()))
    most = max(collections.Counter(itertools.chain(*found.values())).values())
    for split in ("validation", "test"):
        assert abs(len(found[split]) - asked * total) <= most / 2 + 1
    assert data.counts == {split: len(of_split) for split, of_split in found.items()}
    prepared = getattr(data.prepared, "raw", data.prepared)
    assert prepared.groups == {split: len(set(of_split)) for split, of_split in found.items()}
    return found


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A CSV file of 300 texts by 40 authors."""
    root = tmp_path_factory.mktemp("table")
    rng = np.random.default_rng(0)
    lines = [f"text number {number},{'good' if number % 2 else 'bad'},a{rng.integers(40)}\n" for number in range(300)]
    (root / "train.csv").write_text("text,label,author\n" + "".join(lines))
    return root


def load_table(root, out, **settings):
    spec = text.TextSpec(name=f"folder:{root}", dir=str(out), source="{text}", target="{label}", vocab_size=300)
    data = text.load(dataclasses.replace(spec, **settings))
    data.prepare()
    return data


def test_a_column_of_a_table(table, tmp_path, capsys):
    data = load_table(table, tmp_path, group="author")
    found = check(data, lambda example: example["author"])
    counts = {split: len(set(of_split)) for split, of_split in found.items()}
    said = "groups of 'author': {train} train, {validation} validation, {test} test".format(**counts)
    assert said in capsys.readouterr().err
    again = load_table(table, tmp_path / "again", group="author")
    assert members(again, lambda each: each["author"]) == found and again.fingerprint == data.fingerprint
    plain = load_table(table, tmp_path)
    assert plain.fingerprint != data.fingerprint and plain.prepared.raw.groups["train"] == 0
    # The tokens are those of the same examples.
    texts = [data.reference("validation", index)["source"] for index in range(data.counts["validation"])]
    (batch,) = data.eval_batches("validation", 64)
    decoded = {
        data.vocabulary.decode(row) for row, index in zip(batch["source"], batch["index"], strict=True) if index >= 0
    }
    assert decoded == set(texts)


def test_all_but_test_is_fitted_on_once_all_is_chosen(table, tmp_path):
    data = load_table(table, tmp_path, group="author")
    both = load_table(table, tmp_path, group="author", fit_on="train+validation")
    text_of = lambda example: example["text"]
    before, after = members(data, text_of), members(both, text_of)
    assert sorted(after["train"]) == sorted(before["train"] + before["validation"])
    assert after["test"] == before["test"] and after["validation"] == before["validation"]


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("writer", r"have no scalar field 'writer'; choose from author, label, text, or leave it empty"),
        ("author:x(.)", r"finds no group in 300 of 300 examples of 'folder:.*', such as 'a"),
        ("text:(text)", r"makes 1 group of the 300 training examples of .*, too few to hold out test and validation"),
        ("label", r"makes 2 groups of the 300 training examples"),
        ("author:(", r"config.data.group|group.* must be FIELD, FIELD:parent"),
    ],
)
def test_groups_that_cannot_be_are_one_line(table, tmp_path, group, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_table(table, tmp_path, group=group)
    assert "\n" not in str(caught.value)


def test_a_group_in_two_splits_that_the_user_made_is_refused(tmp_path):
    root = tmp_path / "own"
    root.mkdir()
    rows = lambda authors: "text,label,author\n" + "".join(f"text {n} {a},x,{a}\n" for n, a in enumerate(authors))
    (root / "train.csv").write_text(rows("abcdefgh" * 4))
    (root / "test.csv").write_text(rows("hij"))
    with pytest.raises(ValueError, match=r"1 groups of 'folder:.*' are in both train and test, such as 'h'; move"):
        load_table(root, tmp_path, group="author")
    (root / "test.csv").write_text(rows("kij"))
    data = load_table(root, tmp_path, group="author")
    assert data.counts["test"] == 3 and set(members(data, lambda each: each["author"])["test"]) == {b"k", b"i", b"j"}
    both = load_table(root, tmp_path, group="author", fit_on="train+validation")
    assert both.counts == {**data.counts, "train": 32}


def test_a_rule_over_the_names_of_images(tmp_path, capsys):
    root, rng = tmp_path / "images", np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(60):
            pixels = rng.integers(0, 256, (6, 6, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"camera{number % 15}_{number}.png")
    rule = "path:(camera[0-9]+)_"
    spec = ImageSpec(name=f"folder:{root}", dir=str(tmp_path / "out"), image_size=8, group=rule)
    data = classification.load(spec)
    data.prepare()
    check(data, lambda each: re.search(rule.removeprefix("path:"), each["path"].decode())[1])
    capsys.readouterr()
    command.main(["prepare", spec.name, f"--data_dir={spec.dir}", f"--group={rule}"])
    counts = data.prepared.groups
    said = f"{counts['train']} train, {counts['validation']} validation, {counts['test']} test"
    assert capsys.readouterr().out.splitlines()[-1] == f"{spec.name}: groups of {rule!r}: {said}"
    assert sum(counts.values()) == 15
    with pytest.raises(ValueError, match=r"^--group='path:camera' must be FIELD"):
        command.main(["prepare", spec.name, f"--data_dir={spec.dir}", "--group=path:camera"])


@pytest.mark.parametrize(
    ("group", "of"),
    [("speaker", lambda each: each["speaker"]), ("path:parent", lambda each: each["path"].decode().split("/")[0])],
)
def test_speakers_and_folders_of_sounds(tmp_path, group, of):
    root, lines = tmp_path / "sounds", []
    for number in range(36):
        folder = f"day{number % 9}"
        (root / folder).mkdir(parents=True, exist_ok=True)
        digit = number % 10
        soundfile.write(root / folder / f"{number}.wav", np.concatenate([dial_tones.tone(digit, 90)] * 3), 8000)
        lines.append(f"{folder}/{number}.wav\t{dial_tones.WORDS[digit]}\tspeaker{number % 6}\n")
    (root / "transcripts.tsv").write_text("".join(lines))
    out = tmp_path / "out"
    prepare.prepare(f"folder:{root}", data_dir=str(out))
    spec = speech.SpeechSpec(name=f"folder:{root}", dir=str(out), vocab_size=60, max_seconds=2.0, target_length=16)
    data = speech.load(dataclasses.replace(spec, group=group))
    data.prepare()
    check(data, of)
    builder = sources.open_builder(f"folder:{root}", str(out))
    assert sources.Prepared(builder, f"folder:{root}", 0.1).groups == dict.fromkeys(SPLITS, 0)
