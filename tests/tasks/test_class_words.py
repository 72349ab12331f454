"""Probabilities of classes, against the likelihoods that the model gives to each class by itself."""

import jax
import jax.numpy as jnp
import numpy as np

from research.models.seq2seq import Seq2Seq, Seq2SeqSpec
from research.tasks.class_words import ClassWords
from research.tasks.seq2seq import Seq2SeqTask, Seq2SeqTaskSpec

CLASSES = ((5, 6, 1), (7, 1), (8, 9, 4, 1))


def test_probabilities_are_those_of_the_classes_and_add_up_to_one():
    spec = Seq2SeqSpec(width=16, encoder_depth=2, decoder_depth=1, num_heads=2, kv_dim=8, mlp_dim=32)
    model = Seq2Seq(spec, 20, max_source_length=8, max_target_length=8)
    task = Seq2SeqTask(model, Seq2SeqTaskSpec(), source_length=8, target_length=8, bos=3, eos=1, unk=2)
    words = ClassWords.of(task, CLASSES)
    variables = task.init(jax.random.key(0))
    source = np.array([[4, 5, 6, 1, 0, 0, 0, 0], [9, 8, 7, 6, 5, 1, 0, 0]], np.int32)
    positions = np.broadcast_to(np.arange(8, dtype=np.int32), (2, 8))
    batch = {"source": source, "source_segments": (source > 0).astype(np.int32), "source_positions": positions}
    outputs = jax.jit(words.predict)(variables, batch, jax.random.key(0))
    assert outputs["tokens"].shape == (2, 3, 4)
    np.testing.assert_allclose(np.exp(outputs["scores"]).sum(1), 1, rtol=1e-5)
    assert (np.diff(outputs["scores"]) <= 0).all()
    likelihoods = np.empty((2, 3))
    for number, ids in enumerate(CLASSES):
        target = np.zeros((2, 8), np.int32)
        target[:, : len(ids)] = ids
        sides = {"target": target, "target_segments": (target > 0).astype(np.int32), "target_positions": positions}
        for row in range(2):
            one = {name: jnp.asarray(array[row : row + 1]) for name, array in (batch | sides).items()}
            loss, count = task.evaluate(variables, {**one, "weight": jnp.ones(1)})["loss"]
            assert count == len(ids)
            likelihoods[row, number] = np.exp(-loss)
    shares = likelihoods / likelihoods.sum(1, keepdims=True)
    for row in range(2):
        order = np.argsort(-shares[row])
        np.testing.assert_allclose(np.exp(outputs["scores"][row]), shares[row][order], rtol=1e-4)
        found = [tuple(ids[ids > 0].tolist()) for ids in np.asarray(outputs["tokens"][row])]
        assert found == [CLASSES[number] for number in order]
    np.testing.assert_allclose(words._probability(jax.device_get(outputs)), shares.max(1), rtol=1e-4)
