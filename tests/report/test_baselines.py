"""The floor of a table is the strongest baseline that was measured, and what is below it is marked."""

import json

import numpy as np
import pytest

from research.report import baselines, headline, records, tables
from tests.report.test_tables import ROW, cells

BASELINE = {
    "experiment": "toy",
    **{
        key: ROW[key] for key in ("file", "variant", "overrides", "config_digest", "commit", "hardware", "data", "date")
    },
    "baseline": "copy",
    "settings": {},
    "chosen_on": None,
    "tried": [],
    "note": "",
    "dirty": False,
    "wall_s": 3.0,
    "metric": "test/bleu",
    "value": 10.0,
    "also": [],
    "metrics": {"test/bleu": 10.0},
    "command": "tessera baseline --config=configs/toy/net.py:full",
}


def measured(name, value, **changes):
    return (
        BASELINE | {"baseline": name, "value": value, "metrics": {changes.get("metric", "test/bleu"): value}} | changes
    )


def run(value, **changes):
    return ROW | {"metrics": {changes.get("metric", "test/bleu"): value}} | changes


def test_the_strongest_is_the_best_on_the_metric():
    rows = [measured("copy", 10.0), measured("retrieval", 12.5), measured("frequent", 1.0)]
    assert baselines.strongest([run(9.0)], rows) == ("retrieval", 12.5, True)
    errors = [row | {"metric": "test/wer"} for row in rows]
    assert baselines.strongest([run(9.0, metric="test/wer")], errors) == ("frequent", 1.0, True)


@pytest.mark.parametrize(
    "other",
    [
        {"file": "configs/toy/other.py"},
        {"variant": "another"},
        {"metric": "test/chrf"},
        {"data": ROW["data"] | {"fingerprint": "beef", "counts": {"train": 4}}},
        {"data": ROW["data"] | {"fingerprint": "beef", "version": "2.0.0"}},
    ],
)
def test_a_baseline_of_something_else_is_none(other):
    assert baselines.strongest([run(9.0)], [measured("copy", 10.0, **other)]) is None


def test_data_of_another_fingerprint_are_said_to_be():
    other = ROW["data"] | {"fingerprint": "beef"}
    rows = [measured("copy", 10.0), measured("retrieval", 12.5, data=other)]
    assert baselines.strongest([run(9.0)], rows[1:]) == ("retrieval", 12.5, False)
    assert "another fingerprint" in cells(tables.render([run(9.0), rows[1]]))[0][2]
    assert baselines.strongest([run(9.0)], rows) == ("copy", 10.0, True), "which comes first"


def test_the_newest_measurement_counts():
    rows = [measured("copy", 30.0, date="2025-11-01"), measured("copy", 10.0, date="2025-11-02")]
    assert baselines.strongest([run(9.0)], rows) == ("copy", 10.0, True)
    assert baselines.strongest([run(9.0)], rows[::-1]) == ("copy", 10.0, True)


def test_over_folds_means_are_compared_of_what_was_measured_on_all():
    folds = [ROW["data"] | {"name": f"toy/fold{k}", "fingerprint": str(k)} for k in (0, 1)]
    runs = [run(value, data=data, over="data.name") for value, data in zip((50.0, 70.0), folds, strict=True)]
    rows = [measured("steady", 55.0, data=data) for data in folds] + [measured("once", 99.0, data=folds[0])]
    assert baselines.strongest(runs, rows) == ("steady", 55.0, True)
    rows += [measured("once", 1.0, data=folds[1])]
    assert baselines.strongest(runs, rows) == ("steady", 55.0, True)
    (line,) = (line for line in baselines.table(rows)[1] if line[1] == "steady")
    assert line[3].startswith("55.0") and line[3].endswith("(2 data sets)")


