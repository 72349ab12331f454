"""`tessera baseline`: what is fitted on train, what validation chooses, and what a row says."""

import json

import numpy as np
import pytest
from PIL import Image

from research import config as configs
from research.baselines import run
from research.baselines.base import Baseline, Scores
from research.cli import baseline as command
from research.data import prepare
from research.report import baselines

DIGITS = "configs/image_classification/digits_vit.py"


class Kind:
    """Of a method whose scores are known; it keeps what was asked of it."""

    def __init__(self, validation, test):
        self.asked, self._of = [], {"validation": validation, "test": test}

    def baselines(self):
        return [Baseline("toy", lambda value: value, "C", tuple(self._of["test"]))]

    def scores(self, split, predict):
        self.asked.append((split, predict))
        return Scores({"accuracy": self._of[split][predict], "wer": self._of[split][predict]}, {})


@pytest.mark.parametrize(("metric", "best"), [("accuracy", 2), ("wer", 3)])
def test_validation_chooses_and_test_is_scored_once(metric, best):
    kind = Kind(validation={1: 0.5, 2: 0.7, 3: 0.2, 4: 0.7}, test={1: 0.9, 2: 0.4, 3: 0.8, 4: 0.3})
    (measured,) = run._measured(kind, kind, metric)
    assert measured.value == best and measured.settings == {"C": best}
    assert [asked for asked in kind.asked if asked[0] == "test"] == [("test", best)]
    assert kind.asked[-1][0] == "test", "after every choice"


def test_settings_chosen_with_train_alone_are_refitted_on_train_and_validation():
    choosing, whole = Kind({1: 0.5, 2: 0.7}, {1: 0.9, 2: 0.4}), Kind({1: 1.0, 2: 0.9}, {1: 0.8, 2: 0.3})
    (measured,) = run._measured(choosing, whole, "accuracy")
    assert (measured.value, measured.validation, measured.test.values["accuracy"]) == (2, 0.7, 0.3)
    assert whole.asked == [("test", 2)] and all(split == "validation" for split, _ in choosing.asked)


def test_a_metric_that_no_baseline_gives_is_named():
    with pytest.raises(ValueError, match="has the metric 'bleu'; choose from accuracy, wer"):
        list(run._measured(*[Kind({1: 0}, {1: 0})] * 2, "bleu"))


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """A folder of noise whose mean tells two classes apart."""
    folder, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for split, count in (("train", 12), ("validation", 4), ("test", 5)):
        for name, least in (("dark", 0), ("light", 128)):
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(least, least + 120, (8, 8), np.uint8)).save(place / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def words(colours, tmp_path_factory):
    prepared = tmp_path_factory.mktemp("data")
    return [f"--config={DIGITS}:smoke", f"--config.data.name=folder:{colours}", f"--config.data.dir={prepared}"]


def test_every_baseline_of_images_has_a_row(words, tmp_path, capsys):
    out = tmp_path / "rows.jsonl"
    command.main([*words, f"--out={out}", f"--predictions={tmp_path}"])
    rows = {row["baseline"]: row for row in map(json.loads, out.read_text().splitlines())}
    assert set(rows) == {
        "most frequent class",
        "logistic regression on pixels",
        "nearest neighbours on pixels",
        "support vector machine, RBF kernel on pixels",
    }
    most, regression = rows["most frequent class"], rows["logistic regression on pixels"]
    assert most["value"] == 0.5 and regression["value"] == regression["metrics"]["test/accuracy"] == 1.0
    assert most["settings"] == {} and most["chosen_on"] is None
    assert regression["chosen_on"] == "validation" and regression["settings"]["C"] in regression["tried"]
    assert regression["data"]["counts"] == {"train": 24, "validation": 8, "test": 10}
    assert regression["command"].startswith(f"tessera baseline --config={DIGITS}:smoke --config.data.name=folder:")
    assert len({regression["data"]["fingerprint"], most["data"]["fingerprint"]}) == 1
    for name, row in rows.items():
        saved = (tmp_path / baselines.predictions_path(row, name)).read_text().splitlines()
        right = [each["predicted"] == each["class"] for each in map(json.loads, saved)]
        assert len(right) == 10 and np.mean(right) == row["value"], "the predictions are those that were scored"
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["baseline", "test/accuracy", "time"] and shown[-1].startswith("most frequent class")


def test_rows_on_own_data_are_not_recorded(words):
    with pytest.raises(ValueError, match=r"--record: folder:.* is not the data set of configs/"):
        command.main([*words, "--record"])


def test_every_kind_of_data_has_baselines():
    files = (
        "sentiment/sst2_sentences", "speech_recognition/fsdd_isolated", "video/fight_vivit", "detection/bccd_vit",
        "driving_segmentation/camvid_vit", "face_recognition/orl_verification",
    )  # fmt: skip
    for file in files:
        config = configs.load(f"configs/{file}.py", "cpu")
        assert type(config.data) in run.KINDS


def test_texts_are_tokenised_for_both_choices_of_training_splits(tmp_path):
    prepare.prepare("spelled_numbers", data_dir=str(tmp_path))
    words = [f"data.dir={tmp_path}", "data.fit_on=train+validation", "train.select=last"]
    config = configs.load("configs/question_answering/babi.py", "smoke", words)
    _, found = run.measure(config, "accuracy")
    assert next(found).baseline.name == "most frequent target"


def test_a_data_set_that_is_not_prepared_is_refused(tmp_path):
    config = configs.load(DIGITS, "cpu", [f"data.dir={tmp_path}"])
    with pytest.raises(ValueError, match=r"'digits' is not prepared; run: python -m research\.data prepare digits"):
        run.measure(config, "accuracy")
