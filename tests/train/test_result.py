"""Which commit a result belongs to."""

import subprocess

from research.train import result


def test_records_are_no_changes_of_the_code(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for path in ("research/train/result.py", "experiments/toy/results.jsonl", "experiments/toy/README.md"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("one\n")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(result, "__file__", str(tmp_path / "research/train/result.py"))
    commit, dirty = result.revision()
    assert len(commit) == 12 and not dirty
    (tmp_path / "experiments/toy/results.jsonl").write_text("two\n")
    (tmp_path / "experiments/toy/README.md").write_text("two\n")
    assert result.revision() == (commit, False)
    (tmp_path / "research/train/result.py").write_text("two\n")
    assert result.revision() == (commit, True)
    monkeypatch.setattr(result, "__file__", "/nowhere/result.py")
    assert result.revision() == ("unknown", True)
