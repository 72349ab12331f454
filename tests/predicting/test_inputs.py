"""What the words of `predict` stand for, and the files that its answers become."""

import csv
import io
import json
import sys

import pytest

from research import predicting
from research.predicting import answers

SUFFIXES = (".png", ".jpg")


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png", "inner/c.png", ".git/d.png"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("one\ntwo\n" if name.endswith(".txt") else "")
    return tmp_path / "in"


def names(found, folder):
    return [each.name.removeprefix(f"{folder}/") for each in found]


def test_a_folder_stands_for_its_files_of_the_kind_sorted(folder):
    found = predicting.files([str(folder)], SUFFIXES, "images")
    assert names(found, folder) == ["a.JPG", "b.png", "inner/c.png"]
    assert [each.content for each in found] == [each.name for each in found]


def test_a_pattern_stands_for_what_it_matches(folder):
    assert names(predicting.files([f"{folder}/*.png"], SUFFIXES, "images"), folder) == ["b.png"]
    assert names(predicting.files([f"{folder}/**/*.png"], SUFFIXES, "images"), folder) == ["b.png", "inner/c.png"]
    odd = folder / "what[1].png"
    odd.touch()
    assert names(predicting.files([str(odd)], SUFFIXES, "images"), folder) == ["what[1].png"]


def test_what_stands_for_no_file_has_an_error(folder):
    (folder / "empty").mkdir()
    found = predicting.files([f"{folder}/*.gif", f"{folder}/empty", f"{folder}/gone.png"], SUFFIXES, "images")
    assert [str(each.error) for each in found] == [
        f"'{folder}/*.gif' matches no images", f"'{folder}/empty' holds no images", "None"
    ]  # fmt: skip


def test_standard_input_names_files(folder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{folder}/b.png\n\n{folder}/a.JPG\n"))
    assert names(predicting.files(["-"], SUFFIXES, "images"), folder) == ["b.png", "a.JPG"]
    with pytest.raises(ValueError, match="standard input lists no images"):
        predicting.files(["-"], SUFFIXES, "images")


def test_texts_are_themselves_lines_of_files_of_folders_and_of_patterns(folder):
    content = lambda *inputs: [each.content for each in predicting.texts(list(inputs))]
    assert content("three", "where is it?", str(folder / "notes.txt")) == ["three", "where is it?", "one", "two"]
    assert content(str(folder)) == content(f"{folder}/*.txt") == ["one", "two"]
    assert content(str(folder / "inner")) == [str(folder / "inner")]  # which holds no texts
    (folder / "notes.txt").write_text("one\n\n")
    one, empty, four = predicting.texts([str(folder / "notes.txt"), "four"])
    assert str(empty.error) == f"{folder}/notes.txt, line 2 is empty; fill or remove it"
    assert (one.content, four.content) == ("one", "four") and one.error is four.error is None


RECORDS = [
    {"input": "a, b.png", "class": "cat", "probabilities": {"cat": 0.75, "dog": 0.25}, "boxes": [[1, 2, 3, 4]]},
    {"input": "c.png", "error": "cannot be read"},
]


def test_answers_become_lines_of_json(tmp_path):
    out = tmp_path / "out.jsonl"
    answers.write(str(out), RECORDS)
    assert [json.loads(line) for line in out.read_text().splitlines()] == RECORDS
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_answers_become_a_table(tmp_path):
    out = tmp_path / "out.csv"
    answers.write(str(out), RECORDS)
    with out.open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first["input"] == "a, b.png" and first["probabilities.dog"] == "0.25" and first["error"] == ""
    assert json.loads(first["boxes"]) == [[1, 2, 3, 4]]
    assert second["error"] == "cannot be read" and second["class"] == ""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.txt", "must end in .csv or .jsonl"),
        ("gone/out.csv", "the folder does not exist"),
        ("dir.csv", "is a folder; name a file"),
    ],
)
def test_a_file_that_answers_cannot_be_written_to_is_refused(tmp_path, name, message):
    (tmp_path / "dir.csv").mkdir()
    with pytest.raises(ValueError, match=message):
        answers.check(str(tmp_path / name))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_file_name_that_is_no_utf8_loses_no_answers(suffix, tmp_path):
    out = tmp_path / f"answers{suffix}"
    answers.write(str(out), [{"input": "a\udcff.png", "label": "cat"}, {"input": "b.png", "label": "dog"}])
    assert "udcff.png" in out.read_text("utf-8") and "dog" in out.read_text("utf-8")


def test_a_missing_text_file_is_no_text(tmp_path):
    there = tmp_path / "there.txt"
    there.write_text("a line\n")
    found = predicting.texts(["none.txt", str(there), "not a file.txt"])
    assert [each.content for each in found] == [None, "a line", "not a file.txt"]
    assert "'none.txt': no such file" in str(found[0].error)
