"""Tiny files made like the real ones; and the real ones, where ../shared/data is there."""

import gzip
import hashlib
import io
import json
import os
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from research.data import prepare, sources
from research.data.builders import text_files
from research.data.text import dataset as text
from research.data.text import templates
from research.data.text.builders import cnn_dailymail
from research.data.text.builders.qamr import article
from tests import samples
from tests.data.conftest import ROOT

SHARED = Path(os.environ.get("TESSERA_SHARED_DATA", ROOT.parent / "shared/data"))


def write(folder, name, content):
    folder.mkdir(exist_ok=True)
    content = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)


def prepared(name, folder, data_dir):
    """Split -> the fields of its examples, in no particular order."""
    prepare.prepare(name, manual_dir=str(folder), data_dir=str(data_dir))
    data = text.load(text.TextSpec(name=name, dir=str(data_dir)))
    fields = data.prepared.fields
    return {split: [fields(split, index) for index in range(n)] for split, n in data.prepared.counts.items()}


def attempt(name, folder, data_dir):
    """The message of the ValueError that preparing raises: one line."""
    with pytest.raises(ValueError) as caught:
        prepare.prepare(name, manual_dir=str(folder), data_dir=str(data_dir))
    assert "\n" not in str(caught.value)
    assert not sources.is_prepared(sources.open_builder(name, str(data_dir)))
    return str(caught.value)


def write_multi30k(folder, **replaced):
    for split in ("train", "val", "test_2016_flickr"):
        for language in ("en", "de", "fr"):
            lines = "".join(f"{split} {language} {number}\n" for number in range(4))
            write(folder, f"{split}.{language}.gz", replaced.get(f"{split}_{language}", lines))
    return folder


def test_multi30k_keeps_the_lines_together(tmp_path):
    found = prepared("multi30k", write_multi30k(tmp_path / "a"), tmp_path)
    expected = [{language: f"train {language} {number}" for language in ("en", "de", "fr")} for number in range(4)]
    assert sorted(found["train"], key=lambda example: example["en"]) == expected
    assert {split: len(examples) for split, examples in found.items()} == {"train": 4, "validation": 4, "test": 4}
    assert {example["de"].split()[0] for example in found["validation"]} == {"val"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a\nb\nc\n", r"{0}/val.en.gz has 4 lines, {0}/val.de.gz has 3; both need the same number of lines"),
        ("a\n \nc\nd\n", "{0}/val.de.gz, line 2 is empty; fill or remove it"),
        (b"a\nb\nc\xff\nd\n", "{0}/val.de.gz, line 3: invalid UTF-8 (invalid start byte at byte 1)"),
    ],
)
def test_bad_lines_are_named(tmp_path, lines, message):
    folder = write_multi30k(tmp_path / "a", val_de=lines)
    assert message.format(folder) in attempt("multi30k", folder, tmp_path)


def test_absent_and_damaged_files_are_named(tmp_path):
    folder = write_multi30k(tmp_path / "a")
    path = folder / "train.fr.gz"
    whole = path.read_bytes()
    for broken in (whole[:-5], whole[:8] + whole[12:], b"no gzip at all"):
        path.write_bytes(broken)
        assert f"{path} is truncated or damaged" in attempt("multi30k", folder, tmp_path)
    path.unlink()
    assert attempt("multi30k", folder, tmp_path) == f"{path} does not exist"


def test_lines_end_at_line_feeds_only(tmp_path):
    write(tmp_path, "a.txt", "\ufeffone\u2028still one\r\ntwo\x0cstill two\n\u3000three")
    assert text_files.lines(tmp_path / "a.txt") == ["one\u2028still one", "two\x0cstill two", "\u3000three"]


def test_tatoeba(tmp_path):
    folder = tmp_path / "a"
    for split in ("train", "dev", "test"):
        write(folder, f"{split}.tsv.gz", f"Hi.\t嗨。\tby {split}\nRun.\t跑!\tby her\n")
    found = prepared("tatoeba_zh_en", folder, tmp_path)
    assert {"en": "Hi.", "zh": "嗨。", "attribution": "by dev"} in found["validation"]
    write(folder, "dev.tsv.gz", "Hi.\t嗨。\tby dev\nRun.\t跑!\n")
    message = f"{folder}/dev.tsv.gz, line 2 has 2 tab-separated columns; it must have 3"
    assert message in attempt("tatoeba_zh_en", folder, tmp_path / "other")


