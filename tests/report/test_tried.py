"""What a sweep has tried stands in the rows of its winner, and in the table."""

import json

import pytest

from research.report import records, tables, tried

TRIALS = [
    {"trial": 2, "settings": ["a=2"], "validation": {"0": 0.9, "1": 0.8}, "status": "finished"},
    {"trial": 0, "settings": [], "validation": {"0": 0.7, "1": 0.6}, "status": "finished"},
    {"trial": 1, "settings": ["a=1"], "validation": {}, "status": "failed"},
]
RANKING = {"metric": "validation/accuracy", "mode": "max", "trials": TRIALS, "winner": 2, "test": {"net-seed=0": {}}}


def test_the_row_of_a_winner_lists_what_was_tried(repository):
    winner, other = (repository.finished_run(seed) for seed in (0, 1))
    (winner.parent / tried.RANKING).write_text(json.dumps(RANKING))
    row = records.read_run(winner, repository.root)
    assert row["tried"]["count"] == 3 and row["tried"]["metric"] == "validation/accuracy"
    assert [each["settings"] for each in row["tried"]["trials"]] == [["a=2"], [], ["a=1"]]
    assert row["tried"]["trials"][0]["validation"] == {"0": 0.9, "1": 0.8}
    assert "tried" not in records.read_run(other, repository.root), "it is not the winner's"
    elsewhere = records.read_run(other, repository.root, sweep=winner.parent)
    assert elsewhere["tried"] == row["tried"] and elsewhere["seed"] == 1
    with pytest.raises(ValueError, match=r"--sweep=.*ranking\.json.*tessera sweep"):
        records.read_run(other, repository.root, sweep=winner)
    assert "3 compared on validation/accuracy (best 0.8500 ± 0.0707; the next one 0.6500 ± 0.0707)" in records.summary(
        winner, repository.root
    )
    text = tables.render([row])
    assert "| `a=2` | 0.8500 ± 0.0707 | 2 |  |" in text and "| `a=1` | - | 0 | failed |" in text
    assert "| `unchanged config` | 0.6500 ± 0.0707 | 2 |  |" in text


def test_a_long_sweep_is_cut_and_a_damaged_ranking_is_left_out(repository, monkeypatch):
    monkeypatch.setattr(tried, "MOST", 2)
    winner = repository.finished_run(0)
    (winner.parent / tried.RANKING).write_text(json.dumps(RANKING))
    row = {"tried": tried.of_run(winner)}
    assert len(row["tried"]["trials"]) == 2 and tried.lines(row)[-1] == "| and 1 more | | | |"
    (winner.parent / tried.RANKING).write_text("{")
    assert tried.of_run(winner) is None and tried.lines({}) == [] and tried.fact({}) == ""
