"""Greedy decoding, sampling and beam search for any model that computes logits step by step.

All are pure functions with static shapes, to be called inside jit, of

    step(tokens [rows], position, cache) -> (logits [rows, vocab], cache)

which takes the `tokens` at `position` (a scalar from 0) and returns the logits of the next tokens. A cache is a dict.
Arrays [rows, ...] under its key `hypotheses` are reordered with the beams; everything else is passed on unchanged. The
rows of a beam search are batch * beam_size, with the beams of an example adjacent.

Tokens are int32; padding after `eos` is 0. A score is the sum of the log-probabilities of the tokens, `eos` included.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.models.shapes import AnyArray, Size
from research.parallel.sharding import constrain

Cache = dict[str, Any]
Step = Callable[[jax.Array, jax.Array, Cache], tuple[jax.Array, Cache]]
Result = tuple[Int[Array, "batch max_length"], Float[Array, " batch"]]  # tokens and scores


def greedy(step: Step, cache: Cache, batch_size: Size, max_length: int, bos: int, eos: int) -> Result:
    """The most likely token at every position: tokens [batch, max_length] and scores [batch]."""
    return _decode(step, cache, batch_size, max_length, bos, eos, lambda logits, _: _argmax(logits))


def sample(
    step: Step,
    cache: Cache,
    batch_size: Size,
    max_length: int,
    bos: int,
    eos: int,
    *,
    rng: jax.Array,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Result:
    """Samples from the filtered softmax(logits / temperature); returns tokens and scores as `greedy`.

    Temperature 0 is `greedy`. Scores are log-probabilities of the unmodified model, without temperature and filters.
    Raises ValueError for invalid settings.
    """
    _check(max_length >= 1, "max_length", max_length, "at least 1")
    _check(temperature >= 0, "temperature", temperature, "at least 0")
    if temperature == 0:
        return greedy(step, cache, batch_size, max_length, bos, eos)

    def choose(logits, position):
        logits = filter_logits(logits / temperature, top_k, top_p)
        return jax.random.categorical(jax.random.fold_in(rng, position), logits)

    return _decode(step, cache, batch_size, max_length, bos, eos, choose)


def filter_logits(
    logits: Float[AnyArray, "rows vocab"], top_k: int = 0, top_p: float = 1.0
) -> Float[AnyArray, "rows vocab"]:
    """Logits [rows, vocab] with -inf for excluded tokens.

    `top_k` keeps the k most likely (0: all); of these, `top_p` keeps the smallest set whose probability reaches it
    (nucleus sampling, Holtzman et al., 2020). Ties with the last kept token are kept as well.
    """
    _check(top_k >= 0, "top_k", top_k, "0, which is off, or more")
    _check(0 < top_p <= 1, "top_p", top_p, "more than 0 and at most 1, which is off")
    if 0 < top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, top_k)[0][..., -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if top_p < 1:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        shares = jax.nn.softmax(ordered)
        before = jnp.cumsum(shares, axis=-1) - shares
        least = jnp.where(before < top_p, ordered, jnp.inf).min(-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits


def normaliser(length: Any, length_penalty: float) -> Any:
    """((5 + length) / 6) ** length_penalty (Wu et al., 2016), by which beam search divides a score."""
    return ((5 + length) / 6) ** length_penalty


def beam_search(
    step: Step,
    cache: Cache,
    batch_size: Size,
    max_length: int,
    bos: int,
    eos: int,
    *,
    beam_size: int = 4,
    length_penalty: float = 0.6,
    early_stopping: bool = False,
    num_return: int = 1,
) -> tuple[Int[Array, "batch num_return max_length"], Float[Array, "batch num_return"]]:
    """The best hypotheses first: tokens [batch, num_return, max_length] and scores [batch, num_return].

    A hypothesis ends with `eos` or is cut off at `max_length`. Its score is divided by `normaliser` of its length. An
    example is done when no live beam can exceed its `num_return` best finished hypotheses or, with `early_stopping`,
    when `beam_size` are finished; it does not change afterwards, so its result does not depend on the rest of the
    batch. If there are fewer hypotheses, tokens are 0 and scores -inf.
    Raises ValueError for a size below 1, or `num_return` above `beam_size`.
    """
    _check(max_length >= 1, "max_length", max_length, "at least 1")
    _check(beam_size >= 1, "beam_size", beam_size, "at least 1")
    _check(1 <= num_return <= beam_size, "num_return", num_return, f"1 to beam_size={beam_size}")
    penalty = lambda length: normaliser(jnp.float32(length), length_penalty)

    def body(state):
        logits, cache = step(state["last"].reshape(-1), state["position"], state["cache"])
        scores, parents, tokens = _candidates(logits, state["scores"])
        sequences = _append(_gather(state["tokens"], parents), tokens[..., None], state["position"])
        ends, length = tokens == eos, state["position"] + 1
        ended = _keep_best(state, sequences, jnp.where(ends, scores / penalty(length), -jnp.inf))
        live, kept = jax.lax.top_k(jnp.where(ends, -jnp.inf, scores), beam_size)
        parents = _gather(parents, kept)
        # An upper bound: scores only decrease, and this is the largest normaliser.
        best = live[:, 0] / penalty(max_length if length_penalty > 0 else jnp.minimum(length + 1, max_length))
        done = state["done"] | (ended["ended_scores"][:, num_return - 1] >= best)
        if early_stopping:
            done |= ended["ended_scores"][:, -1] > -jnp.inf
        return ended | {
            "position": length,
            "cache": cache | {"hypotheses": jax.tree.map(lambda x: _reorder(x, parents), cache["hypotheses"])},
            "tokens": _gather(sequences, kept),
            "last": _gather(tokens, kept),
            "scores": live,
            "done": done,
        }

    shape = (batch_size, beam_size)
    empty = constrain(jnp.zeros((*shape, max_length), jnp.int32), ("batch", None, None))
    none = jnp.full(shape, -jnp.inf, jnp.float32)
    state = {
        "position": jnp.zeros((), jnp.int32),
        "cache": cache,
        "tokens": empty,
        "last": jnp.full(shape, bos, jnp.int32),
        "scores": none.at[:, 0].set(0),  # only the first beam is live initially, since all are equal
        "ended_tokens": empty,
        "ended_scores": none,
        "done": jnp.zeros(batch_size, bool),
    }
    running = lambda state: (state["position"] < max_length) & ~state["done"].all()
    state = jax.lax.while_loop(running, body, state)
    cut_off = _keep_best(state, state["tokens"], state["scores"] / penalty(max_length))
    return cut_off["ended_tokens"][:, :num_return], cut_off["ended_scores"][:, :num_return]


def ctc_greedy(
    logits: Float[AnyArray, "batch length vocab"],
    mask: Bool[AnyArray, "batch length"],
    max_length: int,
    blank: int = 0,
) -> Result:
    """Greedy CTC decoding of `logits` [batch, length, vocab]: tokens [batch, max_length] and scores [batch].

    The best path is collapsed: repeats are merged, then blanks removed (Graves et al., 2006); padded with 0. Positions
    where `mask` [batch, length] is false are ignored. The score is the sum of the log-probabilities of tokens at their
    first position; without tokens, the log-probability that all positions are blank (-inf for an empty input).
    """
    _check(max_length >= 1, "max_length", max_length, "at least 1")
    logits = logits.astype(jnp.float32)
    path = jnp.where(mask, _argmax(logits).astype(jnp.int32), blank)
    before = jnp.pad(path, ((0, 0), (1, 0)), constant_values=blank)[:, :-1]
    kept = (path != blank) & (path != before)
    # The position of each kept token is the number of tokens kept before it; -1 for the others.
    target = jnp.where(kept, jnp.cumsum(kept, axis=1) - 1, -1)
    here = target[:, None] == jnp.arange(max_length)[:, None]
    tokens = jnp.where(here, path[:, None], 0).sum(-1)
    best = logits.max(-1) - jax.nn.logsumexp(logits, axis=-1)
    spoken = jnp.where(kept & (target < max_length), best, 0).sum(-1)
    silent = jnp.where(mask.any(1), jnp.where(mask, best, 0).sum(-1), -jnp.inf)
    return tokens, jnp.where(kept.any(1), spoken, silent)


def _candidates(logits: jax.Array, scores: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The scores, beams and tokens [batch, 2 * beams] of the best continuations, at most half of which end in EOS."""
    batch, beams = scores.shape
    vocab = logits.shape[-1]
    count = min(2 * beams, vocab)
    # First within each beam, so that fewer log-probabilities are needed, and then among the beams.
    logits = logits.astype(scores.dtype)
    best, tokens = jax.lax.top_k(logits, count)
    best -= jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    scores = (scores[..., None] + best.reshape(batch, beams, count)).reshape(batch, -1)
    scores, index = jax.lax.top_k(scores, min(2 * beams, beams * count))
    return scores, index // count, jnp.take_along_axis(tokens.reshape(batch, -1), index, axis=1)