def test_sst2(tmp_path):
    folder = tmp_path / "a"
    for split in ("train", "dev", "test"):
        write(folder, f"{split}.tsv", "so good\t1\nso bad\t0")
    found = prepared("sst2_sentences", folder, tmp_path)
    assert {(example["sentence"], example["sentiment"]) for example in found["test"]} == {
        ("so good", "positive"),
        ("so bad", "negative"),
    }
    write(folder, "dev.tsv", "so good\t2\n")
    assert f"{folder}/dev.tsv, line 1 has the label '2'; it must be 0 or 1" in attempt(
        "sst2_sentences", folder, tmp_path / "other"
    )


def test_tweetqa_tests_on_dev_and_holds_out_whole_tweets(tmp_path):
    ask = lambda tweet, number, *answers: {
        "Question": f"q{number}?",
        "Answer": answers,
        "Tweet": f"tweet {tweet}",
        "qid": f"{tweet} {number}",
    }
    folder = tmp_path / "a"
    write(folder, "train.json.gz", json.dumps([ask(tweet, n, "a") for tweet in range(60) for n in range(2)]))
    write(folder, "dev.json.gz", json.dumps([ask(tweet, 0, "b", "c") for tweet in range(55, 65)]))
    found = prepared("tweetqa", folder, tmp_path)
    tweets = {split: {example["context"] for example in examples} for split, examples in found.items()}
    assert len(found["train"]) + len(found["validation"]) == 110, "5 tweets are in dev as well"
    assert found["validation"]
    assert not tweets["train"] & tweets["validation"]
    assert tweets["test"] == {f"tweet {number}" for number in range(55, 65)}
    assert {tuple(example["references"]) for example in found["test"]} == {("b", "c")}
    write(folder, "dev.json.gz", json.dumps([ask(1, 0, "b"), ask(1, 1)]))
    assert f"{folder}/dev.json.gz, question 2 lacks its Question, Tweet or Answer" in attempt(
        "tweetqa", folder, tmp_path / "other"
    )


def write_qamr(folder, test_rows):
    sentences = [f"s{number}\tThe -LRB- big -RRB- cat {number} saw a dog" for number in range(60)]
    sentences += [f"a:{number // 4}:{number % 2}:{number}\tA cat saw it again" for number in range(40)]  # ten articles
    write(folder, "wiki-sentences.tsv.gz", "\n".join(sentences))
    ids = [f"a:{number // 4}:{number % 2}:{number}" for number in range(40) for _ in range(2)]
    dev = [f"{sentence}\t0\t7\t0\t4\tWho saw?\t0 1\t8:1\t9:0 1" for sentence in ids]
    write(folder, "filtered.dev.tsv.gz", "\n".join(dev) + "\n")
    write(folder, "filtered.test.tsv.gz", "\n".join(test_rows) + "\n")
    return folder


def test_qamr_decodes_answers_and_groups_questions(tmp_path):
    rows = [
        "s50\t0\t7\t0\t4\tWho saw?\t0 4\t8:4 5\t9:0 4",
        "s50\t0\t7\t0\t4\twho  saw? \t1 2 3\t8:8\t9:1 2 3",
        "s50\t0\t7\t0\t4\twho saw?\t2\t8:8\t9:2",
        "s51\t0\t7\t0\t4\tWho saw?\t4\t8:4\t9:4",
    ]
    found = prepared("qamr", write_qamr(tmp_path / "a", rows), tmp_path)
    by_sentence = {example["sentence_id"]: example for example in found["test"] if example["answer"] != "( big )"}
    assert len(found["test"]) == 3
    grouped = by_sentence["s50"]
    assert grouped["context"] == "The ( big ) cat 50 saw a dog"
    assert grouped["references"] == ["The cat", "big", "cat 50", "dog"], "those of the writers come first"
    assert by_sentence["s51"]["references"] == ["cat"]
    articles = {split: {article(each["sentence_id"]) for each in found[split]} for split in ("train", "validation")}
    assert len(articles["validation"]) == 1 and len(articles["train"]) == 9, "a tenth of them"
    assert not articles["train"] & articles["validation"]
    assert Counter(example["sentence_id"] for example in found["train"]).most_common(1)[0][1] == 2, "a row each"
    assert len(found["validation"]) == 4, "one of each sentence"


