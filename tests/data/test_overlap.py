"""No example, and no group of examples, stands in two splits of the public data sets that results are made of."""

import itertools
import re

import numpy as np
import pytest
from PIL import Image

from research.config import load
from research.data import prepare, sources
from research.data.images import transforms
from tests.experiments.conftest import SHARED as DATA

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not DATA.is_dir(), reason="the public data sets are not beside the repository"),
]


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """Makes `split -> examples` of the data set of a config."""
    root = tmp_path_factory.mktemp("data")

    def read(file, name=""):
        config = load(f"configs/{file}.py", "cpu", [f"data.dir={root}", *([f"data.name={name}"] if name else [])])
        prepare.prepare(config.data.name, str(DATA / config.data.name.split("/")[0]), str(root))
        prepared = config.build()[1].prepared
        return {
            split: [prepared.source(split)[index] for index in range(count)] for split, count in prepared.counts.items()
        }

    return read


def shared(groups):
    """The groups in two splits, given split -> groups."""
    return {
        (one, other): common
        for one, other in itertools.combinations(groups, 2)
        if (common := set(groups[one]) & set(groups[other]))
    }


def letters(text):
    return re.sub(r"\W+", " ", text.casefold()).strip()


@pytest.mark.parametrize("config", ["orl_verification", "yale_verification"])
def test_nobody_is_in_two_splits(examples, config):
    found = examples(f"face_recognition/{config}")
    assert shared({split: {int(each["label"]) for each in part} for split, part in found.items()}) == {}


def test_no_drive_of_validation_is_in_another_split(examples):
    found = examples("driving_segmentation/camvid_unet")
    drives = {
        split: {each["name"].decode().split("/")[1].split("_")[0] for each in part} for split, part in found.items()
    }
    assert drives["validation"] == {"0006R0"} and "0006R0" not in drives["train"] | drives["test"]


@pytest.mark.parametrize("fold", range(5))
def test_clips_of_two_splits_show_two_scenes(examples, fold):
    """Median frames of clips of one scene correlate by .86 and more; others, but for the dark, by less than .93."""
    found = examples("video/fight_vivit", f"fight_surv_video/fold{fold}")

    def median(clip):
        frames = [transforms.decode(frame, 1).resize((24, 24), Image.Resampling.BOX) for frame in clip["frames"][::4]]
        flat = np.median([np.asarray(frame, float).ravel() for frame in frames], axis=0)
        return (flat - flat.mean()) / (flat.std() + 1e-6) / len(flat) ** 0.5

    medians = {split: np.stack([median(clip) for clip in part]) for split, part in found.items()}
    for one, other in itertools.combinations(medians, 2):
        assert (medians[one] @ medians[other].T).max() < 0.95, (one, other)


@pytest.mark.parametrize(
    ("name", "folder", "field", "published"),
    [
        ("aeslc_jsonl", "aeslc", "body", {}),
        ("multi30k", "multi30k", "en", {}),
        ("tatoeba_zh_en", "tatoeba_zh_en", "zh", {}),
        ("sst2_sentences", "sst2", "sentence", {("train", "test"): 2}),
        ("tweetqa", "tweetqa", "context", {}),
    ],
)
def test_no_text_of_test_is_in_another_split(tmp_path, name, folder, field, published):
    """But for what the `published` splits share."""
    found = sources.open_builder(name, str(tmp_path)).examples(DATA / folder)
    texts = {split: {letters(each[field]) for each in part} for split, part in found.items()}
    assert {pair: len(common) for pair, common in shared(texts).items() if "test" in pair} == published
