"""Sweep files: what is tried, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from research.cli import sweep
from research.sweep import runs, settings

SWEEPS = Path(__file__).parents[2] / "configs/sweeps"
CONFIG = {"config": "configs/image_classification/digits_vit.py:smoke"}


def parse(**content):
    return settings.parse(CONFIG | content)


def test_a_grid_has_every_combination():
    made = parse(grid={"a.b": [1, 2.5], "c": ["x", [3, 4]]}, seeds=[3, 5], overrides=["d=0"])
    assert made.trials == (("a.b=1", "c=x"), ("a.b=1", "c=(3, 4)"), ("a.b=2.5", "c=x"), ("a.b=2.5", "c=(3, 4)"))
    assert made.overrides(1, 5) == ["d=0", "a.b=1", "c=(3, 4)", "seed=5"]


def test_a_list_may_hold_the_config_as_it_is():
    assert parse(list=[{}, {"a": True}]).trials == ((), ("a=True",))


def test_random_draws_are_of_their_distributions_and_a_prefix_of_longer_sweeps():
    fields = {
        "a": {"log": [1e-4, 1e-1]},
        "b": {"uniform": [2, 4]},
        "c": {"integers": [1, 3]},
        "d": {"choice": ["x", 7]},
    }
    made = parse(random={"samples": 600, **fields})
    assert len(set(made.trials)) == 600
    assert parse(random={"samples": 20, **fields}).trials == made.trials[:20]
    assert parse(random={"samples": 20, "seed": 1, **fields}).trials != made.trials[:20]
    a, b, c, d = ([text.partition("=")[2] for text in column] for column in zip(*made.trials, strict=True))
    logs = np.log10(np.array(a, float))
    # Means of uniform distributions, within four standard errors.
    assert abs(logs.mean() + 2.5) < 4 * (3 / 12**0.5) / 600**0.5 and -4 <= logs.min() < logs.max() <= -1
    assert abs(np.array(b, float).mean() - 3) < 4 * (2 / 12**0.5) / 600**0.5
    assert set(c) == {"1", "2", "3"} and set(d) == {"x", "7"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, ("grid, list and random", "none")),
        ({"grid": {"a": [1]}, "list": [{}]}, ("grid, list and random", "grid and list")),
        ({"grid": {"a": [1]}, "sed": [1]}, ("unknown key 'sed'", "'seeds'")),
        ({"grid": {"a": 1}}, ("[grid] a=1", "list of values")),
        ({"grid": {"a": [1, 1]}}, ("a=1 twice",)),
        ({"grid": {"seed": [1]}}, ("seeds = [...]",)),
        ({"grid": {"a": list(range(101)), "b": list(range(100))}}, ("more than 10000", "[random]")),
        ({"grid": {"a": [1]}, "seeds": [1, 1]}, ("seeds=[1, 1]", "different")),
        ({"grid": {"a": [1]}, "metric": "test/accuracy"}, ("metric='test/accuracy'", "never chosen on test")),
        ({"grid": {"a": [1]}, "overrides": "a=1"}, ("overrides='a=1'", "FIELD=VALUE")),
        ({"grid": {"a": [1]}, "stop": {"patince": 1}}, ("unknown key 'patince'", "'patience'")),
        ({"grid": {"a": [1]}, "stop": {"patience": -1}}, ("[stop]", "0 or more")),
        ({"random": {"a": {"log": [1, 2]}}}, ("[random] needs samples",)),
        ({"random": {"samples": 2, "a": {"log": [0, 1]}}}, ("[random] a=", "low > 0")),
        ({"random": {"samples": 2, "a": [1, 2]}}, ("[random] a=[1, 2]", "uniform")),
        ({"grid": {"a": [1]}, "config": None}, ("config is missing",)),
        ({"grid": 3}, ("grid=3", "table [grid]")),
        ({"list": [1, 2]}, ("[[list]] must be tables",)),
        ({"random": 3}, ("random=3", "table [random]")),
        ({"grid": {"a": [1]}, "stop": ["median"]}, ("stop=['median']", "table [stop]")),
        ({"grid": {"a": [1]}, "seeds": [[0]]}, ("seeds=[[0]]",)),
        ({"grid": {"a": [1]}, "overrides": ["seed=7"]}, ("seeds = [...]",)),
        ({"grid": {"train.test": [True]}}, ("train.test is set by the sweep",)),
        ({"random": {"samples": 2, "a": {"uniform": [0, float("inf")]}}}, ("[random] a=", "finite")),
        ({"random": {"samples": 2, "a": {"integers": [2.9, 3.9]}}}, ("[random] a=", "integers")),
        ({"random": {"samples": 3, "a": {"integers": [2, 3]}}}, ("only 2 different settings, not 3",)),
    ],
)
def test_what_is_not_understood_is_refused_in_one_line(content, words):
    with pytest.raises(ValueError) as error:
        parse(**content)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_a_file_that_is_no_toml_is_named(tmp_path):
    (tmp_path / "a.toml").write_text("config = ")
    for name, word in (("a.toml", "not valid TOML"), ("b.toml", "cannot be read")):
        with pytest.raises(ValueError, match=f"{name} .*{word}"):
            settings.read(tmp_path / name)


def test_rounded_draws_stay_in_their_range():
    values = [
        float(each.partition("=")[2])
        for (each,) in parse(random={"samples": 2, "a": {"uniform": [0.12345, 0.12346]}}).trials
    ]
    assert all(0.12345 <= value <= 0.12346 for value in values)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"grid": {"optimizer.learning_rate": [0.01, 0.010]}}, "twice"),
        ({"list": [{"train.steps": 7}, {"train.steps": "+7"}]}, "trials 000 and 001 give the same result"),
        ({"grid": {"train.steps": [7, 8]}, "seeds": [0, -1]}, "seed"),
        ({"grid": {"optimizer.learning_rate": [0.1], "optimizer": ["sgd"]}}, "learning_rate before it would be lost"),
    ],
)
def test_settings_that_would_waste_runs_are_refused_before_the_first(content, words):
    with pytest.raises(ValueError, match=words):
        sweep.check(parse(**content))


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_sweep_of_the_repository_can_be_run(path):
    metric, mode = sweep.check(settings.read(path))
    assert metric.startswith("validation/") and mode in ("min", "max")


def test_a_list_of_trials_checks_the_folder_too(tmp_path):
    for name, steps in (("a", [7, 8]), ("b", [8])):
        content = f'config = "{CONFIG["config"]}"\n[grid]\n"train.steps" = {steps}\n'
        (tmp_path / f"{name}.toml").write_text(content)
    (tmp_path / "sweep").mkdir()
    runs.open_folder(tmp_path / "sweep", settings.read(tmp_path / "a.toml"))
    sweep.main([str(tmp_path / "a.toml"), f"--workdir={tmp_path}/sweep", "--list"])
    with pytest.raises(ValueError, match="belongs to another sweep: trials differ"):
        sweep.main([str(tmp_path / "b.toml"), f"--workdir={tmp_path}/sweep", "--list"])
    with pytest.raises(ValueError, match="is a file"):
        sweep.main([str(tmp_path / "a.toml"), f"--workdir={tmp_path}/a.toml", "--list"])
