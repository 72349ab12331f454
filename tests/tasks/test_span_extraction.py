"""Answers as spans: the loss by a closed formula, and the best spans of windows by brute force."""

import functools
import itertools
import json
import math

import jax
import numpy as np
import pytest

from research.models.bert import Bert
from research.tasks import span_extraction
from research.tasks.span_extraction import Span, SpanExtractionSpec, SpanExtractionTask, best_spans, combine
from tests.models.test_bert import SMALL, randomised

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
LENGTH = 20
# Of each window: tokens of the question, tokens of the context, those without most context, and the answer.
WINDOWS = ((2, 4, 0, (4, 5)), (1, 6, 2, (0, 0)), (2, 3, 0, (-1, -1)), (3, 8, 3, (6, 12)))


def make_task(token_types=2, **spec):
    model = Bert.of(num_classes=2, of_tokens=True, token_types=token_types, **SMALL | {"max_length": LENGTH})
    return SpanExtractionTask(model, SpanExtractionSpec(**spec), LENGTH, 2)


def window(number):
    """Tokens, types, context and answer of one of WINDOWS."""
    question, context, without, answer = WINDOWS[number]
    head, size = question + 2, question + context + 3
    tokens = np.random.default_rng(number).integers(1, 17, size)
    types = np.arange(size) >= head
    inside = types & (np.arange(size) < size - 1)
    return tokens, types, inside + (inside & (np.arange(size) >= head + without)), answer


def rows(*windows, most=2):
    """A batch whose rows hold the windows of these numbers."""
    parts = ("source", "source_segments", "source_positions", "source_types", "source_context")
    batch = {name: np.zeros((len(windows), LENGTH), np.int32) for name in parts}
    batch["answer"] = np.full((len(windows), most, 2), -1, np.int32)
    for row, numbers in enumerate(windows):
        end = 0
        for place, number in enumerate(numbers):
            tokens, types, context, answer = window(number)
            begin, end = end, end + len(tokens)
            values = (tokens, place + 1, np.arange(len(tokens)), types, context)
            for name, value in zip(parts, values, strict=True):
                batch[name][row, begin:end] = value
            batch["answer"][row, place] = answer
    batch |= {"shift": np.arange(len(windows), dtype=np.int32), "index": np.arange(len(windows))}
    return batch | {"weight": np.array([bool(each) for each in windows], np.float32)}


@pytest.fixture(scope="module")
def variables():
    batch = rows((0,))
    return randomised(make_task().model, batch["source"], batch["source_segments"])


def loss(task, variables, batch):
    return jit(lambda v: task.loss(v, batch, task.totals(batch), jax.random.key(0)))(variables)


def logits_of(variables, number):
    """Of the tokens of a window alone, float64 [tokens, 2]."""
    tokens, types, _, _ = window(number)
    model = make_task().model
    found = model.apply(variables, tokens[None], np.ones((1, len(tokens)), int), None, types[None].astype(int))
    return np.asarray(found[0], np.float64)


def expected_loss(variables, number):
    """Minus the mean of log softmax at begin and end, over the context and [CLS]; and whether both are the largest."""
    logits, (_, _, context, answer) = logits_of(variables, number), window(number)
    candidates = [0, *np.flatnonzero(context)]
    losses, right = [], []
    for side in (0, 1):
        values = logits[candidates, side]
        losses.append(math.log(sum(math.exp(value) for value in values)) - logits[answer[side], side])
        right.append(candidates[int(values.argmax())] == answer[side])
    return sum(losses) / 2, all(right)


def test_the_loss_is_that_of_the_closed_formula_whatever_shares_a_row(variables):
    task = make_task()
    expected = [expected_loss(variables, number) for number in (0, 1, 3)]  # of window 2, no answer is known
    for batch in (rows((0,), (1,), (2,), (3,), ()), rows((0, 2), (), (3,), (1,))):
        found, (_, sums) = loss(task, variables, batch)
        assert task.totals(batch)["examples"] == 3
        close(found, np.mean([each for each, _ in expected]))
        close(sums["loss"], (sum(each for each, _ in expected), 3))
        close(sums["span_accuracy"], (sum(right for _, right in expected), 3))
        jax.tree.map(close, jit(task.evaluate)(variables, batch), sums)


