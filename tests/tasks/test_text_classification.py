"""Classes of texts: the loss of texts that share rows is that of each by itself, whatever the rows are."""

import functools

import jax
import numpy as np
import optax
import pytest

from research.models.bert import Bert
from research.tasks.text_classification import TextClassificationSpec, TextClassificationTask
from tests.models.test_bert import SMALL, randomised

CLASSES = ("bad", "fair", "good")
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
LENGTHS, LABELS = (3, 5, 2, 4), (2, 0, 1, 2)  # of the texts of `alone`


def make_task(classes=CLASSES, **spec):
    model = Bert.of(num_classes=len(classes), pool="mean", **SMALL)
    return TextClassificationTask(model, TextClassificationSpec(classes=classes, **spec), 8, 3)


def rows(*texts):
    """A batch whose rows hold the texts of these numbers."""
    batch = {name: np.zeros((len(texts), 8), np.int32) for name in ("source", "source_segments", "source_positions")}
    batch |= {name: np.zeros((len(texts), 3), np.int32) for name in ("target", "target_segments", "target_positions")}
    for row, numbers in enumerate(texts):
        end = 0
        for place, number in enumerate(numbers):
            begin, end = end, end + LENGTHS[number]
            batch["source"][row, begin:end] = np.random.default_rng(number).integers(1, 17, LENGTHS[number])
            batch["source_segments"][row, begin:end] = place + 1
            batch["source_positions"][row, begin:end] = np.arange(LENGTHS[number])
            batch["target"][row, place], batch["target_segments"][row, place] = LABELS[number], place + 1
    return batch | {"index": np.arange(len(texts)), "weight": np.array([bool(each) for each in texts], np.float32)}


@pytest.fixture(scope="module")
def variables():
    return randomised(make_task().model, np.zeros((1, 8), np.int32), np.ones((1, 8), np.int32))


def loss(task, variables, batch):
    return jit(lambda v: task.loss(v, batch, task.totals(batch), jax.random.key(0)))(variables)


def test_texts_that_share_rows_have_the_loss_that_they_have_alone(variables):
    task, alone = make_task(label_smoothing=0.1), rows((0,), (1,), (2,), (3,), ())
    packed = rows((0, 1), (2, 3))
    (first, (_, sums)), (second, (_, others)) = loss(task, variables, alone), loss(task, variables, packed)
    close(first, second)
    jax.tree.map(close, sums, others)
    assert sums["accuracy"][1] == task.totals(alone)["examples"] == 4


def test_the_loss_and_the_accuracy_are_those_of_the_logits(variables):
    task, batch = make_task(), rows((0,), (1,), (2,), (3,))
    logits = np.asarray(task.model.apply(variables, batch["source"], batch["source_segments"]))
    plain = optax.losses.softmax_cross_entropy_with_integer_labels(logits, np.array(LABELS))
    found = jit(task.evaluate)(variables, batch)
    close(found["loss"][0], plain.sum())
    assert found["accuracy"][0] == (logits.argmax(1) == LABELS).sum() and found["accuracy"][1] == 4
    close(loss(task, variables, batch)[0], plain.mean())
    close(jit(task.predict)(variables, batch)["probabilities"], jax.nn.softmax(logits))
    close(jit(task.serve)(variables, batch["source"], batch["source_segments"]), logits)


def test_microbatches_add_up(variables):
    task, batch = make_task(), rows((0, 1), (2,), (3,), ())
    totals = task.totals(batch)
    part = lambda begin, end: {name: leaf[begin:end] for name, leaf in batch.items()}
    parts = [task.loss(variables, part(*each), totals, jax.random.key(0))[0] for each in ((0, 1), (1, 4))]
    close(sum(parts), task.loss(variables, batch, totals, jax.random.key(0))[0])


def test_an_example_batch_has_the_shapes_of_real_ones():
    shapes = {name: leaf.shape for name, leaf in make_task().example(2).items()}
    assert shapes == {name: leaf.shape for name, leaf in rows((0, 1), (2,)).items()}


def test_without_classes_there_are_features_and_no_training():
    task = make_task(classes=())
    variables = task.init(jax.random.key(0))
    batch = rows((0,), (1,))
    assert task.predict(variables, batch)["embedding"].shape == (2, SMALL["width"])
    assert task.scorer(None, "test") is None
    with pytest.raises(ValueError, match=r"config\.task\.classes=\(\) is empty"):
        task.loss(variables, batch, task.totals(batch), jax.random.key(0))
