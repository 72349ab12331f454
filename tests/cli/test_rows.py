"""The list of rows: what is missing, and what is made."""

import json
from pathlib import Path

import pytest

from research import files
from research.cli import rows
from research.report import records

ROOT = Path(__file__).parents[2]
DIGITS = "configs/image_classification/digits_vit.py:smoke"


@pytest.fixture
def listed(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)

    def write(*lines):
        path = tmp_path / "rows.txt"
        path.write_text("\n".join(lines))
        return path

    return write


def row_of(entry, **changed):
    data = {"name": "digits", "version": records._version("digits")}
    row = {
        "experiment": "image_classification", "file": entry.config.source.file, "variant": "smoke",
        "overrides": list(entry.config.source.overrides), "seed": entry.config.seed, "dirty": False,
        "config_digest": entry.config.source.digest, "commit": "0" * 40, "data": data,
        "chosen_on": {"settings": "validation"},
    }  # fmt: skip
    return row | changed


def repository(tmp_path, *found):
    """A repository, without git, with the configs of this one and the given rows."""
    root = tmp_path / "repository"
    folder = root / "experiments/image_classification"
    folder.mkdir(parents=True, exist_ok=True)
    (root / "configs").unlink(missing_ok=True)
    (root / "configs").symlink_to(ROOT / "configs")
    files.write_atomically(folder / "results.jsonl", "".join(json.dumps(row) + "\n" for row in found))
    return root


def test_entries_are_configs_with_overrides(listed):
    entries = rows.read(listed(f"# all\n{DIGITS}", f"{DIGITS} seed=3 train.log_every=4  # often", ""))
    assert [entry.name for entry in entries] == ["digits_vit", "digits_vit_seed=3_train.log_every=4"]
    assert entries[1].config.seed == 3 and entries[1].config.train.log_every == 4
    assert entries[1].words == [f"--config={DIGITS}", "--config.seed=3", "--config.train.log_every=4"]


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        (["", f"{DIGITS} train.stps=4"], ("line 2", "stps", "steps")),
        ([DIGITS, DIGITS], ("line 2", "digits_vit", "remove")),
        (["# nothing"], ("is empty",)),
    ],
)
def test_bad_lists_are_refused_in_one_line(listed, lines, parts):
    with pytest.raises(ValueError) as refused:
        rows.read(listed(*lines))
    assert all(part in str(refused.value) for part in parts) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "recorded at 0000000"),
        ({"overrides": ["seed=5", "train.log_every=1"]}, "recorded at 0000000"),  # another way to the same digest
        ({"config_digest": "f" * 12}, "stale"),
        ({"data": {"name": "digits", "version": "0.0.1"}}, "stale"),
        ({"dirty": True}, "made with uncommitted changes"),
        ({"chosen_on": {"settings": "test"}}, "settings were chosen on test"),
        ({"seed": 6}, "missing"),
        ({"variant": "cpu"}, "missing"),
        ({"baseline": "chance"}, "missing"),
    ],
)
def test_a_row_counts_if_its_config_data_and_commit_are_those_of_today(listed, tmp_path, changed, expected):
    (entry,) = rows.read(listed(f"{DIGITS} seed=5"))
    if "overrides" in changed:
        changed = changed | {"config_digest": entry.config.source.digest}
    root = repository(tmp_path, row_of(entry, **changed))
    assert rows.state(entry, tmp_path / "run", root) == expected


def test_a_run_that_is_not_recorded_is_continued(listed, tmp_path):
    (entry,) = rows.read(listed(DIGITS))
    root, run = repository(tmp_path), tmp_path / "run"
    run.mkdir()
    for name, expected in (("config.json", "started"), ("result.json", "finished, not recorded")):
        (run / name).write_text("{}")
        assert rows.state(entry, run, root) == expected


def test_a_name_that_is_not_listed_is_refused(listed):
    with pytest.raises(ValueError, match=r"--only=vivit.*--list"):
        rows.main([str(listed(DIGITS)), "--only=vivit", "--list"])


def test_the_list_of_the_repository_is_of_configs_that_load(monkeypatch):
    monkeypatch.chdir(ROOT)
    entries = rows.read(rows.LIST)
    assert all(entry.config.source.variant == "cpu" for entry in entries)
    every = {path for path in ROOT.glob("configs/*/*.py") if "cpu" in path.read_text().split("VARIANTS = ")[1][:40]}
    assert {ROOT / entry.config.source.file for entry in entries} == every
