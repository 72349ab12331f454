"""The loss against closed formulas, unseen people, and metrics recomputed from saved predictions."""

import json
import math

import jax
import numpy as np
import pytest
from flax import linen as nn
from sklearn import metrics

from research.data.images import pairs
from research.models import faces as models
from research.tasks import faces


class Linear(nn.Module):
    num_classes: int = 3

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Dense(5, use_bias=False, name="embedding")(images.reshape(len(images), -1))
        centres = self.param("centres", nn.initializers.normal(1.0), (5, self.num_classes))
        embeddings = models.unit(x)
        return embeddings, embeddings @ models.unit(centres, 0)


def make(**settings):
    return faces.FaceTask(Linear(), (4, 4, 1), (100.0,), (50.0,), faces.FaceSpec(**({"scale": 8.0} | settings)))


def make_batch(count=6, people=3, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (count, 4, 4, 1)).astype(np.uint8),
        "label": rng.integers(0, people, count).astype(np.int32),
        "index": np.arange(count, dtype=np.int32),
        "weight": np.array([1] * (count - 2) + [0, 0], np.float32),
    }


def embed(variables, images):
    x = (images.reshape(len(images), -1).astype(np.float64) - 100) / 50
    x = x @ np.asarray(variables["params"]["embedding"]["kernel"], np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def cosines(variables, images):
    centres = np.asarray(variables["params"]["centres"], np.float64)
    return embed(variables, images) @ (centres / np.linalg.norm(centres, axis=0))


def cross_entropy(logits, labels):
    return np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]


MOVED = {"arcface": lambda cosine: np.cos(np.arccos(cosine) + 0.4), "cosface": lambda cosine: cosine - 0.4}


@pytest.mark.parametrize("margin", MOVED)
def test_cross_entropy_with_the_margin_over_what_is_not_padding(margin):
    task, batch = make(margin=margin, margin_size=0.4), make_batch()
    variables = task.init(jax.random.key(0))
    loss, (_, sums) = task.loss(variables, batch, task.totals(batch), jax.random.key(1))
    logits, rows = cosines(variables, batch["image"]), np.arange(6)
    assert (logits > -math.cos(0.4)).all()  # where the formula of the papers holds
    logits[rows, batch["label"]] = MOVED[margin](logits[rows, batch["label"]])
    expected = cross_entropy(8 * logits, batch["label"])[:4]
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)
    assert sums["loss"][1] == 4
    totals = task.totals(batch)
    parts = [{name: value[part::2] for name, value in batch.items()} for part in range(2)]
    losses = [task.loss(variables, part, totals, jax.random.key(1))[0] for part in parts]
    np.testing.assert_allclose(sum(losses), loss, rtol=1e-6)


def test_evaluation_counts_people_who_were_trained_on():
    task, batch = make(), make_batch(12, people=5)
    variables = task.init(jax.random.key(0))
    sums = task.evaluate(variables, batch)
    logits, known = cosines(variables, batch["image"]), (batch["label"] < 3) & (batch["weight"] > 0)
    assert sums["accuracy"][1] == sums["loss"][1] == known.sum() < 10
    labels = np.where(known, batch["label"], 0)
    np.testing.assert_allclose(sums["accuracy"][0], ((logits.argmax(1) == labels) & known).sum())
    np.testing.assert_allclose(sums["loss"][0], (cross_entropy(8 * logits, labels) * known).sum(), rtol=1e-5)


def test_an_embedding_is_that_of_an_image_and_its_mirror_image():
    task, batch = make(), make_batch()
    variables = task.init(jax.random.key(0))
    mirrored = batch | {"image": batch["image"][:, :, ::-1]}
    total = embed(variables, batch["image"]) + embed(variables, mirrored["image"])
    expected = total / np.linalg.norm(total, axis=1, keepdims=True)
    for each in (batch, mirrored):
        np.testing.assert_allclose(task.predict(variables, each)["embedding"], expected, atol=1e-5)
    plain = make(flip_tta=False).predict(variables, batch)["embedding"]
    np.testing.assert_allclose(plain, embed(variables, batch["image"]), atol=1e-5)


@pytest.mark.parametrize(("settings", "message"), [
    ({"margin": "sphereface"}, r"^margin='sphereface' is unknown; choose from arcface, cosface, none"),
    ({"margin_size": 4.0}, r"^margin_size=4.0 must be between 0 and 3.142 for 'arcface'"),
    ({"margin": "none"}, r"^margin_size=0.5 must be between 0 and 0 for 'none'"),
    ({"metrics": ("recognition",)}, r"^metrics=\('recognition',\) is unknown; choose from identification, verif"),
    ({"scale": 0.0}, r"^scale=0.0 must be greater than 0"),
    ({"select_by": "aucc"}, r"^select_by='aucc' is not a score of config.task.metrics; choose from accuracy, loss"),
    ({"select_by": "auc", "metrics": ("identification",)}, r"^select_by='auc' is not a score of config.task.metrics"),
    ({"select_by": "far"}, r"^select_by='far' is not a score of config.task.metrics"),
    ({"select_by": "auc_light_dim"}, r"^select_by='auc_light_dim' is not a score of config.task.metrics"),
])  # fmt: skip
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_a_score_of_a_group_may_choose():
    assert make(select_by="far_light_dim", groups=("light",)).selection == ("far_light_dim", "min")


