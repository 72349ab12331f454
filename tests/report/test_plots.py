"""Plots are drawn from what a run has saved, and say what is missing."""

import json

import numpy as np
import pytest
from PIL import Image

from research.report import confusion, plots, precision_recall


def write(folder, lines):
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


BOXES = {"boxes": [[1, 1, 9, 9]], "labels": ["cat"]}
PAIRS = [{"same": same, "similarity": 0.5 * same + fold / 9, "fold": fold} for same in (0, 1) for fold in range(3)]


@pytest.mark.parametrize(
    "expected, lines",
    [
        (["confusion"], [{"class": "a", "predicted": "b"}]),
        (["calibration", "confusion"], [{"class": "a", "predicted": "b", "probabilities": {"a": 0.4, "b": 0.6}}]),
        (["confusion"], [{"classes": ["a", "b"], "confusion": [[1, 0], [0, 1]]}]),
        (
            ["calibration", "precision_recall"],
            [BOXES | {"scores": [0.9], "objects": BOXES | {"crowd": [0], "areas": [64]}}],
        ),
        (["calibration", "roc"], PAIRS),
        ([], [{"person": "ann", "found": "bob"}]),
        ([], []),
    ],
)
def test_the_predictions_decide_what_is_drawn(tmp_path, capsys, expected, lines):
    write(tmp_path, lines)
    assert sorted(path.stem for path in plots.draw(tmp_path)) == expected
    assert sorted(path.stem for path in tmp_path.glob("*.png")) == expected
    assert "warning" not in capsys.readouterr().err


def test_precision_and_recall_of_each_class(tmp_path):
    box, other = [10, 10, 20, 20], [40, 40, 60, 60]
    objects = {"boxes": [box, other], "labels": ["cat", "dog"], "crowd": [0, 0], "areas": [100, 400]}
    write(tmp_path, [{"boxes": [box, other], "labels": ["cat", "cat"], "scores": [0.9, 0.8], "objects": objects}])
    assert precision_recall.draw(tmp_path) == tmp_path / "precision_recall.png"
    assert (tmp_path / "precision_recall.png").stat().st_size > 5000
    assert precision_recall.draw(tmp_path / "nowhere") is None


def test_nothing_found_is_drawn_too(tmp_path):
    objects = {"boxes": [[10, 10, 20, 20]], "labels": ["cat"], "crowd": [0], "areas": [100]}
    write(tmp_path, [{"boxes": [], "labels": [], "scores": [], "objects": objects}])
    assert precision_recall.draw(tmp_path).stat().st_size > 5000


def test_pixels_of_all_images_are_summed(tmp_path):
    lines = [
        {"classes": ["sky", "road"], "confusion": [[5, 1], [0, 2]]},
        {"classes": ["sky", "road"], "confusion": [[20000, 0], [3, 4]]},
    ]
    names, counts = confusion.matrix(lines)
    assert names == ["sky", "road"]
    np.testing.assert_array_equal(counts, [[20005, 1], [3, 6]])
    write(tmp_path, lines)
    assert confusion.draw(tmp_path).stat().st_size > 5000


def add_plot(root, name, stem, colour):
    path = root / f"experiments/toy/plots/{name}/{stem}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (640, 480), colour).save(path)


def test_the_plots_of_the_last_run_that_has_some_are_shown_side_by_side(tmp_path):
    row = lambda name: {"file": f"configs/toy/{name}.py", "variant": "cpu"}
    for name, stem in (("first", "curves"), ("second", "curves"), ("second", "confusion"), ("second", "other")):
        add_plot(tmp_path, f"{name}_cpu", stem, "red")
    folder = tmp_path / "experiments/toy"
    text = plots.newest(folder, [row("first"), row("second"), row("without")])
    assert text.splitlines() == [
        "| training curves of `second:cpu` | confusion matrix of `second:cpu` |",
        "| --- | --- |",
        "| ![training curves of second_cpu](plots/second_cpu/curves.png)"
        " | ![confusion matrix of second_cpu](plots/second_cpu/confusion.png) |",
    ]
    assert plots.newest(folder, [row("without")]) == ""
    others = plots.section(folder, text)
    assert "plots/first_cpu/curves.png" in others and "plots/second_cpu/other.png" in others
    assert "plots/second_cpu/curves.png" not in others and others.count("![") == 2


def test_the_montage_has_one_plot_of_each_config_in_rows_of_three(tmp_path):
    colours = {"a": "#ff0000", "b": "#00ff00", "c": "#0000ff", "d": "#ff00ff"}
    for name, colour in colours.items():
        add_plot(tmp_path, f"{name}_cpu", "curves", "white")  # too small there
        add_plot(tmp_path, f"{name}_cpu", "confusion", colour)
    path = plots.montage(tmp_path, [f"toy/{name}:cpu" for name in "abxcd"])  # x has no plot
    with Image.open(path) as montage:
        image = montage.convert("RGB")
    assert image.size == (3 * 320, 2 * 262)
    centres = [image.getpixel((160 + 320 * (index % 3), 22 + 120 + 262 * (index // 3))) for index in range(4)]
    assert ["#{:02x}{:02x}{:02x}".format(*pixel) for pixel in centres] == list(colours.values())
    assert image.getpixel((900, 400)) == (255, 255, 255)
    assert plots.montage(tmp_path, ["toy/x:cpu"]) is None
