"""Retrieval: the loss by loops over the texts of a batch, whatever rows they share, and scores by brute force."""

import functools
import json

import jax
import numpy as np
import pytest

from research.data.text import pairs
from research.models.bert import Bert
from research.tasks.retrieval import RetrievalScorer, RetrievalSpec, RetrievalTask
from tests.models.test_bert import SMALL, randomised

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
LENGTH, PAIRS = 8, 3
# The texts of pairs: 0 and 2 have one target, 1 and 3 one source.
TEXTS = [([1, 2, 3], [4, 5]), ([6, 7], [8, 9, 10]), ([11], [4, 5]), ([6, 7], [12]), ([13, 14], [15, 16])]


def make_task(**spec):
    return RetrievalTask(Bert.of(pool="mean", **SMALL), RetrievalSpec(**spec), LENGTH, LENGTH, PAIRS)


def rows(*numbers):
    """A batch whose rows hold the pairs of these numbers; a row without one has no weight."""
    transform = pairs.PairsToArrays(LENGTH, LENGTH, PAIRS)
    examples = [
        [tuple(np.array(side, np.int32) for side in TEXTS[number]) for number in row or (0,)] for row in numbers
    ]
    made = [transform(row) for row in examples]
    batch = {name: np.stack([row[name] for row in made]) for name in made[0]}
    return batch | {"index": np.arange(len(numbers)), "weight": np.array([bool(row) for row in numbers], np.float32)}


@pytest.fixture(scope="module")
def variables():
    return randomised(make_task().model, np.zeros((1, LENGTH), np.int32), np.ones((1, LENGTH), np.int32))


@pytest.fixture(scope="module")
def embedding(variables):
    """The embedding of a text alone, in float64."""
    apply = jit(make_task().model.apply)

    @functools.cache
    def embedding(*text):
        tokens = np.zeros((1, LENGTH), np.int32)
        tokens[0, : len(text)] = text
        features = np.asarray(
            apply(variables, tokens, (np.arange(LENGTH)[None] < len(text)).astype(np.int32)), np.float64
        )[0]
        return features / np.linalg.norm(features)

    return embedding


def loss(task, variables, batch):
    return jit(lambda v: task.loss(v, batch, task.totals(batch), jax.random.key(0)))(variables)


@pytest.mark.parametrize(
    ("numbers", "temperature"),
    [([(0,), (1,), (4,)], 0.5), ([(0, 1, 2), (3, 4)], 0.2), ([(0, 1), (), (2, 3, 4)], 0.05), ([(2,)], 0.05)],
)
def test_the_loss_is_that_of_each_source_among_the_targets_of_other_texts(variables, embedding, numbers, temperature):
    task, chosen = make_task(temperature=temperature), [number for row in numbers for number in row]
    expected, right = [], []
    for number in chosen:
        source, target = TEXTS[number]
        query = embedding(*source)
        own = query @ embedding(*target) / temperature
        negatives = [
            query @ embedding(*other[1]) / temperature
            for other in (TEXTS[each] for each in chosen)
            if other[0] != source and other[1] != target
        ]
        expected.append(np.log(np.exp(np.array([own, *negatives]) - own).sum()))
        right.append(own >= max(negatives, default=own))
    found, (_, sums) = loss(task, variables, rows(*numbers))
    close(found, np.mean(expected))
    close(sums["loss"][0], np.sum(expected))
    assert sums["accuracy"] == (sum(right), len(chosen)) and sums["loss"][1] == len(chosen)


def test_questions_of_one_sentence_are_no_negatives_of_one_another(variables):
    """So a batch of them has no loss, and nothing to learn."""
    task, batch = make_task(), rows((0,), (2,))
    of_batch = lambda v: task.loss(v, batch, task.totals(batch), jax.random.key(0))[0]
    found, gradient = jit(jax.value_and_grad(of_batch))(variables)
    assert found == 0 and all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_embeddings_have_length_1_and_do_not_see_padding(variables, embedding):
    task = make_task()
    batch = rows((0,), (1,), (4,))
    predict = jit(lambda variables, batch: task.predict(variables, batch)["embedding"])
    found = np.asarray(predict(variables, batch))
    for row, number in zip(found, (0, 1, 4), strict=True):
        close(row, embedding(*TEXTS[number][0]))
    other = batch | {"source": np.where(batch["source_segments"] > 0, batch["source"], 5)}
    np.testing.assert_array_equal(found, predict(variables, other))
    assert task.evaluate(variables, batch) == {} and task.selection == ("mrr", "max")


class Asked:
    """Four questions about two texts."""

    counts = {"test": 4}  # noqa: RUF012  of a fake

    def own(self, split):
        return np.array([0, 1, 0, 1])

    def firsts(self, split):
        return np.array([0, 1])

    def reference(self, split, index):
        return {"source": f"question {index}", "target": f"text {index % 2}"}


def test_scores_are_over_all_candidates_and_can_be_made_again_from_the_file(tmp_path):
    scorer = RetrievalScorer(Asked(), "test", temperature=0.5)
    vectors = np.array([[1, 0], [0.6, 0.8], [0, 1], [0, 1], [1, 0], [0, 1], [5, 5]], np.float32)
    order, weight = [5, 0, 1, 6, 4, 3, 2], [1, 1, 1, 0, 1, 1, 1]  # the row without weight is padding
    for part in (slice(0, 3), slice(3, None)):
        chosen = order[part]
        scorer.add({"index": np.array(chosen), "weight": np.array(weight[part]), "embedding": vectors[chosen]})
    scores = scorer.result()
    assert scores == {"recall_at_1": 0.75, "recall_at_5": 1.0, "recall_at_10": 1.0, "mrr": pytest.approx(3.5 / 4)}
    assert set(scorer.signatures) == set(scores) and "2 distinct targets" in scorer.signatures["mrr"]
    scorer.save(tmp_path / "predictions.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [line["rank"] for line in lines] == [1, 1, 2, 1]
    assert lines[2] == {
        "index": 2, "source": "question 2", "target": "text 0", "rank": 2, "similarity": 0.0, "nearest": "text 1",
        "nearest_similarity": 1.0, "probability": pytest.approx(1 / (1 + np.exp(-2)), abs=1e-6),
    }  # fmt: skip


def test_a_metric_that_is_not_computed_is_refused():
    with pytest.raises(ValueError, match="select_by='mrr' is not computed while training"):
        make_task().check_selection((), scored=False)
    make_task().check_selection((), scored=True)
    with pytest.raises(ValueError, match="select_by"):
        RetrievalSpec(select_by="f1")
    with pytest.raises(ValueError, match="temperature"):
        RetrievalSpec(temperature=0.0)
