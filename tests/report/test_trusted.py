"""What a row says of the trust report of its run."""

import json

from research.report import records, tables, trusted

GROUP = {"examples": 40, "low": 0.5, "high": 0.9}
FOUND = {
    "step": 3,
    "groups": {
        "accuracy": {
            "class": {
                "groups": [GROUP | {"name": "a", "value": 0.75}, GROUP | {"name": "b", "value": 0.5}],
                "worst": "a",
            },
            "drive": {"groups": [GROUP | {"name": "one", "value": 0.25}], "worst": None},  # too few examples
        }
    },
    "calibration": {"uncalibrated": {"ece": 0.2}, "temperature-scaled": {"ece": 0.1}},
    "temperature": 1.5,
    "corruptions": {"metric": "accuracy", "examples": 40, "clean": 0.9, "kinds": {"fog": [0.1] * 5}, "mean_error": 0.6},
}


def reported(repository, content):
    workdir = repository.finished_run()
    (workdir / "trust").mkdir()
    (workdir / "trust/report.json").write_text(json.dumps(content))
    return records.read_run(workdir, repository.root)


def test_the_row_has_calibration_worst_groups_and_the_error_under_corruptions(repository):
    digest = json.loads((repository.finished_run() / "result.json").read_text())["config_digest"]
    row = reported(repository, FOUND | {"config_digest": digest})
    assert row["trust"]["groups"] == {"accuracy": {"class": {"groups": 2, **GROUP, "name": "a", "value": 0.75}}}
    assert row["trust"]["corruptions"] == {"metric": "accuracy", "examples": 40, "clean": 0.9, "mean_error": 0.6}
    said = (
        "trust report of seed 0: ECE 0.2000 (0.1000 with temperature 1.500), worst class a (accuracy 0.7500 [0.5000, "
        "0.9000]), mean error under corruptions 0.6000"
    )
    assert trusted.fact(row) == said and said in tables.render([row])
    assert row["also"] == ["test/loss"], "it is in the details, not among the columns"


def test_a_report_of_another_config_is_not_recorded(repository):
    row = reported(repository, FOUND | {"config_digest": "0" * 12})
    assert "trust" not in row and trusted.fact(row) == ""
