"""Texts as people have them, through the command that prepares them and the records that it writes."""

import gzip
import json
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds

from research.data.text import dataset as text
from tests.running import run

PAIRS = [(f"a small house {number}", f"ein kleines Haus {number}") for number in range(30)]
TSV = "".join(f"{one}\t{other}\n" for one, other in PAIRS)
LINES = [{"source": one, "target": other} for one, other in PAIRS]


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def changed(number, **values):
    return jsonl([*LINES[:number], LINES[number] | values, *LINES[number + 1 :]])


def squad(answers):
    """v2.0 where a question has no answers."""
    qas = [
        {
            "id": str(number),
            "question": f"Where is {number}?",
            "is_impossible": not answers(number),
            "answers": [{"text": each, "answer_start": 0} for each in answers(number)],
        }
        for number in range(30)
    ]
    return json.dumps(
        {"version": "x", "data": [{"title": "t", "paragraphs": [{"context": "It is here.", "qas": qas}]}]}
    )


def write(root, files):
    root.mkdir(exist_ok=True)
    for name, content in files.items():
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def prepare(root, files):
    """The outcome of preparing a folder of these files."""
    where = write(root / "own", files)
    return run(["research.data", "prepare", f"folder:{where}", f"--data_dir={root / 'data'}"])


def pairs(root, source="{source}", target="{target}", path=""):
    """The texts that a config with these templates reads from what was prepared."""
    settings = {"source_length": 64, "target_length": 64, "source": source, "target": target}
    data = text.load(text.TextSpec(name=f"folder:{path or root / 'own'}", dir=str(root / "data"), **settings))
    found = (data.reference(split, index) for split, count in data.prepared.counts.items() for index in range(count))
    return sorted((each["source"], each["target"]) for each in found)


