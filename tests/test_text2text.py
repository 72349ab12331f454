"""Text to text, from training to answers, through `main`: numbers in words become numbers in digits."""

import io
import json
import re
import sys

import numpy as np
import pytest
import sacrebleu

from experiments.translation import main as translation
from research import config as config_lib
from research import predicting, text2text
from research.cli import experiment
from research.data import prepare
from research.data.text.builders.spelled_numbers import spell

FILE, VARIANT = "configs/translation/multi30k_en_de.py", "smoke"
# A token for each digit and for most words, and one shape of evaluation batches, which compiles faster.
SETTINGS = (
    "data.vocab_size=70", "data.byte_fallback=False", "data.source_length=48", "data.target_length=32",
    "data.eval_buckets=1", "train.eval_batch_size=200", "optimizer.warmup_steps=50", "model.dropout=0.0",
)  # fmt: skip
TEXTS = ["four hundred and two", "nine thousand", "seventy-seven"]


class Run:
    """A run of these settings and `overrides` in the folder `workdir`."""

    def __init__(self, data_dir, workdir, *overrides):
        self.overrides = (f"data.dir={data_dir}", *SETTINGS, *overrides)
        self.config = config_lib.load(FILE, VARIANT, self.overrides)
        self.workdir = workdir

    def main(self, mode, *inputs):
        return text2text.main(self.config, str(self.workdir), mode, list(map(str, inputs)))

    def command_line(self, *words):
        """The arguments of the experiment's command."""
        overrides = (f"--config.{override}" for override in self.overrides)
        return [f"--config={FILE}:{VARIANT}", *overrides, f"--workdir={self.workdir}", *map(str, words)]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("prepared")
    prepare.prepare("spelled_numbers", data_dir=str(path))
    return path


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """A finished run that gives two answers to each text, and its result."""
    run = Run(
        data_dir, tmp_path_factory.mktemp("text2text") / "run", "train.steps=60", "train.eval_every=60",
        "train.checkpoint_every=60", "task.num_return=2", "task.metrics=('accuracy','chrf')",
    )  # fmt: skip
    return run, run.main("train")


def answers(capsys, run, *inputs):
    """The lines that `predict` prints, each a text and what it is answered, without the text."""
    capsys.readouterr()
    assert run.main("predict", *inputs) is None
    return [line.split("\t", 1)[1] for line in capsys.readouterr().out.splitlines()]


def reference(entry):
    (digits,) = entry["references"]
    return digits


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_training_scores_the_test_split(trained):
    run, result = trained
    assert json.loads((run.workdir / "result.json").read_text()) == result
    metrics = result["metrics"]
    assert {name for name in metrics if name.startswith("validation/")} == {
        "validation/loss", "validation/token_accuracy", "validation/perplexity"
    }  # fmt: skip
    assert metrics["test/loss"] < 2 < np.log(70)
    assert metrics["test/perplexity"] == pytest.approx(np.exp(metrics["test/loss"]))
    assert result["signatures"].keys() == {"test/accuracy", "test/chrf"} < metrics.keys()


