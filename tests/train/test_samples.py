"""Samples for trackers: histograms and gradients against other code, and no effect on the numbers."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from research.metrics import confusion
from research.parallel import sharding
from research.tracking import figures
from research.train import rundir, samples, trainer
from tests.tracking import events
from tests.train import toy


@dataclasses.dataclass(frozen=True)
class Named(toy.Data):
    """The toy with the classes of its examples, for predictions."""

    def reference(self, split, index):
        label = self._examples([index])["label"][0]
        return {"index": index, "class": self.class_names[label]}


@pytest.mark.parametrize("values", [np.arange(64.0), np.array([2.0, 2.0]), np.array([1.0, np.nan, 3.0, np.inf])])
def test_histograms_are_those_of_numpy(values):
    (found,) = samples.histograms({"a": values.astype(np.float32)}).values()
    counts, edges = np.histogram(values[np.isfinite(values)], samples.BINS)
    np.testing.assert_array_equal(found.counts, counts)
    np.testing.assert_allclose(found.edges, edges, rtol=1e-6)


def test_histograms_of_random_values_differ_from_numpy_at_edges_only():
    values = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32)
    (found,) = samples.histograms({"a": values}).values()
    counts, _ = np.histogram(values, samples.BINS)
    assert found.counts.sum() == values.size and np.abs(found.counts - counts).sum() <= 4


def test_the_gradients_are_those_of_the_next_step():
    config, task = toy.make_config(**{"train.microbatches": 1}), toy.make_task()
    program = trainer.build(config, task)
    state = program.init()
    host = next(toy.Data().train_batches(0, 16))
    batch = jax.device_put(host, program.batch_sharding)
    with sharding.constraints_for(program.mesh):
        found = jax.jit(lambda state, batch: samples.gradients(config, task, state, batch))(state, batch)
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(jax.device_get(found))))
    _, metrics = program.train_step(state, batch)
    assert norm == pytest.approx(float(metrics["grad_norm"]), rel=1e-5)


def curve(workdir):
    entries = rundir.read_metrics(workdir / "metrics.jsonl")
    return [(each["step"], each["name"], each["value"]) for each in entries if not each["name"].startswith("speed/")]


def test_samples_are_shown_at_each_evaluation_and_change_no_number(tmp_path):
    results = {}
    for name, more in (("plain", {"train.trackers": ()}), ("shown", {"train.samples": True})):
        config = toy.make_config(**{"train.steps": 8, "train.ema": 0.0} | more)
        results[name] = trainer.run("train", config, toy.make_task(), Named(), tmp_path / name)
    assert results["plain"]["metrics"] == results["shown"]["metrics"]
    assert curve(tmp_path / "plain") == curve(tmp_path / "shown")
    assert not (tmp_path / "plain/events").exists()
    found = events.read(tmp_path / "shown/events")
    for step in (4, 8):
        for kind in ("parameters", "gradients"):
            assert found[f"{kind}/hidden/kernel", step].histo.num == 16 * 16
        images = [found[f"samples/validation_{what}", step].image for what in ("images", "confusion")]
        assert all(image.width > 200 and image.colorspace == 3 for image in images)
        (text,) = (
            value for (tag, at), value in found.items() if tag.startswith("samples/validation/text") and at == step
        )
        assert text.tensor.string_val[0].count(b"predicted: ") == 16


def test_a_scorer_that_fails_on_a_part_of_a_split_is_one_warning(tmp_path, capsys):
    class Failing:
        signatures = {}  # noqa: RUF012

        def add(self, outputs):
            raise RuntimeError("the whole split is needed")

        def result(self):
            return {}

        def save(self, path):
            path.write_text("")

    class Task(type(toy.make_task())):
        def scorer(self, data, split):
            return Failing() if split == "validation" else None

    task = Task(**{each.name: getattr(toy.make_task(), each.name) for each in dataclasses.fields(toy.make_task())})
    config = toy.make_config(**{"train.steps": 8, "train.ema": 0.0, "train.samples": True})
    assert trainer.run("train", config, task, toy.Data(), tmp_path / "run")["steps"] == 8
    assert capsys.readouterr().err.count("the whole split is needed") == 1


def test_a_confusion_matrix_counts_pairs():
    lines = [{"class": a, "predicted": b} for a, b in ("xx", "xy", "yy", "xy", "zz")]
    names, counts = confusion.matrix(lines)
    assert names == ["x", "y", "z"] and counts.tolist() == [[1, 2, 0], [0, 1, 0], [0, 0, 1]]
    image = figures.rendered(confusion.figure(names, counts, "title"))
    assert image.dtype == np.uint8 and image.shape[-1] == 3 and len(np.unique(image)) > 10


def test_images_are_matched_with_outputs_by_index():
    """On a pod, a process holds other rows than the first of the global batch."""
    images = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (10, 200)])
    masks = np.stack([np.full((8, 8), label, np.uint8) for label in (0, 3)])
    batch = {"image": images, "index": np.array([7, 9]), "weight": np.ones(2)}
    there = {"mask": masks, "index": np.array([7, 9])}
    other = {"mask": masks[::-1], "index": np.array([9, 7])}
    lines = [{"index": 9, "class": "a", "predicted": "b"}, {"index": 7, "class": "a", "predicted": "a"}]
    np.testing.assert_array_equal(figures.of_images(batch, there, lines), figures.of_images(batch, other, lines[::-1]))
    assert figures.of_images({"tokens": images}, there, lines) is None


def test_records_are_shown_without_numbers_by_the_hundred():
    line = {
        "index": 3,
        "references": ["a b", "c"],
        "prediction": "x " * 400,
        "boxes": [[1, 2, 3, 4]],
        "confusion": [[1]],
    }
    first, second, third = samples.as_text(json.loads(json.dumps(line))).split("\n")
    assert (first, second) == ("index: 3", "references: a b | c") and third.endswith("...") and len(third) < 330
