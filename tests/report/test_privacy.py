"""What rows and tables say of privacy."""

import json

import pytest

from research.report import audits, records, tables
from tests.report.test_tables import ROW, cells

ATTACK = {"tpr": 0.05, "low": 0.04, "high": 0.06, "auc": 0.6, "balanced_accuracy": 0.58, "members": 100, "others": 50}


def audit(workdir, digest=None, **attacks):
    """The report of an audit in a run directory."""
    content = {
        "config_digest": digest or json.loads((workdir / "result.json").read_text())["config_digest"],
        "shadows": 8,
        "attacks": {"run_loss": ATTACK} | attacks,
    }
    (workdir / "privacy").mkdir()
    (workdir / "privacy/report.json").write_text(json.dumps(content))


def test_a_row_has_the_epsilon_and_the_attacks_of_its_run(repository):
    spent = {"epsilon": 7.5, "delta": 1e-5}
    scores = {"test/accuracy": 0.9, "test/loss": 0.1, "privacy/epsilon": 7.5}
    workdir = repository.finished_run(privacy=spent, metrics=scores)
    audit(workdir, shadow_lira_online=ATTACK | {"tpr": 0.25, "auc": 0.75})
    row = records.read_run(workdir, repository.root)
    assert row["privacy"] == spent and row["audit"]["attacks"]["run_loss"] == ATTACK
    attacked = {"loss_tpr": 0.05, "loss_auc": 0.6, "lira_tpr": 0.25, "lira_auc": 0.75}
    assert row["also"] == ["test/loss", "privacy/epsilon", *(f"audit/{name}" for name in attacked)]
    assert row["metrics"] == scores | {f"audit/{name}": value for name, value in attacked.items()}
    text = tables.render([row])
    assert "| test loss | privacy epsilon | audit loss_tpr |" in text
    assert cells(text)[0][3:8] == ["7.500", "0.0500", "0.6000", "0.2500", "0.7500"]


def test_a_run_without_either_has_the_row_that_it_had(repository):
    row = records.read_run(repository.finished_run(), repository.root)
    assert row["also"] == ["test/loss"] and not row.keys() & {"privacy", "audit"}


def test_the_audit_of_another_config_is_refused(repository):
    workdir = repository.finished_run()
    audit(workdir, digest="0" * 12)
    with pytest.raises(ValueError, match=r"is of another config; repeat it with: tessera report privacy .*net-seed=0$"):
        records.read_run(workdir, repository.root)


def test_an_audit_of_one_seed_says_so():
    audited = ROW | {"also": ["audit/loss_auc"], "metrics": {"test/bleu": 30.0, "audit/loss_auc": 0.75}}
    text = tables.render([ROW | {"seed": 1}, audited])
    assert cells(text)[0][2] == "0.7500 (1 of 2)"


def test_the_page_lists_the_audited_runs_of_all_experiments(repository):
    page = repository.root / audits.PAGE
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("before\n<!-- audits:begin -->\nof before\n<!-- audits:end -->\nafter\n")
    workdir = repository.finished_run(privacy={"epsilon": 7.5, "delta": 1e-5})
    audit(workdir, shadow_lira_online=ATTACK | {"tpr": 0.25, "auc": 0.75})
    row = records.read_run(workdir, repository.root)
    records.record(row, repository.root)
    text = audits.updated(page, lambda row: True)
    before, line, after = text.split("| --- |")[0].splitlines()[0], text.splitlines()[4], text.splitlines()[-1]
    assert (before, after) == ("before", "after") and "of before" not in text
    found = [cell.strip() for cell in line.strip("|").split("|")]
    assert found[0].endswith(tables.STALE) and found[1] == "test accuracy"
    assert found[3:8] == [
        "7.500 (delta 1e-05)",
        "0.0500 [0.0400, 0.0600]",
        "0.6000",
        "0.2500 [0.0400, 0.0600]",
        "0.7500",
    ]