def _keep_best(state: dict, tokens: jax.Array, scores: jax.Array) -> dict:
    """The best of the finished and the new hypotheses, sorted, for the examples that are not done."""
    old_tokens, old_scores = state["ended_tokens"], state["ended_scores"]
    scores = jnp.where(state["done"][:, None], -jnp.inf, scores)
    # The old ones come first, so that a new one with score -inf does not replace an empty one.
    scores, index = jax.lax.top_k(jnp.concatenate([old_scores, scores], axis=1), old_scores.shape[1])
    return {"ended_tokens": _gather(jnp.concatenate([old_tokens, tokens], axis=1), index), "ended_scores": scores}


def _gather(x: jax.Array, index: jax.Array) -> jax.Array:
    """x [batch, n, ...] at index [batch, m]: [batch, m, ...]."""
    return jnp.take_along_axis(x, index.reshape(*index.shape, *[1] * (x.ndim - 2)), axis=1)


def _reorder(rows: jax.Array, parents: jax.Array) -> jax.Array:
    """Reorders the rows [batch * beams, ...] of a cache by the parents [batch, beams] of the beams."""
    return _gather(rows.reshape(*parents.shape, *rows.shape[1:]), parents).reshape(rows.shape)


def _decode(
    step: Step, cache: Cache, batch_size: Size, max_length: int, bos: int, eos: int, choose: Callable
) -> Result:
    """Decodes one hypothesis per example, with tokens chosen by `choose(logits, position)`."""
    _check(max_length >= 1, "max_length", max_length, "at least 1")

    def body(state):
        position, cache, tokens, last, scores, done = state
        logits, cache = step(last, position, cache)
        logits = logits.astype(jnp.float32)
        token = choose(logits, position).astype(jnp.int32)
        score = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0] - jax.nn.logsumexp(logits, axis=-1)
        token, score = jnp.where(done, 0, token), jnp.where(done, 0, score)
        tokens = _append(tokens, token[:, None], position)
        return position + 1, cache, tokens, token, scores + score, done | (token == eos)

    tokens = constrain(jnp.zeros((batch_size, max_length), jnp.int32), ("batch", None))
    last, scores = jnp.full(batch_size, bos, jnp.int32), jnp.zeros(batch_size, jnp.float32)
    state = (jnp.zeros((), jnp.int32), cache, tokens, last, scores, jnp.zeros(batch_size, bool))
    running = lambda state: (state[0] < max_length) & ~state[-1].all()
    _, _, tokens, _, scores, _ = jax.lax.while_loop(running, body, state)
    return tokens, scores


def _argmax(logits: AnyArray) -> jax.Array:
    """As `jnp.argmax` over the last axis, which takes three times as long on a CPU."""
    return jax.lax.top_k(logits, 1)[1][..., 0]


def _append(sequences: jax.Array, token: jax.Array, position: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(sequences, token, position, axis=-1)


def _check(right: bool, name: str, value: Any, allowed: str) -> None:
    if not right:
        raise ValueError(f"decoding: {name}={value} must be {allowed}")
