"""Rows to Markdown: averages against numpy, and text that nobody chose carefully."""

import subprocess

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from research.report import records, tables

ROW = {
    "experiment": "toy",
    "file": "configs/toy/net.py",
    "variant": "full",
    "overrides": [],
    "config_digest": "abc",
    "group": "abc",
    "over": "seed",
    "commit": "0123456789ab",
    "dirty": False,
    "data": {"name": "toy", "version": "1.0.0", "counts": {"train": 3}, "fingerprint": "f00d"},
    "params": 10,
    "seed": 0,
    "steps": 5,
    "mesh": {"data": 1},
    "hardware": "cpu",
    "wall_s": 1.0,
    "metric": "test/bleu",
    "also": [],
    "metrics": {"test/bleu": 30.0},
    "signature": None,
    "floor": None,
    "floor_source": None,
    "reference": None,
    "reference_source": None,
    "command": "python -m experiments.toy.main",
    "date": "2025-11-24",
}
SUITE = {
    "experiment": "performance",
    "suite": "loop",
    "config": "configs/toy/net.py:cpu --config.model.unroll=1",
    "measurements": [
        {"name": "loop / bare step", "value": 1.0134, "unit": "", "goal": "<= 1.02", "met": True},
        {"name": "peak memory", "value": 412, "unit": "MB", "goal": None, "met": None},
    ],
    "hardware": "cpu",
    "commit": "0123456789ab",
    "dirty": True,
    "date": "2025-11-24",
    "command": "python -m experiments.performance.main",
}


def cells(text):
    """The cells of the first table, header and rule left out."""
    table = text.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=6))
def test_mean_and_standard_deviation(values):
    rows = [ROW | {"seed": seed, "metrics": {"test/bleu": value}} for seed, value in enumerate(values)]
    (shown,) = cells(tables.render(rows))
    mean, _, rest = shown[1].partition(" ± ")
    deviation, _, runs = rest.partition(" ")
    half_a_digit = 0.51 * 10.0 ** -len(mean.partition(".")[2])
    assert abs(float(mean) - np.mean(values)) <= half_a_digit
    assert abs(float(deviation) - np.std(values, ddof=1)) <= max(half_a_digit, 1e-3 * np.std(values))
    assert runs == f"({len(values)} seeds)"


written = st.text(st.characters(exclude_characters="\\"))


@given(written, written)
def test_no_text_breaks_the_table(hardware, source):
    (shown,) = tables.render([ROW | {"hardware": hardware, "floor": 1.0, "floor_source": source}]).splitlines()[2:3]
    assert shown.replace("\\|", "").count("|") == 11 and "\n" not in shown


@given(st.permutations([("a", 1), ("b", 2), ("c", 3)]))
def test_the_newest_run_of_a_seed_counts(order):
    rows = [
        ROW | {"commit": commit, "date": f"2025-11-0{day}", "metrics": {"test/bleu": float(day)}}
        for commit, day in order
    ]
    (shown,) = cells(tables.render(rows))
    assert shown[1] == "3.000" and shown[-1] == "`c`"


def test_runs_on_other_hardware_or_other_data_stand_apart():
    rows = [ROW, ROW | {"hardware": "tpu"}, ROW | {"data": ROW["data"] | {"fingerprint": "beef"}}]
    assert tables.render(rows).count("| 30.00 |") == 3


def test_what_was_chosen_on_test_is_said():
    chosen = lambda on: ROW | {"chosen_on": {"checkpoint": "validation", "settings": on}}
    of_test, of_validation = (tables.render([chosen(on)]) for on in ("test", "validation"))
    assert cells(of_test)[0][1] == "30.00" + tables.ON_TEST and cells(of_validation)[0][1] == "30.00"
    assert "checkpoint chosen on validation" in of_test
    assert cells(tables.render([ROW]))[0][1] == "30.00", "nobody recorded it"


def test_stale_rows_are_folded_away_below_the_table():
    marks = tables.Marks(stale=lambda row: row["commit"] == "old")
    rows = [ROW, ROW | {"commit": "old", "hardware": "tpu"}]
    text = tables.render(rows, marks)
    folded = text[text.index("<details>\n<summary>Earlier rows") :]
    assert [line[-1] for line in cells(text)] == [f"`{ROW['commit'][:7]}`"]
    assert "`old`" in folded and "`old`" not in text[: text.index(folded)]
    assert not tables.render(rows[1:], marks).startswith("|"), "no table without rows"


