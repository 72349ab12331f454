"""The output of sentiment prediction, and its two kinds of models."""

import json
import math
import re

import pytest

from experiments.sentiment import main
from research import config as config_lib
from research.cli import experiment
from research.data import prepare
from research.text2text import Answer

MINILM = "configs/sentiment/sst2_minilm.py"


def test_a_score_is_shown_as_a_probability():
    answers = [Answer("positive", math.log(0.75)), Answer("negative", math.log(0.2))]
    assert main.show(answers[:1]) == "positive 75.0%"
    assert main.show(answers) == "positive 75.0%, negative 20.0%"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": "seq2seq"}}, "config.task.name='text_classification' must be 'seq2seq' with"),
        ({"task": {}}, "config.task.name='seq2seq' must be 'text_classification' with model.name='bert'"),
        ({"data": {"sentence_length": 4}}, "config.data.sentence_length=4 must be 0 with model.name='bert'"),
    ],
)
def test_a_model_and_a_task_that_do_not_fit_are_refused(changes, message):
    config = config_lib.plain(config_lib.load_file(MINILM).get_config("smoke"))
    with pytest.raises(ValueError, match=re.escape(message)):
        config_lib.complete(main.Sentiment, config | changes)


def test_a_classifier_is_trained_evaluated_and_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    prepare.prepare("spelled_numbers")
    run = f"--workdir={tmp_path}/run"
    experiment.run(main.main, [f"--config={MINILM}:smoke", run, "--config.train.steps=10"])
    metrics = json.loads((tmp_path / "run/result.json").read_text())["metrics"]
    assert 0 < metrics["test/accuracy"] < 1 and metrics["test/loss"] > 0
    capsys.readouterr()
    (tmp_path / "data").rename(tmp_path / "gone")  # prediction needs the run alone
    out = tmp_path / "answers.jsonl"
    experiment.run(main.main, [f"--config={MINILM}:smoke", run, "--mode=predict", f"--out={out}", "two", "three"])
    lines = capsys.readouterr().out.splitlines()
    assert (
        all(re.fullmatch(r"(two|three)\t(even|odd) \d+\.\d%, (even|odd) \d+\.\d%", line) for line in lines)
        and len(lines) == 2
    )
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(math.isclose(sum(each["probabilities"].values()), 1, rel_tol=1e-5) for each in answers)
    predictions = (tmp_path / "run").glob("*predictions*")
    assert all(json.loads(file.read_text().splitlines()[0])["predicted"] in ("even", "odd") for file in predictions)
