"""AESLC: its references, and mails that stand in two of its files."""

import json

from research.data.text import dataset as text
from tests.data.text.test_builders import attempt, prepared, write


def test_aeslc_references_begin_with_the_subject(tmp_path):
    folder, mail = tmp_path / "a", {"id": "1", "body": "Dear all,\nno.", "subject": "No"}
    again = {**mail, "id": "2", "body": "Once  MORE: all"}  # but for case, blanks and signs, as in dev and in test
    write(folder, "train.jsonl.gz", json.dumps(mail) + "\n" + json.dumps(again) + "\n")
    for split, others in {"dev": ["dev", "once more all"], "test": ["once more, all"]}.items():
        answers = {"ann0": "A no", "ann1": "No", "ann2": "not"}
        write(
            folder,
            f"{split}.jsonl.gz",
            "".join(json.dumps({**mail, **answers, "body": body}) + "\n" for body in others),
        )
    found = prepared("aeslc_jsonl", folder, tmp_path)
    assert found["train"] == [{**mail, "references": ["No"]}]
    assert [mail["body"] for mail in found["validation"]] == ["dev"] and len(found["test"]) == 1
    assert found["test"][0]["references"] == ["No", "A no", "No", "not"]
    reference = text.load(text.TextSpec(name="aeslc_jsonl", dir=str(tmp_path))).reference("test", 0)
    assert reference["references"] == ("No", "A no", "not")
    for line, message in (
        ("{", "is not JSON"),
        ("[1]", "is a JSON list"),
        ('{"id": "1", "body": "x"}', "has no subject"),
    ):
        write(folder, "test.jsonl.gz", line)
        assert f"{folder}/test.jsonl.gz, line 1 {message}" in attempt("aeslc_jsonl", folder, tmp_path / "other")
