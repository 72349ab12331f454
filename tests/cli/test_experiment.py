"""The command line: what it parses, and what it says when something is wrong."""

import json
import subprocess
import sys

import pytest

from research import config as config_lib
from research.cli import experiment
from research.data import prepare
from research.train import rundir

DIGITS = "configs/image_classification/digits_vit.py:smoke"


def parse(line):
    return experiment.parse(line.split())


def test_arguments_and_overrides_are_told_apart():
    arguments, overrides = parse(f"--config={DIGITS} --config.train.steps=3 --workdir=w --config.data.name=a=b")
    assert (arguments.config, arguments.workdir, arguments.mode, arguments.inputs) == (DIGITS, "w", "train", [])
    assert overrides == ["train.steps=3", "data.name=a=b"]


def test_profile_is_a_field_of_the_config():
    assert parse("--config=c --workdir=w --profile=10:5")[1] == ["train.profile=10:5"]


def test_trackers_are_added_to_tensorboard():
    assert parse("--config=c --workdir=w --tracker=wandb --tracker=mlflow --tracker=wandb")[1] == [
        "train.trackers=('tensorboard', 'wandb', 'mlflow')"
    ]


def test_predict_takes_inputs_in_their_order():
    arguments, _ = parse(f"--config={DIGITS} --workdir w --mode=predict b.png a.png")
    assert (arguments.mode, arguments.inputs) == ("predict", ["b.png", "a.png"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--workdir=w", "--mode=train needs --config=FILE"),
        ("--config=c", "the following arguments are required: --workdir"),
        ("--config=c --workdir=w --mode=test", "invalid choice: 'test'"),
        ("--config=c --workdir=w --steps=3", "unrecognized arguments: --steps=3"),
        ("--config=c --workdir=w a.png", "--mode=train takes no inputs, but 'a.png' was given"),
        ("--config=c --workdir=w --mode=evaluate a.png", "--mode=evaluate takes no inputs"),
        ("--config=c --workdir=w --mode=predict", "--mode=predict needs at least one input"),
        ("--config=c --workdir=w --tracker=wndb", "invalid choice: 'wndb'"),
        ("--config=c --workdir=w --follow", "--follow is for evaluation, not for --mode=train"),
        ("--workdir=w --mode=evaluate --timeout=3", "--timeout=3 must be more than 0 s, and needs --follow"),
        ("--workdir=w --mode=evaluate --follow --timeout=0", "--timeout=0 must be more than 0 s"),
        ("--config=c --workdir=w --config.seed 3", "--config.seed has no value; write --config.seed=VALUE"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(line, message):
    with pytest.raises(ValueError, match=message):
        parse(line)


@pytest.mark.parametrize(
    ("text", "file", "variant"),
    [("a/b.py", "a/b.py", "full"), ("a/b.py:cpu", "a/b.py", "cpu"), ("a/b.py:", "a/b.py", "full")],
)
def test_the_variant_follows_the_file(text, file, variant):
    source = config_lib.Source.parse(text, ["seed=1"])
    assert (source.file, source.variant, source.overrides) == (file, variant, ("seed=1",))


# ---- Refusals: one line on standard error, exit code 2, nothing written.


def refuse(capsys, workdir, *words):
    """The line on standard error of a command that ends before its `main` is called."""

    def main(*_):
        raise AssertionError("the command was not refused")

    with pytest.raises(SystemExit) as left:
        experiment.run(main, [*words, f"--workdir={workdir}"])
    out, err = capsys.readouterr()
    assert (left.value.code, out, err.count("\n")) == (2, "", 1)
    assert not workdir.exists()
    return err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            (f"--config={DIGITS}", "--config.train.stepz=3"),
            "error: config.train.stepz is unknown; did you mean steps?",
        ),
        ((f"--config={DIGITS}", "--config.train.steps=3.5"), "error: config.train.steps=3.5 is a float; it must be a"),
        (("--config=configs/x.py",), "error: config file 'configs/x.py' does not exist; known: configs/"),
        (("--config=README.md",), "error: config file 'README.md' is not a Python file"),
        ((f"--config={DIGITS}r",), "error: unknown variant 'smoker' of"),
        ((f"--config={DIGITS}", "--mode=test"), "error: argument --mode: invalid choice"),
    ],
)
def test_a_refusal_is_one_line_and_exit_code_2(capsys, tmp_path, words, message):
    assert refuse(capsys, tmp_path / "run", *words).startswith(message)


def test_a_bug_keeps_its_traceback(tmp_path):
    def main(*_):
        return json.loads("not JSON")  # a ValueError, but raised by a library

    with pytest.raises(json.JSONDecodeError):
        experiment.run(main, [f"--config={DIGITS}", f"--workdir={tmp_path}"])


def command(*words):
    """The finished process of the real command line."""
    words = [sys.executable, "-m", "experiments.image_classification.main", *words]
    return subprocess.run(words, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stepz=3", "error: config.train.stepz is unknown; did you mean steps?"),
        ("precision.compute=half", "error: config.precision.compute='half' is unknown; choose from bfloat16, float16"),
        ("mesh.tensor=3", "error: config.mesh (data=-1, fsdp=1, tensor=3, sequence=1): the fixed axes take 3 devices"),
    ],
)
def test_the_real_command_refuses_before_anything_is_written(tmp_path, override, message):
    done = command(f"--config={DIGITS}", f"--config.{override}", f"--workdir={tmp_path / 'run'}")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith(message)
    assert not (tmp_path / "run").exists()


def test_the_real_command_refuses_a_run_directory_of_another_config(tmp_path):
    config = config_lib.load(*DIGITS.split(":"), ["model.width=64", "train.steps=40"])
    rundir.open_run_dir(tmp_path / "run", config, write=True)
    before = (tmp_path / "run" / "config.json").read_bytes()
    data = tmp_path / "data"
    prepare.prepare("digits", data_dir=str(data))
    done = command(f"--config={DIGITS}", f"--config.data.dir={data}", f"--workdir={tmp_path / 'run'}")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "belongs to another config (model.width: 64 -> 32); choose another --workdir" in done.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]
    assert (tmp_path / "run" / "config.json").read_bytes() == before
