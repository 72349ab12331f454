"""The encoder-decoder's counts, packing, cached decoding and switches; test_seq2seq_torch.py has its mathematics."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from research.models import decoding, dot_product, seq2seq
from research.parallel.sharding import logical_axes, path_name

VOCAB, SOURCE, TARGET = 11, 8, 6
SMALL = {"width": 16, "encoder_depth": 2, "decoder_depth": 3, "num_heads": 2, "kv_dim": 6, "mlp_dim": 24}
# T5 v1.1 as transformers counts them (test_seq2seq_torch.py); mT5 and the papers name the same sizes.
COUNTS = {
    "t5_small": 76_961_152,
    "t5_base": 247_577_856,
    "t5_large": 783_150_080,
    "t5_3b": 2_849_757_184,
    "t5_11b": 11_135_332_352,
}
WHISPER = {
    "norm": "layer", "norm_epsilon": 1e-5, "activation": "gelu_exact", "gated": False, "bias": True, "key_bias": False,
    "attention_scale": True, "encoder_positions": "sinusoidal", "decoder_positions": "learned", "logits": "tied",
}  # fmt: skip
VASWANI = {name: value for name, value in seq2seq.SIZES["vaswani_base"].items() if name not in SMALL}
KINDS = {
    "t5": {"relative_buckets": 8, "relative_distance": 7},
    "t5_1.0": {"gated": False, "activation": "relu", "logits": "tied_scaled"},
    "vaswani": VASWANI,
    "whisper": WHISPER,
    "learned": {"encoder_positions": "learned", "norm_position": "post"},
    "unrolled": {"unroll": 3, "decoder_positions": "learned"},
}


def some_of(*fast):
    """All kinds, of which the tests of all but some take too long for every day."""
    return [kind if kind in fast else pytest.param(kind, marks=pytest.mark.long) for kind in KINDS]


def rows(length, count=2):
    return np.broadcast_to(np.arange(length), (count, length))


def batch(seed=0):
    """Two examples, the second with padding behind its source and its target."""
    rng = np.random.default_rng(seed)
    source_segments = (rows(SOURCE) < np.array([[SOURCE], [5]])).astype(np.int32)
    target_segments = (rows(TARGET) < np.array([[TARGET], [4]])).astype(np.int32)
    source, target = rng.integers(4, VOCAB, (2, SOURCE)), rng.integers(4, VOCAB, (2, TARGET))
    return (
        source * source_segments, source_segments, rows(SOURCE),
        target * target_segments, target_segments, rows(TARGET),
    )  # fmt: skip


@functools.cache
def build(**settings):
    """A model and random variables."""
    model = seq2seq.Seq2Seq.of(**(SMALL | settings), vocab_size=VOCAB)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *batch()))
    rng = np.random.default_rng(1)
    return model, jax.tree.map(lambda leaf: rng.normal(0, 0.4, leaf.shape).astype(leaf.dtype), shapes)


# Compiled without LLVM's optimisations, which take most of the time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def compiled(model, method="__call__", static=()):
    return jit(functools.partial(model.apply, method=method), static_argnums=static)


def start(model, variables, arrays, max_length, beams):
    """The first cache for the sources of a batch."""
    encoded = compiled(model, "encode")(variables, *arrays[:3])
    return compiled(model, "init_cache", (3, 4))(variables, encoded, arrays[1], max_length, beams)


close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)


# ---- Parameters.


def count(model):
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *batch()))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize("size", COUNTS)
def test_parameter_counts_of_t5(size):
    assert count(seq2seq.Seq2Seq.of(**seq2seq.SIZES[size], vocab_size=32128)) == COUNTS[size]


@pytest.mark.parametrize(("size", "width", "mlp_dim"), [("vaswani_base", 512, 2048), ("vaswani_big", 1024, 4096)])
def test_parameter_counts_of_vaswani(size, width, mlp_dim):
    """In closed form; with the 37,000 tokens of the paper they are its 65 and 213 million, less 3 % and more 1 %."""
    attention, mlp, norm = 4 * width * (width + 1), 2 * width * mlp_dim + mlp_dim + width, 2 * width
    layers_of_both = 6 * (attention + mlp + 2 * norm) + 6 * (2 * attention + mlp + 3 * norm)
    total = count(seq2seq.Seq2Seq.of(**seq2seq.SIZES[size], vocab_size=37_000))
    assert total == layers_of_both + 37_000 * width
    assert total == pytest.approx({512: 65e6, 1024: 213e6}[width], rel=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_every_leaf_has_one_name_for_each_axis(kind):
    model, variables = build(**KINDS[kind])
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        assert len(logical_axes(path_name(path), model.logical_axes)) == leaf.ndim, path_name(path)


def test_logical_axes_of_large_matrices():
    names = lambda path: logical_axes(path, seq2seq.LOGICAL_AXES)
    assert names("decoder/blocks/cross_attention/key/kernel") == ("layers", "embed", "heads", "kv")
    assert names("encoder/blocks/mlp/gate/kernel") == ("layers", "embed", "mlp")
    assert names("decoder/blocks/mlp/down/kernel") == ("layers", "mlp", "embed")
    assert names("embedding") == ("vocab", "embed")


@pytest.mark.parametrize("kind", some_of("t5", "vaswani"))
def test_fresh_models_have_logits_of_size_one(kind):
    """In T5, too, where nothing divides the logits of attention, and whatever multiplies the embeddings."""
    settings = {"width": 64, "num_heads": 4, "kv_dim": 16, "mlp_dim": 128, "vocab_size": 500} | KINDS[kind]
    model = seq2seq.Seq2Seq.of(**(SMALL | settings))
    variables = jit(model.init)(jax.random.key(0), *batch())
    assert 0.5 < jit(model.apply)(variables, *batch()).std() < 2


# ---- Packing.


@pytest.mark.parametrize("kind", KINDS)
def test_packed_examples_have_the_logits_of_single_ones(kind):
    model, variables = build(**KINDS[kind])
    rng = np.random.default_rng(2)
    lengths = ((3, 2), (4, 3), (5, 1))  # of sources and targets; 2 and 1 positions are left over
    examples = [tuple(rng.integers(4, VOCAB, (1, length)) for length in pair) for pair in lengths]
    packed = []
    for side, left in ((0, 2), (1, 1)):
        tokens = np.concatenate([pair[side] for pair in examples] + [np.zeros((1, left), int)], 1)
        segments = np.repeat([1, 2, 3, 0], [pair[side] for pair in lengths] + [left])[None]
        positions = np.concatenate([np.arange(pair[side]) for pair in lengths] + [np.zeros(left, int)])[None]
        packed += [tokens, segments, positions]
    together = compiled(model)(variables, *packed)
    for number, pair in enumerate(examples, 1):
        arrays = []
        for tokens, length in zip(pair, (packed[0].shape[1], packed[3].shape[1]), strict=True):  # all of one shape
            put = lambda row, length=length: np.pad(row, ((0, 0), (0, length - row.shape[1])))
            arrays += [put(tokens), put(np.ones_like(tokens)), put(rows(tokens.shape[1], 1))]
        close(together[packed[4] == number], compiled(model)(variables, *arrays)[arrays[4] == 1])


def test_padding_changes_nothing():
    model, variables = build(**KINDS["t5"])
    arrays = batch()
    other = list(arrays)
    other[0], other[3] = arrays[0] + 3 * (arrays[1] == 0), arrays[3] + 3 * (arrays[4] == 0)
    real = arrays[4] > 0
    np.testing.assert_array_equal(compiled(model)(variables, *arrays)[real], compiled(model)(variables, *other)[real])


def test_no_token_sees_a_later_one():
    model, variables = build(**KINDS["t5"])
    arrays = list(batch())
    before = compiled(model)(variables, *arrays)
    arrays[3] = arrays[3].copy()
    arrays[3][0, 3] -= 1
    changed = np.abs(compiled(model)(variables, *arrays) - before)[0].max(-1) > 0
    np.testing.assert_array_equal(changed, [False] * 3 + [True] * 3)


# ---- Cached decoding.


@pytest.mark.parametrize("beams", [3, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", some_of("t5", "vaswani", "unrolled"))
def test_cached_decoding_equals_the_whole(kind, beams):
    model, variables = build(**KINDS[kind])
    arrays = batch()
    cache = start(model, variables, arrays, 9, beams)  # longer than the target
    expected = compiled(model)(variables, *arrays)
    step = compiled(model, "decode_step")
    for position in range(TARGET):
        token = np.repeat(arrays[3][:, position], beams)
        logits, cache = step(variables, token, position, cache)
        for row in np.flatnonzero(arrays[4][:, position]):
            close(logits[row * beams : (row + 1) * beams], np.repeat(expected[None, row, position], beams, 0))


@pytest.mark.parametrize("beams", [1, 3])
def test_no_step_of_decoding_copies_a_cache(beams):
    """Each step writes its keys and values in place, in one update for each of both arrays of the three layers."""
    model, variables = build(unroll=3, kv_dim=5)
    arrays, length = batch(), 7

    def decode(variables):
        encoded = model.apply(variables, *arrays[:3], method="encode")
        cache = model.apply(variables, encoded, arrays[1], length, beams, method="init_cache")
        step = functools.partial(model.apply, variables, method="decode_step")
        if beams == 1:
            return decoding.greedy(step, cache, 2, length, 3, -1)
        return decoding.beam_search(step, cache, 2, length, 3, -1, beam_size=beams)

    found = {"copy": 0, "dynamic-update-slice": 0}
    for body in jax.jit(decode).lower(variables).compile().as_text().split("\n}\n"):
        for sizes, opcode in re.findall(r"= f32\[([\d,]+)\]\S* (copy|dynamic-update-slice)\(", body):
            of_a_cache = math.prod(map(int, sizes.split(","))) == 2 * 2 * 5 * length * beams
            found[opcode] += of_a_cache and "ENTRY" not in body
    assert found == {"copy": 0, "dynamic-update-slice": 6}


@pytest.mark.parametrize("kind", some_of("t5"))
def test_examples_may_be_at_different_positions(kind):
    """The second one starts two steps after the first."""
    model, variables = build(**KINDS[kind])
    arrays = batch()
    cache = start(model, variables, arrays, TARGET, 2)
    expected = compiled(model)(variables, *arrays)
    for time in range(TARGET):
        positions = np.array([time, max(time - 2, 0)])
        tokens = arrays[3][np.arange(2), positions]
        logits, cache = compiled(model, "decode_step")(variables, np.repeat(tokens, 2), np.repeat(positions, 2), cache)
        close(logits[::2], expected[np.arange(2), positions])
        close(logits[1::2], logits[::2])


@pytest.mark.parametrize("kind", some_of("t5"))
def test_scores_of_a_beam_search_are_those_of_its_hypotheses(kind):
    """So each one has looked at its own past, in whichever beams that was written."""
    model, variables = build(**KINDS[kind])
    source, segments, positions, *_ = batch()
    bos, eos, beams, length = 3, -1, 4, 7  # nothing ends, so all hypotheses are long

    def search(variables):
        encoded = model.apply(variables, source, segments, positions, method="encode")
        cache = model.apply(variables, encoded, segments, length, beams, method="init_cache")
        step = functools.partial(model.apply, variables, method="decode_step")
        return decoding.beam_search(
            step, cache, 2, length, bos, eos, beam_size=beams, num_return=beams, length_penalty=0.0
        )

    tokens, scores = jit(search)(variables)
    moved = 0
    for row in range(beams):
        target = np.asarray(tokens[:, row])
        shifted = np.concatenate([np.full((2, 1), bos), target[:, :-1]], 1)
        arrays = source, segments, positions, shifted, np.ones_like(shifted), rows(length)
        logp = np.take_along_axis(jax.nn.log_softmax(compiled(model)(variables, *arrays)), target[..., None], 2)[..., 0]
        close(scores[:, row], logp.sum(1))
        moved += (target[:, 0] == np.asarray(tokens[:, 0, 0])).sum()
    assert moved > 2  # several hypotheses of an example share a beginning, so beams were reordered


# ---- Switches.


class Frames(nn.Module):
    """A front end that makes one token of two frames."""

    width: int

    @nn.compact
    def __call__(self, frames, train):
        return nn.Dense(self.width, name="project")(frames.reshape(frames.shape[0], -1, 2 * frames.shape[-1]))


class OfFrames(seq2seq.Seq2Seq):
    """An encoder-decoder with that front end."""

    def setup(self):
        super().setup()
        self.front_end = Frames(self.spec.width)

    @property
    def logical_axes(self):
        project = (("front_end/project/kernel", (None, "embed")), ("front_end/project/bias", ("embed",)))
        return (*project, *super().logical_axes)

    def embed_source(self, source, segments, train=False):
        return self.front_end(source, train)


def test_a_sentence_is_the_sum_of_its_words_weighted_by_position():
    model = seq2seq.Seq2Seq.of(**SMALL, vocab_size=VOCAB, sentence_length=4, embedding_scale=True)
    rng = np.random.default_rng(0)
    source = rng.integers(1, VOCAB, (2, SOURCE, 4)) * (np.arange(4) < rng.integers(1, 5, (2, SOURCE, 1)))
    arrays = (source, *batch()[1:])
    params = jit(model.init)(jax.random.key(0), *arrays)["params"]
    assert logical_axes("word_weights", model.logical_axes) == (None, "embed")
    assert params["head"].shape == (16, VOCAB)
    assert (params["word_weights"] == 1).all()
    other = seq2seq.Seq2Seq.of(**SMALL, vocab_size=VOCAB, sentence_length=4, word_weights_std=0.5)
    weights = jit(other.init)(jax.random.key(0), *arrays)["params"]["word_weights"]
    assert abs(weights.mean() - 1) < 0.2 and 0.3 < weights.std() < 0.7  # 64 weights
    params["word_weights"] = rng.normal(size=(4, 16)).astype(np.float32)
    embedded = np.zeros((2, SOURCE, 16), np.float32)
    for place in np.ndindex(2, SOURCE, 4):
        if source[place]:  # padding counts for nothing
            embedded[place[:2]] += 4 * params["embedding"][source[place]] * params["word_weights"][place[2]]
    encoded = compiled(model, "encode_embedded")({"params": params}, embedded, *arrays[1:3])
    close(compiled(model, "encode")({"params": params}, *arrays[:3]), encoded)


def test_a_subclass_reads_other_sources():
    model = OfFrames(seq2seq.Seq2SeqSpec(**SMALL), VOCAB)
    frames = np.random.default_rng(0).normal(size=(2, 2 * SOURCE, 5)).astype(np.float32)
    arrays = (frames, *batch()[1:])
    variables = jit(model.init)(jax.random.key(0), *arrays)
    project = variables["params"]["front_end"]["project"]
    tokens = frames.reshape(2, SOURCE, 10) @ project["kernel"] + project["bias"]
    encoded = compiled(model, "encode_embedded")(variables, tokens, *arrays[1:3])
    close(
        compiled(model)(variables, *arrays),
        compiled(model, "decode")(variables, encoded, arrays[1], *arrays[3:]),
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        assert len(logical_axes(path_name(path), model.logical_axes)) == leaf.ndim


@pytest.mark.long
@pytest.mark.parametrize("settings", [{"unroll": 3}, {"remat": "full"}, {"remat": "operands", "unroll": 2}])
def test_unroll_and_remat_change_no_gradient(settings):
    def gradients(settings):
        model, variables = build(dropout=0.2, **settings)
        loss = lambda v: (model.apply(v, *batch(), train=True, rngs={"dropout": jax.random.key(1)}) ** 2).mean()
        return jit(jax.grad(loss))(variables)

    jax.tree.map(functools.partial(close, rtol=2e-3), gradients(settings), gradients({}))


def test_evaluation_ignores_dropout_and_training_does_not():
    model, variables = build(dropout=0.5)
    np.testing.assert_array_equal(compiled(model)(variables, *batch()), compiled(build()[0])(variables, *batch()))
    train = jit(lambda key: model.apply(variables, *batch(), train=True, rngs={"dropout": jax.random.key(key)}))
    assert not np.allclose(train(0), train(1))
    np.testing.assert_array_equal(train(0), train(0))


@pytest.mark.parametrize("kind", ["t5", "vaswani"])
def test_dtypes(kind):
    full, variables = build(**KINDS[kind])
    model, _ = build(**KINDS[kind], dtype="bfloat16")
    logits = compiled(model)(variables, *batch())
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, compiled(full)(variables, *batch()), rtol=0.2, atol=0.6)
    cache = start(model, variables, batch(), 4, 1)
    assert {part.dtype for part in jax.tree.leaves(cache["layers"])} == {jnp.dtype("bfloat16")}


def test_attention_in_float64_is_that_of_jax_with_bias_mask_and_scale():
    rng = np.random.default_rng(0)
    query, key, value = (rng.normal(size=(2, length, 3, 4)) for length in (5, 7, 7))
    bias, mask = rng.normal(size=(1, 3, 5, 7)), rng.random((2, 1, 5, 7)) < 0.6
    mask[0, 0, 0] = False  # a query that sees nothing
    options = {"bias": bias, "mask": mask, "scale": 0.7}
    single = dot_product.attention(*(jnp.asarray(part, jnp.float32) for part in (query, key, value)), **options)
    np.testing.assert_allclose(single[0, 0], value[0].mean(0), rtol=1e-5)
    with jax.enable_x64():
        double = dot_product.attention(*(jnp.asarray(part) for part in (query, key, value)), **options)
        assert double.dtype == jnp.float64
        np.testing.assert_allclose(double, single, rtol=1e-5, atol=1e-6)
        cache = jnp.asarray(key.transpose(0, 2, 3, 1)), jnp.asarray(value.swapaxes(1, 2))
        cached = dot_product.cached_attention(jnp.asarray(query), *cache, bias, mask, 0.7)
        np.testing.assert_allclose(cached, double, rtol=1e-14)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"norm": "batch"}, "norm='batch' is unknown; choose from layer, rms"),
        ({"norm_position": "mid"}, "norm_position='mid' is unknown; choose from post, pre"),
        ({"activation": "gelu"}, "activation='gelu' is unknown; choose from gelu_exact, gelu_quick, gelu_tanh, relu"),
        ({"encoder_positions": "rotary"}, "encoder_positions='rotary' is unknown; choose from learned, relative"),
        ({"logits": "shared"}, "logits='shared' is unknown; choose from tied, tied_scaled, untied"),
        ({"remat": "some"}, "remat='some' is unknown"),
        ({"decoder_depth": 0}, "decoder_depth=0 must be at least 1"),
        ({"dropout": 1.0}, "dropout=1.0 must be at least 0 and less than 1"),
        ({"width": 15, "decoder_positions": "sinusoidal"}, "width=15 must be even and at least 4"),
        ({"relative_buckets": 6}, "relative_buckets=6 must be a multiple of 4"),
        ({"relative_distance": 16}, "relative_distance=16 must be more than half of relative_buckets=32"),
        ({"decoder_positions": "learned", "max_target_length": 5}, "^max_target_length=5 must be at least 6, the"),
        ({"encoder_positions": "learned", "max_source_length": 7}, "^max_source_length=7 must be at least 8, the"),
    ],
)
def test_bad_settings_are_refused(settings, reason):
    with pytest.raises(ValueError, match=reason):
        build(**settings)


def test_a_cache_longer_than_learned_positions_is_refused():
    model, variables = build(decoder_positions="learned", max_target_length=6)
    with pytest.raises(ValueError, match=r"^max_target_length=6 must be at least 7"):
        model.apply(variables, jnp.zeros((2, SOURCE, 16)), batch()[1], 7, method="init_cache")
