"""`python -m research.report` as a person runs it, on a repository of its own."""

import json

import numpy as np
import pytest
from PIL import Image

from research.report import records, tables

ACCURACIES = (0.981, 0.992, 0.9875)


def rows_of(repository):
    return [json.loads(line) for line in repository.results.read_text().splitlines()]


def test_add_tables_check(repository):
    runs = [repository.finished_run(seed, accuracy) for seed, accuracy in enumerate(ACCURACIES)]
    assert repository.run("add", *runs).returncode == 0
    again = repository.run("add", runs[1])
    assert "replaces the row" in again.stdout
    assert sorted(row["seed"] for row in rows_of(repository)) == [0, 1, 2]

    assert repository.run("check").returncode == 1, "the table does not show the rows yet"
    assert repository.run("tables").returncode == 0
    text = repository.readme.read_text()
    assert text.startswith("# Toy\n\nBefore.\n\n" + tables.BEGIN) and text.endswith(tables.END + "\n\nAfter.\n")
    assert f"{np.mean(ACCURACIES):.4f} ± {np.std(ACCURACIES, ddof=1):.4f} (3 seeds)" in text
    for shown in (
        "0.1 (chance)",
        "0.9125 (He et al. 2016, table 6)",
        "421.1k",
        "data 2",
        "`0123456`",
        "f00d",
    ):
        assert shown in text
    assert text.count("python -m experiments.toy.main") == 3

    assert repository.run("tables").returncode == 0
    assert repository.readme.read_text() == text, "a second run changes nothing"
    assert repository.run("check").returncode == 0


def test_a_run_is_recorded_without_its_config_and_experiment(repository):
    """What its result.json says is what the config file would: the row is that of a run which has no such words."""
    run = repository.finished_run(0, 0.98, ["data.fold=1"])
    text = (run / "result.json").read_text()
    content = json.loads(text)
    assert content.pop("report")["direction"] == "max"
    (run / "result.json").write_text(json.dumps(content))
    assert repository.run("add", run).returncode == 0
    (before,) = rows_of(repository)
    (run / "result.json").write_text(text)
    for file in (repository.config, repository.results.with_name("experiment.py")):
        file.write_text("raise RuntimeError('nobody needs this')\n")
    added = repository.run("add", run)
    assert "replaces the row" in added.stdout, added.stderr
    assert rows_of(repository) == [before] and before["floor"] == 0.1
    assert "0.9125 (He et al. 2016, table 6)" in repository.run("show", run).stdout


def test_plots_are_kept_small_and_shown(repository):
    first, second = (repository.finished_run(seed) for seed in (0, 1))
    for number, run in enumerate((first, second)):
        Image.new("RGB", (1600, 800), (number, 100, 200)).save(run / "curves.png")
    assert repository.run("add", first).returncode == 0
    assert "plots/net_full/curves.png: written" in repository.run("add", second).stdout
    with Image.open(repository.results.with_name("plots") / "net_full/curves.png") as kept:
        assert kept.size == (1000, 500) and kept.convert("RGB").getpixel((9, 9)) == (1, 100, 200), "the newest"
    assert repository.run("check").returncode == 1
    assert repository.run("tables").returncode == 0
    assert "![training curves of net_full](plots/net_full/curves.png)" in repository.readme.read_text()
    assert repository.run("check").returncode == 0


def test_check_notices_an_edited_table(repository):
    repository.run("add", repository.finished_run(accuracy=0.981))
    repository.run("tables")
    honest = repository.readme.read_text()
    repository.readme.write_text(honest.replace("0.9810", "0.9990"))
    checked = repository.run("check")
    assert checked.returncode == 1 and "experiments/toy/README.md" in checked.stdout
    repository.readme.write_text(honest.replace("Before.", "Other words around the table."))
    assert repository.run("check").returncode == 0


def test_the_headline_table_shows_the_runs_recorded_last(repository):
    page = repository.root / "README.md"
    page.write_text("# House\n\n<!-- headline:begin toy/net:full -->\nold\n<!-- headline:end -->\nAfter.\n")
    done = repository.run("tables")
    assert done.returncode == 2 and "headline table lists toy/net:full" in done.stderr
    for seed, accuracy in enumerate((0.91, 0.93)):
        repository.run("add", repository.finished_run(seed=seed, accuracy=accuracy))
    assert repository.run("check").returncode == 1
    assert repository.run("tables").returncode == 0 and repository.run("check").returncode == 0
    text = page.read_text()
    assert (
        "| test accuracy | 0.9200 ± 0.0141 (2 seeds) | *stated:* 0.1 (chance) | 0.9125 (He et al. 2016, table 6) |"
        in text
    )
    assert "old" not in text and text.endswith("<!-- headline:end -->\nAfter.\n")
    page.write_text(text.replace("0.9200", "0.9900"))
    assert repository.run("check").returncode == 1