@pytest.mark.parametrize("row", ["s99\t0\t7\t0\t4\tWho?\t0\t8:4\t9:0", "s1\t0\t7\t0\t4\tWho?\t0 99\t8:4\t9:0"])
def test_qamr_words_that_are_not_there(tmp_path, row):
    message = attempt("qamr", write_qamr(tmp_path / "a", [row]), tmp_path)
    assert "filtered.test.tsv.gz, line 1: wiki-sentences.tsv.gz lacks the sentence" in message


def write_babi(folder, replaced=None):
    story = "1 Mary went to {0}.\n2 Where is Mary? \t{0}\t1\n3 Mary took the milk.\n4 What is carried?\tmilk,it\t1 3\n"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "tasks_1-20_v1-2_en.zip", "w") as archive:
        for task, name in ((1, "single-supporting-fact"), (19, "path-finding")):
            for split in ("train", "test"):
                content = "".join(story.format(f"{split}{number}") for number in range(1, 21))
                member = f"tasks_1-20_v1-2/en/qa{task}_{name}_{split}.txt"
                archive.writestr(member, (replaced or {}).get(member, content))
    return folder


def test_babi_holds_out_every_tenth_story(tmp_path):
    found = prepared("babi", write_babi(tmp_path / "a"), tmp_path)
    assert {split: len(examples) for split, examples in found.items()} == {"train": 72, "validation": 8, "test": 80}
    expected = {
        "question": "What is carried?",
        "context": "Mary went to train10. Mary took the milk.",
        "answer": "milk,it",
        "task": 19,
    }
    assert expected in found["validation"]
    assert not any("train10." in example["context"] for example in found["train"])
    assert Counter(example["task"] for example in found["test"]) == {1: 40, 19: 40}
    assert text.load(text.TextSpec(name="babi", dir=str(tmp_path))).reference("test", 0)["task"] in (1, 19)


@pytest.mark.parametrize("line", ["Mary went", "1 Where?\tthere", "2 Mary went"])
def test_babi_lines_that_are_neither(tmp_path, line):
    member = "tasks_1-20_v1-2/en/qa1_single-supporting-fact_test.txt"
    message = attempt("babi", write_babi(tmp_path / "a", {member: line + "\n"}), tmp_path)
    assert f"{member}, line 1 is neither `ID text` nor" in message


STORY = "(CNN) -- It rained\n\nIt @highlight rained again.\n\n@highlight\n\nRain fell\n\n@highlight\n\nA lot of it"


def write_cnn(folder, packed=True, stories=STORY):
    folder.mkdir(exist_ok=True)
    for publisher in ("cnn", "dailymail"):
        (folder / publisher / "stories").mkdir(parents=True, exist_ok=True)
    for split, numbers in (("train", range(6)), ("val", range(6, 8)), ("test", range(8, 10))):
        urls = [f"http://web/{number}" for number in numbers]
        (folder / f"all_{split}.txt").write_text("".join(f"{url}\n" for url in urls))
        for number, url in zip(numbers, urls, strict=True):
            name = hashlib.sha1(url.encode()).hexdigest()
            content = "" if number == 5 else stories.replace("rained\n", f"rained {number}\n")
            (folder / ("dailymail" if number % 2 else "cnn") / "stories" / f"{name}.story").write_text(content)
    if packed:
        for publisher in ("cnn", "dailymail"):
            with tarfile.open(folder / f"{publisher}_stories.tgz", "w:gz") as archive:
                archive.add(folder / publisher, publisher)
            for story in (folder / publisher / "stories").iterdir():
                story.unlink()
    return folder


