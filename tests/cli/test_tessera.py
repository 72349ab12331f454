"""`tessera`: one command over everything, and what `show` says of a config."""

import json
import re
import shutil
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
        "sweep",
        "report",
    ):
        out = ask(name, "--help").out
        assert out.startswith(f"usage: tessera {name} "), out
        assert "--mode" not in out


@pytest.mark.parametrize(
    ("mode", "takes"),
    [("train", {"--config", "--workdir", "--profile", "--tracker"}),
     ("evaluate", {"--config", "--workdir", "--follow", "--timeout"}),
     ("predict", {"--config", "--workdir", "--out", "INPUT"})],
)  # fmt: skip
def test_help_shows_what_a_command_takes_and_nothing_else(mode, takes):
    usage = ask(mode, "--help").out.split("\n\n")[0]
    assert set(re.findall(r"--[a-z]+|INPUT", usage)) == takes


def test_help_names_every_command():
    for words in ((), ("--help",)):
        done = ask(*words)
        assert done.code == 0 and all(name in done.out for name in ("train", "show", "prepare", "plan", "report"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trian",), "error: unknown command 'trian'; choose from train, evaluate, predict, show"),
        (("train", "--workdir=w"), "error: tessera train needs --config=FILE"),
        (("evaluate", "--workdir=/nowhere/run"), "error: --workdir=/nowhere/run is not a run directory"),
        (("baseline",), "error: the following arguments are required: --config"),
        (
            ("baseline", f"--config={DIGITS}:cpu", "--config.data.dir=/nowhere"),
            "error: 'digits' is not prepared; run: ",
        ),
        (("prepare", "nothing"), "error: unknown data set 'nothing'"),
        (("show",), "error: give either a config"),
        (
            ("show", f"{DIGITS}:smoke", "--config.train.stepz=3"),
            "error: config.train.stepz is unknown; did you mean steps?",
        ),
        (("report", "add", "/nowhere/run"), "error: /nowhere/run is not a run directory"),
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


def test_a_trust_report_is_of_all_test_examples(trained, tmp_path):
    run_copy = tmp_path / "digits"
    shutil.copytree(trained, run_copy)
    done = ask("report", "trust", str(run_copy), "--corruptions=contrast,fog", "--examples=20")
    assert done.code == 0, done.err
    found = json.loads((run_copy / "trust" / "report.json").read_text())
    result = json.loads((run_copy / "result.json").read_text())
    assert found["calibration"]["uncalibrated"]["accuracy"] == pytest.approx(result["metrics"]["test/accuracy"])
    assert found["calibration"]["uncalibrated"]["nll"] == pytest.approx(result["metrics"]["test/loss"], rel=1e-4)
    assert sum(each["examples"] for each in found["groups"]["accuracy"]["class"]["groups"]) == found["counts"]["test"]
    assert list(found["corruptions"]["kinds"]) == ["contrast", "fog"] and found["corruptions"]["examples"] == 20
    for words, part in (("--group=person", "no group 'person'"), ("--corruptions=rain", "unknown kind 'rain'")):
        refused = ask("report", "trust", str(run_copy), words)
        assert refused.code == 2 and part in refused.err


def test_the_checkpoints_of_a_run_are_followed(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    done = ask("evaluate", f"--workdir={tmp_path / 'run'}", "--follow", "--timeout=60")
    assert done.code == 0, done.err
    (line,) = map(json.loads, (tmp_path / "run/follow.jsonl").read_text().splitlines())
    logged = json.loads((tmp_path / "run/result.json").read_text())["metrics"]
    assert line["step"] == 2 and line["metrics"]["validation/accuracy"] == logged["validation/accuracy"]
    assert done.out.startswith("step 2: ") and "test/" not in done.out


@pytest.mark.long
def test_a_sweep_scores_only_its_best_trial_on_test(data_dir, tmp_path):
    lines = [f'config = "{DIGITS}:smoke"', f'overrides = ["train.steps=2", "data.dir={data_dir}"]', "[[list]]"]
    lines += ['"optimizer.warmup_steps" = 0', "[[list]]", '"optimizer.warmup_steps" = 1']
    (tmp_path / "sweep.toml").write_text("\n".join(lines))
    done = ask("sweep", str(tmp_path / "sweep.toml"), f"--workdir={tmp_path / 'sweep'}", "--processes=2")
    assert done.code == 0, done.err
    ranking = json.loads((tmp_path / "sweep" / "ranking.json").read_text())
    (scored,) = (tmp_path / "sweep").glob("*/result.json")
    assert scored.parent.name == f"{ranking['winner']:03d}_seed0"
    assert (
        ranking["test"][scored.parent.name]["test/accuracy"]
        == json.loads(scored.read_text())["metrics"]["test/accuracy"]
    )
    values = [each["validation"]["0"] for each in ranking["trials"]]
    assert values == sorted(values, reverse=True) and ranking["trials"][0]["trial"] == ranking["winner"]


def test_a_sweep_over_an_unknown_field_names_the_nearest_one(tmp_path):
    (tmp_path / "a.toml").write_text(f'config = "{DIGITS}:smoke"\n[grid]\n"optimizer.lerning_rate" = [1.0]\n')
    done = ask("sweep", str(tmp_path / "a.toml"), f"--workdir={tmp_path / 'sweep'}")
    assert done.code == 2 and "lerning_rate is unknown; did you mean learning_rate" in done.err
    assert not (tmp_path / "sweep").exists()
