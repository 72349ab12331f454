"""Each method on a few examples, against what it must give or what scikit-learn gives when it is called directly."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from research.baselines import boxes, clips, faces, scoring, sounds, texts, vectors
from research.baselines.base import Baseline
from research.data.text import dataset as text
from research.models.bert import Bert
from research.tasks import segmentation
from research.tasks.classification import ClassificationTask
from research.tasks.segmentation import SegmentationSpec
from research.tasks.span_extraction import SpanExtractionSpec, SpanExtractionTask
from research.tasks.text_classification import TextClassificationSpec, TextClassificationTask

RNG = np.random.default_rng(0)
LABELS = np.repeat([0, 1, 2], 10)
TRAIN = {"x": RNG.normal(size=(30, 4)) + LABELS[:, None]}
TEST = {"x": RNG.normal(size=(12, 4)) + np.repeat([0, 1, 2], 4)[:, None]}


def test_classifiers_are_those_of_scikit_learn():
    ours = vectors.logistic_regression(TRAIN, "x", LABELS).fit(0.1)(TEST)
    assert (ours == LogisticRegression(C=0.1, max_iter=2000).fit(TRAIN["x"], LABELS).predict(TEST["x"])).all()
    ours = vectors.neighbours(TRAIN, "x", LABELS).fit(3)(TEST)
    assert (ours == KNeighborsClassifier(3).fit(TRAIN["x"], LABELS).predict(TEST["x"])).all()


def test_scaled_features_count_alike():
    units = np.array([1e6, 1, 1, 1])
    far = {"x": RNG.normal(size=(30, 4)) * [1, 0.01, 0.01, 0.01] + [[0, each, each, each] for each in LABELS]}
    of = lambda scaled, split: vectors.neighbours(far, "x", LABELS, scaled=scaled).fit(1)(split)
    far["x"] *= units
    near = {"x": np.array([[0.0, each, each, each] for each in (0, 1, 2)])}
    assert list(of(True, near)) == [0, 1, 2]


def test_the_most_frequent_class_is_the_first_of_equally_frequent_ones():
    assert list(vectors.most_frequent(np.array([2, 1, 2, 1, 0])).fit(None)(TEST)) == [1] * 12


def test_a_threshold_is_on_the_first_feature_alone():
    train = {"x": np.array([[0.0, 9], [1, 0], [2, 9], [3, 0]])}
    predict = vectors.threshold(train, "x", np.array([0, 0, 1, 1]), "x").fit(None)
    assert list(predict({"x": np.array([[1.4, 9], [1.6, 0]])})) == [0, 1]


def test_a_support_vector_machine_is_fitted_on_a_subset_with_a_note(monkeypatch):
    monkeypatch.setattr(vectors, "MOST_EXAMPLES", 20)
    assert vectors.support_vectors(TRAIN, "x", LABELS).note.startswith("fitted on 20 of 30 training examples")
    assert vectors.logistic_regression(TRAIN, "x", LABELS).note == ""


def test_more_than_four_values_are_refused():
    with pytest.raises(ValueError, match="has 5 values"):
        Baseline("greedy", lambda value: lambda split: split, "C", (1, 2, 3, 4, 5))


def test_accuracy_is_that_of_the_task():
    data = SimpleNamespace(
        counts={"test": 4}, num_classes=3, image_shape=(2, 2, 1), class_names=("a", "b", "c"), name="toy",
        reference=lambda split, index: {"class": "abcb"[index]},
    )  # fmt: skip
    task = ClassificationTask(None, (2, 2, 1), (0.0,), (1.0,))
    assert scoring.labelled(task, data, "test", np.array([0, 1, 1, 1])).values == {"accuracy": 0.75}


# ---- Texts


def test_words_amid_those_of_the_question():
    context = "Yesterday the old king of France sang badly in Rome."
    assert texts.without("Who is the king of France?", context) == "Yesterday old sang badly in Rome."
    assert texts.words_near_question("Who is the king of France?", context, 2) == "old sang"
    assert texts.words_near_question("Why?", context, 3) == "Yesterday the old"
    assert texts.best_matching_sentence("Where is Mary?", "John is here. Mary went home! Rain.") == "Mary went home!"
    assert texts.best_matching_sentence("Where is Mary?", "") == ""


def test_the_most_common_text_is_the_first_by_its_letters():
    assert texts.most_common(["b", "a", "b", "a", "c"]) == "a"


class Raw:
    """Fields of examples that stand in memory."""

    def __init__(self, template, **splits):
        self.template, self._splits = template, splits

    def fields(self, split, index):
        return self._splits[split][index]


def of_texts(template, **splits):
    counts = {split: len(examples) for split, examples in splits.items()}
    return texts.Texts(None, SimpleNamespace(prepared=Raw(template, **splits), counts=counts))


def answers(kind, name, split="test", value=None):
    (baseline,) = (each for each in kind.baselines() if each.name.startswith(name))
    return list(baseline.fit(value)(kind._split(split)))


PAIRS = {
    "train": [{"a": "red apple pie", "b": "rot"}, {"a": "blue sea", "b": "blau"}, {"a": "red wine", "b": "rot"}],
    "test": [{"a": "the blue sky", "b": "?"}, {"a": "a glass of wine", "b": "?"}],
}


def test_texts_are_looked_up():
    kind = of_texts(text.templates.Template("{a}", "{b}"), **PAIRS)
    assert answers(kind, "most frequent target") == ["rot", "rot"]
    assert answers(kind, "target of the nearest", value=1) == ["blau", "rot"]
    assert answers(kind, "Bernoulli", value=1.0)[0] == "blau"


def test_names_of_classes_are_scored_as_the_task_scores_its_own():
    """A metric of the task, with its weights; not of a text that a decoder writes."""
    task = TextClassificationTask(Bert.of(vocab_size=5), TextClassificationSpec(classes=("bad", "good")), 8, 1)
    targets = ("good", "bad", "bad", "good")
    data = SimpleNamespace(class_names=("bad", "good"), reference=lambda split, index: {"target": targets[index]})
    scores = scoring.named(task, data, "test", ["good", "good", "bad", "good"])
    assert scores.values == {"accuracy": 0.75}
    assert [line["predicted"] for line in scores.scorer.lines()] == ["good", "good", "bad", "good"]


def test_extracted_answers_are_scored_as_they_are_written():
    """Without a round trip through the vocabulary, since a span of the context needs none."""
    task = SpanExtractionTask(Bert.of(vocab_size=5), SpanExtractionSpec(), 8, 1)
    references = [{"references": ["U.S. Army"]}, {"references": ["Bob"]}]
    data = SimpleNamespace(reference=lambda split, index: references[index])  # there is no vocabulary
    assert scoring.written(task, data, "test", ["U.S. Army", "Ann"]).values == {"exact_match": 50.0, "f1": 50.0}


def test_sources_are_copied_where_targets_are_no_classes(monkeypatch):
    monkeypatch.setattr(texts, "MOST_CLASSES", 1)
    kind = of_texts(text.templates.Template("{a}", "{b}"), **PAIRS)
    assert answers(kind, "the source") == ["the blue sky", "a glass of wine"]
    assert not any("Bayes" in each.name for each in kind.baselines())


def test_summaries_are_first_words(monkeypatch):
    monkeypatch.setattr(texts, "MOST_CLASSES", 1)
    long = [{"a": f"{each['a']} {'and so on ' * 9}", "b": each["b"]} for each in PAIRS["train"]]
    kind = of_texts(text.templates.Template("{a}", "{b}"), train=long, test=PAIRS["test"])
    assert answers(kind, "the first words", value=2) == ["the blue", "a glass"]
    assert not any(each.name == "the source" for each in kind.baselines())


def test_a_question_is_answered_as_it_was_in_training():
    asked = lambda question, answer: {"q": question, "c": "Somewhere.", "b": answer}
    train = [
        asked("Who?", "Ann"),
        asked("Who?", "Ann"),
        asked("When?", "now"),
        asked("Who?", "Bob"),
        asked("When?", "now"),
    ]
    test = [asked("When?", ""), asked("Why?", "")]
    for source in ("{q} {c}", "{c} {q}"):  # in either order, the longer one is the context
        kind = of_texts(text.templates.Template(source, "{b}"), train=train, test=test)
        assert answers(kind, "most frequent target of the same question") == ["now", "Ann"]
        assert answers(kind, "the sentence with most words of the question")[0] == "Somewhere."


# ---- Images, clips, sounds, boxes


def test_motion_of_a_clip_that_flickers():
    still = np.full((3, 32, 32, 3), 7, np.uint8)
    assert (clips.motion(still) == 0).all()
    flicker = np.stack([np.full((32, 32, 3), value, np.uint8) for value in (0, 100, 100)])
    mean, deviation, most, percentile, share, uneven = clips.motion(flicker)
    assert (mean, deviation, most, percentile, share) == (50, 50, 100, 100, 0.5)
    assert uneven < 1e-6
    assert (clips.motion(still[:1]) == 0).all()


def test_an_image_is_shrunk_by_means():
    image = np.arange(16.0).reshape(4, 4, 1)
    assert clips.shrunk(image, 2)[..., 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert clips.shrunk(image, 9).tolist() == image.tolist()


def test_means_of_segments_of_a_spectrogram():
    spectrogram = np.arange(8.0).reshape(4, 2)
    assert sounds.segment_means(spectrogram, 2).tolist() == [[1, 2], [5, 6]]
    assert sounds.segment_means(spectrogram[:1], 3).tolist() == [[0, 1]] * 3


def test_speech_is_found_between_pauses():
    levels = np.concatenate([np.zeros(10), np.ones(12), np.zeros(3), np.ones(5), np.zeros(20), np.ones(4), np.ones(10)])
    assert sounds.spoken_parts(levels, 0.5, 10.0) == [(10, 30), (50, 64)], "a short pause is none"
    assert sounds.spoken_parts(np.array([0, 1, 0, 0.0]), 0.5, 10.0) == [], "too short for a word"
    assert sounds.spoken_parts(np.zeros(4), 0.5, 10.0) == []


def test_embeddings_have_length_1():
    assert np.allclose(faces.unit(np.array([[3.0, 4], [0, 0]])), [[0.6, 0.8], [0, 0]])


def test_boxes_are_the_best_ones_first():
    found = boxes.padded(np.array([[0, 0, 1, 1], [0, 0, 2, 2]]), np.array([1, 0]), np.array([0.2, 0.7]))
    assert found["boxes"][:2, 2].tolist() == [2, 1] and found["labels"][:2].tolist() == [0, 1]
    assert len(found["scores"]) == boxes.MAX_BOXES and found["scores"][2:].sum() == 0


def test_objects_of_a_colour_are_found():
    image = np.full((40, 60, 3), 250, np.uint8)
    placed = [(5, 5, 15, 17), (30, 20, 41, 30)]
    for left, top, right, bottom in placed:
        image[top:bottom, left:right] = (200, 10, 10)
    batch = {
        "image": image[None], "boxes": np.array([placed], np.float32), "labels": np.zeros((1, 2), np.int32),
        "box_weight": np.ones((1, 2), np.float32), "index": np.array([0]),
    }  # fmt: skip
    data = SimpleNamespace(eval_batches=lambda split, size: [batch], class_names=("disc",), counts={"train": 1})
    kind = boxes.Boxes(None, data)
    found = kind._regions(0)(image)
    assert sorted(found["boxes"][found["scores"] > 0].tolist()) == [list(each) for each in placed]
    everywhere = kind._clusters(2)(np.zeros_like(image))
    assert sorted(everywhere["boxes"][everywhere["scores"] > 0].tolist()) == [list(each) for each in placed]


@dataclasses.dataclass(frozen=True)
class Canvas:
    """Masks of stripes: the upper half of an image is class 0, but where it is green."""

    class_names = ("sky", "grass")
    counts = {"train": 4}  # noqa: RUF012

    def eval_batches(self, split, batch_size):
        images = np.random.default_rng(0).integers(0, 40, (4, 8, 6, 3)).astype(np.uint8)
        masks = np.zeros((4, 8, 6), np.uint8)
        images[:, 4:, :, 1] = 250
        masks[:, 4:] = 1
        images[0, 0, 0, 1], masks[0, 0, 0], masks[1, 7, 5] = 250, 1, 255
        yield {"image": images, "mask": masks, "index": np.arange(4), "weight": np.ones(4, np.float32)}


def test_pixels_by_position_and_by_colour():
    from research.baselines.masks import Masks

    kind, data = Masks(None, Canvas()), Canvas()
    (batch,) = data.eval_batches("train", 4)
    by_name = {each.name: each for each in kind.baselines()}
    mode = by_name["most frequent class of each position"].fit(None)(batch["image"])
    assert (mode == np.repeat([0, 1], 4)[None, :, None]).all()
    valid = batch["mask"] < 2
    for name, value in (
        ("naive Bayes of colour and position", 8),
        ("logistic regression on colour and position", 10.0),
    ):
        predicted = by_name[name].fit(value)(batch["image"])
        assert (predicted == batch["mask"])[valid].all(), name


def test_masks_are_scored_as_the_task_scores_them():
    from research.baselines.masks import Masks

    (batch,) = Canvas().eval_batches("test", 4)
    task = segmentation.SegmentationTask(
        None, Canvas.class_names, (8, 6, 3), (0.0,), (1.0,), SegmentationSpec(flip_tta=True)
    )
    valid = batch["mask"] < 2
    predicted = np.where(batch["image"][..., 1] > 100, 1, 0)
    predicted[2, :, 0] = 1
    found = Masks(task, Canvas()).scores("test", lambda images: predicted).values
    overlap = [((predicted == k) & (batch["mask"] == k))[valid].sum() for k in (0, 1)]
    union = [((predicted == k) | (batch["mask"] == k))[valid].sum() for k in (0, 1)]
    assert found["miou"] == pytest.approx(np.mean(np.divide(overlap, union)))
    assert found["pixel_accuracy"] == pytest.approx((predicted == batch["mask"])[valid].mean())


def test_embeddings_are_those_of_an_image_and_its_mirror_image():
    pixels = np.array([[3.0, 4.0], [1.0, 0.0]], np.float32)
    scorer = SimpleNamespace(add=lambda outputs: scorer.__dict__.update(outputs), result=dict, signatures={})
    data = SimpleNamespace(image_shape=(1, 2, 1))
    for flip, expected in ((False, [[0.6, 0.8], [1, 0]]), (True, [[0.5**0.5] * 2] * 2)):
        task = SimpleNamespace(scorer=lambda data, split: scorer, spec=SimpleNamespace(flip_tta=flip))
        kind = faces.FaceBaselines(task, data)
        kind._pixels = lambda split, illumination: pixels
        kind.scores("test", lambda of: of("none"))
        assert np.allclose(scorer.embedding, expected)