def test_an_answer_that_has_the_largest_logits_is_right(variables):
    task, batch = make_task(), rows((0,), (1,), (3,))
    for row, number in enumerate((0, 1, 3)):
        logits, candidates = logits_of(variables, number), np.array([0, *np.flatnonzero(window(number)[2])])
        batch["answer"][row, 0] = candidates[logits[candidates].argmax(0)]
    assert tuple(map(float, jit(task.evaluate)(variables, batch)["span_accuracy"])) == (3, 3)
    batch["answer"][1, 0, 1] = next(each for each in np.flatnonzero(window(1)[2]) if each != batch["answer"][1, 0, 1])
    assert tuple(map(float, jit(task.evaluate)(variables, batch)["span_accuracy"])) == (2, 3)


def test_microbatches_add_up(variables):
    task, batch = make_task(), rows((0, 2), (1,), (3,), ())
    totals = task.totals(batch)
    part = lambda begin, end: {name: leaf[begin:end] for name, leaf in batch.items()}
    parts = [task.loss(variables, part(*each), totals, jax.random.key(0))[0] for each in ((0, 1), (1, 4))]
    close(sum(parts), task.loss(variables, batch, totals, jax.random.key(0))[0])


def test_an_example_batch_has_the_shapes_of_real_ones():
    shapes = {name: leaf.shape for name, leaf in make_task().example(3).items()}
    assert shapes == {name: leaf.shape for name, leaf in rows((0, 2), (1,), (3,)).items()}


def test_gradients_are_finite_where_a_row_is_empty(variables):
    task, batch = make_task(), rows((2,), ())
    gradient = jit(jax.grad(lambda v: task.loss(v, batch, task.totals(batch), jax.random.key(0))[0]))(variables)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_one_kind_of_token_takes_no_types():
    task = make_task(token_types=1)
    batch = rows((0,), (1,))
    variables = randomised(task.model, batch["source"], batch["source_segments"])
    first = jit(task.serve)(variables, batch["source"], batch["source_segments"], batch["source_types"])
    close(first, jit(task.serve)(variables, batch["source"], batch["source_segments"], 0 * batch["source_types"]))


# ---- The best spans.


def every_span(logits, context, most):
    """(score, first, last) of all that may be answers, the best first."""
    found = [
        (logits[first, 0] + logits[last, 1], first, last)
        for first, last in itertools.combinations_with_replacement(range(len(logits)), 2)
        if context[first] == 2 and context[last] >= 1 and last - first < most
    ]
    return sorted(found, reverse=True)


@pytest.mark.parametrize(("most", "count"), [(1, 1), (3, 4), (30, 5)])
def test_the_best_spans_are_those_of_brute_force(most, count):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 12, 2)).astype(np.float32)
    context = np.zeros((6, 12), np.int32)
    for row in range(5):  # the last has none
        begin, end = sorted(rng.choice(np.arange(1, 12), 2, replace=False))
        context[row, begin:end] = rng.integers(1, 3, end - begin)
    spans, scores, log_z = best_spans(logits, context, most, count)
    for row in range(6):
        expected = every_span(logits[row], context[row], most)
        close(scores[row], [*(each[0] for each in expected[:count]), *[-np.inf] * (count - len(expected))])
        known = min(count, len(expected))
        assert [tuple(span) for span in spans[row, :known].tolist()] == [each[1:] for each in expected[:count]]
        close(log_z[row], np.logaddexp.reduce([each[0] for each in expected]) if expected else -np.inf)


def test_prediction_is_that_of_the_logits(variables):
    task, batch = make_task(max_answer_length=3, num_return=4), rows((0,), (1,), (3,), most=1)
    found = jit(task.predict)(variables, batch)
    for row, number in enumerate((0, 1, 3)):
        logits, context = logits_of(variables, number), window(number)[2]
        expected = every_span(logits, context, 3)[:4]
        close(found["scores"][row, : len(expected)], [each[0] for each in expected])
        shifted = [(first + row, last + row) for _, first, last in expected]  # as `rows` sets the shifts
        assert list(map(tuple, found["spans"][row, : len(expected)].tolist())) == shifted
        close(found["null"][row], logits[0].sum())


def outputs(*windows):
    """Of (index, null, {span: score}); all spans of a window are given."""
    most = max(len(spans) for _, _, spans in windows)
    made = {"index": [], "null": [], "spans": [], "scores": [], "log_z": [], "weight": []}
    for index, null, spans in windows:
        ranked = sorted(spans.items(), key=lambda each: -each[1])
        made["index"].append(index)
        made["null"].append(null)
        made["spans"].append([*(span for span, _ in ranked), *[(7, 7)] * (most - len(ranked))])
        made["scores"].append([*(score for _, score in ranked), *[-np.inf] * (most - len(ranked))])
        made["log_z"].append(np.logaddexp.reduce([score for _, score in ranked]) if ranked else -np.inf)
        made["weight"].append(1.0)
    return {name: np.array(values) for name, values in made.items()}