@pytest.mark.parametrize(
    ("metric", "value", "below"),
    [("test/bleu", 9.9, True), ("test/bleu", 10.0, False), ("test/bleu", 10.1, False), ("test/wer", 10.1, True)],
)
def test_what_is_below_is_marked(metric, value, below):
    ((_, shown, floor, *_),) = cells(tables.render([run(value, metric=metric), measured("copy", 10.0, metric=metric)]))
    assert (baselines.BELOW in shown) == below
    assert floor == "10.00 (copy)"


def test_a_stated_floor_stands_only_where_nothing_was_measured():
    stated = run(9.0, floor=0.1, floor_source="chance")
    assert cells(tables.render([stated]))[0][2] == "*stated:* 0.1 (chance)"
    assert cells(tables.render([stated, measured("copy", 10.0)]))[0][2] == "10.00 (copy)"
    assert cells(tables.render([run(9.0)]))[0][2] == "-"


def test_baselines_are_no_rows_of_models_and_are_listed_with_their_settings():
    chosen = measured("retrieval", 12.5, settings={"words": 2}, chosen_on="validation", tried=[1, 2])
    text = tables.render([run(20.0), measured("copy", 10.0), chosen])
    assert len(cells(text)) == 1
    listed = [line for line in text.splitlines() if line.startswith("| `net:full` |")]
    assert "retrieval (words 2, chosen on validation among 1, 2) | bleu | 12.50" in listed[0]
    assert "| copy | bleu | 10.00" in listed[1]
    assert text.count(BASELINE["command"]) == 1


def test_the_headline_shows_the_measured_floor(tmp_path):
    folder = tmp_path / "experiments/toy"
    folder.mkdir(parents=True)
    rows = [run(9.0) | {"value": 9.0, "interval": [8.5, 9.5, "examples"]}, measured("copy", 10.0)]
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    readme = tmp_path / "README.md"
    name = tables.label(ROW)
    readme.write_text(f"<!-- headline:begin toy/{name} -->\n<!-- headline:end -->\n")
    text = headline.updated(readme, lambda row: False)
    assert f"| 9.000 [8.500, 9.500]{baselines.BELOW} | 10.00 (copy) |" in text


def predictions(right):
    rows = ({"index": n, "class": "a", "predicted": "a" if each else "b"} for n, each in enumerate(right))
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_a_run_is_compared_with_the_predictions_of_its_floor(repository):
    rng = np.random.default_rng(0)
    ours, theirs = rng.random(360) < 0.9, rng.random(360) < 0.7
    workdir = repository.finished_run(0, float(ours.mean()))
    (workdir / "predictions.jsonl").write_text(predictions(ours))
    row = records.read_run(workdir, repository.root)
    assert row["difference"] is None and row["interval"]
    floor = {key: row[key] for key in ("experiment", "file", "variant", "data", "metric", "date", "commit")}
    value = float(theirs.mean())
    floor |= {"baseline": "a, b", "value": value, "metrics": {row["metric"]: value}, "settings": {}, "note": ""}
    floor |= {"overrides": [], "wall_s": 1.0, "command": "tessera baseline", "chosen_on": None, "tried": [], "also": []}
    records.record(floor, repository.root)
    assert "no predictions of its floor; run: tessera baseline" in records.summary(workdir, repository.root)

    path = repository.root / baselines.PREDICTIONS / "toy/net_full/toy-f00d/a_b.jsonl"
    assert path == repository.root / baselines.PREDICTIONS / baselines.predictions_path(row, "a, b")
    path.parent.mkdir(parents=True)
    path.write_text(predictions(theirs))
    row = records.read_run(workdir, repository.root)
    found = row["difference"]
    drawn = [ours[chosen].mean() - theirs[chosen].mean() for chosen in rng.integers(0, 360, (4000, 360))]
    assert found["baseline"] == "a, b" and found["value"] == pytest.approx(ours.mean() - theirs.mean())
    np.testing.assert_allclose([found["low"], found["high"]], np.quantile(drawn, [0.025, 0.975]), atol=0.006)
    shown = f"{found['value']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"
    assert f"difference  {shown}" in records.summary(workdir, repository.root)
    records.record(row, repository.root)
    text = tables.updated(repository.readme, tables.Marks())
    assert f"{value:.4f} (a, b) · run - floor {shown} |" in text and baselines.DIFFERENCES in text

    path.write_text(predictions(~theirs))
    message = f"the predictions of its floor give {1 - value:.4f}, its row {value:.4f}; run: tessera baseline"
    assert message in records.summary(workdir, repository.root)
    path.write_text(predictions([*theirs, *theirs]))
    assert "holds no predictions of these examples" in records.summary(workdir, repository.root)


