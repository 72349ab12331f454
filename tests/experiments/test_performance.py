"""The performance suites at toy size: what they report, not how fast it is."""

import dataclasses
import importlib.util
import json
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from experiments.performance import (
    compiling,
    input_pipeline,
    loop,
    main,
    measurement,
    speech_steps,
    text_steps,
    vision_steps,
)
from experiments.performance.measurement import Measurement
from research import config as configs
from research.data import prepare
from research.report import records, tables
from research.train import trainer
from tests.experiments.conftest import ROOT
from tests.experiments.test_readme import QUICK, commands
from tests.flags import one_device


@pytest.fixture
def digits(data_dir, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    prepare.prepare("digits")


@pytest.mark.parametrize(
    ("bounds", "value", "goal", "met"),
    [
        ({"at_most": 1.02}, 1.02, "<= 1.02", True),
        ({"at_most": 1.02}, 1.03, "<= 1.02", False),
        ({"at_least": 3}, 3.1, ">= 3", True),
        ({"at_least": 3}, 2.9, ">= 3", False),
        ({}, 7.0, None, None),
    ],
)
def test_goals(bounds, value, goal, met):
    measured = Measurement("name", value, **bounds)
    assert (measured.goal, measured.met) == (goal, met)


def test_segments_alternate_and_leave_the_state_of_the_loop_alone():
    """The fake step counts; the loop's own count must not see the bare steps, and its segments are timed in pairs."""
    taken = []

    def train_step(state, batch):
        taken.append(int(state))
        return state + 1, {}

    step, state = loop.SegmentedStep(train_step, segment=4, pairs=3), jnp.zeros((), jnp.int32)
    with pytest.raises(loop._Enough):
        for _ in range(100):
            state, _ = step(state, None)
    assert int(state) == 1 + 3 * 4
    # The compiling step, then a bare and a full segment from the same state, three times.
    assert taken == [0, 1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8, 5, 6, 7, 8, 9, 10, 11, 12, 9, 10, 11, 12]
    assert len(step.full_s) == len(step.bare_s) == 3
    assert all(seconds > 0 for seconds in step.full_s + step.bare_s)


def test_loop_and_input(digits):
    """The ratios follow from the figures that stand beside them."""
    for suite in (loop.measure, input_pipeline.measure):
        name = "loop" if suite is loop.measure else "input"
        ((config, measurements),) = suite(**main.QUICK[name])
        assert config == measurement.SMOKE
        assert all(math.isfinite(each.value) and each.value > 0 for each in measurements)
        if name == "input":
            ratio, made, eaten = (each.value for each in measurements)
            assert ratio == pytest.approx(made / eaten)


def test_compile_takes_the_depth_that_it_reports(digits, monkeypatch):
    depths = []
    monkeypatch.setattr(compiling, "compile_seconds", lambda config, depth: depths.append(depth) or float(depth))
    ((config, measurements),) = compiling.measure(measurement.SMOKE, depths=(12, 48), repeats=2)
    assert depths == [12, 12, 48, 12, 48]
    assert [each.value for each in measurements] == [4.0, 12.0, 48.0]
    assert config.endswith("--config.model.unroll=1")


def test_an_answer_is_timed_for_as_many_examples_as_are_asked(digits):
    loaded, task, data = measurement.load(measurement.SMOKE)
    program = trainer.build(loaded, task, jax.devices()[:1])
    sizes = []

    def predict_step(variables, batch, rng):
        sizes.append({name: len(array) for name, array in batch.items()})
        return program.predict_step(variables, batch, rng)

    examples = next(data.train_batches(0, 4))
    seen = dataclasses.replace(program, predict_step=predict_step)
    assert 0 < vision_steps.answer_seconds(seen, program.init().evaluated, examples, 6, answers=2) < 60
    assert len(sizes) == 3 and all(set(size.values()) == {6} for size in sizes)


@pytest.mark.long
@pytest.mark.parametrize("work", text_steps.WORK)
def test_tessera_and_pytorch_do_the_same_work(work):
    for package in ("torch", "transformers"):
        pytest.importorskip(package, reason=f"{package} is not installed; see the extra [interop]")
    shapes = main.QUICK["text"]["shapes"]
    tessera, pytorch = (text_steps.make(side, shapes, work) for side in ("Tessera", "PyTorch"))
    assert tessera.num_params == pytorch.num_params
    if work == "train":
        # Both know nothing at first, and learn the one batch that they see.
        losses = [[float(side.run()) for _ in range(60)] for side in (tessera, pytorch)]
        assert all(abs(first - math.log(shapes.vocab_size)) < 2 for first, *_ in losses)
        assert all(last < 0.8 * first for first, *_, last in losses)
    else:
        assert tessera.run().shape == pytorch.run().shape == (shapes.batch_size, shapes.target_length)


@pytest.mark.long
@pytest.mark.parametrize("work", ["train", "transcribe 1 s"])
def test_tessera_and_pytorch_hear_the_same(work):
    for package in ("torch", "transformers"):
        pytest.importorskip(package, reason=f"{package} is not installed; see the extra [interop]")
    shapes = main.QUICK["speech"]["shapes"]
    tessera, pytorch = (speech_steps.make(side, shapes, work) for side in ("Tessera", "PyTorch"))
    assert tessera.num_params == pytorch.num_params
    if work == "train":
        losses = [[float(side.run()) for _ in range(6)] for side in (tessera, pytorch)]
        assert all(abs(first - math.log(shapes.vocab_size)) < 2 for first, *_ in losses)
        assert all(last < first for first, *_, last in losses)
    else:
        assert tessera.run().shape == pytorch.run().shape == (shapes.batch_size, shapes.target_length)
        assert tessera.inputs()["source"].shape == (2, 100, 8)  # what there is
        assert pytorch._features.shape == (2, 8, 3000)  # always 30 s


def test_text_says_where_it_cannot_run(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else object())
    assert "text" not in main.default_suites(quick=True)
    assert "skipping the suite text: torch and transformers, of the extra [interop]" in capsys.readouterr().err
    with pytest.raises(ValueError, match="choose other suites"):
        next(text_steps.measure())


def test_padding_is_that_of_the_training_rows(digits):
    prepare.prepare("spelled_numbers")
    packed = main.QUICK["text"]["packed"]
    source = configs.Source.parse(packed)
    _, data = configs.load(source.file, source.variant).build()
    data.prepare()
    rows = data.source("train")
    filled = sum(len(side) for index in range(len(rows)) for example in rows[index] for side in example)
    share = 1 - filled / (len(rows) * (data.spec.source_length + data.spec.target_length))
    assert text_steps.padding_share(packed) == pytest.approx(share)


def test_rows_are_those_that_the_tables_read():
    measured = ("loop", measurement.CIFAR10, [Measurement("full / bare", 1.0134, at_most=1.02)])
    row = main.row(*measured, ("0123456789ab", False))
    table = tables.render([json.loads(json.dumps(row))])
    assert "| loop |" in table and "| 1.013 | <= 1.02 |" in table and "`0123456`" in table
    assert row["command"] in table
    lines = main.table([measured]).splitlines()
    assert lines[0].split() == ["suite", "config", "measured", "value", "unit", "goal", "met?"]
    assert lines[1].split() == ["loop", "cifar10_resnet.py:cpu", "full", "/", "bare", "1.013", "<=", "1.02", "yes"]


def test_each_row_is_recorded_as_soon_as_it_is_measured(tmp_path, monkeypatch):
    (tmp_path / "experiments/performance").mkdir(parents=True)

    def measure():
        yield measurement.CIFAR10, [Measurement("full / bare", 1.0134, at_most=1.02)]
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "disable_compilation_cache", lambda: None)  # which would last
    monkeypatch.setitem(main.SUITES, "loop", measure)
    record = records.record
    monkeypatch.setattr(records, "record", lambda row: record(row, tmp_path))
    with pytest.raises(KeyboardInterrupt):
        main.main(["--suite=loop", "--record"])
    (line,) = (tmp_path / "experiments/performance/results.jsonl").read_text().splitlines()
    assert json.loads(line)["measurements"][0]["value"] == 1.0134


