"""The two kinds of models for question answering; an extractive one is trained, evaluated, used and exported."""

import json
import math
import re

import jax
import numpy as np
import pytest
from jax import export as jax_export

from experiments.question_answering import main
from research import config as config_lib
from research.cli import experiment
from research.cli.experiments import config_class
from research.data import prepare
from research.interop import runs, stablehlo
from research.metrics import text_scores
from research.text2text import Answer

MINILM = "configs/question_answering/qamr_minilm.py"


def test_answers_are_shown_with_their_probabilities():
    answers = [Answer("the mill", math.log(0.75)), Answer("", math.log(0.2))]
    assert main.show(answers) == "the mill 75.0%\n(no answer) 20.0%"
    one, both = main.record(answers[:1]), main.record(answers)
    assert (
        one["answer"] == "the mill" and math.isclose(one["probability"], 0.75) and set(both) - set(one) == {"answers"}
    )
    assert [each["text"] for each in both["answers"]] == ["the mill", ""]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": "seq2seq"}}, "config.task.name='span_extraction' must be 'seq2seq' with"),
        ({"task": {}}, "config.task.name='seq2seq' must be 'span_extraction' or 'retrieval' with"),
        ({"data": {"sentence_length": 4}}, "config.data.sentence_length=4 must be 0 with model.name='bert'"),
    ],
)
def test_a_model_and_a_task_that_do_not_fit_are_refused(changes, message):
    config = config_lib.plain(config_lib.load_file(MINILM).get_config("smoke"))
    with pytest.raises(ValueError, match=re.escape(message)):
        config_lib.complete(main.QuestionAnswering, config | changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory of a few steps; the data are gone."""
    path = tmp_path_factory.mktemp("answers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(path / "data"))
        prepare.prepare("spelled_numbers")
        words = ["--config.train.steps=10", "--config.task.unanswerable=True", "--config.data.eval_buckets=1"]
        experiment.run(main.main, [f"--config={MINILM}:smoke", f"--workdir={path}/run", *words])
    (path / "data").rename(path / "gone")
    return path / "run"


def test_the_scores_of_a_run_are_those_of_its_predictions(run):
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    lines = [json.loads(line) for line in next(run.glob("*predictions*")).read_text().splitlines()]
    assert len(lines) == 1000 and all(0 < line["probability"] <= 1 for line in lines)
    predictions, contains = [line["prediction"] for line in lines], 0
    for metric in ("squad", "tweetqa"):
        for name, value in text_scores.METRICS[metric](predictions, lines)[0].items():
            assert math.isclose(metrics[f"test/{name}"], value, rel_tol=1e-6)
    for line in lines:
        assert (line["prediction"] == "") == (line["null_difference"] > 0)
        contains += any(letter.isdigit() for letter in line["prediction"])
    assert metrics["test/loss"] > 0 and contains > 0


def test_questions_are_answered_with_parts_of_their_contexts(run, tmp_path, capsys):
    words = "68 THOUSAND \u2603 three, " * 20
    out, asked = tmp_path / "answers.jsonl", [f"odd\t{words}", "even\ttwo"]
    again = ["--config.task.num_return=3", "--config.task.unanswerable=False", f"--out={out}"]
    command = [f"--config={MINILM}:smoke", f"--workdir={run}", "--config.train.steps=10", "--mode=predict"]
    experiment.run(main.main, [*command, *again, *asked])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and all(re.search(r"\t.+ \d+\.\d%$", line) for line in lines)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [each["input"] for each in found] == asked
    for each, text in zip(found, (f"it is {words}", "it is two"), strict=True):
        assert each["answer"] and all(answer["text"] in text for answer in each["answers"])
        shares = [answer["probability"] for answer in each["answers"]]
        assert shares == sorted(shares, reverse=True) and sum(shares) <= 1 + 1e-6


def test_the_exported_program_gives_the_logits_of_the_run(run, tmp_path):
    pytest.importorskip("flatbuffers", reason="flatbuffers is not installed; it comes with the extra [interop]")
    stablehlo.run(str(run), str(tmp_path / "out"), config_class)
    source = runs.open_run(run, config_class)
    names = sorted(source.tensors.specs)
    weights = [source.tensors.read(name) for name in names]
    rng, shape = np.random.default_rng(0), (3, source.task.source_length)
    tokens = rng.integers(4, 400, shape).astype(np.int32)
    mask, types = ((np.arange(shape[1]) < limit).astype(np.int32) * np.ones(shape, np.int32) for limit in (40, 0))
    types += np.arange(shape[1]) > 9
    program = jax_export.deserialize((tmp_path / "out/model.stablehlo").read_bytes())
    found = program.call(weights, tokens, mask, types)
    variables = stablehlo.tree(names, weights)
    assert found.shape == (*shape, 2)
    np.testing.assert_allclose(found, jax.jit(source.task.serve)(variables, tokens, mask, types), rtol=1e-4, atol=1e-5)
