"""Retrieval as an experiment: a run of a few steps, its baselines, what `predict` finds, and what is exported."""

import json
import math
import re

import jax
import numpy as np
import pytest
from jax import export as jax_export

from experiments.question_answering import main
from research import config as config_lib
from research.baselines import run as baselines
from research.baselines.retrieval import bm25
from research.cli import experiment, experiments
from research.data import prepare
from research.interop import runs, stablehlo

FILE = "configs/question_answering/qamr_retrieval.py"
SHORT = ["train.steps=6", "train.eval_every=6", "train.checkpoint_every=6", "data.eval_buckets=1"]


def command(path, *words):
    return [f"--config={FILE}:smoke", f"--workdir={path}", *(f"--config.{word}" for word in SHORT), *words]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory, the folder of its data, and the mean reciprocal rank of its weights before training."""
    path = tmp_path_factory.mktemp("retrieval")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(path / "data"))
        prepare.prepare("spelled_numbers")
        experiment.run(main.main, command(path / "run"))
    return path / "run"


def test_scores_can_be_made_again_from_the_predictions(run):
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    lines = [json.loads(line) for line in next(run.glob("*predictions*")).read_text().splitlines()]
    assert len(lines) == 1000 and metrics["test/mrr"] > 0
    assert math.isclose(metrics["test/mrr"], sum(1 / line["rank"] for line in lines) / 1000, rel_tol=1e-9)
    assert metrics["test/recall_at_10"] == sum(line["rank"] <= 10 for line in lines) / 1000
    assert all((line["rank"] == 1) <= (line["nearest"] == line["target"]) for line in lines)


def test_baselines_are_ranked_by_the_same_scorer(run):
    """The encoder with the weights of a run has the scores of that run."""
    data = f"data.dir={run.parent / 'data'}"
    config = config_lib.load(FILE, "smoke", [*SHORT, data, f"train.init_from={run}"])
    _, measured = baselines.measure(config, "mrr", experiments.load_weights)
    found = {each.baseline.name: each for each in measured}
    assert set(found) == {"cosine of TF-IDF", "BM25", "the encoder before training"}
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    for name, value in found["the encoder before training"].test.values.items():
        assert math.isclose(value, metrics[f"test/{name}"], rel_tol=1e-6)
    # No word of a number in words is in one in digits, so all candidates are equally near.
    assert found["BM25"].test.values == {**dict.fromkeys(metrics_of("recall_at"), 0.0), "mrr": pytest.approx(1e-3)}


def metrics_of(prefix):
    return [f"{prefix}_{k}" for k in (1, 5, 10)]


def test_bm25_is_the_formula():
    candidates, texts = ["the cat sees the dog", "a dog", "birds sing and sing"], ["the dog sing", "sing sing", "fish"]
    queries, scored = bm25(texts, candidates, 1.2)
    found = (queries @ scored.T).toarray()
    words = [candidate.split() for candidate in candidates]
    mean = sum(map(len, words)) / 3
    for row, text in zip(found, texts, strict=True):
        for score, held in zip(row, words, strict=True):
            expected = 0.0
            for word in text.split():
                n, f = sum(word in each for each in words), held.count(word)
                expected += (
                    math.log(1 + (3 - n + 0.5) / (n + 0.5)) * f * 2.2 / (f + 1.2 * (0.25 + 0.75 * len(held) / mean))
                )
            assert math.isclose(score, expected, abs_tol=1e-12)


def test_the_nearest_of_given_texts_are_found(run, tmp_path, capsys):
    numbers, out = tmp_path / "numbers.txt", tmp_path / "found.jsonl"
    numbers.write_text("21\n4\n\n700\n4\n")
    words = [f"--config.task.candidates={numbers}", "--config.task.num_return=2", f"--out={out}", "--mode=predict"]
    experiment.run(main.main, command(run, *words, "four", "seven hundred"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["four"] * 2 + ["seven hundred"] * 2
    assert all(re.fullmatch(r".+\t-?\d\.\d{3} (21|4|700)", line) for line in lines)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    plain = tmp_path / "embedded.jsonl"
    experiment.run(main.main, command(run, f"--out={plain}", "--mode=predict", "four", "seven hundred"))
    shown = capsys.readouterr().out.splitlines()
    embedded = [json.loads(line) for line in plain.read_text().splitlines()]
    assert len(shown) == 2 and [len(line.split("\t")[1].split()) for line in shown] == [32, 32]
    for each, vector in zip(found, embedded, strict=True):
        assert each["input"] == vector["input"] and math.isclose(np.linalg.norm(vector["embedding"]), 1, rel_tol=1e-5)
        similar = [answer["similarity"] for answer in each["answers"]]
        assert similar == sorted(similar, reverse=True) and each["similarity"] == similar[0] <= 1 + 1e-6
        assert len({answer["text"] for answer in each["answers"]}) == 2


@pytest.mark.parametrize(("content", "message"), [(None, "cannot be read"), ("\n \n", "holds no text")])
def test_candidates_that_cannot_be_read_are_refused(run, tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.txt").write_text(content)
    config = config_lib.load(FILE, "smoke", [*SHORT, f"task.candidates={tmp_path}/a.txt"])
    with pytest.raises(ValueError, match=message) as caught:
        main.main(config, str(run), "predict", ["four"])
    assert "\n" not in str(caught.value) and "give a file with one text per line" in str(caught.value)


def test_a_loss_over_the_batch_is_not_split_into_microbatches():
    message = "config.train.microbatches=2 must be 1 with task.name='retrieval'"
    with pytest.raises(ValueError, match=message):
        config_lib.load(FILE, "smoke", ["train.microbatches=2"])


def test_the_exported_program_gives_the_embeddings_of_the_run(run, tmp_path):
    pytest.importorskip("flatbuffers", reason="flatbuffers is not installed; it comes with the extra [interop]")
    stablehlo.run(str(run), str(tmp_path / "out"), experiments.config_class)
    source = runs.open_run(run, experiments.config_class)
    names = sorted(source.tensors.specs)
    weights = [source.tensors.read(name) for name in names]
    shape = (3, 64)
    tokens = np.random.default_rng(0).integers(4, 400, shape).astype(np.int32)
    mask = (np.arange(64) < 40).astype(np.int32) * np.ones(shape, np.int32)
    program = jax_export.deserialize((tmp_path / "out/model.stablehlo").read_bytes())
    found = program.call(weights, tokens, mask)
    variables = stablehlo.tree(names, weights)
    np.testing.assert_allclose(found, jax.jit(source.task.serve)(variables, tokens, mask), rtol=1e-4, atol=1e-5)