FIRST = {(0, 1): 1.0, (2, 2): 3.0, (2, 3): 0.5}
SECOND = {(5, 6): 2.0, (6, 6): 3.5}


def test_the_best_of_all_windows_of_a_question_and_its_probability():
    given = outputs((4, 9.0, FIRST), (2, 1.0, {(0, 0): 0.25}), (4, -1.0, SECOND), (4, 0.0, {}))
    found = combine(given, SpanExtractionSpec(num_return=3))
    assert set(found) == {2, 4}
    everything = sum(math.exp(score) for score in (FIRST | SECOND).values())
    expected = [((6, 6), 3.5), ((2, 2), 3.0), ((5, 6), 2.0)]
    for answer, (span, score) in zip(found[4].answers, expected, strict=True):
        assert answer[:2] == span
        assert math.isclose(math.exp(answer.log_probability), math.exp(score) / everything, rel_tol=1e-6)
    assert found[4].null_difference == -1.0 - 3.5  # the smallest of the windows
    assert found[2].answers == [Span(0, 0, 0.0)]


@pytest.mark.parametrize(("threshold", "first"), [(0.0, (6, 6)), (-4.4, (6, 6)), (-4.6, (-1, -1))])
def test_no_answer_is_the_answer_above_the_threshold(threshold, first):
    spec = SpanExtractionSpec(unanswerable=True, null_threshold=threshold, num_return=10)
    found = combine(outputs((0, 9.0, FIRST), (0, -1.0, SECOND)), spec)[0]
    assert found.answers[0][:2] == first and found.null_difference == -4.5
    everything = sum(math.exp(score) for score in (*FIRST.values(), *SECOND.values(), -1.0))
    assert math.isclose(sum(math.exp(each.log_probability) for each in found.answers), 1, rel_tol=1e-6)
    null = next(each for each in found.answers if each.first < 0)
    assert math.isclose(math.exp(null.log_probability), math.exp(-1.0) / everything, rel_tol=1e-6)


def test_padding_and_contexts_without_tokens():
    given = outputs((0, 1.0, {}), (1, 2.0, FIRST))
    given["weight"][1] = 0
    assert combine(given, SpanExtractionSpec())[0].answers == [Span(-1, -1, 0.0)]
    assert set(combine(given, SpanExtractionSpec())) == {0}


class Questions:
    """Contexts of letters, each of which is a token."""

    texts = ("abcdefghij", "klmnopqrst")

    def reference(self, split, index):
        return {"references": [("bc", "mm")[index]]}

    def contexts(self, split, indices):
        return [self.texts[index] for index in indices]

    def cut(self, contexts, spans):
        cut = lambda context, first, last: context[first : last + 1] if first >= 0 else ""
        return [[cut(text, *span) for span in of_one] for text, of_one in zip(contexts, spans, strict=True)]


def test_scores_can_be_made_again_from_the_predictions_file(tmp_path):
    scorer = span_extraction.SpanScorer(SpanExtractionSpec(), Questions(), "test")
    scorer.add(outputs((1, 9.0, {(0, 1): 1.0, (2, 2): 0.5}), (0, -1.0, {(5, 6): 2.0, (6, 6): 1.5})))
    scorer.add(outputs((0, 9.0, {(1, 2): 2.5}), (1, -1.0, {(8, 8): 0.0})))  # fewer spans a row
    scores = scorer.result()
    scorer.save(tmp_path / "predictions.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [(line["index"], line["prediction"], line["references"]) for line in lines] == [
        (0, "bc", ["bc"]),
        (1, "kl", ["mm"]),
    ]
    assert scores == {"exact_match": 50.0, "f1": 50.0} and "SQuAD v1.1" in scorer.signatures["f1"]
    assert math.isclose(lines[0]["probability"], math.exp(2.5) / sum(map(math.exp, (2.0, 1.5, 2.5))), abs_tol=1e-6)
    assert lines[1]["null_difference"] == -2.0


def test_a_score_that_does_not_exist_cannot_choose():
    task = make_task(select_by="f1", metrics=("squad",))
    task.check_selection(("loss", "span_accuracy"), True)
    for means, scored, metrics in ((("loss",), False, ("squad",)), (("loss",), True, ("tweetqa",))):
        with pytest.raises(ValueError, match="select_by='f1'"):
            make_task(select_by="f1", metrics=metrics).check_selection(means, scored)
    assert task.scorer(Questions(), "test") is not None and make_task(metrics=()).scorer(Questions(), "test") is None
