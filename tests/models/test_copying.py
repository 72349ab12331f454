"""The copy mechanism against NumPy, packed and cached; it copies tokens that never occur in training targets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from research.interop.families import t5
from research.models import copying, decoding, seq2seq
from research.parallel import mesh as mesh_lib
from research.parallel.sharding import constraints_for, logical_axes, path_name
from tests.models import test_seq2seq
from tests.models.test_seq2seq import SOURCE, TARGET, VOCAB, batch, close, compiled, jit, rows

KINDS = {"t5": {}, "vaswani": test_seq2seq.VASWANI, "unrolled": test_seq2seq.KINDS["unrolled"]}


def build(**settings):
    """A model that copies, and random variables."""
    return test_seq2seq.build(copy_mechanism=True, **settings)


def start(model, variables, arrays, max_length, beams):
    encoded = compiled(model, "encode")(variables, *arrays[:3])
    return compiled(model, "init_cache", (3, 4))(variables, encoded, arrays[1], max_length, beams, arrays[0])


# ---- The distribution.


def by_hand(params, logits, x, written, encoded, source, allowed):
    """p [target, vocab] of one row in float64, place by place; `allowed` [target, source]."""
    query, key, next_key = (params[name]["kernel"] for name in ("query", "key", "next_key"))
    switches = x @ params["switches"]["kernel"] + params["switches"]["bias"]
    found = np.zeros(logits.shape)
    for t in range(len(x)):
        positions = np.flatnonzero(allowed[t])
        scores = []
        for s in positions:
            k, follows = encoded[s] @ key, False
            if s - 1 in positions:  # the position before belongs to the same example
                k = k + encoded[s - 1] @ next_key
                follows = source[s - 1] == written[t]
            scores.append((x[t] @ query) @ k / np.sqrt(x.shape[-1]) + switches[t, 1] * follows)
        weights = np.exp(scores) / np.exp(scores).sum()
        g = 1 / (1 + np.exp(-switches[t, 0]))
        found[t] = g * np.exp(logits[t]) / np.exp(logits[t]).sum()
        for s, weight in zip(positions, weights, strict=True):
            found[t, source[s]] += (1 - g) * weight
    return found


def packed(lengths, rng, source_length=SOURCE, target_length=TARGET):
    """One row of examples of so many source and target tokens each, few enough to be repeated."""
    arrays = []
    for side, size in ((0, source_length), (1, target_length)):
        used = [pair[side] for pair in lengths]
        left = size - sum(used)
        segments = np.repeat([*range(1, len(lengths) + 1), 0], [*used, left])[None]
        positions = np.concatenate([np.arange(length) for length in (*used, left)])[None]
        arrays += [rng.integers(4, VOCAB - 3, (1, size)) * (segments > 0), segments, positions]
    return arrays


def test_probabilities_by_hand():
    """Of two consecutive examples, and padding, in float64."""
    with jax.enable_x64():
        model, variables = build(dtype="float64", param_dtype="float64")
        arrays = packed(((4, 2), (3, 3)), np.random.default_rng(3))
        source, segments, _, target_in, target_segments, _ = arrays

        def parts(module):
            encoded = module.encode(*arrays[:3])
            x = module.decoder(module._embed(target_in), *arrays[4:], encoded, segments)
            return module._logits(x), x, encoded, module(*arrays)

        logits, x, encoded, log_probabilities = jit(functools.partial(model.apply, method=parts))(variables)
        allowed = (target_segments[0][:, None] == segments[0]) & (segments[0] > 0)
        real = target_segments[0] > 0
        row = [np.asarray(part[0]) for part in (logits, x, target_in, encoded, source)]
        expected = by_hand(variables["params"]["pointer"], *(part[real] for part in row[:3]), *row[3:], allowed[real])
        found = np.exp(log_probabilities[0])
        np.testing.assert_allclose(found[real], expected, rtol=1e-9)
        named = np.exp(row[0][real])
        assert (np.abs(expected - named / named.sum(-1, keepdims=True)).max(-1) > 0.05).all()  # copying counts


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_sum_to_one_and_none_is_for_padding(kind):
    model, variables = build(**KINDS[kind])
    arrays = batch()
    logits = compiled(model)(variables, *arrays)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(jnp.exp(logits).sum(-1), 1, rtol=1e-5)
    # 0 stands in the source as padding alone, so that its share is what the vocabulary gives it: the less the more
    # is copied.
    biased = lambda gate: jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.array([gate, 1.0]) if path_name(path).endswith("switches/bias") else leaf, variables
    )
    one, other = (jnp.exp(compiled(model)(biased(gate), *arrays)) for gate in (-30.0, -30.0 - np.log(2)))
    real = arrays[4] > 0
    np.testing.assert_allclose(one[real][:, 0], 2 * other[real][:, 0], rtol=1e-3)
    assert one[real][:, 0].max() < 1e-9 < one[real].max(-1).min()


def test_nothing_is_infinite_where_the_model_is_sure():
    """Neither the logarithms nor their gradients: of what is not in the source, and of logits far apart."""
    rng = np.random.default_rng(0)
    pointer = copying.Pointer(4, "float32", "float32")
    source = {"tokens": np.array([[4, 5, 5]]), "before": np.array([[-1, 4, 5]])}
    arguments = {"logits": rng.normal(0, 300, (1, 2, VOCAB)), "x": rng.normal(0, 300, (1, 2, 4))}
    arguments = {name: jnp.asarray(array, jnp.float32) for name, array in arguments.items()}
    keys, mask = jnp.asarray(rng.normal(0, 300, (1, 3, 4)), jnp.float32), np.array([[[1, 1, 1], [0, 1, 0]]]) > 0
    params = {
        "query": {"kernel": jnp.asarray(rng.normal(0, 9, (4, 4)), jnp.float32)},
        "switches": {"kernel": jnp.asarray(rng.normal(0, 9, (4, 2)), jnp.float32), "bias": jnp.zeros(2)},
    }

    def total(params, arguments, keys):
        found = pointer.apply(
            {"params": params}, **arguments, written=np.array([[4, 5]]), source=source | {"keys": keys}, mask=mask
        )
        return found.sum(), found

    gradients, found = jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(params, arguments, keys)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((gradients, found)))
    np.testing.assert_allclose(np.exp(found).sum(-1), 1, rtol=1e-5)


def test_the_product_form_of_the_scatter_equals_the_additive_one():
    """The one is taken on a mesh, the other on a single CPU."""
    rng = np.random.default_rng(0)
    weights, tokens = rng.random((2, 3, 5)).astype(np.float32), rng.integers(0, 4, (2, 5))
    expected = np.zeros((2, 3, 6), np.float32)
    for row, place in np.ndindex(tokens.shape):
        expected[row, :, tokens[row, place]] += weights[row, :, place]
    mesh = Mesh(np.array(jax.devices()[:2]).reshape(1, 1, 2, 1), mesh_lib.AXES)

    @jax.jit
    def product(weights, tokens):
        with constraints_for(mesh):
            return copying.scatter_add(weights, tokens, 6)

    assert "scatter" in jax.jit(copying.scatter_add, static_argnums=2).lower(weights, tokens, 6).as_text()
    assert "scatter" not in product.lower(weights, tokens).as_text()
    np.testing.assert_allclose(copying.scatter_add(weights, tokens, 6), expected, rtol=1e-6)
    np.testing.assert_allclose(product(weights, tokens), expected, rtol=1e-6)


def test_repeated_tokens_are_those_of_one_example():
    tokens, segments = np.array([[5, 6, 5, 6, 7, 7, 0, 0]]), np.array([[1, 1, 1, 2, 2, 2, 0, 0]])
    assert copying.repeated(tokens, segments)[0, :6].tolist() == [True, False, True, False, True, True]


def test_the_encoder_is_told_of_repeated_tokens():
    model, variables = build()
    arrays = list(batch())
    arrays[0] = np.array([[4, 5, 6, 4, 7, 8, 9, 10]] * 2) * arrays[1]
    without = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 0 * leaf if path_name(path).endswith("/repeated") else leaf, variables
    )
    one, other = (compiled(model, "encode")(each, *arrays[:3]) for each in (variables, without))
    assert np.abs(one - other)[0].max(-1).min() > 1e-3  # all positions see the one that is told of
    arrays[0][:, 3] = 3
    one, other = (compiled(model, "encode")(each, *arrays[:3]) for each in (variables, without))
    np.testing.assert_array_equal(one[0], other[0])


# ---- Packing and decoding.


@pytest.mark.parametrize("kind", KINDS)
def test_packed_examples_have_the_probabilities_of_single_ones(kind):
    model, variables = build(**KINDS[kind])
    lengths = ((3, 2), (4, 3))
    together = packed(lengths, np.random.default_rng(2))
    found = compiled(model)(variables, *together)
    for number, (source, target) in enumerate(lengths, 1):
        alone = []
        for at, length in ((0, source), (3, target)):
            tokens = together[at][together[at + 1] == number][None]
            pad = lambda row, size=together[at].shape[1]: np.pad(row, ((0, 0), (0, size - row.shape[1])))
            alone += [pad(tokens), pad(np.ones_like(tokens)), pad(rows(length, 1))]
        close(found[together[4] == number], compiled(model)(variables, *alone)[alone[4] == 1])


@pytest.mark.parametrize("beams", [3, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", ["t5", pytest.param("vaswani", marks=pytest.mark.long), "unrolled"])
def test_cached_decoding_equals_the_whole(kind, beams):
    model, variables = build(**KINDS[kind])
    arrays = list(batch())
    arrays[3] = np.where(arrays[4] > 0, arrays[0][:, 1 : 1 + TARGET], 0)  # so that what is written can be followed
    cache = start(model, variables, arrays, 9, beams)
    assert cache["pointer"]["keys"].shape == (2, SOURCE, 16)  # once an example, not once a beam
    expected = compiled(model)(variables, *arrays)
    step = compiled(model, "decode_step")
    for position in range(TARGET):
        logits, cache = step(variables, np.repeat(arrays[3][:, position], beams), position, cache)
        for row in np.flatnonzero(arrays[4][:, position]):
            close(logits[row * beams : (row + 1) * beams], np.repeat(expected[None, row, position], beams, 0))


@pytest.mark.parametrize("decoder", ["beam", "greedy", "sample"])
def test_scores_of_answers_are_those_of_the_whole_model(decoder):
    model, variables = build()
    source, segments, positions, *_ = batch()
    bos, eos, length = 3, -1, 5
    beams = 3 if decoder == "beam" else 1

    def search(variables):
        encoded = model.apply(variables, source, segments, positions, method="encode")
        cache = model.apply(variables, encoded, segments, length, beams, source, method="init_cache")
        step = functools.partial(model.apply, variables, method="decode_step")
        arguments = step, cache, 2, length, bos, eos
        if decoder == "beam":
            tokens, scores = decoding.beam_search(*arguments, beam_size=beams, length_penalty=0.0)
            return tokens[:, 0], scores[:, 0]
        if decoder == "greedy":
            return decoding.greedy(*arguments)
        return decoding.sample(*arguments, rng=jax.random.key(0))

    tokens, scores = map(np.asarray, jit(search)(variables))
    shifted = np.concatenate([np.full((2, 1), bos), tokens[:, :-1]], 1)
    logits = compiled(model)(variables, source, segments, positions, shifted, np.ones_like(shifted), rows(length))
    close(scores, np.take_along_axis(np.asarray(logits), tokens[..., None], 2)[..., 0].sum(1))


# ---- The option.


def test_without_it_nothing_changes_and_with_it_only_the_pointer_is_new():
    small = functools.partial(seq2seq.Seq2Seq.of, **test_seq2seq.SMALL, vocab_size=VOCAB)
    plain, copies = (small(copy_mechanism=copying) for copying in (False, True))
    without, with_it = (jit(model.init)(jax.random.key(0), *batch())["params"] for model in (plain, copies))
    pointer, repeated = with_it.pop("pointer"), with_it.pop("repeated")
    assert repeated.shape == (16,)
    jax.tree.map(np.testing.assert_array_equal, with_it, without)
    assert {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(pointer)} == {
        "query/kernel": (16, 16), "key/kernel": (16, 16), "next_key/kernel": (16, 16), "switches/kernel": (16, 2),
        "switches/bias": (2,),
    }  # fmt: skip


def test_every_leaf_has_one_name_for_each_axis():
    model, variables = build()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        assert len(logical_axes(path_name(path), model.logical_axes)) == leaf.ndim, path_name(path)


def test_hidden_tokens_can_be_copied():
    """The encoder reads `source`, and what is copied is `copied`."""
    model, variables = build()
    arrays, other = batch(), batch(1)[0]
    encoded = compiled(model, "encode")(variables, *arrays[:3])
    decode = compiled(model, "decode", (6,))
    expected = decode(variables, encoded, arrays[1], *arrays[3:], False, other)
    found = jit(functools.partial(model.apply, copied=other))(variables, *arrays)
    close(found, expected)
    assert np.abs(found - compiled(model)(variables, *arrays)).max() > 0.1


def test_sentences_are_refused():
    with pytest.raises(ValueError, match=r"^copy_mechanism=True needs a source of tokens"):
        seq2seq.Seq2Seq(seq2seq.Seq2SeqSpec(copy_mechanism=True), VOCAB, sentence_length=3)


def test_t5_cannot_have_a_copy_mechanism():
    with pytest.raises(ValueError, match=r"copy_mechanism=True cannot be exported: T5 supports only False"):
        t5.config(seq2seq.Seq2Seq(seq2seq.Seq2SeqSpec(copy_mechanism=True), VOCAB))


# ---- What it is for.

WORDS, SEEN, LENGTH = 60, 30, 6  # tokens from SEEN on are in no example of training


@functools.cache
def copied_share(copying):
    """How many of the unseen tokens a model names that has learnt to write what stands behind a mark, in order."""
    mark, steps, count = 4, 60, 64
    spec = seq2seq.Seq2SeqSpec(
        width=32, encoder_depth=1, decoder_depth=1, num_heads=2, kv_dim=16, mlp_dim=64, copy_mechanism=copying,
        encoder_positions="sinusoidal", decoder_positions="sinusoidal", embedding_scale=True,
    )  # fmt: skip
    model = seq2seq.Seq2Seq(spec, WORDS)

    def example(key, low, high):
        """Others, the mark, and two tokens, which are the target: all of `low` to `high`."""
        at, other, wanted = jax.random.split(key, 3)
        source = jax.random.randint(other, (count, LENGTH), low, high)
        positions = jax.random.randint(at, (count, 1), 0, LENGTH - 2) + jnp.arange(3)
        target = jax.random.randint(wanted, (count, 2), low, high)
        source = jax.vmap(lambda row, at, new: row.at[at].set(new))(
            source, positions, jnp.concatenate([jnp.full((count, 1), mark), target], 1)
        )
        ones = lambda x: (jnp.ones_like(x), jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape))
        before = jnp.concatenate([jnp.full((count, 1), 3), target[:, :1]], 1)
        return (source, *ones(source), before, *ones(before)), target

    optimizer = optax.adam(5e-3)

    @jax.jit
    def train(params):
        def step(state, key):
            params, moments = state
            arrays, target = example(key, 5, SEEN)
            loss = lambda params: optax.softmax_cross_entropy_with_integer_labels(
                model.apply({"params": params}, *arrays), target
            ).mean()
            value, gradient = jax.value_and_grad(loss)(params)
            updates, moments = optimizer.update(gradient, moments)
            return (optax.apply_updates(params, updates), moments), value

        keys = jax.random.split(jax.random.key(1), steps)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)

    arrays, target = example(jax.random.key(2), SEEN, WORDS)
    params = jax.jit(model.init)(jax.random.key(0), *arrays)["params"]
    (params, _), losses = train(params)
    found = jax.jit(model.apply)({"params": params}, *arrays).argmax(-1)
    return float((found == target).mean()), losses


@pytest.mark.long
@pytest.mark.parametrize("copying", [True, False])
def test_tokens_that_were_never_seen_can_be_named_by_copying_alone(copying):
    share, losses = copied_share(copying)
    assert np.isfinite(losses).all()
    assert share > 0.9 if copying else share < 0.2
