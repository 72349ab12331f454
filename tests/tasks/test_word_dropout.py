"""Word dropout: which tokens a model in training reads as unknown."""

import types

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from tests.tasks.test_seq2seq import UNK, VOCAB, make, packed


class Unread(nn.Module):
    """Logits of the share of the source that is `unk`, for token 0, which is never wanted, alone."""

    vocab_size: int = VOCAB
    spec = types.SimpleNamespace(has_pointer=False)

    @nn.compact
    def __call__(self, source, segments, positions, target_in, *rest, train=False):
        hidden = self.param("gain", nn.initializers.ones, ()) * (source == UNK).mean()
        return jnp.zeros((*target_in.shape, VOCAB)).at[..., 0].set(hidden)


def test_word_dropout_masks_its_share_of_the_source_in_training_alone():
    batch, task = packed(400), make(Unread(), word_dropout=0.25)
    totals, variables = task.totals(batch), task.init(jax.random.key(0))
    losses = np.array([task.loss(variables, batch, totals, jax.random.key(seed))[0] for seed in (1, 1, 2)])
    assert losses[0] == losses[1] != losses[2]
    share = 0.25 * (batch["source"] > 0).mean()  # padding stays
    np.testing.assert_allclose(np.log(np.exp(losses) - (VOCAB - 1)), share, atol=0.02)
    total, count = task.evaluate(variables, batch)["loss"]
    np.testing.assert_allclose(total / count, np.log(VOCAB), rtol=1e-5)


class Copied(Unread):
    """The same of the tokens that may be copied."""

    spec = types.SimpleNamespace(has_pointer=True)

    @nn.compact
    def __call__(self, source, segments, positions, target_in, *rest, copied=None, train=False):
        hidden = self.param("gain", nn.initializers.ones, ()) * (copied == UNK).mean() if train else 0
        return jnp.zeros((*target_in.shape, VOCAB)).at[..., 0].set(hidden)


def test_masked_tokens_can_still_be_copied():
    batch, task = packed(40), make(Copied(), word_dropout=0.25)
    loss, _ = task.loss({"params": {"gain": 1.0}}, batch, task.totals(batch), jax.random.key(1))
    np.testing.assert_allclose(loss, np.log(VOCAB), rtol=1e-5)