def test_rows_that_newer_ones_have_replaced_are_folded_away():
    old = ROW | {"hardware": "a, 1 core", "date": "2025-11-20", "commit": "old"}
    new = ROW | {"hardware": "a, 2 cores", "data": ROW["data"] | {"fingerprint": "beef"}, "commit": "new"}
    others = [old | {"hardware": "gpu"}, old | {"overrides": ["model.depth=2"], "group": "abd"}]
    text = tables.render([old, *others, new])
    assert sorted(line[-1] for line in cells(text)) == ["`new`", "`old`", "`old`"]
    folded = text[text.index("<summary>Earlier rows") :]
    assert "a, 1 core |" in folded and "gpu |" not in folded and "depth=2` |" not in folded
    other_metrics = tables.render([old | {"also": ["test/chrf"], "metrics": {**ROW["metrics"], "test/chrf": 1.0}}, new])
    assert [line[-1] for line in cells(other_metrics)] == ["`new`"], "also in another table"
    same_day = [ROW | {"hardware": "a, 2 cores", "commit": "old"}, ROW | {"hardware": "a, 1 core", "commit": "new"}]
    assert [line[-1] for line in cells(tables.render(same_day))] == ["`new`"], "the one that was recorded later"


def test_a_commit_that_is_not_in_the_history_is_marked(tmp_path):
    git = lambda *words: subprocess.run(["git", "-C", tmp_path, *words], check=True, capture_output=True, text=True)
    git("init", "-q")
    for message in "ab":
        git("-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-q", "--allow-empty", "-m", message)
    commit = git("rev-parse", "--short=12", "HEAD").stdout.strip()
    assert not records.is_lost(commit, tmp_path) and records.is_lost("0123456789ab", tmp_path)
    git("reset", "-q", "--hard", "HEAD~1")
    records.is_lost.cache_clear()
    assert records.is_lost(commit, tmp_path), "it still exists, but nothing leads to it"
    marks = tables.Marks(lost=lambda row: True)
    assert cells(tables.render([ROW], marks))[0][-1].endswith(tables.LOST)


def test_several_metrics_are_columns_and_other_metrics_another_table():
    both = ROW | {
        "also": ["test/chrf"],
        "metrics": {"test/bleu": 31.25, "test/chrf": 55.5},
        "signature": "nrefs:1",
    }
    text = tables.render(
        [both, ROW | {"file": "configs/toy/other.py", "metric": "test/f1", "metrics": {"test/f1": 0.5}}]
    )
    assert cells(text)[0][1:3] == ["31.25", "55.50"]
    assert "| config | test bleu | test chrf |" in text and "| config | test f1 |" in text
    assert "nrefs:1" in text


def test_folds_are_averaged_and_seeds_of_folds_are_runs(repository):
    spec = repository.config.read_text().replace('"also"', '"over": "data.fold", "also"')
    repository.config.write_text(spec)
    accuracies = (0.5, 0.6, 0.8)
    runs = [repository.finished_run(0, accuracy, [f"data.fold={k}"]) for k, accuracy in enumerate(accuracies)]
    rows = [records.read_run(run, repository.root) for run in runs]
    assert len({row["config_digest"] for row in rows}) == 3
    (shown,) = cells(tables.render(rows))
    assert shown[1] == f"{np.mean(accuracies):.4f} ± {np.std(accuracies, ddof=1):.4f} (3 folds)"
    assert "fold" not in shown[0]
    other_seed = records.read_run(repository.finished_run(1, 0.7, ["data.fold=0"]), repository.root)
    assert cells(tables.render([*rows, other_seed]))[0][1].endswith("(4 runs)")


def test_overrides_that_all_seeds_share_are_shown():
    rows = [ROW | {"seed": seed, "overrides": ["train.steps=5", f"seed={seed}"]} for seed in (0, 1)]
    (shown,) = cells(tables.render(rows))
    assert "`train.steps=5`" in shown[0] and "seed" not in shown[0]


def test_suites_show_their_newest_measurements():
    old = SUITE | {"commit": "fffffff", "date": "2025-11-01"}
    text = tables.render([SUITE, old])
    goals = ["loop", "`net:cpu` with 1 field changed", "loop / bare step", "1.013", "<= 1.02", "met"]
    assert cells(text) == [goals]  # what has a goal comes first
    lines = cells(text.partition("<summary>All measurements</summary>\n\n")[2])
    assert [line[2:5] for line in lines] == [
        ["loop / bare step", "1.013", "<= 1.02"],
        ["peak memory", "412 MB", "-"],
    ]
    assert all(line[-1] == "`0123456*`" for line in lines)


def test_no_rows():
    assert tables.render([]) == "_No runs recorded yet._"


def test_runs_on_data_of_several_names_are_one_row_where_the_name_repeats_them():
    def row(speaker, value, **other):
        data = ROW["data"] | {"name": f"digits/without_{speaker}", "fingerprint": speaker}
        overrides = [f"data.name=digits/without_{speaker}"]
        return (
            ROW
            | {"data": data, "config_digest": speaker, "overrides": overrides, "metrics": {"test/bleu": value}}
            | other
        )

    rows = [row("anna", 70.0), row("bert", 80.0), row("carl", 96.0)]
    assert len(cells(tables.render(rows))) == 3
    ((label, value, *_),) = cells(tables.render([each | {"over": "data.name"} for each in rows]))
    assert value.startswith("82.0") and "(3 names)" in value and "without" not in label
