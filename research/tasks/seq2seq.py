"""Text to text: teacher-forced cross-entropy with label smoothing and z-loss; decoding; scores of what is decoded."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from research import config as config_lib
from research.models import decoding
from research.models.layers import at_least_float32
from research.parallel.sharding import Table
from research.tasks import selecting, text_scores

Batch = dict[str, jax.Array]
Sums = dict[str, tuple[jax.Array, jax.Array]]

DECODERS = ("beam", "greedy", "sample")
_SIDES = ("source", "target")


@dataclasses.dataclass(frozen=True)
class Task:
    """Pure functions over an encoder-decoder such as `seq2seq.Seq2Seq`.

    A batch holds `index` int32 [batch] and `weight` float32 [batch], which is 0 for padding, and int32 [batch, length]
    `source`, `source_segments`, `source_positions` and the same of `target`, as `research/data/text.py` makes them
    (with `model.sentence_length`, `source` is [batch, length, sentence_length]). The decoder reads `target` one place
    later, with `bos` before each of the examples of a row.
    """

    DECODERS: ClassVar = DECODERS

    model: nn.Module
    source_length: int
    target_length: int
    bos: int
    eos: int
    unk: int
    label_smoothing: float = 0.0
    word_dropout: float = 0.0  # the share of the source's tokens that training replaces by `unk` (Iyyer et al., 2015)
    z_loss: float = 0.0  # times log(Z)^2 of each token, which keeps logits small (Shazeer et al., 2018)
    # How answers are found, see models/decoding.py; the last three are for "sample".
    decoder: str = "beam"
    max_decode_length: int = 128  # tokens, EOS included
    beam_size: int = 4
    length_penalty: float = 0.6
    early_stopping: bool = False
    num_return: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    metrics: tuple[str, ...] = ()  # of text_scores.METRICS
    select_by: str = "loss"  # what chooses among checkpoints: the least loss or the most of a score

    def __post_init__(self) -> None:
        """Raises ValueError for a setting that no batch could fix."""
        config_lib.choose(dict.fromkeys(self.DECODERS), self.decoder, "task.decoder")
        for metric in self.metrics:
            config_lib.choose(text_scores.METRICS, metric, "task.metrics")
        if not 1 <= self.num_return <= self._beams:
            most = f"beam_size={self.beam_size}" if self.decoder == "beam" else f"1 with decoder={self.decoder!r}"
            raise ValueError(f"config.task.num_return={self.num_return} must be at least 1 and at most {most}")
        for field in ("label_smoothing", "word_dropout"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"config.task.{field}={getattr(self, field)} must be at least 0 and less than 1")
        if self.z_loss < 0:
            raise ValueError(f"config.task.z_loss={self.z_loss} must be at least 0")
        if self.decoder not in DECODERS:  # one that has nothing to refuse
            return
        # What decoding refuses, it shall refuse now and not after training.
        step = lambda tokens, position, cache: (jnp.zeros((len(tokens), self.model.vocab_size)), cache)
        jax.eval_shape(lambda: self._search(step, {"hypotheses": {}}, 1, jax.random.key(0)))

    @property
    def logical_axes(self) -> Table:
        """From parameter path to logical axes."""
        return self.model.logical_axes

    @property
    def selection(self) -> tuple[str, str]:
        """What chooses among checkpoints: a metric of the evaluation, and whether more or less of it is better."""
        return self.select_by, selecting.mode(self.select_by)

    def example(self, batch_size: int) -> Mapping[str, jax.ShapeDtypeStruct]:
        """The shapes and dtypes of a batch, for compiling ahead of time."""
        vector = lambda dtype: jax.ShapeDtypeStruct((batch_size,), dtype)
        rows = {
            f"{side}{what}": jax.ShapeDtypeStruct((batch_size, getattr(self, f"{side}_length")), jnp.int32)
            for side in _SIDES
            for what in ("", "_segments", "_positions")
        }
        rows["source"] = self._source(batch_size)
        return {**rows, "index": vector(jnp.int32), "weight": vector(jnp.float32)}

    def _source(self, batch_size: int) -> jax.ShapeDtypeStruct:
        words = getattr(self.model, "sentence_length", 0)
        return jax.ShapeDtypeStruct((batch_size, self.source_length, *((words,) if words else ())), jnp.int32)

    def init(self, rng: jax.Array) -> dict[str, Any]:
        """Fresh variables: `params`."""
        zeros = {name: jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in self.example(1).items()}
        arrays = (zeros[f"{side}{what}"] for side in _SIDES for what in ("", "_segments", "_positions"))
        return self.model.init(rng, *arrays)

    def totals(self, batch: Batch) -> dict[str, jax.Array]:
        """The normaliser of the loss: the target tokens of the whole global batch."""
        return {"tokens": jnp.maximum(_token_weights(batch).sum(), 1)}

    def loss(self, variables, batch: Batch, totals, rng: jax.Array):
        """`(loss, ({}, sums))` of training; losses of microbatches and devices add up."""
        options = {}
        if self.word_dropout:
            # Drawn by a key of its own, apart from what layers make of `rng`.
            dropped = jax.random.bernoulli(jax.random.fold_in(rng, 1), self.word_dropout, batch["source"].shape)
            # What is hidden from the encoder can still be copied: from a place that its context tells of.
            options = {"copied": batch["source"]} if getattr(self.model, "copying", False) else {}
            # Padding stays: that between sentences is masked by nothing else.
            batch = batch | {"source": jnp.where(dropped & (batch["source"] > 0), self.unk, batch["source"])}
        logits = self._logits(variables, batch, train=True, rngs={"dropout": rng}, **options)
        loss, sums = self._cross_entropy(logits, batch, totals)
        return loss, ({}, sums)

    def _cross_entropy(self, logits: jax.Array, batch: Batch, totals) -> tuple[jax.Array, Sums]:
        """The loss of the decoder's logits, and the sums of what is measured."""
        plain, log_z, sums = self._measure(logits, batch)
        smooth = self.label_smoothing
        losses = (1 - smooth) * plain + smooth * (log_z - logits.mean(-1)) + self.z_loss * log_z**2
        return (losses * _token_weights(batch)).sum() / totals["tokens"], sums

    def evaluate(self, variables, batch: Batch) -> Sums:
        """Sums of plain cross-entropy and of likeliest tokens that are right, each with the number of target tokens."""
        return self._measure(self._logits(variables, batch), batch)[-1]

    def derived(self, means: Mapping[str, float]) -> dict[str, float]:
        """The perplexity a token of a whole split: exp(total loss / total tokens)."""
        with np.errstate(over="ignore"):  # infinite where a model knows nothing
            return {"perplexity": float(np.exp(means["loss"]))}

    def predict(self, variables, batch: Batch, rng: jax.Array) -> dict[str, jax.Array]:
        """`tokens` int32 [batch, num_return, max_decode_length], 0 after EOS, and `scores` [batch, num_return]."""
        # A row of padding would be decoded to the last position, so it takes the first row's source.
        real = lambda x: (batch["weight"] > 0).reshape(-1, *[1] * (x.ndim - 1))
        filled = lambda x: jnp.where(real(x), x, x[:1])
        source, segments, positions = (filled(batch[f"source{what}"]) for what in ("", "_segments", "_positions"))
        apply = lambda method, *args: self.model.apply(variables, *args, method=method)
        encoded = apply("encode", source, segments, positions)
        cache = apply("init_cache", encoded, segments, self.max_decode_length, self._beams, source)
        tokens, scores = self._search(lambda *args: apply("decode_step", *args), cache, len(source), rng)
        return {"tokens": tokens, "scores": scores}

    def scorer(self, data: Any, split: str) -> "Scorer | None":
        """What scores the answers to a split of `data` on the host; None without metrics."""
        return Scorer(self.metrics, data, split) if self.metrics else None

    @property
    def _beams(self) -> int:
        return self.beam_size if self.decoder == "beam" else 1

    def _search(self, step, cache, count: int, rng: jax.Array) -> decoding.Result:
        """Tokens [count, num_return, max_decode_length] and scores [count, num_return], the best first."""
        arguments = (step, cache, count, self.max_decode_length, self.bos, self.eos)
        if self.decoder == "beam":
            return decoding.beam_search(
                *arguments, beam_size=self.beam_size, length_penalty=self.length_penalty,
                early_stopping=self.early_stopping, num_return=self.num_return,
            )  # fmt: skip
        if self.decoder == "greedy":
            tokens, scores = decoding.greedy(*arguments)
        else:
            settings = {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}
            tokens, scores = decoding.sample(*arguments, rng=rng, **settings)
        return tokens[:, None], scores[:, None]

    def _logits(self, variables, batch: Batch, **options) -> jax.Array:
        target_in = shift_right(batch["target"], batch["target_positions"], self.bos)
        source, target = ((batch[f"{side}_segments"], batch[f"{side}_positions"]) for side in _SIDES)
        return self.model.apply(variables, batch["source"], *source, target_in, *target, **options)

    def _measure(self, logits: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array, Sums]:
        """Cross-entropy and log of the partition function of each target token, and the sums over them."""
        logits = logits.astype(at_least_float32(logits.dtype))
        # As a sum, since picking one entry would gather a vocabulary that is split over devices.
        chosen = jax.nn.one_hot(batch["target"], logits.shape[-1], dtype=bool)
        right = jnp.where(chosen, logits, 0).sum(-1)
        log_z = jax.nn.logsumexp(logits, axis=-1)
        weights = _token_weights(batch)
        tokens = weights.sum()
        best = (right >= logits.max(-1)) * weights  # an argmax takes several times as long on a CPU
        sums = {"loss": (((log_z - right) * weights).sum(), tokens), "token_accuracy": (best.sum(), tokens)}
        return log_z - right, log_z, sums