@pytest.mark.parametrize(
    "config", [measurement.DIGITS, measurement.CIFAR10, measurement.SMOKE, text_steps.PACKED, *vision_steps.CONFIGS]
)
def test_the_configs_exist(config, monkeypatch):
    monkeypatch.chdir(ROOT)
    source = configs.Source.parse(config)
    configs.load(source.file, source.variant)


@pytest.mark.parametrize(
    "words", [["--suite=speed"], ["--sweet=loop"], ["--quick", "--record"], ["--out=absent/x.json"]]
)
def test_wrong_arguments(words):
    with pytest.raises(ValueError, match="--"):
        main.parse(words)


@pytest.mark.long
def test_the_command(data_dir, monkeypatch, tmp_path):
    """All suites in the way that the README says; nothing needs to be prepared."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    assert QUICK in commands(ROOT / "experiments/performance/README.md")
    out = tmp_path / "performance.json"
    command = [sys.executable, *QUICK.split()[1:], f"--out={out}"]
    finished = subprocess.run(command, capture_output=True, text=True, env=one_device())
    assert finished.returncode == 0, finished.stderr
    rows = json.loads(out.read_text())
    suites = main.default_suites(quick=True)
    assert sorted({row["suite"] for row in rows}, key=suites.index) == suites
    values = {each["name"]: each["value"] for row in rows for each in row["measurements"]}
    assert all(value > 0 for name, value in values.items() if not name.startswith("largest difference of losses"))
    assert values["of which compiling the step"] < values["process start to first step"]
    assert values["peak resident after the imports"] < values["peak resident"]
    assert len(finished.stdout.splitlines()) == 1 + sum(len(row["measurements"]) for row in rows)
