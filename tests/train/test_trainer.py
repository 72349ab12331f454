"""The loop: exact evaluation, stopping on NaN, refusing what does not fit, no hidden transfers."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from research.checkpoint.store import Checkpoints
from research.measure import timeline
from research.measure.chips import Chip
from research.tasks import classification
from research.train import evaluation, rundir, trainer
from tests.train import toy


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    return workdir, trainer.run("train", toy.make_config(), toy.make_task(), toy.Data(), workdir)


def test_a_finished_run_has_all_its_files(finished):
    workdir, result = finished
    assert json.loads((workdir / "result.json").read_text()) == json.loads(json.dumps(result))
    names = {entry["name"] for entry in rundir.read_metrics(workdir / "metrics.jsonl")}
    assert {"train/loss", "train/grad_norm", "train/learning_rate", "validation/accuracy", "test/loss"} <= names
    steps = [e["step"] for e in rundir.read_metrics(workdir / "metrics.jsonl") if e["name"] == "train/loss"]
    assert steps == list(range(1, 13))
    assert {"compile", "data", "step", "eval", "save"} <= {e["kind"] for e in timeline.read(workdir / "timeline.jsonl")}
    assert list((workdir / "events").iterdir())
    speeds = {e["name"]: e["value"] for e in rundir.read_metrics(workdir / "metrics.jsonl") if e["step"] == 12}
    assert speeds["speed/examples_per_s"] == pytest.approx(16 * speeds["speed/steps_per_s"])
    assert speeds["speed/step_time_s"] == pytest.approx(1 / speeds["speed/steps_per_s"])
    assert 0 <= speeds["speed/data_wait"] < 1 and "speed/mfu" not in speeds  # the peak of a CPU is not known
    assert 0 < result["goodput"] < 1 and result["time_s"].keys() >= {"compile", "step", "eval"}
    assert 0 < result["wall_s"] < 600 and result["params"] == 356


def test_scores_equal_a_loop_over_single_examples(finished):
    workdir, result = finished
    program = trainer.build(toy.make_config(), toy.make_task())
    checkpoints = Checkpoints(str(workdir / "checkpoints"), 2, 1, "max")
    _, state, _ = checkpoints.restore(program)
    task, variables = toy.make_task(), jax.device_get(state.evaluated)
    examples = [b for b in toy.Data().eval_batches("test", 1)]
    assert len(examples) == 22
    sums = [task.evaluate(variables, example) for example in examples]
    np.testing.assert_allclose(result["metrics"]["test/accuracy"], np.mean([s["accuracy"][0] for s in sums]), rtol=1e-6)
    np.testing.assert_allclose(result["metrics"]["test/loss"], np.mean([s["loss"][0] for s in sums]), rtol=1e-4)


def test_evaluate_mode_repeats_the_result_and_writes_nothing(finished):
    workdir, result = finished
    before = (workdir / "metrics.jsonl").read_text()
    again = trainer.run("evaluate", toy.make_config(), toy.make_task(), toy.Data(), workdir)
    assert again["metrics"] == result["metrics"]
    assert (workdir / "metrics.jsonl").read_text() == before


def test_predict_does_not_depend_on_how_many_examples_come_together(finished):
    workdir, _ = finished
    batch = next(toy.Data().eval_batches("test", 22))
    predict = lambda part: trainer.predict(toy.make_config(), toy.make_task(), toy.Data(), workdir, part)[
        "probabilities"
    ]
    together = predict(batch)
    assert together.shape == (22, 4)
    np.testing.assert_allclose(predict({k: v[:3] for k, v in batch.items()}), together[:3], rtol=1e-5)


def test_a_finished_run_is_not_run_again(finished):
    workdir, result = finished
    written = (workdir / "result.json").stat().st_mtime_ns
    assert trainer.run("train", toy.make_config(), toy.make_task(), toy.Data(), workdir)["metrics"] == result["metrics"]
    assert (workdir / "result.json").stat().st_mtime_ns == written
    assert "test/loss" in {entry["name"] for entry in rundir.read_metrics(workdir / "metrics.jsonl")}


def test_nan_stops_the_run_and_names_step_metric_and_checkpoint(tmp_path):
    task = dataclasses.replace(toy.make_task(), std=(0.0,))  # pixels become infinite
    with pytest.raises(FloatingPointError, match=r"train/\w+ is nan at step 1; there is no checkpoint yet"):
        trainer.run("train", toy.make_config(), task, toy.Data(), tmp_path / "run")
    config = toy.make_config(
        **{"optimizer": {"name": "sgd", "learning_rate": 1e30, "warmup_steps": 0}, "train.eval_every": 1}
    )
    with pytest.raises(
        FloatingPointError,
        match=r"train/\w+ is (nan|inf) at step \d+; the newest checkpoint in \S+ is step \d+, (with validation/|whose)",
    ):
        trainer.run("train", config, toy.make_task(), toy.Data(), tmp_path / "other")


def test_a_workdir_of_another_config_is_refused_and_left_alone(finished):
    workdir, _ = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.iterdir()}
    with pytest.raises(ValueError, match=r"belongs to another config \(seed: 0 -> 1; train.ema: 0.9 -> 0.5\)"):
        trainer.run("train", toy.make_config(seed=1, **{"train.ema": 0.5}), toy.make_task(), toy.Data(), workdir)
    assert {path: path.stat().st_mtime_ns for path in workdir.iterdir()} == before


def test_other_data_is_refused(tmp_path):
    config = toy.make_config(**{"train.steps": 4})
    trainer.run("train", config, toy.make_task(), toy.Data(), tmp_path / "run")
    with pytest.raises(ValueError, match="trained on other data: fingerprint toy, not changed"):
        trainer.run("train", config, toy.make_task(), toy.Data(fingerprint="changed"), tmp_path / "run")
    batch = next(toy.Data().eval_batches("test", 8))
    for data in (toy.Data(fingerprint="changed"), toy.Data(is_prepared=False, fingerprint="nobody asks")):
        answer = lambda data=data: trainer.predict(config, toy.make_task(), data, tmp_path / "run", batch)
        if data.is_prepared:
            with pytest.raises(ValueError, match="trained on other data"):
                answer()
        else:
            assert answer()["probabilities"].shape == (8, 4)


def test_a_run_can_be_made_longer_and_reads_any_mesh(tmp_path):
    short = toy.make_config(**{"train.steps": 6, "mesh.data": 8})
    trainer.run("train", short, toy.make_task(), toy.Data(), tmp_path / "run")
    longer = toy.make_config(**{"train.steps": 8, "mesh.data": 4, "mesh.fsdp": 2})
    result = trainer.run("train", longer, toy.make_task(), toy.Data(), tmp_path / "run")
    assert result["steps"] == 8 and result["mesh"]["fsdp"] == 2
    steps = [e["step"] for e in rundir.read_metrics(tmp_path / "run" / "metrics.jsonl") if e["name"] == "train/loss"]
    assert steps == list(range(1, 9))


def test_a_stopped_evaluation_returns_none(finished):
    program = trainer.build(toy.make_config(), toy.make_task())
    task, variables = toy.make_task(), program.init().evaluated
    assert evaluation.evaluate(program, task, toy.Data(), variables, "test", 8, stop=lambda: True) is None


class Scorer:
    """The accuracy once more, from predictions that are compared with the labels on the host."""

    def __init__(self, data, split):
        self.signatures = {"matches": "argmax, no ties"}
        self._labels = np.concatenate([batch["label"] for batch in data.eval_batches(split, 1)])
        self.right = {}

    def add(self, outputs):
        for index, weight, row in zip(outputs["index"], outputs["weight"], outputs["probabilities"], strict=True):
            if weight:
                self.right[int(index) % 1000] = bool(row.argmax() == self._labels[index % 1000])

    def result(self):
        return {"matches": float(np.mean(list(self.right.values())))}

    def save(self, path):
        path.write_text(json.dumps(self.right))


class ScoredTask(classification.ClassificationTask):
    def derived(self, means):
        return {"perplexity": np.exp(means["loss"])}

    def scorer(self, data, split):
        return Scorer(data, split)


def test_predictions_are_scored_on_the_host_at_the_end_or_at_every_evaluation(tmp_path):
    task = ScoredTask(
        **{f.name: getattr(toy.make_task(), f.name) for f in dataclasses.fields(classification.ClassificationTask)}
    )
    for when, validated in (("test", set()), ("all", {4, 8, 12})):
        workdir = tmp_path / when
        config = toy.make_config(**{"train.score": when, "mesh.data": 4, "mesh.fsdp": 2})
        result = trainer.run("train", config, task, toy.Data(), workdir)
        scores = result["metrics"]
        assert scores["test/matches"] == pytest.approx(scores["test/accuracy"])
        assert scores["test/perplexity"] == pytest.approx(np.exp(scores["test/loss"]))
        assert result["signatures"] == {"test/matches": "argmax, no ties"}
        assert len(json.loads((workdir / "predictions.jsonl").read_text())) == 22
        entries = rundir.read_metrics(workdir / "metrics.jsonl")
        assert {entry["step"] for entry in entries if entry["name"] == "validation/matches"} == validated
    again = trainer.run("evaluate", config, task, toy.Data(), workdir)["metrics"]
    assert again["test/matches"] == scores["test/matches"] and "validation/matches" in again


def test_settings_are_checked(tmp_path):
    with pytest.raises(ValueError, match=r"train.log_every=0 must be between 1 and"):
        trainer.run("train", toy.make_config(**{"train.log_every": 0}), toy.make_task(), toy.Data(), tmp_path / "run")
    with pytest.raises(ValueError, match=r"train.select='first' is unknown; choose from best, last"):
        trainer.run(
            "train", toy.make_config(**{"train.select": "first"}), toy.make_task(), toy.Data(), tmp_path / "run"
        )
    with pytest.raises(ValueError, match="has no checkpoint; train it first"):
        trainer.run("evaluate", toy.make_config(), toy.make_task(), toy.Data(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file; give a folder"):
        trainer.run("train", toy.make_config(), toy.make_task(), toy.Data(), tmp_path / "file")


def test_mfu_counts_products_once_forward_and_for_each_gradient(tmp_path, monkeypatch):
    chip = Chip("fast", {"float32": 1e6}, 0, 0.0, 0.0, 0, cores=2)
    monkeypatch.setattr(trainer, "chip_of", lambda kind: chip)
    run = trainer.TrainingRun(toy.make_config(), toy.make_task(), toy.Data(), tmp_path / "run").opened()
    # 16 images of 16 pixels through 16 units to 4 classes: the pixels need no gradient, the units do.
    hidden, head = 2 * 16 * 16 * 16, 2 * 16 * 16 * 4
    assert run._mfu_of_one == pytest.approx((2 * hidden + 3 * head) / (8 * 1e6 / 2))


def test_a_predictor_knows_what_its_checkpoint_scored(finished, tmp_path):
    workdir, _ = finished
    predictor = trainer.Predictor(toy.make_config(), toy.make_task(), toy.Data(), workdir)
    logged = {
        entry["name"]: entry["value"]
        for entry in rundir.read_metrics(workdir / "metrics.jsonl")
        if entry["step"] == predictor.step and entry["name"].startswith("validation/")
    }
    assert logged and predictor.validation == logged
    config = toy.make_config(
        **{"train.select": "last", "train.checkpoint_every": 5, "train.eval_every": 10, "train.steps": 10}
    )
    trainer.run("train", config, toy.make_task(), toy.Data(), tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/10")  # what is left was saved between two evaluations
    unevaluated = trainer.Predictor(config, toy.make_task(), toy.Data(), tmp_path / "run")
    assert (unevaluated.step, unevaluated.validation) == (5, {})