@pytest.mark.parametrize("packed", [True, False])
def test_cnn_dailymail(tmp_path, packed):
    found = prepared("cnn_dailymail", write_cnn(tmp_path / "a", packed), tmp_path)
    counts = {split: len(examples) for split, examples in found.items()}
    assert counts == {"train": 5, "validation": 2, "test": 2}, "a story without text is left out"
    expected = {
        "article": "(CNN) -- It rained 8. It @highlight rained again.",
        "highlights": "Rain fell.\nA lot of it.",
        "publisher": "cnn",
        "id": hashlib.sha1(b"http://web/8").hexdigest(),
    }
    assert expected in found["test"]
    data = text.load(text.TextSpec(name="cnn_dailymail", dir=str(tmp_path)))
    data.prepare_vocabulary()
    assert data.vocabulary.decode(data.vocabulary.encode(expected["highlights"])) == expected["highlights"]


def test_cnn_dailymail_lacks_stories(tmp_path):
    folder = write_cnn(tmp_path / "a")
    with open(folder / "all_val.txt", "a") as file:
        file.write("http://web/none\n")
    assert f"{folder} lacks 1 of the 3 stories of all_val.txt" in attempt("cnn_dailymail", folder, tmp_path)
    path = folder / "dailymail_stories.tgz"
    path.write_bytes(path.read_bytes()[:-30])
    assert f"{path} is truncated or damaged" in attempt("cnn_dailymail", folder, tmp_path)


def test_cnn_dailymail_agrees_with_the_catalogues_own_parser(tmp_path, monkeypatch):
    """Theirs reads files through TensorFlow, which is replaced by `open`."""
    theirs = pytest.importorskip("tensorflow_datasets.summarization.cnn_dailymail")
    monkeypatch.setattr(theirs, "_read_text_file", lambda path: [line.strip() for line in io.StringIO(path)])
    for story in (STORY, "A\nb.\n@highlight\nc\n", "\n@highlight\n\nx'\n", "He said \u201cno\u201d\nNo)\n", ""):
        assert cnn_dailymail.parse(story) == theirs._get_art_abs(story)


# ---- a user's own files


def load_folder(path, tmp_path, **settings):
    return samples.prepared(text.load(text.TextSpec(name=f"folder:{path}", dir=str(tmp_path / "data"), **settings)))


def test_a_single_tsv_file_is_a_data_set(tmp_path):
    write(tmp_path, "pairs.tsv", "".join(f"a {number}\tb {number}\n" for number in range(30)))
    data = load_folder(tmp_path / "pairs.tsv", tmp_path)
    assert data.counts == {"train": 24, "validation": 3, "test": 3}
    reference = data.reference("train", 0)
    assert reference["source"].split() == ["a", reference["target"].split()[1]]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_jsonl_with_fields_of_its_own(tmp_path, suffix):
    line = json.dumps({"question": "Who?", "context": "He did.", "answer": "he", "references": ["he", "him"]}) + "\n"
    for split in ("train", "dev", "test"):
        write(tmp_path / "a", f"{split}.jsonl{suffix}", line * 5)
    (tmp_path / "a/notes.md").write_text("not a text of the data set")
    with pytest.raises(
        ValueError, match=r"has the unknown field 'source'; choose from those of 'folder:.*': answer, context, question"
    ):
        load_folder(tmp_path / "a", tmp_path)
    prompt = {"source": "{question} | {context}", "target": "{answer}"}
    data = load_folder(tmp_path / "a", tmp_path, **prompt)
    assert data.counts == {"train": 5, "validation": 5, "test": 5}
    assert data.reference("test", 0)["source"] == "Who? | He did."


