"""Near-copies by brute force, and the figures of them and of what a vision transformer looks at."""

import jax
import numpy as np
import pytest
from PIL import Image

from research.trust import copies, drawing, explaining, looking, showing
from tests.trust.conftest import ROWS


@pytest.fixture(scope="module")
def digits(untrained):
    return untrained("image_classification/digits_vit")


def test_near_copies_are_those_of_all_pairs(digits):
    task, data, variables = digits[:3]
    found = copies.find(task, data, variables, ROWS, near=0.999)
    is_norm = lambda module, name: module.name == "norm"

    @jax.jit
    def features(images):
        normed = (images.astype(np.float32) - np.array(task.mean)) / np.array(task.std)
        _, stored = task.model.apply(variables, normed, capture_intermediates=is_norm, mutable=["intermediates"])
        tokens = stored["intermediates"]["norm"]["__call__"][0]
        return tokens[:, 0] if task.model.spec.pool == "cls" else tokens.mean(1)

    vectors = {}
    for split in ("test", "train"):
        batches = list(data.eval_batches(split, ROWS))
        rows = np.concatenate([features(batch["image"]) for batch in batches])
        vectors[split] = rows[np.concatenate([batch["index"] for batch in batches]) >= 0].astype(np.float64)
    nearest = []
    for number, one in enumerate(vectors["test"]):
        cosines = vectors["train"] @ one / np.linalg.norm(vectors["train"], axis=1) / np.linalg.norm(one)
        nearest.append((cosines.max(), number, int(cosines.argmax())))
    assert found["count"] == sum(cosine >= 0.999 for cosine, _, _ in nearest)
    assert found["median"] == pytest.approx(np.median([cosine for cosine, _, _ in nearest]), abs=1e-5)
    first, expected = found["pairs"][0], max(nearest)
    assert first["similarity"] == pytest.approx(expected[0], abs=1e-5)
    assert (first["test"]["index"], first["train"]["index"]) == expected[1:]
    assert (found["test"], found["train"]) == (len(vectors["test"]), len(vectors["train"]))


def test_images_are_drawn_with_their_maps(digits, tmp_path):
    examples = explaining.examples(digits.task, digits.data, digits.variables, 2, ROWS)
    assert [list(each["maps"]) for each in examples] == [[looking.ATTENTION, looking.ROLLOUT]] * 2
    side = digits.task.model.spec.image_size // digits.task.model.spec.patch_size
    assert np.array(examples[0]["maps"][looking.ROLLOUT]).shape == (side, side)
    image = showing.images(digits.data)
    assert drawing.maps(examples, image, tmp_path / "maps.png")
    pair = {"test": {"index": 0}, "train": {"index": 5}, "similarity": 0.5}
    assert drawing.pairs([pair, pair], image, tmp_path / "pairs.png")
    lines = [{"index": 3, "class": "1", "predicted": "7", "probability": 0.9}]
    assert drawing.mistakes(lines, image, tmp_path / "mistakes.png")
    sizes = {path.name: Image.open(path).size for path in tmp_path.iterdir()}
    assert sizes == {"maps.png": (528, 352), "pairs.png": (352, 352), "mistakes.png": (880, 176)}
    assert not drawing.maps(examples, showing.no_image, tmp_path / "none.png")


def test_only_some_data_sets_may_be_published():
    assert all(map(showing.is_public, ("digits", "camvid", "bccd_voc", "moving_digits/motion")))
    assert not any(map(showing.is_public, ("orl_faces/verification", "aeslc_jsonl", "folder:digits", "fsdd/strings")))