class People:
    """Twenty images of four people and as many in a gallery, of two kinds of light; pairs of the first twenty.

    Those of the gallery, which lie in another folder, have other names, but for the first two.
    """

    name, columns = "people", ("light",)

    def reference(self, split, index):
        light = "dim" if index % 3 else "bright"
        return {
            "path": f"{index % 20 if index in (20, 21) else index}",
            "person": f"p{index % 4}",
            "label": index % 4,
            "gallery": index >= 20,
            "light": light,
        }

    def known(self, split):
        return {f"p{number}" for number in range(4)}

    def pairs(self, split):
        every = [(a, b) for a in range(20) for b in range(a)]
        every += [(0, 22), (0, 24)]  # of the second, the image is one of the gallery
        return [pairs.ImagePair(f"{a}", f"{b}", int(a % 4 == b % 4), place % 5) for place, (a, b) in enumerate(every)]


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A scorer that has seen embeddings around four centres, its scores, what it saved, and the embeddings."""
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(4, 8))[np.arange(40) % 4] + rng.normal(0, 0.9, (40, 8))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    scorer = make(groups=("light",)).scorer(People(), "test")
    padded = np.concatenate([embeddings, np.zeros((8, 8))]), np.array([*range(40), *[-1] * 8])
    for rows in (slice(0, 24), slice(24, 48)):
        scorer.add({"embedding": padded[0][rows], "index": padded[1][rows], "weight": np.zeros(24)})
    path = tmp_path_factory.mktemp("scores") / "predictions.jsonl"
    scorer.save(path)
    return scorer.result(), [json.loads(line) for line in path.read_text().splitlines()], embeddings


def test_scores_are_those_of_the_embeddings(scored):
    result, _, embeddings = scored
    nearest = 20 + (embeddings[:20] @ embeddings[20:].T).argmax(1)
    right = nearest % 4 == np.arange(20) % 4
    assert result["identification"] == pytest.approx(right.mean()) and 0.3 < right.mean() < 1
    assert result["identification_light_bright"] == pytest.approx(right[np.arange(20) % 3 == 0].mean())
    same = np.array([pair.same for pair in People().pairs("test")])
    # "0" and "1" are also what two images of the gallery are called; as the second of a pair they stand for these.
    taken = {"0": 20, "1": 21}
    rows = np.array([(int(a), taken.get(b, int(b))) for a, b, *_ in People().pairs("test")])
    similarities = (embeddings[rows[:, 0]] * embeddings[rows[:, 1]]).sum(1)
    assert result["auc"] == pytest.approx(metrics.roc_auc_score(same, similarities), abs=1e-5)
    dim = (rows % 3 > 0).all(1)
    assert result["pairs_light_dim"] == dim.sum()
    assert result["auc_light_dim"] == pytest.approx(metrics.roc_auc_score(same[dim], similarities[dim]), abs=1e-5)


def test_scores_can_be_made_again_of_what_is_saved(scored):
    result, lines, _ = scored
    named = [line["person"] == line["found"] for line in lines if "found" in line]
    assert len(named) == 20 and np.mean(named) == pytest.approx(result["identification"])
    pairs_ = [line for line in lines if "same" in line]
    auc = metrics.roc_auc_score([line["same"] for line in pairs_], [line["similarity"] for line in pairs_])
    assert auc == pytest.approx(result["auc"])
    assert {tuple(line["light"]) for line in pairs_} == {(a, b) for a in ("dim", "bright") for b in ("dim", "bright")}


def test_a_group_or_an_image_that_the_data_lack_is_named():
    with pytest.raises(ValueError, match=r"task.groups=\('age',\): there is no column 'age'; choose from light"):
        make(groups=("age",)).scorer(People(), "test")
    scorer = make(metrics=("verification",)).scorer(People(), "test")
    scorer.add({"embedding": np.ones((19, 8)), "index": np.arange(19)})
    with pytest.raises(ValueError, match=r"'people': a pair has the image '19', which is not in test"):
        scorer.result()


def test_people_without_a_gallery_image_cannot_be_identified():
    class Strangers(People):
        def reference(self, split, index):
            stranger = {"person": "stranger"} if index in (3, 5) else {}
            return super().reference(split, index) | stranger

    scorer = make(metrics=("identification",)).scorer(Strangers(), "test")
    scorer.add({"embedding": np.eye(40), "index": np.arange(40)})
    assert len([line for line in scorer._lines() if "found" in line]) == 18

    class Nobody(People):
        def known(self, split):
            return set()

    with pytest.raises(ValueError, match=r"no person in the test split of 'people' has images in earlier splits"):
        make(metrics=("identification",)).scorer(Nobody(), "test")


def test_missing_pairs_are_refused_before_scoring():
    class Few(People):
        def pairs(self, split):
            raise ValueError(f"the {split} split gives no pairs")

    make(metrics=("identification",)).scorer(Few(), "validation")
    with pytest.raises(ValueError, match="the validation split gives no pairs"):
        make(metrics=("verification",)).scorer(Few(), "validation")
