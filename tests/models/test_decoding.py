"""Decoding against a search over all sequences, a beam search in plain Python, and exact distributions.

The model is a table of random logits for every prefix, so nothing is right by accident: a hypothesis that loses its
cache when beams are reordered reads the logits of another prefix.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models import decoding

VOCAB, LENGTH, BOS, EOS = 4, 4, 3, 1
BATCH = 3
NODES = sum(VOCAB**depth for depth in range(LENGTH))


def make_table(seed, spread=2.0):
    """Logits [batch, prefix, vocab] of a few examples; a prefix is numbered by its tokens in base `VOCAB`."""
    return np.random.default_rng(seed).normal(0, spread, (BATCH, NODES, VOCAB)).astype(np.float32)


def step(tokens, position, cache):
    """Logits of the rows' prefixes, whose numbers are what the cache holds of each hypothesis."""
    node = jnp.where(position == 0, 0, cache["hypotheses"]["node"] * VOCAB + tokens + 1)
    return cache["table"][cache["example"], node], cache | {"hypotheses": {"node": node}}


def make_cache(table, rows):
    """The first cache of `step` for so many rows of each example."""
    node = jnp.zeros(BATCH * rows, jnp.int32)
    return {"hypotheses": {"node": node}, "example": jnp.repeat(jnp.arange(BATCH), rows), "table": jnp.asarray(table)}


def log_probabilities(table):
    table = table.astype(np.float64)
    return table - np.log(np.exp(table).sum(-1, keepdims=True))


def score(logp, tokens):
    """The log-probability of a sequence under one example's table."""
    total, node = 0.0, 0
    for token in tokens:
        total += logp[node, token]
        node = node * VOCAB + token + 1
    return total


def penalty(length, alpha):
    return ((5 + length) / 6) ** alpha


def brute_force(logp, alpha):
    """All sequences that end with EOS or are cut off, the best first: (score, tokens)."""
    found = []
    for length in range(1, LENGTH + 1):
        for tokens in itertools.product(range(VOCAB), repeat=length):
            if EOS not in tokens[:-1] and (tokens[-1] == EOS or length == LENGTH):
                found.append((score(logp, tokens) / penalty(length, alpha), tokens))
    return sorted(found, reverse=True)


def plain_beam_search(logp, beams, alpha, early_stopping):
    """As `decoding.beam_search` says, but over lists, and without stopping because nothing can improve."""
    live, ended = [(0.0, ())], []
    for length in range(1, LENGTH + 1):
        grown = [(score(logp, (*tokens, t)), (*tokens, t)) for _, tokens in live for t in range(VOCAB)]
        grown = sorted(grown, reverse=True)[: 2 * beams]
        ended += [(s / penalty(length, alpha), tokens) for s, tokens in grown if tokens[-1] == EOS]
        live = [one for one in grown if one[1][-1] != EOS][:beams]
        if early_stopping and len(ended) >= beams:
            return sorted(ended, reverse=True)
    return sorted(ended + [(s / penalty(LENGTH, alpha), tokens) for s, tokens in live], reverse=True)


@functools.cache
def compiled(function, **settings):
    return jax.jit(lambda cache, **rest: function(step, cache, BATCH, LENGTH, BOS, EOS, **settings, **rest))


def run(function, table, rows=1, rest=None, **settings):
    tokens, scores = compiled(function, **settings)(make_cache(table, rows), **(rest or {}))
    assert tokens.dtype == jnp.int32 and scores.dtype == jnp.float32
    return np.asarray(tokens), np.asarray(scores)


def padded(tokens):
    return [*tokens, *[0] * (LENGTH - len(tokens))]


def assert_found(found, tokens, scores):
    """The first of the (score, tokens) `found` are what was returned."""
    np.testing.assert_array_equal(tokens, [padded(tokens) for _, tokens in found[: len(tokens)]])
    np.testing.assert_allclose(scores, [score for score, _ in found[: len(scores)]], rtol=1e-5, atol=1e-5)


