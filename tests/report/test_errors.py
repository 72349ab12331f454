"""Scores by group and lengths of predicted texts, ranks of candidates, and classes that are texts."""

import json

import numpy as np
import pytest

from research.metrics import confusion
from research.report import errors, plots


def text(prediction, *references, **fields):
    return {"prediction": prediction, "references": list(references), **fields}


def write(folder, lines, metric="test/accuracy"):
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "result.json").write_text(json.dumps({"report": {"metric": metric}}))


def figures_of(folder):
    plots.draw(folder)
    assert all(path.stat().st_size > 5000 for path in folder.glob("*.png"))
    return sorted(path.stem for path in folder.glob("*.png"))


def test_texts_are_grouped_by_task():
    lines = [text("a", "a", task=1), text("b", "a", task=1), text("b", "b", task=2)]
    field, scores = errors.grouped(lines, "test/accuracy")
    assert field == "task"
    assert {name: score.value for name, score in scores.items()} == {"1": 0.5, "2": 1.0}


def test_texts_without_tasks_are_grouped_by_words():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 40, 200)
    lines = [text("x " * (count if count % 2 else 50), "x " * count) for count in counts]
    field, scores = errors.grouped(lines, "test/accuracy")
    assert field == "words of the reference" and len(scores) == 4
    for name, score in scores.items():
        low, high = map(int, name.split("-"))
        inside = counts[(counts >= low) & (counts <= high)]
        assert score.value == pytest.approx((inside % 2).mean())


def test_tiny_groups_are_left_out():
    lines = [text("a", "a", speaker=name) for name in ["ann"] * 150 + ["bob"] * 50 + ["one"]]
    assert list(errors.grouped(lines, "test/accuracy")[1]) == ["ann", "bob"]


def test_word_error_rates_are_grouped_by_speaker():
    lines = [text("one two", "one two", speaker="ann"), text("one", "one two", speaker="bob")]
    assert {name: score.value for name, score in errors.grouped(lines, "test/wer")[1].items()} == {"ann": 0, "bob": 50}


def test_lengths_are_relative_to_the_nearest_reference():
    lines = [text("a b", "a", "a b c d"), text("", "a"), text("a", ""), text("你好", "你好吗啊")]
    np.testing.assert_allclose(errors.relative_lengths(lines), [2, 0, 0.5])


@pytest.mark.parametrize(
    "lines",
    [
        [text(f"a {number}", f"b {number}") for number in range(9)],
        [{"rank": rank, "nearest": "a"} for rank in (1, 3, 1)],
    ],
)
def test_texts_and_ranks_are_drawn(tmp_path, lines):
    write(tmp_path, lines)
    assert figures_of(tmp_path) == ["errors"]


def test_the_empty_predictions_of_an_untrained_model_are_drawn(tmp_path):
    write(tmp_path, [text("", "")] * 3, "test/f1")
    assert errors.draw(tmp_path) == tmp_path / "errors.png"


def test_texts_that_are_names_of_classes_have_a_confusion_matrix(tmp_path):
    lines = [text("yes", "yes"), text("no", "yes"), text("no", "no"), text("maybe", "no")] * 3
    names, counts = confusion.matrix(lines)
    assert names == ["no", "yes", "(other)"]
    np.testing.assert_array_equal(counts, [[3, 0, 3], [3, 3, 0], [0, 0, 0]])
    write(tmp_path, lines)
    assert figures_of(tmp_path) == ["confusion"]


def test_a_classifier_of_texts_has_a_confusion_matrix(tmp_path):
    write(tmp_path, [{"target": "good", "predicted": "bad"}, {"target": "bad", "predicted": "bad"}])
    assert figures_of(tmp_path) == ["confusion"]
    np.testing.assert_array_equal(confusion.matrix([{"target": "good", "predicted": "bad"}])[1], [[0, 0], [1, 0]])


@pytest.mark.parametrize(
    "lines",
    [
        [text("a", str(number)) for number in range(9)],  # each reference once
        [text("a", "a", "b")] * 9,  # several are right
        [text("a", "a", task=1)] * 9,
    ],
)
def test_other_texts_have_none(lines):
    assert confusion.matrix(lines)[0] == []


def test_without_texts_nothing_is_drawn(tmp_path):
    assert figures_of(tmp_path) == []


def test_names_with_dollar_signs_are_drawn_as_they_are(tmp_path):
    speakers = ["$\\foo$", "a $ b $ c"]
    write(tmp_path, [text("one", "one", speaker=each) for each in speakers], "test/wer")
    assert errors.draw(tmp_path).stat().st_size > 5000
    write(tmp_path, [text(each, each) for each in speakers * 5])
    assert "confusion" in figures_of(tmp_path)


def test_a_metric_that_predictions_do_not_give_leaves_the_lengths(tmp_path):
    lines = [text("a b", f"c {number}") for number in range(9)]
    assert errors.grouped(lines, "test/loss") == ("words of the reference", {})
    write(tmp_path, lines, "test/loss")
    assert errors.draw(tmp_path).stat().st_size > 5000


def test_a_figure_that_cannot_be_drawn_does_not_hide_the_result(tmp_path, capsys):
    write(tmp_path, [text("a", probability=0.5), text("b", probability=0.5)])
    plots.draw(tmp_path)
    assert "warning: the figure of errors was not drawn" in capsys.readouterr().err