def test_a_changed_config_makes_its_rows_stale(repository):
    repository.run("add", repository.finished_run())
    config = repository.config.read_text()
    repository.run("tables")
    assert tables.STALE not in repository.readme.read_text()

    repository.config.write_text(config.replace('"steps": 40', '"steps": 50'))
    assert repository.run("check").returncode == 1, "its row is still among those of today"
    assert "1 stale" in repository.run("tables").stdout
    assert tables.STALE in repository.readme.read_text()
    assert repository.run("check").returncode == 0

    # Keys that a result does not depend on, and keys at their default, change no digest.
    same = '"train": {"steps": 40, "log_every": 7}, "data": {"fold": 0}, "mesh": {"data": 4}'
    repository.config.write_text(config.replace('"train": {"steps": 40}', same))
    assert "0 stale" in repository.run("tables").stdout
    repository.config.unlink()
    assert "1 stale" in repository.run("tables").stdout


def test_stale_runs_are_not_averaged_with_fresh_ones(repository):
    repository.run("add", repository.finished_run(0, 0.5))
    repository.config.write_text(repository.config.read_text().replace('"steps": 40', '"steps": 50'))
    repository.run("add", repository.finished_run(1, 0.9))
    repository.run("tables")
    shown = [line for line in repository.readme.read_text().splitlines() if line.startswith("| [`net:full`]")]
    assert len(shown) == 2
    assert [tables.STALE in line for line in shown] == ["0.5000" in line for line in shown]


def break_nothing_but(name):
    return lambda workdir: (workdir / name).unlink()


def rename_experiment(workdir):
    path = workdir / "config.json"
    path.write_text(path.read_text().replace('"experiment": "toy"', '"experiment": "nowhere"'))


def cut(workdir):
    (workdir / "result.json").write_text('{"metrics": {')


def rename_metric(workdir):
    path = workdir / "result.json"
    result = json.loads(path.read_text())
    result["metrics"]["test/lost"] = result["metrics"].pop("test/loss")
    path.write_text(json.dumps(result))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        *[
            (break_nothing_but(name), name)
            for name in ("config.json", "metrics.jsonl", "timeline.jsonl", "result.json")
        ],
        (rename_experiment, "unknown experiment 'nowhere'; choose from those in"),
        (cut, "result.json is not JSON"),
        (rename_metric, "'test/loss'"),
    ],
)
def test_a_run_that_cannot_be_added_is_named_in_one_line(repository, damage, named):
    good, bad = repository.finished_run(0), repository.finished_run(1)
    damage(bad)
    done = repository.run("add", good, bad)
    assert done.returncode == 2
    assert named in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""
    assert not repository.results.exists(), "nothing is written unless all can be"


def test_readmes_without_a_place_for_the_table(repository):
    repository.run("add", repository.finished_run())
    repository.readme.write_text("# Toy\n")
    for command in ("tables", "check"):
        done = repository.run(command)
        assert done.returncode == 2 and "README.md" in done.stderr and done.stderr.count("\n") == 1
    assert repository.readme.read_text() == "# Toy\n"


def test_show_prints_the_row(repository):
    workdir = repository.finished_run(seed=3, accuracy=0.9842, overrides=["train.steps=30"], dirty=True)
    text = repository.run("show", workdir).stdout
    for shown in (
        "test/accuracy 0.9842",
        "train.steps=30",
        "421,130 parameters",
        "0123456*",
        "seed 3",
        "--config.seed=3",
    ):
        assert shown in text
    assert "0.9125 (He et al. 2016, table 6)" in text


def test_rows_have_all_fields_of_provenance(repository):
    row = records.read_run(repository.finished_run(seed=2, overrides=["train.steps=30"]), repository.root)
    assert row["overrides"] == ["train.steps=30", "seed=2"]
    assert (row["metric"], row["value"], row["also"]) == ("test/accuracy", 0.9, ["test/loss"])
    listed = "experiment file variant config_digest commit dirty data params seed steps mesh hardware wall_s"
    listed += " metrics signature floor floor_source reference reference_source command date"
    assert set(listed.split()) <= row.keys()


def test_two_runs_are_compared_on_the_same_examples(repository):
    right = {0: [1, 1, 1, 0], 1: [1, 0, 1, 0]}
    runs = []
    for seed, each in right.items():
        runs.append(repository.finished_run(seed, float(np.mean(each))))
        lines = [{"index": k, "class": "a", "predicted": "ba"[hit]} for k, hit in enumerate(each)]
        (runs[-1] / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = repository.run("compare", *runs)
    line = said.stdout.splitlines()[1]
    # One of four examples differs: the resampled difference is the share of draws of it.
    assert line.split() == ["test/accuracy", "0.7500", "0.5000", "0.2500", "0.0", "to", "0.7500", "examples"]
    (runs[1] / "predictions.jsonl").unlink()
    said = repository.run("compare", *runs)
    assert said.returncode == 2 and "predictions.jsonl of the same test examples" in said.stderr