def test_parallel_files_and_files_that_changed(tmp_path):
    folder = tmp_path / "a"
    write(folder, "train.source", "a\nb\nc\n")
    write(folder, "train.target", "x\ny\nz\n")
    first = load_folder(folder, tmp_path)
    assert sum(first.counts.values()) == 3
    write(folder, "train.target", "x\ny\nzz\n")
    second = load_folder(folder, tmp_path)
    assert second.counts == first.counts
    assert second.fingerprint != first.fingerprint
    write(folder, "train.target", "x\ny\n")
    with pytest.raises(ValueError, match=r"train\.source has 3 lines, .*train\.target has 2"):
        load_folder(folder, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.tsv", "a\tb\na b\n", r"train\.tsv, line 2 has 1 tab-separated columns; it must have 2"),
        (
            "train.tsv",
            "a\tb\n\t b\n\tc\n",
            r"2 of 3 examples lack a text; fill them, first .*line 2: with an empty source",
        ),
        ("train.tsv", b"a\tb\n\xe9\tc\n", r"train\.tsv, line 2: invalid UTF-8"),
        ("train.tsv", "", r"train\.tsv, line 1 is empty"),
        ("train.jsonl", '{"a": "b"}\n{"b": "c"}\n', r"train\.jsonl, line 2 has the keys b; they must be a"),
        ("train.jsonl", '{"a": ["b"]}\n{"a": "b"}\n', r"line 2: 'a' is 'b'; it must be a list of strings"),
        ("train.jsonl", '{"a": "b"}\n{"a": ["b"]}\n', r"line 2: 'a' is \['b'\]; it must be a string"),
        ("train.jsonl", '{"a": " "}\n{"a": null}\n', r"2 of 2 examples lack a text; .*line 1: with an empty a"),
        ("test.tsv", "a\tb\n", r"has no train file, only test\.tsv"),
        ("train.source", "a\n", r"train\.target does not exist"),
        ("pairs.doc", "a,b\n", r"holds no texts, only pairs\.doc; it needs train\.tsv or"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    write(tmp_path / "a", name, content)
    with pytest.raises(ValueError, match=message) as caught:
        load_folder(tmp_path / "a", tmp_path)
    assert "\n" not in str(caught.value)


def test_two_files_of_one_split(tmp_path):
    for name in ("train.tsv", "val.tsv", "dev.jsonl"):
        write(tmp_path / "a", name, '{"a": "b"}\tb\n')
    with pytest.raises(ValueError, match=r"val\.tsv and .*dev\.jsonl are both the validation split; keep one"):
        load_folder(tmp_path / "a", tmp_path)
    write(tmp_path, "pairs.doc", "a,b\n")
    with pytest.raises(ValueError, match=r"pairs\.doc is none of \.tsv, \.csv"):
        load_folder(tmp_path / "pairs.doc", tmp_path)


# ---- the real files


@pytest.mark.parametrize(
    ("name", "folder", "counts"),
    [
        ("multi30k", "multi30k", (29_000, 1_014, 1_000)),
        ("tatoeba_zh_en", "tatoeba_zh_en", (25_626, 1_409, 1_412)),
        ("aeslc_jsonl", "aeslc", (14_417, 1_749, 1_906)),
        ("sst2_sentences", "sst2", (6_920, 872, 1_821)),
        ("tweetqa", "tweetqa", (9_568, 1_120, 1_086)),
        ("qamr", "qamr", (16_989, 1_763, 16_905)),
        ("babi", "babi", (18_011, 1_989, 20_000)),
    ],
)
def test_the_real_files(tmp_path, name, folder, counts):
    if not (SHARED / folder).is_dir():
        pytest.skip(f"no {folder} in {SHARED}; set TESSERA_SHARED_DATA")
    message = prepare.prepare(name, manual_dir=str(SHARED / folder), data_dir=str(tmp_path))
    assert message.endswith("(train {:,}, validation {:,}, test {:,})".format(*counts))
    data = text.load(text.TextSpec(name=name, dir=str(tmp_path)))
    fields = [data.prepared.fields("test", index) for index in range(0, counts[2], 50)]
    texts = [templates.choose(name).texts(example) for example in fields]
    assert all(source.strip() and target.strip() for source, target in texts)
    several = {"aeslc_jsonl": 4, "tweetqa": 2}.get(name)
    assert several is None or {len(example["references"]) for example in fields} == {several}
