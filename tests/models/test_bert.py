"""The BERT family: sizes of the papers, what padding and pooling do, and a logical name for every axis."""

import functools

import jax
import numpy as np
import pytest

from research.models.bert import POOLINGS, SIZES, Bert, BertSpec
from research.parallel.sharding import logical_axes, path_name
from research.spec import FieldError

# Of the published checkpoints, with their vocabularies and positions, without a head.
COUNTS = {
    "bert_base": (30_522, 512, 109_482_240),
    "bert_large": (30_522, 512, 335_141_888),
    "minilm_l6": (30_522, 512, 22_713_216 - 384 * 385),  # theirs has a pooler, which the mean does not use
    "distilbert": (30_522, 512, 66_362_880 + 768 * 769),  # theirs counts no pre_classifier
    "roberta_base": (50_265, 512, 124_645_632 - 2 * 768),  # theirs has two positions that nothing stands at
}
SMALL = {"vocab_size": 17, "width": 16, "depth": 2, "num_heads": 4, "mlp_dim": 24, "max_length": 8}
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)


def texts(length=7):
    """Two rows of tokens, of which the second ends in padding."""
    tokens = np.random.default_rng(0).integers(1, 17, (2, length))
    return tokens, (np.arange(length) < np.array([[length], [4]])).astype(np.int32)


def randomised(model, *arrays):
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *arrays))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.4, leaf.shape).astype(leaf.dtype), shapes)


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_are_those_of_the_published_models(name):
    vocab_size, length, expected = COUNTS[name]
    model = Bert.of(vocab_size=vocab_size, max_length=length, **SIZES[name])
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *texts()))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


@pytest.mark.parametrize("pool", POOLINGS)
def test_every_leaf_has_one_name_for_each_axis(pool):
    model = Bert.of(num_classes=3, pool=pool, **SMALL)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *texts()))["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        assert len(logical_axes(path_name(path), model.logical_axes)) == leaf.ndim


@pytest.mark.parametrize("pool", POOLINGS)
def test_padding_changes_no_logit_and_every_token_does(pool):
    model, (tokens, segments) = Bert.of(num_classes=3, pool=pool, **SMALL), texts()
    variables = randomised(model, tokens, segments)
    apply = jit(model.apply)
    expected = np.asarray(apply(variables, tokens, segments))
    assert expected.shape == (2, 3) and expected.dtype == np.float32
    others = np.where(segments > 0, tokens, 5)
    close(apply(variables, others, segments), expected)
    close(jit(model.apply)(variables, tokens[1:, :4], segments[1:, :4]), expected[1:])
    for position in range(4):
        changed = tokens.copy()
        changed[1, position] = changed[1, position] % 16 + 1
        moved = np.abs(np.asarray(apply(variables, changed, segments)) - expected).max(1)
        assert moved[0] < 1e-5 < moved[1]


def test_the_mean_is_that_of_real_tokens_and_cls_the_first():
    tokens, segments = texts()
    mean, cls = (Bert.of(pool=pool, **SMALL) for pool in ("mean", "cls"))
    variables = randomised(mean, tokens, segments)
    where = np.broadcast_to(np.arange(7), (2, 7))
    encoded = np.asarray(mean.apply(variables, tokens, segments, where, method="encode"))
    close(mean.apply(variables, tokens, segments)[1], encoded[1, :4].mean(0))
    close(cls.apply(variables, tokens, segments), encoded[:, 0])


@pytest.mark.parametrize("pool", POOLINGS)
def test_texts_that_share_a_row_have_the_logits_that_they_have_alone(pool):
    model, (tokens, _) = Bert.of(num_classes=3, pool=pool, **SMALL), texts()
    segments = np.array([[1, 1, 1, 2, 2, 3, 0], [1, 1, 1, 1, 1, 0, 0]])
    where = np.array([[0, 1, 2, 0, 1, 0, 0], [0, 1, 2, 3, 4, 0, 0]])
    variables = randomised(model, tokens, segments)
    packed = jit(functools.partial(model.apply, texts=4))(variables, tokens, segments, where)
    assert packed.shape == (2, 4, 3)
    for row, text, begin, end in ((0, 0, 0, 3), (0, 1, 3, 5), (0, 2, 5, 6), (1, 0, 0, 5)):
        alone = tokens[row : row + 1, begin:end]
        close(packed[row, text], jit(model.apply)(variables, alone, np.ones_like(alone))[0])


def test_token_types_and_positions_change_the_logits():
    model, (tokens, segments) = Bert.of(**SMALL), texts()
    variables = randomised(model, tokens, segments)
    expected = model.apply(variables, tokens, segments)
    zeros, inside = np.zeros_like(tokens), np.broadcast_to(np.arange(7), (2, 7))
    close(model.apply(variables, tokens, segments, inside, zeros), expected)
    for other in ((inside[:, ::-1], zeros), (inside, zeros + 1)):
        assert np.abs(model.apply(variables, tokens, segments, *other) - expected).max() > 1e-2


def test_dropout_is_for_training_alone():
    model, (tokens, segments) = Bert.of(dropout=0.5, **SMALL), texts()
    variables = randomised(model, tokens, segments)
    close(model.apply(variables, tokens, segments), Bert.of(**SMALL).apply(variables, tokens, segments))
    train = lambda seed: model.apply(variables, tokens, segments, train=True, rngs={"dropout": jax.random.key(seed)})
    assert np.abs(train(0) - train(1)).max() > 0.1


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(FieldError, match="multiple of num_heads=5"):
        BertSpec(num_heads=5)
    with pytest.raises(FieldError, match=r"^vocab_size=0 must be at least 1"):
        Bert.of(**SMALL | {"vocab_size": 0})
    with pytest.raises(FieldError, match=r"^max_length=8 must be at least 9"):
        jax.eval_shape(lambda: Bert.of(**SMALL).init(jax.random.key(0), *texts(9)))