_GROUPED = ("accuracy_task_", "wer_speaker_")  # how the scores of groups of examples are called


class Scorer:
    """Collects the best answer to each example of a split, as text, and compares them with its references."""

    def __init__(self, metrics: tuple[str, ...], data: Any, split: str):
        """Raises ValueError for a metric that the examples lack a field for."""
        self._metrics, self._data, self._split = metrics, data, split
        for metric in metrics:
            field = text_scores.NEEDED.get(metric)
            if field and data.reference(split, 0).get(field) in (None, ""):
                raise ValueError(f"the metric {metric} needs a data set whose examples have the field {field}")
        self._answers: dict[int, str] = {}
        self.signatures: dict[str, str] = {}  # {name of a score: how it was computed}, once there is a result

    def add(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Takes the outputs of `Task.predict` for a batch, with its `index` and `weight`."""
        for index, weight, tokens in zip(outputs["index"], outputs["weight"], outputs["tokens"], strict=True):
            if weight > 0:
                self._answers[int(index)] = self._data.vocabulary.decode(tokens[0])

    def result(self) -> dict[str, float]:
        """{name of a score: its value} over all answers."""
        entries, found = self._entries(), {}
        predictions = [entry["prediction"] for entry in entries]
        for metric in self._metrics:
            scores, signature = text_scores.METRICS[metric](predictions, entries)
            found |= scores
            self.signatures |= dict.fromkeys(scores, signature)
        return found

    def check_gives(self, name: str, others: Sequence[str]) -> None:
        """Raises ValueError where `result` will not hold the score `name`; the evaluation gives the `others` too.

        It scores one example against itself, which says all names but those of other groups of examples.
        """
        example = self._data.reference(self._split, 0)
        entry = {field: example[field] for field in text_scores.FIELDS if field in example}
        known = set(others)
        for metric in self._metrics:
            known |= text_scores.METRICS[metric](entry["references"][:1], [entry])[0].keys()
            if metric in text_scores.NEEDED and name.startswith(_GROUPED):
                return
        if name not in known:
            raise ValueError(
                f"config.task.select_by={name!r} is no score of task.metrics; choose from {', '.join(sorted(known))}"
            )

    def save(self, path: Path) -> None:
        """Writes a line `{"index", "prediction", "references"}` an answer, from which all scores can be made again."""
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in self._entries())

    def _entries(self) -> list[dict[str, Any]]:
        """The answers in the order of their examples, each with what scores read of its example."""
        entries = []
        for index, answer in sorted(self._answers.items()):
            example = self._data.reference(self._split, index)
            fields = {field: example[field] for field in text_scores.FIELDS if field in example}
            entries.append({"index": index, "prediction": answer, **fields})
        return entries


def shift_right(target: jax.Array, positions: jax.Array, bos: int) -> jax.Array:
    """What the decoder reads where it is to write `target` [batch, length]: the token before, `bos` at position 0."""
    return jnp.where(positions == 0, bos, jnp.roll(target, 1, axis=1))


def _token_weights(batch: Batch) -> jax.Array:
    """float32 [batch, length]: the weight of the row for a target token, 0 for padding."""
    return (batch["target_segments"] > 0) * batch["weight"][:, None]
