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
    with pytest.raises(ValueError, match=r"--sweep=.*ranking\.json.*tessera sweep"):
        records.read_run(other, repository.root, sweep=winner)
    assert "3 compared on validation/accuracy (best 0.8500 ± 0.0707; the next one 0.6500 ± 0.0707)" in records.summary(
        winner, repository.root
    )
    text = tables.render([row])
    assert "| `a=2` | 0.8500 ± 0.0707 | 2 | this row |" in text and "| `a=1` | - | 0 | failed |" in text
    assert "| `unchanged config` | 0.6500 ± 0.0707 | 2 |  |" in text


def ranking(*settings, status="finished"):
    trials = [
        {"trial": n, "settings": each, "validation": {"0": 0.9 - n / 10}, "status": status}
        for n, each in enumerate(settings)
    ]
    return json.dumps(RANKING | {"trials": trials, "winner": 0, "test": {}})


def test_a_run_with_the_settings_of_a_trial_says_which_one(repository):
    run = repository.finished_run(0, overrides=("data.fold=2", "train.steps=50"))
    folder = repository.root / "runs/sweep"
    folder.mkdir()
    path = folder / tried.RANKING
    path.write_text(ranking(["data.fold=1"], ["train.steps=3"], ["data.fold=2", "data.name=toy", "train.steps=3"]))
    row = records.read_run(run, repository.root, sweep=folder)
    assert row["tried"]["taken"] == 2, "the steps may differ; the third says more than the second"
    assert "(best 0.9000; the next one 0.8000; those of this row 0.7000)" in tried.fact(row)
    assert [line.endswith("| 1 | this row |") for line in tried.lines(row)[2:]] == [False, False, True]
    older = {"tried": {key: value for key, value in row["tried"].items() if key != "taken"}}
    assert "(best 0.9000; the next one 0.8000)" in tried.fact(older) and "this row" not in "".join(tried.lines(older))

    path.write_text(ranking(["data.fold=1"], ["data.fold=2", "data.name=other"]))
    with pytest.raises(ValueError, match=r"not those of a finished trial .*: data.fold=1; data.fold=2 data.name=other"):
        records.read_run(run, repository.root, sweep=folder)
    path.write_text(ranking(["data.fold=2"], status="stopped"))
    with pytest.raises(ValueError, match="not those of a finished trial"):
        records.read_run(run, repository.root, sweep=folder)


def test_a_run_made_again_keeps_what_was_tried(repository):
    winner = repository.finished_run(0)
    (winner.parent / tried.RANKING).write_text(json.dumps(RANKING))
    first = records.read_run(winner, repository.root)
    records.record(first, repository.root)
    baseline = {key: first[key] for key in ("experiment", "file", "variant")} | {"baseline": "copy", "tried": [1, 2]}
    records.record(baseline, repository.root)
    (winner.parent / tried.RANKING).unlink()
    other = repository.finished_run(0, overrides=("data.fold=2",))
    for workdir in (winner, repository.finished_run(1), other):
        records.record(records.read_run(workdir, repository.root), repository.root)
    rows = [row for row in records.read_lines(repository.results) if "baseline" not in row]
    assert [row["tried"]["count"] if "tried" in row else 0 for row in rows] == [3, 3, 0], "the other has other settings"


def test_settings_are_compared_as_values_of_the_fields(repository):
    workdir = repository.finished_run(0, overrides=("data.fold=2",))
    folder = repository.root / "runs/sweep"
    folder.mkdir()

    def found(*settings):
        (folder / tried.RANKING).write_text(ranking(list(settings)))
        try:
            return records.read_run(workdir, repository.root, sweep=folder)["tried"]["taken"] == 0
        except ValueError:
            return False

    assert found() and found("data.fold=2") and found("data.name=toy", "train.log_every=7")
    assert not found("data.fold=3") and not found("data.former=1")


def test_a_field_that_was_added_after_the_run_has_its_former_value(repository):
    workdir = repository.finished_run(0)
    content = json.loads((workdir / "config.json").read_text())
    del content["data"]["fold"]
    (workdir / "config.json").write_text(json.dumps(content))
    folder = repository.root / "runs/sweep"
    folder.mkdir()
    (folder / tried.RANKING).write_text(ranking(["data.fold=1"], ["data.fold=0"]))
    assert records.read_run(workdir, repository.root, sweep=folder)["tried"]["taken"] == 1


def test_a_long_sweep_is_cut_and_a_damaged_ranking_is_left_out(repository, monkeypatch):
    monkeypatch.setattr(tried, "MOST", 2)
    winner = repository.finished_run(0)
    (winner.parent / tried.RANKING).write_text(json.dumps(RANKING))
    row = {"tried": tried.of_run(winner)}
    assert len(row["tried"]["trials"]) == 2 and tried.lines(row)[-1] == "| and 1 more | | | |"
    (winner.parent / tried.RANKING).write_text("{")
    assert tried.of_run(winner) is None and tried.lines({}) == [] and tried.fact({}) == ""