def test_saved_predictions_score_as_the_result_says(trained):
    run, result = trained
    lines = (run.workdir / "predictions.jsonl").read_text("utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["index"] for entry in entries] == list(range(1000))
    predictions, digits = ([get(entry) for entry in entries] for get in (lambda e: e["prediction"], reference))
    assert len(set(digits)) == 1000 and len(set(predictions)) > 100
    metrics = result["metrics"]
    assert metrics["test/chrf"] == sacrebleu.corpus_chrf(predictions, [digits]).score > 0
    assert metrics["test/accuracy"] == np.mean([one == other for one, other in zip(predictions, digits, strict=True)])


def test_evaluation_gives_the_scores_again_and_writes_nothing(trained):
    run, result = trained
    before = stamps(run.workdir)
    found = run.main("evaluate")
    assert stamps(run.workdir) == before
    assert found["step"] == result["selected_step"] == 60
    assert {name: found["metrics"][name] for name in result["metrics"]} == pytest.approx(result["metrics"], rel=1e-6)
    assert found["metrics"].keys() - result["metrics"].keys() == {f"validation/{name}" for name in ("accuracy", "chrf")}


def test_texts_may_come_as_words_in_a_file_or_on_standard_input(trained, capsys, monkeypatch, tmp_path):
    run, _ = trained
    capsys.readouterr()
    run.main("predict", *TEXTS)
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()[::2]] == list(TEXTS)
    lines = answers(capsys, run, *TEXTS)
    assert all(re.fullmatch(r"-\d+\.\d{3}\t[\d ]*", line) for line in lines), "scores and answers"
    scores = np.array([float(line.split("\t")[0]) for line in lines]).reshape(len(TEXTS), 2)
    assert (scores[:, 0] > scores[:, 1]).all(), "the best first"
    assert len(set(lines[::2])) == 3, "each text has an answer of its own"
    (tmp_path / "numbers.txt").write_bytes("\r\n".join(TEXTS[:2]).encode() + b"\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXTS[2].encode())))
    assert answers(capsys, run, tmp_path / "numbers.txt", "-") == lines


def test_a_single_answer_stands_alone_and_is_the_one_that_was_scored(trained, capsys):
    run, _ = trained  # which may be asked in another way than it was trained to be
    one = Run(run.config.data.dir, run.workdir, *run.overrides[len(SETTINGS) + 1 :], "task.num_return=1")
    entries = [json.loads(line) for line in (run.workdir / "predictions.jsonl").read_text("utf-8").splitlines()[:8]]
    texts = [spell(int(reference(entry))) for entry in entries]
    assert answers(capsys, one, *texts) == [entry["prediction"] for entry in entries]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"four\nf\xfcnf\n", "FILE, line 2: invalid UTF-8 (invalid start byte at byte 1); save the file as UTF-8"),
        (b"", "FILE, line 1 is empty; fill or remove it"),
        (b"one " * 50, "spelled_numbers: 1 of 1 given examples are longer than source_length=48 tokens, the longest "
         "has 51; shorten them or set config.data.truncate=True"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("given", ["file", "standard input"])
def test_what_cannot_be_answered_is_named_in_one_line(trained, content, line, given, tmp_path, monkeypatch, capsys):
    run, _ = trained
    path = tmp_path / "numbers.txt"
    path.write_bytes(content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    capsys.readouterr()
    words = ("--mode=predict", path if given == "file" else "-")
    with pytest.raises(SystemExit) as left:
        experiment.run(translation.main, run.command_line(*words))
    assert left.value.code == 2
    expected = line.replace("FILE", str(path) if given == "file" else given)
    assert capsys.readouterr() == ("", f"error: {expected}\n")


def test_a_text_that_is_too_long_for_a_file_name_is_a_text():
    long = "one " * 2000
    assert [each.content for each in predicting.texts([long, "four"])] == [long, "four"]


def test_a_score_that_no_evaluation_gives_cannot_choose_checkpoints(data_dir, tmp_path):
    run = Run(
        data_dir, tmp_path / "run", "train.steps=60", "train.eval_every=2", "train.select=best",
        "task.metrics=('accuracy',)", "task.select_by=accuracy",
    )  # fmt: skip
    line = "config.task.select_by='accuracy' is not computed while training; .*score=all"
    with pytest.raises(ValueError, match=line):
        run.main("train")


@pytest.mark.long
def test_numbers_are_learnt(data_dir, tmp_path, capsys):
    run = Run(
        data_dir, tmp_path / "run", "train.steps=600", "train.eval_every=200", "train.checkpoint_every=200",
        "train.score=all", "train.select=best", "task.metrics=('accuracy',)", "task.select_by=accuracy",
    )  # fmt: skip
    result = run.main("train")
    assert result["metrics"]["test/accuracy"] >= 0.95
    assert answers(capsys, run, *TEXTS) == ["402", "9000", "77"]