GOOD = {
    "bom_crlf": {"train.tsv": "\ufeff" + TSV.replace("\n", "\r\n")},
    "old_mac": {"train.tsv": TSV.replace("\n", "\r")},
    "utf16": {"train.tsv": TSV.encode("utf-16")},
    "utf16_big": {"train.tsv": b"\xfe\xff" + TSV.encode("utf-16-be")},
    "header": {"train.tsv": "source\ttarget\n" + TSV},
    "trailing_tab": {"train.tsv": TSV.replace("\n", "\t\n")},
    "csv": {"train.csv": "source,target\n" + TSV.replace("\t", ",")},
    "csv_without_header": {"train.csv": "".join(f'"{a}, is it?","{b}"\n' for a, b in PAIRS).replace(", is it?", "")},
    "semicolons": {"train.csv": "Target;Source\n" + "".join(f"{b};{a}\n" for a, b in PAIRS)},
    "tabs_in_csv": {"train.csv": TSV},
    "commas_in_tsv": {"train.tsv": TSV.replace("\t", ",")},
    "any_name": {"my pairs.csv": "source,target\n" + TSV.replace("\t", ",")},
    "gzipped": {"train.csv.gz": gzip.compress(b"source,target\n" + TSV.replace("\t", ",").encode())},
    "array": {"train.json": json.dumps(LINES)},
    "array_of_lines": {"train.json": json.dumps(LINES, indent=1)},
    "lines_named_json": {"train.json": jsonl(LINES)},
    "data": {"train.json": json.dumps({"data": LINES})},
    "key_order": {"train.jsonl": jsonl([row if n % 2 else dict(reversed(row.items())) for n, row in enumerate(LINES)])},
    "nested": {"train.jsonl": jsonl([{**row, "meta": {"n": 1}} for row in LINES])},
    "source_target": {
        "train.source": "".join(f"{a}\n" for a, _ in PAIRS), "train.target": "".join(f"{b}\n" for _, b in PAIRS)
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", GOOD)
def test_the_same_texts_in_every_form(tmp_path, kind):
    outcome = prepare(tmp_path, GOOD[kind])
    assert outcome.code == 0, outcome.err
    assert "train 30" in outcome.out
    assert pairs(tmp_path) == sorted(PAIRS)


def test_quotes_are_taken_off_where_they_are_quotes(tmp_path):
    rows = "".join(f'"a ""small"" house {n}"\t"ein Haus {n}"\n' for n in range(30))
    assert prepare(tmp_path, {"train.tsv": rows}).code == 0
    assert ('a "small" house 4', "ein Haus 4") in pairs(tmp_path)


def test_quotes_are_kept_where_they_are_speech(tmp_path):
    spoken = TSV + '"Hello," he said.\t"Hallo"\n"Oh no\tOh nein\nwell"\tna"\n'
    assert prepare(tmp_path, {"train.tsv": spoken}).code == 0
    found = pairs(tmp_path)
    assert len(found) == 33
    assert {('"Hello," he said.', '"Hallo"'), ('"Oh no', "Oh nein"), ('well"', 'na"')} <= set(found)


def test_a_quoted_cell_may_hold_lines_and_commas(tmp_path):
    reviews = "".join(f'"good, {n}\nreally","pos"\n' for n in range(30))
    assert "fields label, review" in prepare(tmp_path, {"train.csv": "review,label\n" + reviews}).out
    found = pairs(tmp_path, "{review}", "{label}")
    assert ("good, 3\nreally", "pos") in found


def test_languages_name_the_fields_of_parallel_files(tmp_path):
    files = {"train.en": "".join(f"{a}\n" for a, _ in PAIRS), "train.de": "".join(f"{b}\n" for _, b in PAIRS)}
    assert "fields de, en" in prepare(tmp_path, files).out
    assert pairs(tmp_path, "{en}", "{de}") == sorted(PAIRS)
    with pytest.raises(ValueError, match=r"has the unknown field 'source'; choose from those of .*: de, en"):
        pairs(tmp_path)


@pytest.mark.parametrize("target", ["{answer}", "{answers[text][0]}"])
def test_squads_own_files(tmp_path, target):
    outcome = prepare(tmp_path, {"train.json": squad(lambda n: [f"here {n}", "it"] if n % 3 else [])})
    assert outcome.code == 0, outcome.err
    found = pairs(tmp_path, "{question} {context}", target)
    assert ("Where is 4? It is here.", "here 4") in found
    assert sum(answer == "" for _, answer in found) == 10


def test_lists_of_answers(tmp_path):
    rows = [{"question": f"q {n}", "context": "c", "answers": [f"a {n}", "b"] if n % 4 else []} for n in range(30)]
    assert prepare(tmp_path, {"train.jsonl": jsonl(rows)}).code == 0
    assert pairs(tmp_path, "{question}", "{answers[0]}") == sorted(
        (f"q {n}", f"a {n}" * (n % 4 > 0)) for n in range(30)
    )


@pytest.mark.parametrize(
    ("files", "said", "kept"),
    [
        ({"train.jsonl": changed(3, target=None)}, "train: skipped 1 without target", 29),
        ({"train.jsonl": changed(3, target=float("nan"))}, "train: skipped 1 without target", 29),
        ({"train.jsonl": changed(3, source=" ")}, "train: skipped 1 with an empty source", 29),
        ({"train.jsonl": changed(3, target="")}, "fields source, target)", 30),
        ({"train.tsv": TSV + "\n\n \n"}, "train: skipped 3 blank lines", 30),
        ({"train.tsv": TSV + "alone\t\n"}, "train: skipped 1 with an empty target", 30),
        ({"train.tsv": TSV * 3}, "train: 60 repeated and kept", 90),
        ({"train.jsonl": jsonl([{**row, "meta": {"n": 1}} for row in LINES])}, "left out the keys meta (objects)", 30),
    ],
)
def test_what_is_skipped_is_counted(tmp_path, files, said, kept):
    outcome = prepare(tmp_path, files)
    assert said in outcome.out
    assert f"train {kept}" in outcome.out
    assert len(pairs(tmp_path)) == kept


def test_numbers_and_braces_are_texts(tmp_path):
    rows = [{"source": f"f(x) = {{x}} {n}", "target": n % 2} for n in range(30)]
    assert prepare(tmp_path, {"train.jsonl": jsonl(rows)}).code == 0
    assert pairs(tmp_path) == sorted((f"f(x) = {{x}} {n}", str(n % 2)) for n in range(30))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train.tsv": TSV.replace("kleines", "größeres").encode("latin-1")}, r"train.tsv, line 1: invalid UTF-8"),
        ({"train.tsv": TSV.encode("utf-16-le")}, "train.tsv, line 1 holds a NUL character"),
        ({"train.tsv": TSV + "a\0b\tc\n"}, "train.tsv, line 31 holds a NUL character"),
        ({"train.csv": "hello,hallo\ndog,Hund\n"}, "line 1: 'hello,hallo' may be a header or an example"),
        ({"train.tsv": "Hi.\tHallo.\tCC-BY (1)\n" * 9}, "line 1 is not a header for its 3 columns"),
        ({"train.csv": 'source,target\n"a,b\nc,d\n'}, "line 2 has a quoted cell without a closing quote"),
        ({"train.json": "{" * 100_000}, "train.json"),
        ({"train.json": '{"data": []}'}, "is a JSON dict without examples"),
        ({"train.json": '{"data": [{"paragraphs": [{"qas": 3}]}]}'}, "item 1 is not a SQuAD article"),
        ({"train.json": "[1, 2]"}, "item 1 is a JSON int; it must be an object"),
        ({"train.en": "a\nb\n", "train.de": "a\n"}, "train.de has 1 lines, "),
        ({"val.tsv": TSV, "valid.tsv": TSV}, "are both the validation split; keep one"),
        ({"dev.csv": TSV}, "has no train file, only dev.csv"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(tmp_path, files, message):
    assert message in prepare(tmp_path, files).error


def test_an_experiment_over_texts_speaks_of_texts(tmp_path):
    where = write(tmp_path / "own", {"notes.md": "x", "image.png": "y"})
    with pytest.raises(ValueError, match=r"holds no texts, only image\.png, notes\.md; it needs train\.tsv or"):
        pairs(tmp_path, path=where)


@pytest.mark.parametrize("word", ["x", "abcdefgh "])
def test_a_line_of_a_megabyte_takes_seconds(tmp_path, word):
    begun = time.monotonic()
    outcome = prepare(tmp_path, {"train.tsv": f"{TSV}{word * (1_000_000 // len(word))}\tlong\n"})
    assert outcome.code == 0, outcome.err
    assert ("980,000 characters of words of more than 20,000" in outcome.err) == (word == "x")
    assert time.monotonic() - begun < 60  # 300 before, 1 now


def test_questions_of_the_catalogue_without_answer(tmp_path):
    """As the catalogue's `squad/v2.0` is prepared: a sequence of answers, which is empty for every third question."""
    features = tfds.features
    answers = features.Sequence({"text": features.Text(), "answer_start": np.int32})

    class Squad(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "squad"
        VERSION = tfds.core.Version("3.0.0")
        BUILDER_CONFIGS = (tfds.core.BuilderConfig(name="v2.0", description="x", version=VERSION),)

        def _info(self):
            texts = dict.fromkeys(("id", "title", "question", "context"), features.Text())
            several = dict.fromkeys(("answers", "plausible_answers"), answers)
            kinds = features.FeaturesDict({**texts, **several, "is_impossible": np.bool_})
            return tfds.core.DatasetInfo(builder=self, features=kinds)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples() for split in ("train", "validation")}

        def _generate_examples(self):
            for number in range(30):
                found = [f"river {number}"] * (number % 3 > 0)
                said = {"id": "", "title": "", "question": f"What flows {number}?", "context": "It flows."}
                answers = {"text": found, "answer_start": [0] * len(found)}
                plausible = {"text": [], "answer_start": []}
                said |= {"answers": answers, "plausible_answers": plausible, "is_impossible": not found}
                yield number, said

    Squad(data_dir=tmp_path, config="v2.0", file_format="array_record").download_and_prepare()
    data = text.load(text.TextSpec(name="squad/v2.0", dir=str(tmp_path), source_length=64, target_length=64))
    counts = data.prepare().counts
    assert counts == {"train": 27, "validation": 3, "test": 30}
    references = [data.reference("test", index)["references"] for index in range(30)]
    assert references.count(("",)) == 10
    empty = [index for index, each in enumerate(references) if each == ("",)]
    targets = data.prepared.examples("test", (64, 64), False)
    assert all(targets[index][1].tolist() == [data.vocabulary.eos] for index in empty)


@pytest.mark.parametrize(("name", "content", "said"), [
    ("train.csv", "source,target\n", "holds no examples"),
    ("train.json", "{}", "holds no text"),
    ("train.jsonl", "{}\n{}\n", "holds no text"),
    ("train.json", '{"data": [{"title": "t", "paragraphs": []}]}', "holds no examples"),
    ("train.tsv", "".join(f"the house {n} is red\tdas Haus {n} ist rot\tz\n" for n in range(9)), "is not a header"),
    ("train.tsv", "".join(f"cat\tword{n}\tnoun\n" for n in "abcde"), "is not a header for its 3"),
])  # fmt: skip
def test_files_without_examples_or_names_of_columns(tmp_path, name, content, said):
    assert said in prepare(tmp_path, {name: content}).error
