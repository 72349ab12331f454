"""RESULT of a config file, as a new run takes it."""

from pathlib import Path

import pytest

from research.config import Source
from research.train import reporting

DIGITS = "configs/image_classification/digits_vit.py"


def source(folder, old="", new=""):
    """Of the digits config with another text in it."""
    text = Path(DIGITS).read_text()
    assert old in text
    (folder / "digits.py").write_text(text.replace(old, new))
    return Source.parse(f"{folder}/digits.py:smoke")


def test_the_main_metric_and_its_direction(tmp_path):
    found = reporting.of_source(source(tmp_path))
    assert (found["metric"], found["direction"], found["over"]) == ("test/accuracy", "max", "seed")


def test_a_metric_that_is_not_declared_is_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match=r"'acuracy' is not declared.* declare it in .*; similar ones: accuracy"):
        reporting.of_source(source(tmp_path, '"metric": "test/accuracy"', '"metric": "test/acuracy"'))
    named = source(tmp_path, '"metric": "test/accuracy"', '"metric": "test/mine", "direction": "min"')
    assert reporting.of_source(named)["direction"] == "min"


def test_a_config_without_a_file_or_a_metric_has_no_report(tmp_path):
    assert reporting.of_source(Source.parse(f"{tmp_path}/none.py")) == {}
    assert reporting.of_source(source(tmp_path, '"metric": "test/accuracy",', "")) == {}
