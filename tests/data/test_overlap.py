"""No example, and no group of examples, stands in two splits of the public data sets that results are made of."""

import functools
import itertools
import re

import numpy as np
import pytest
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer

from research.config import load
from research.data import prepare, sources
from research.data.images import transforms
from research.data.text.builders import qamr
from tests.experiments.conftest import SHARED as DATA

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not DATA.is_dir(), reason="the public data sets are not beside the repository"),
]


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """Makes `split -> examples` of the data set of a config."""
    root = tmp_path_factory.mktemp("data")

    def read(file, name="", folder=""):
        config = load(f"configs/{file}.py", "cpu", [f"data.dir={root}", *([f"data.name={name}"] if name else [])])
        prepare.prepare(config.data.name, str(DATA / (folder or config.data.name.split("/")[0])), str(root))
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


PAIRS = (("train", "validation"), ("train", "test"), ("validation", "test"))
NEAR = 0.95  # cosine of the TF-IDF vectors of two texts; correlation of two images


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Makes `split -> examples` of a data set of texts or sounds, by its builder."""
    root = tmp_path_factory.mktemp("texts")
    return functools.cache(
        lambda name, folder: {
            split: list(of_split)
            for split, of_split in sources.open_builder(name, str(root)).examples(DATA / folder).items()
        }
    )


@pytest.mark.parametrize(
    ("name", "folder", "group"),
    [
        ("qamr", "qamr", lambda each: qamr.article(each["sentence_id"])),
        ("tweetqa", "tweetqa", lambda each: each["context"]),
    ],
)
def test_no_group_of_questions_is_in_two_splits(texts, name, folder, group):
    assert shared({split: {group(each) for each in part} for split, part in texts(name, folder).items()}) == {}


@pytest.mark.parametrize("name", ["isolated", "without_theo"])
def test_no_recording_is_in_two_splits_and_nobody_unseen_is_in_train(texts, name):
    found = texts(f"fsdd/{name}", "fsdd")
    assert shared({split: {each["audio"].tobytes() for each in part} for split, part in found.items()}) == {}
    if name != "isolated":
        speakers = {split: {each["speaker"] for each in part} for split, part in found.items()}
        assert speakers["test"] == {"theo"} and speakers["validation"] == {"yweweler"}
        assert not speakers["train"] & {"theo", "yweweler"}


def nearest(one, other):
    """For each row of `other` the largest product with a row of `one`."""
    products = (other[start : start + 256] @ one.T for start in range(0, other.shape[0], 256))
    return np.concatenate(
        [np.asarray(part.max(1).todense() if hasattr(part, "todense") else part.max(1)).ravel() for part in products]
    )


def near_copies(vectors):
    """The rows of the second split of each of PAIRS that are near-copies of one of the first."""
    return tuple(int((nearest(vectors[one], vectors[other]) > NEAR).sum()) for one, other in PAIRS)


@pytest.mark.parametrize(
    ("name", "folder", "field", "known"),
    [
        ("aeslc_jsonl", "aeslc", "body", (39, 45, 16)),
        ("multi30k", "multi30k", "en", (1, 2, 1)),
        ("tatoeba_zh_en", "tatoeba_zh_en", "zh", (4, 1, 0)),
        ("sst2_sentences", "sst2", "sentence", (1, 3, 0)),
        ("tweetqa", "tweetqa", "context", (0, 0, 0)),
        ("qamr", "qamr", "context", (0, 0, 0)),
    ],
)
def test_near_copies_of_texts_are_those_that_are_known(texts, name, folder, field, known):
    """Of distinct texts. Those of the published splits are left as they are, so that results can be compared."""
    found = {split: sorted({letters(each[field]) for each in part}) for split, part in texts(name, folder).items()}
    unspaced = {"analyzer": "char", "ngram_range": (1, 2)} if field == "zh" else {"token_pattern": r"\S+"}
    vectors = TfidfVectorizer(sublinear_tf=True, **unspaced).fit(found["train"])
    assert near_copies({split: vectors.transform(part) for split, part in found.items()}) == known


@pytest.mark.parametrize(
    ("config", "folder", "side"), [("image_classification/digits_vit", "", 8), ("detection/bccd_fcos", "bccd", 24)]
)
def test_no_image_is_a_near_copy_of_one_of_another_split(examples, config, folder, side):
    """Handwritten digits of 8 x 8 px are alike anyway, but no two of two splits are the same scan."""

    def vector(image):
        flat = np.asarray(transforms.decode(image, 1).resize((side, side), Image.Resampling.BOX), float).ravel()
        return (flat - flat.mean()) / np.linalg.norm(flat - flat.mean())

    vectors = {
        split: np.stack([vector(each["image"]) for each in part])
        for split, part in examples(config, "", folder).items()
    }
    for one, other in PAIRS:
        assert nearest(vectors[one], vectors[other]).max() < 0.995


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
def test_no_text_of_test_is_in_another_split(texts, name, folder, field, published):
    """But for what the `published` splits share."""
    found = {split: {letters(each[field]) for each in part} for split, part in texts(name, folder).items()}
    assert {pair: len(common) for pair, common in shared(found).items() if "test" in pair} == published


def test_questions_about_the_same_story_are_those_of_the_release(texts):
    """bAbI's stories are drawn by chance, in train and test apart; validation is whole stories of train."""
    asked = lambda each: (each["task"], each["context"], each["question"])
    found = {split: {asked(each) for each in part} for split, part in texts("babi", "babi").items()}
    assert tuple(len(shared(found)[pair]) for pair in PAIRS) == (25, 166, 22)