def test_of_several_runs_the_intervals_without_0_are_counted():
    difference = {"baseline": "copy", "value": 2.0, "low": 1.0, "high": 3.0, "over": "examples"}
    seeds = [run(12.0, seed=seed, difference=difference) for seed in (0, 1)]
    best = baselines.Strongest("copy", 10.0)
    assert baselines.differences(seeds, best) == " · run - floor +2.000, 0 outside the interval in 2 of 2"
    seeds[1] = seeds[1] | {"difference": difference | {"value": 1.0, "low": -1.0}}
    assert baselines.differences(seeds, best) == " · run - floor +1.500, 0 outside the interval in 1 of 2"
    assert baselines.differences([*seeds, run(9.0)], best) == "", "one was not compared"
    assert baselines.differences(seeds, baselines.Strongest("other", 11.0)) == ""


def test_runs_on_several_data_sets_are_compared_on_each():
    difference = {"value": -5.0, "low": -8.0, "high": -2.0, "over": "examples"}
    folds = [ROW["data"] | {"name": f"toy/fold{k}", "fingerprint": str(k)} for k in (1, 0)]
    runs = [run(value, data=data, over="data.name") for value, data in zip((70.0, 50.0), folds, strict=True)]
    more = {"interval": None, "differences": {}}
    runs = [more | each | {"value": each["metrics"]["test/bleu"]} for each in runs]
    runs[0] |= {"config_digest": "other"}
    runs[1] |= {"interval": [48.0, 52.0, "examples"], "differences": {"steady": difference}}
    rows = [measured("steady", 55.0, data=data) for data in folds]
    header, lines = baselines.by_data_set(runs, rows)
    assert header == ["data", "bleu", "steady", "run - floor"]
    assert lines == [
        ["toy/fold0", "50.00 [48.00, 52.00]", "55.00", "-5.000 [-8.000, -2.000]"],
        ["toy/fold1", "70.00", "55.00", "-"],
    ]
    assert "| toy/fold0 | 50.00 [48.00, 52.00] | 55.00 |" in tables.render([*runs, *rows])
    assert baselines.by_data_set(runs, []) == baselines.by_data_set(runs[:1], rows) == ([], [])
    once = measured("other", 1.0, data=folds[0] | {"fingerprint": "beef"})
    other = [measured("steady", 55.0, data=data | {"fingerprint": "beef"}) for data in folds] + [once]
    exact = measured("other", 1.0, data=folds[0])
    assert baselines.by_data_set(runs, [*other, exact])[1] == lines, "also if one has an exact baseline alone"
    seeds = [runs[0], runs[0] | {"seed": 1}]
    assert baselines.by_data_set(seeds, rows) == ([], [])


def test_half_intervals_of_different_data_sets_are_added_in_quadrature():
    found = [{"value": 2.0, "low": -1.0, "high": 3.0}, {"value": 4.0, "low": 0.0, "high": 6.0}]
    folds = [
        run(12.0, data={"fingerprint": str(fold)}, differences={"copy": each | {"over": "examples"}})
        for fold, each in enumerate(found)
    ]
    shown = baselines.differences(folds, baselines.Strongest("copy", 10.0))
    assert shown == f" · run - floor +3.000 [+{3 - 5 / 2:.4f}, +{3 + 5**0.5 / 2:.3f}]"