# ---- Beam search.


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0, -1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_beam_that_holds_all_prefixes_finds_the_best_of_all_sequences(seed, alpha):
    table = make_table(seed)
    beams = VOCAB ** (LENGTH - 1)
    tokens, scores = run(decoding.beam_search, table, beams, beam_size=beams, length_penalty=alpha, num_return=10)
    for example in range(BATCH):
        assert_found(brute_force(log_probabilities(table[example]), alpha), tokens[example], scores[example])


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize(("beams", "count", "alpha"), [(1, 1, 0.6), (2, 1, 0.6), (3, 3, 1.0), (4, 2, 0.0)])
def test_a_narrow_beam_equals_one_in_plain_python(beams, count, alpha, early_stopping):
    """Where it stops because nothing can improve, it loses nothing: the plain one goes on to the end."""
    differ = 0
    for seed in range(10):
        table = make_table(seed, spread=1.0)
        tokens, scores = run(
            decoding.beam_search, table, beams, beam_size=beams, length_penalty=alpha, num_return=count,
            early_stopping=early_stopping,
        )  # fmt: skip
        for example in range(BATCH):
            logp = log_probabilities(table[example])
            expected = plain_beam_search(logp, beams, alpha, early_stopping)
            assert_found(expected, tokens[example], scores[example])
            differ += expected[0] != brute_force(logp, alpha)[0]
    assert beams > 1 or differ > 0  # else the beam was not narrow


def test_it_does_not_depend_on_the_rest_of_the_batch():
    """An example that is done no longer changes, although the others go on."""
    table = make_table(3, spread=1.0)
    settings = {"beam_size": 2, "early_stopping": True, "num_return": 2}
    together = run(decoding.beam_search, table, 2, **settings)
    for example in range(BATCH):
        alone = run(decoding.beam_search, np.repeat(table[example : example + 1], BATCH, 0), 2, **settings)
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one[0], other[example])


def count_steps(function, table, rows, **settings):
    seen = []

    def counted(tokens, position, cache):
        jax.debug.callback(lambda position: seen.append(int(position)), position)
        return step(tokens, position, cache)

    jax.block_until_ready(function(counted, make_cache(table, rows), BATCH, LENGTH, BOS, EOS, **settings))
    jax.effects_barrier()
    return len(seen)


def test_it_stops_when_all_are_done():
    table = np.zeros((BATCH, NODES, VOCAB), np.float32)
    assert count_steps(decoding.greedy, table, 1) == LENGTH  # token 0 is the first of the most likely
    table[..., EOS] = 20
    assert count_steps(decoding.greedy, table, 1) == 1
    assert count_steps(decoding.beam_search, table, 2, beam_size=2, num_return=1) == 1
    assert count_steps(decoding.beam_search, table, 2, beam_size=2, num_return=2) == 2
    table[1, :, EOS] = -20
    assert count_steps(decoding.beam_search, table, 2, beam_size=2) == LENGTH
    table[1, :, EOS] = 0  # two hypotheses end soon, but a longer one would gain much by the penalty
    assert count_steps(decoding.beam_search, table, 2, beam_size=2, length_penalty=3.0) == LENGTH
    assert count_steps(decoding.beam_search, table, 2, beam_size=2, length_penalty=3.0, early_stopping=True) < LENGTH


def test_hypotheses_that_do_not_exist_are_empty():
    table = np.full((BATCH, NODES, VOCAB), -np.inf, np.float32)
    table[..., EOS] = 0
    tokens, scores = run(decoding.beam_search, table, 3, beam_size=3, num_return=3)
    np.testing.assert_array_equal(tokens[:, 0], [padded([EOS])] * BATCH)
    np.testing.assert_array_equal(scores, [[0, -np.inf, -np.inf]] * BATCH)
    assert not tokens[:, 1:].any()


# ---- Greedy.


def test_greedy_takes_the_most_likely_token_and_is_a_beam_of_one():
    table = make_table(4)
    table[0, 0, EOS], table[1, 0, EOS], table[1, 1 + np.arange(VOCAB), EOS] = 9, -9, 9
    tokens, scores = run(decoding.greedy, table)
    for example in range(BATCH):
        logp, prefix = log_probabilities(table[example]), []
        while len(prefix) < LENGTH and EOS not in prefix:
            node = 0
            for token in prefix:
                node = node * VOCAB + token + 1
            prefix.append(int(logp[node].argmax()))
        np.testing.assert_array_equal(tokens[example], padded(prefix))
        np.testing.assert_allclose(scores[example], score(logp, prefix), rtol=1e-5, atol=1e-6)
    assert (tokens[0, 0], tokens[1, 1]) == (EOS, EOS)
    # A beam of one goes on after an end only where something could be better, which without a penalty is nothing.
    beam = run(decoding.beam_search, table, beam_size=1, length_penalty=0.0)
    assert (tokens == beam[0][:, 0]).all(-1)[:2].all()
    np.testing.assert_allclose(scores[:2], beam[1][:2, 0], rtol=1e-6)


