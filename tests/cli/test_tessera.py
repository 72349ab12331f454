"""`tessera`: one command over everything, and what `show` says of a config."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from research.cli import tessera
from research.data import prepare
from tests.running import run

DIGITS = "configs/image_classification/digits_vit.py"


def ask(*words):
    return run(["research.cli.tessera", *words])


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    prepare.prepare("digits", data_dir=str(folder))
    return folder


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """The run directory of a model that was trained for two steps, by `tessera train`."""
    workdir = tmp_path_factory.mktemp("runs") / "digits"
    words = ["train.steps=2", "optimizer.warmup_steps=0", f"data.dir={data_dir}"]
    done = ask("train", f"--config={DIGITS}:smoke", *(f"--config.{word}" for word in words), f"--workdir={workdir}")
    assert done.code == 0, done.err
    return workdir


# ---- Commands


def test_each_command_explains_itself_by_its_own_name():
    for name in (
        "train",
        "evaluate",
        "predict",
        "show",
        "prepare",
        "plan",
        "import",
        "export",
        "check",
        "baseline",
        "report",
    ):
        out = ask(name, "--help").out
        assert out.startswith(f"usage: tessera {name} "), out
        assert "--mode" not in out


def test_help_names_every_command():
    for words in ((), ("--help",)):
        done = ask(*words)
        assert done.code == 0 and all(name in done.out for name in ("train", "show", "prepare", "plan", "report"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trian",), "error: unknown command 'trian'; choose from train, evaluate, predict, show"),
        (("train", "--workdir=w"), "error: tessera train needs --config=FILE"),
        (("evaluate", "--workdir=/nowhere/run"), "error: --workdir=/nowhere/run is no run directory"),
        (("baseline",), "error: the following arguments are required: --config"),
        (
            ("baseline", f"--config={DIGITS}:cpu", "--config.data.dir=/nowhere"),
            "error: 'digits' is not prepared; run: ",
        ),
        (("prepare", "nothing"), "error: unknown data set 'nothing'"),
        (("show",), "error: give a config"),
        (
            ("show", f"{DIGITS}:smoke", "--config.train.stepz=3"),
            "error: config.train.stepz is unknown; did you mean steps?",
        ),
        (("report", "add", "/nowhere/run"), "error: /nowhere/run is no run directory"),
        (("plan", "--config=x.py", "--topology=v5e:2x2"), "error: config file 'x.py' does not exist"),
        (("export", "/nowhere/run", "x"), "error: /nowhere/run"),
    ],
)
def test_a_mistake_is_one_line(words, message):
    assert ask(*words).error.startswith(message)


def test_it_is_installed_as_a_script():
    from importlib import metadata

    (script,) = [each for each in metadata.entry_points(group="console_scripts") if each.name == "tessera"]
    assert script.load() is tessera.main


def test_it_runs_the_code_of_the_repository_that_one_stands_in(tmp_path):
    (tmp_path / "research/cli").mkdir(parents=True)
    for module in ("__init__.py", "cli/__init__.py"):
        (tmp_path / "research" / module).touch()
    (tmp_path / "research/cli/tessera.py").write_text("import sys\nprint('of this clone', sys.argv[1:])")
    command = [sys.executable, Path(tessera.__file__), "show", "--list"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.stdout == "of this clone ['show', '--list']\n", done.stderr


def test_it_says_where_there_are_no_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = ask("show", "--list")
    assert done.code == 0 and "none in" in done.out and " digits " in done.out


# ---- A trained run knows its config


@pytest.mark.long
def test_a_trained_run_is_evaluated_without_its_config(trained):
    done = ask("evaluate", f"--workdir={trained}")
    assert done.code == 0, done.err
    assert re.match(r"step 2: validation/accuracy 0\.\d+", done.out)


@pytest.mark.long
def test_a_trained_run_takes_inference_fields_only(trained):
    assert ask("evaluate", f"--workdir={trained}", "--config.train.eval_batch_size=40").code == 0
    refused = ask("evaluate", f"--workdir={trained}", "--config.train.batch_size=64")
    assert "belongs to another config (train.batch_size: 32 -> 64)" in refused.error


# ---- show


def test_show_marks_what_differs_from_the_defaults():
    lines = ask("show", f"{DIGITS}:smoke", "--config.optimizer.b1=0.8").out.splitlines()
    assert lines[0].startswith(f"{DIGITS}:smoke  experiment image_classification, digest ")
    values = {line.split()[-2 if line.endswith(")") else -1]: line for line in lines[1:]}
    assert len(values) > 10
    said = lambda name: next(line for line in lines if line[2:].split()[0] == name)
    assert said("optimizer.b1").split() == ["*", "optimizer.b1", "0.8", "(0.9)"]
    assert said("train.keep_last").split() == ["train.keep_last", "2"]
    assert not any("#" in line for line in lines)


def test_show_says_what_fields_mean():
    out = ask("show", f"{DIGITS}:smoke", "--docs").out
    assert re.search(r"\* train\.steps +20  \(1000\)  # optimizer steps; between 1 and 2147483647 \[length\]", out)
    assert re.search(r"train\.log_every .* \[runtime\]", out)


def test_show_counts_the_parameters():
    lines = ask("show", f"{DIGITS}:smoke", "--parameters").out.splitlines()
    rows = {line.split()[0]: line.split() for line in lines[1:]}
    assert rows["head/kernel"] == ["head/kernel", "32x10", "embed", "classes", "320", "1,280"]
    counts = {name: int(row[-2].replace(",", "")) for name, row in rows.items()}
    sizes = {name: int(row[-1].replace(",", "")) for name, row in rows.items()}
    total, size = counts.pop("total"), sizes.pop("total")
    assert total == sum(counts.values()) == 18_154 and size == sum(sizes.values()) == 4 * total


def test_what_a_model_refuses_is_named_as_the_command_line_names_it():
    error = ask("show", f"{DIGITS}:smoke", "--parameters", "--config.model.attention=cudnn").error
    assert error.startswith("error: config.model.attention='cudnn' needs an NVIDIA GPU, not cpu; use 'auto' or 'xla'")


def test_show_lists_configs_and_data_sets():
    out = ask("show", "--list").out
    assert f"{DIGITS} " in out and re.search(r"\n  digits +Handwritten digits: .*Splits of", out)
