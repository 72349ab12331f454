"""Sweep files: what is tried, and what is refused."""

import numpy as np
import pytest

from research.sweep import settings

CONFIG = {"config": "configs/image_classification/digits_vit.py:smoke"}


def parse(**content):
    return settings.parse(CONFIG | content)


def test_a_grid_has_every_combination():
    sweep = parse(grid={"a.b": [1, 2.5], "c": ["x", [3, 4]]}, seeds=[3, 5], overrides=["d=0"])
    assert sweep.trials == (("a.b=1", "c=x"), ("a.b=1", "c=(3, 4)"), ("a.b=2.5", "c=x"), ("a.b=2.5", "c=(3, 4)"))
    assert sweep.overrides(1, 5) == ["d=0", "a.b=1", "c=(3, 4)", "seed=5"]


def test_a_list_may_hold_the_config_as_it_is():
    assert parse(list=[{}, {"a": True}]).trials == ((), ("a=True",))


def test_random_draws_are_of_their_distributions_and_a_prefix_of_longer_sweeps():
    fields = {
        "a": {"log": [1e-4, 1e-1]},
        "b": {"uniform": [2, 4]},
        "c": {"integers": [1, 3]},
        "d": {"choice": ["x", 7]},
    }
    sweep = parse(random={"samples": 600, **fields})
    assert parse(random={"samples": 20, **fields}).trials == sweep.trials[:20]
    assert parse(random={"samples": 20, "seed": 1, **fields}).trials != sweep.trials[:20]
    a, b, c, d = ([text.partition("=")[2] for text in column] for column in zip(*sweep.trials, strict=True))
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