def test_greedy_is_a_beam_of_one_where_nothing_ends():
    table = make_table(5)
    table[..., EOS] = -1e9
    tokens, scores = run(decoding.greedy, table)
    beam_tokens, beam_scores = run(decoding.beam_search, table, beam_size=1, length_penalty=0.0)
    np.testing.assert_array_equal(tokens, beam_tokens[:, 0])
    np.testing.assert_allclose(scores, beam_scores[:, 0], rtol=1e-6)


# ---- Sampling.


def test_a_temperature_of_nearly_nothing_is_greedy():
    table = make_table(6)
    expected, rng = run(decoding.greedy, table), {"rng": jax.random.key(0)}
    for settings in ({"temperature": 0}, {"temperature": 1e-4}, {"top_k": 1}, {"top_p": 1e-6}):
        for one, other in zip(run(decoding.sample, table, rest=rng, **settings), expected, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=str(settings))


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (0, 1.0, {0, 1, 2, 3, 4}),
        (3, 1.0, {0, 1, 4}),
        (9, 1.0, {0, 1, 2, 3, 4}),
        (0, 0.39, {1}),
        (0, 0.41, {1, 4}),
        (0, 0.71, {0, 1, 4}),
        (2, 0.6, {1, 4}),  # 0.4 of the 0.7 that are left is less than 0.6, so the second is needed
        (2, 0.5, {1}),
    ],
)
def test_what_top_k_and_top_p_leave(top_k, top_p, kept):
    logits = jnp.log(jnp.array([[0.15, 0.4, 0.08, 0.07, 0.3]])) + 3
    left = decoding.filter_logits(logits, top_k, top_p)[0]
    assert set(np.flatnonzero(np.isfinite(left))) == kept
    np.testing.assert_array_equal(left[np.array(sorted(kept))], logits[0, np.array(sorted(kept))])


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.5}, {"top_k": 3, "temperature": 2.0}, {"top_p": 0.8}])
def test_draws_follow_their_distribution(settings):
    """Chi-square of two consecutive tokens, over 40,000 draws of one prefix tree; and nothing outside the support."""
    count, table = 40_000, make_table(7, spread=1.0)[0]
    table[:, EOS] = [-1e9]
    step = lambda tokens, position, cache: (
        jnp.asarray(table)[jnp.where(position == 0, 0, tokens + 1)],
        cache,
    )
    draw = lambda rng: decoding.sample(step, {"hypotheses": {}}, count, 2, BOS, EOS, rng=rng, **settings)
    tokens, scores = jax.jit(draw)(jax.random.key(1))
    observed = np.bincount(np.asarray(tokens) @ [VOCAB, 1], minlength=VOCAB**2)
    shares = lambda node: np.asarray(
        jax.nn.softmax(
            decoding.filter_logits(
                jnp.asarray(table[node : node + 1]) / settings.get("temperature", 1.0),
                settings.get("top_k", 0),
                settings.get("top_p", 1.0),
            )
        )[0],
        np.float64,
    )
    expected = count * np.concatenate([shares(0)[token] * shares(token + 1) for token in range(VOCAB)])
    assert not observed[expected < 1e-6].any()
    likely = expected > 1e-6
    chi_square = ((observed - expected)[likely] ** 2 / expected[likely]).sum()
    assert chi_square < likely.sum() + 4 * np.sqrt(2 * likely.sum())
    logp = log_probabilities(table)
    np.testing.assert_allclose(scores[:20], [score(logp, row) for row in np.asarray(tokens)[:20]], rtol=1e-4)


@pytest.mark.parametrize(
    ("function", "settings", "reason"),
    [
        (decoding.beam_search, {"beam_size": 0}, "beam_size=0 must be at least 1"),
        (decoding.beam_search, {"beam_size": 2, "num_return": 3}, "num_return=3 must be 1 to beam_size=2"),
        (decoding.sample, {"temperature": -1.0}, "temperature=-1.0 must be at least 0"),
        (decoding.sample, {"top_k": -1}, "top_k=-1 must be 0, which is off, or more"),
        (decoding.sample, {"top_p": 0.0}, "top_p=0.0 must be more than 0"),
    ],
)
def test_bad_settings_are_refused(function, settings, reason):
    rng = {"rng": jax.random.key(0)} if function is decoding.sample else {}
    with pytest.raises(ValueError, match=reason):
        run(function, make_table(0), rest=rng, **settings)


def test_a_length_of_nothing_is_refused():
    for function, extra in (
        (decoding.greedy, {}),
        (decoding.beam_search, {}),
        (decoding.sample, {"rng": jax.random.key(0)}),
    ):
        with pytest.raises(ValueError, match="max_length=0 must be at least 1"):
            function(step, make_cache(make_table(0), 1), BATCH, 0, BOS, EOS, **extra)
