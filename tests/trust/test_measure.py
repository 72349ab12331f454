"""The content of a report of a made-up classifier, and its pages."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from research.tasks.classification import ClassificationScorer
from research.trust import measure, page, scoring

NAMES = ("cat", "dog")


class Data:
    """30 test images; class and light of each follow from its number, which is also its brightness."""

    class_names = NAMES
    counts = {"validation": 20, "test": 30}  # noqa: RUF012

    def eval_batches(self, split, batch_size):
        index = np.concatenate([np.arange(self.counts[split]), [-1, -1]])  # with padding
        image = np.broadcast_to((index * 4)[:, None, None, None], (len(index), 8, 8, 1)).astype(np.uint8)
        weight = (index >= 0).astype(np.float32)
        yield {"index": index, "image": image, "label": index % 2, "weight": weight}

    def reference(self, split, index):
        return {"path": f"{index}.png", "class": NAMES[index % 2], "light": "day" if index < 20 else "night"}


class Task:
    def example(self, batch_size):
        return {"image": None}

    def scorer(self, data, split):
        return ClassificationScorer(data, split)


def predict(batch):
    """Right by day, and of light images always a dog."""
    number = batch["image"][:, 0, 0, 0].astype(int) // 4
    dog = np.where(number < 20, number % 2, 1)
    share = np.where(dog == 1, 0.8, 0.2)
    return {"probabilities": np.stack([1 - share, share], -1), "index": batch["index"], "weight": batch["weight"]}


@pytest.fixture(scope="module")
def found():
    return measure.measure(Task(), Data(), predict, measure.Options(kinds=("brightness",), examples=30))


def test_groups_and_mistakes_are_those_of_the_examples(found):
    light = {each["name"]: (each["examples"], each["value"]) for each in found["groups"]["accuracy"]["light"]["groups"]}
    assert light == {"day": (20, 1.0), "night": (10, 0.5)}
    assert found["groups"]["accuracy"]["light"]["worst"] == "night"
    assert [line["path"] for line in found["mistakes"]] == [f"{index}.png" for index in range(20, 30, 2)]
    assert found["mistakes"][0] == {
        "index": 20, "path": "20.png", "class": "cat", "predicted": "dog", "probability": pytest.approx(0.8)
    }  # fmt: skip
    whole = found["calibration"]["uncalibrated"]
    assert whole["accuracy"] == pytest.approx(25 / 30) and whole["ece"] == pytest.approx(25 / 30 - 0.8)


def test_the_temperature_is_that_of_validation(found):
    assert found["temperature"] == pytest.approx(0.05, rel=0.01), "all of it is right there, so that none is too low"
    assert found["calibration"]["temperature-scaled"]["confidence"] == pytest.approx(1)


def test_corrupted_images_are_predicted_anew(found):
    content = found["corruptions"]
    assert content["clean"] == pytest.approx(25 / 30)
    # Brightness adds .1 to .5 of 255, a fourth of which is added to the number: all are dogs, or odd numbers stay odd.
    for strength, accuracy in zip((0.05, 0.1, 0.15, 0.2, 0.3), content["kinds"]["brightness"], strict=True):
        number = (np.rint((np.arange(30) * 4 / 255 + strength) * 255)).astype(int) // 4
        predicted = np.where(number < 20, number % 2, 1)
        assert accuracy == pytest.approx((predicted == np.arange(30) % 2).mean())
    assert content["mean_error"] == pytest.approx(1 - np.mean(content["kinds"]["brightness"]))


def test_pages_hold_every_number_and_figure(found, tmp_path):
    written = page.write(json.loads(json.dumps(found)), tmp_path, "a | b <run>")
    text, shown = written.read_text(), (tmp_path / "report.html").read_text()
    assert "| night | 10 | 0.5000 | 0.2366 to 0.7634 |" in text
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.md", "report.html", "reliability.png", "corruptions.png"
    }  # fmt: skip
    assert "a | b &lt;run&gt;" in shown and shown.count("data:image/png;base64,") == 2
    assert len(re.findall("<tr>", shown)) == len(re.findall(r"^\| ", text, re.M)) - len(
        re.findall(r"^\| ---", text, re.M)
    )


def test_what_cannot_be_scored_is_refused():
    task = Task()
    task.scorer = lambda data, split: None
    with pytest.raises(ValueError, match="predictions that can be scored"):
        measure.measure(task, Data(), predict)
    for options, message in (
        ({"metric": "wer"}, "--metric='wer' is not a score of this run; choose from accuracy"),
        ({"fields": ("person",)}, "no group 'person'; choose from class, light"),
        ({"kinds": ("typos",)}, "unknown kind 'typos'; choose from gaussian_noise"),
    ):
        with pytest.raises(ValueError, match=message):
            measure.measure(Task(), Data(), predict, measure.Options(**options))


def test_lengths_of_texts_are_groups():
    texts = ["a" * (index + 1) for index in range(30)]
    data = Data()
    data.reference = lambda split, index: {"target": NAMES[index % 2], "source": texts[index]}
    groups = measure.measure(Task(), data, predict)["groups"]["accuracy"][scoring.LENGTH]["groups"]
    assert sorted(each["examples"] for each in groups) == [7, 7, 7, 9]  # by quartiles of 1 to 30
    assert SimpleNamespace(**groups[0]).value < 1
