"""curves.png shows what was logged, in the colours of the splits."""

import json

import numpy as np
import pytest
from PIL import Image

from research.report import curves

TRAIN, VALIDATION, STEP_TIME, EVAL_TIME = "#3b6fb6", "#e07b39", "#3a8f5c", "#3b6fb6"


def pixels(path, colour):
    """How many pixels have exactly this colour."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.asarray(Image.open(path).convert("RGB")) == wanted).all(-1).sum())


def size(path):
    """Width and height of an image in pixels."""
    with Image.open(path) as image:
        return image.size


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_both_splits_and_the_time_are_drawn(repository):
    workdir = repository.finished_run()
    path = curves.draw(workdir)
    assert path == workdir / "curves.png"
    assert min(pixels(path, TRAIN), pixels(path, VALIDATION)) > 50
    assert pixels(path, STEP_TIME) > 1000, "the bar of where the time went is green: all of it went into steps"

    losses = [{"step": k, "name": "train/loss", "value": 1 / k} for k in (1, 2, 3)]
    write_lines(workdir / "metrics.jsonl", losses)
    (workdir / "timeline.jsonl").write_text("")
    curves.draw(workdir)
    assert pixels(path, TRAIN) > 50 and pixels(path, VALIDATION) == 0 and pixels(path, STEP_TIME) == 0


def test_more_kinds_of_metrics_take_more_room(repository):
    workdir = repository.finished_run()
    few = size(curves.draw(workdir))
    names = ("loss", "accuracy", "learning_rate", "grad_norm")
    write_lines(
        workdir / "metrics.jsonl",
        [{"step": k, "name": f"train/{name}", "value": k / 7} for name in names for k in range(300)]
        + [{"step": 300, "name": "test/iou_of_cars", "value": 0.5}],
    )
    many = size(curves.draw(workdir))
    assert many[0] > 2 * few[0] and many[1] > 1.5 * few[1], "four panels in two rows; a lone score gets none"


def test_a_run_that_has_logged_nothing_is_named(repository):
    workdir = repository.finished_run()
    (workdir / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match="holds no metrics yet"):
        curves.draw(workdir)
