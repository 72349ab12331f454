"""How Whisper writes (Radford et al., 2022): after a prompt, with suppressed tokens, with or without timestamps.

A pure function of static shapes over a `step` as in decoding.py. The rules are those of OpenAI's decoding.py and of
transformers: token for token the same, where two logits do not lie closer than rounding.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from research.models.decoding import Cache, Step
from research.models.shapes import AnyArray


@dataclasses.dataclass(frozen=True)
class Rules:
    """Which tokens may be written.

    Attributes:
        eos: The end of a transcript; tokens below it are text.
        no_timestamps: The token after which the timestamps are numbered: 0.00, 0.02, ... seconds.
        timestamps: Whether timestamps are written.
        suppress: Tokens that are never written.
        suppress_first: Tokens that are not written first.
        max_initial: The highest first timestamp, counted from 0.00; None: any.
    """

    eos: int
    no_timestamps: int
    timestamps: bool = False
    suppress: tuple[int, ...] = ()
    suppress_first: tuple[int, ...] = ()
    max_initial: int | None = 50

    @property
    def first_timestamp(self) -> int:
        """The token of 0.00."""
        return self.no_timestamps + 1

    def __call__(self, logits: Float[AnyArray, "rows vocab"], written: "Written") -> Float[Array, "rows vocab"]:
        """Logits with -inf for tokens that may not follow what is written."""
        token = jnp.arange(logits.shape[-1])
        never = _is_one_of(token, self.suppress)
        first = _is_one_of(token, self.suppress_first)
        logits = jnp.where(never | (first & written.is_first), -jnp.inf, logits)
        return self._timed(logits, token, written) if self.timestamps else logits

    def _timed(self, logits: jax.Array, token: jax.Array, written: "Written") -> jax.Array:
        """Timestamps come in pairs, or one before the end, and do not fall; the first token is one."""
        is_time, begin = token >= self.first_timestamp, self.first_timestamp
        last, before = written.last_is_time[:, None], written.before_is_time[:, None]
        refused = (token == self.no_timestamps) | (last & before & is_time) | (last & ~before & (token < self.eos))
        # The end of a pair may repeat its begin; else a timestamp is later than the one before.
        least = jnp.where(written.time < 0, begin, written.time + jnp.where(last[:, 0] & ~before[:, 0], 0, 1))
        refused |= is_time & (token < least[:, None])
        limit = len(token) if self.max_initial is None else begin + self.max_initial
        refused |= written.is_first & (~is_time | (token > limit))
        logits = jnp.where(refused, -jnp.inf, logits)
        # A timestamp is written where all of them together are more likely than any other token.
        shares = jax.nn.log_softmax(logits, axis=-1)
        times = jax.nn.logsumexp(jnp.where(is_time, shares, -jnp.inf), axis=-1)
        others = jnp.where(is_time, -jnp.inf, shares).max(-1)
        return jnp.where((times > others)[:, None] & ~is_time, -jnp.inf, logits)


class Written(NamedTuple):
    """What the rules need to know of the tokens that were written so far, without the prompt.

    is_first          bool: whether there is none
    last_is_time      bool [rows]: whether the last one is a timestamp; false where there is none
    before_is_time    bool [rows]: whether the one before it is; true where there is none
    time              int32 [rows]: the last timestamp; -1 where there is none
    """

    is_first: Bool[AnyArray, ""]
    last_is_time: Bool[AnyArray, " rows"]
    before_is_time: Bool[AnyArray, " rows"]
    time: Int[AnyArray, " rows"]


class Decoded(NamedTuple):
    """A transcript of each row.

    tokens            int32 [rows, length]: the prompt, what was written, and EOS up to the end
    ends              int32 [rows]: how many of the tokens are prompt or were written, with one EOS
    log_probability   float32 [rows]: the sum of the log-probabilities of what was written, with EOS
    no_speech         float32 [rows]: the probability of the token that says that nothing is said
    """

    tokens: Int[Array, "rows length"]
    ends: Int[Array, " rows"]
    log_probability: Float[Array, " rows"]
    no_speech: Float[Array, " rows"]


def transcribe(
    step: Step,
    cache: Cache,
    prompt: Int[AnyArray, "rows length"],
    count: Int[AnyArray, ""],
    start: Int[AnyArray, ""],
    rules: Rules,
    no_speech: int,
    temperature: Float[AnyArray, ""],
    rng: jax.Array,
) -> Decoded:
    """Continues a prompt up to EOS, or to the length of the cache.

    Args:
        step: As in decoding.py.
        cache: That of the encoded sounds, for `length` tokens.
        prompt: In its first `count` columns, the tokens that are read first; the others are not looked at.
        count: The tokens of the prompt.
        start: The index of <|startoftranscript|> in it, where `no_speech` is looked up.
        rules: What may be written.
        no_speech: The token that says that nothing is said.
        temperature: 0: the most likely token is written; above, one is drawn.
        rng: For the draws.
    """
    rows, length = prompt.shape

    def body(state):
        position, cache, tokens, written, done, total, ends, silent = state
        last = jax.lax.dynamic_index_in_dim(tokens, position, axis=1, keepdims=False)
        logits, cache = step(last, position, cache)
        logits = logits.astype(jnp.float32)
        silent = jnp.where(position == start, jax.nn.softmax(logits)[:, no_speech], silent)
        allowed = rules(logits, written)
        drawn = jax.random.categorical(jax.random.fold_in(rng, position), allowed / jnp.maximum(temperature, 1e-6))
        token = jnp.where(temperature > 0, drawn, allowed.argmax(-1)).astype(jnp.int32)
        token = jnp.where(done, rules.eos, token)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(allowed), token[:, None], axis=-1)[:, 0]
        writes = position + 1 >= count
        total += jnp.where(writes & ~done, chosen, 0)
        ends += writes & ~done
        given = jax.lax.dynamic_index_in_dim(tokens, position + 1, axis=1, keepdims=False)
        token = jnp.where(writes, token, given)
        tokens = jax.lax.dynamic_update_slice_in_dim(tokens, token[:, None], position + 1, axis=1)
        is_time = token >= rules.first_timestamp
        following = Written(
            jnp.zeros((), bool),
            is_time,
            jnp.where(written.is_first, True, written.last_is_time),
            jnp.where(is_time, token, written.time),
        )
        written = jax.tree.map(lambda new, old: jnp.where(writes, new, old), following, written)
        return position + 1, cache, tokens, written, done | (writes & (token == rules.eos)), total, ends, silent

    no, zeros = jnp.zeros(rows, bool), jnp.zeros(rows, jnp.float32)
    nothing = Written(jnp.ones((), bool), no, ~no, jnp.full(rows, -1, jnp.int32))
    tokens = jnp.where(jnp.arange(length) < count, prompt, rules.eos).astype(jnp.int32)
    ends = jnp.full(rows, count, jnp.int32)
    state = (jnp.zeros((), jnp.int32), cache, tokens, nothing, no, zeros, ends, zeros)
    running = lambda state: (state[0] + 1 < length) & ~state[4].all()
    _, _, tokens, _, _, total, ends, silent = jax.lax.while_loop(running, body, state)
    return Decoded(tokens, ends, total, silent)


def _is_one_of(token: jax.Array, tokens: tuple[int, ...]) -> jax.Array:
    return jnp.isin(token, jnp.array(tokens, jnp.int32)) if tokens else jnp.zeros(token.shape, bool)
