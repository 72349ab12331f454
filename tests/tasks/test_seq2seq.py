"""The loss against closed formulas; sums that packing, padding, microbatches and meshes cannot change; scoring."""

import functools
import json
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from research.data.text.packing import PackedToArrays
from research.metrics import text_scores
from research.models.seq2seq import Seq2Seq, Seq2SeqSpec
from research.parallel import mesh as mesh_lib
from research.tasks import seq2seq
from research.train import evaluation, feed
from research.train.program import build_program
from tests.train import toy

VOCAB, LENGTHS, BOS, EOS, UNK = 48, (12, 16), 3, 1, 2
NET = {"width": 16, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 2, "kv_dim": 8, "mlp_dim": 32}
# Without LLVM's optimisations, which take most of the time to compile.
FAST = {"xla_backend_optimization_level": 0}
jit = functools.partial(jax.jit, compiler_options=FAST)


class Bigram(nn.Module):
    """Logits from the token before alone, so that a test can compute them too."""

    vocab_size: int = VOCAB

    @nn.compact
    def __call__(self, source, source_segments, source_positions, target_in, segments, positions, train=False):
        return self.param("table", nn.initializers.normal(2.0), (self.vocab_size, self.vocab_size))[target_in]


def make(model=None, **settings):
    model = model or Seq2Seq(Seq2SeqSpec(**NET), VOCAB)
    return seq2seq.Seq2SeqTask(model, seq2seq.Seq2SeqTaskSpec(**settings), *LENGTHS, BOS, EOS, UNK)


def make_pairs(count, seed=0):
    rng = np.random.default_rng(seed)
    text = lambda longest: np.append(rng.integers(4, VOCAB, rng.integers(1, longest)), EOS).astype(np.int32)
    return [(text(5), text(7)) for _ in range(count)]


def make_batch(rows, padding=0):
    """Rows of pairs as a batch, and after them rows of padding."""
    arrays = [PackedToArrays(*LENGTHS)(row) for row in rows]
    arrays += [{name: np.zeros_like(array) for name, array in arrays[0].items()}] * padding
    index = np.concatenate([np.arange(len(rows)), np.full(padding, -1)]).astype(np.int32)
    batch = {name: np.stack([row[name] for row in arrays]) for name in arrays[0]}
    return {**batch, "index": index, "weight": (index >= 0).astype(np.float32)}


def packed(count):
    """A batch of `count` rows with two examples each."""
    pairs = make_pairs(2 * count)
    return make_batch(list(zip(pairs[::2], pairs[1::2], strict=True)))


@functools.cache
def fresh():
    """Variables of the transformer of every task here, since settings of the task do not change them."""
    return jit(make().init)(jax.random.key(2))


@functools.cache
def build(devices=1, settings=(), **overrides):
    mesh = dict(zip(("data", "fsdp", "tensor", "sequence"), overrides.pop("mesh", (devices, 1, 1, 1)), strict=True))
    config = toy.make_config(mesh=mesh, **{"train.microbatches": 1, **{f"train.{k}": v for k, v in overrides.items()}})
    task = make(**dict(settings))
    return task, build_program(config, task, mesh_lib.make_mesh(config.mesh.sizes, jax.devices()[:devices]))


def test_the_decoder_reads_one_token_back_and_bos_where_an_example_begins():
    target, positions = np.array([[7, 8, 1, 9, 1, 0]]), np.array([[0, 1, 2, 0, 1, 0]])
    shifted = seq2seq.shift_right(target, positions, BOS)
    assert shifted[0, :5].tolist() == [3, 7, 8, 3, 9]


@pytest.mark.parametrize("smoothing,z_loss", [(0.0, 0.0), (0.2, 0.0), (0.1, 0.05)])
def test_loss_by_its_formula(smoothing, z_loss):
    task = make(Bigram(), label_smoothing=smoothing, z_loss=z_loss)
    pairs = make_pairs(5)
    batch = make_batch([pairs[:2], pairs[2:4], pairs[4:]], padding=2)
    variables = task.init(jax.random.key(0))
    table = np.asarray(variables["params"]["table"], np.float64)
    expected, plain, right = [], [], []
    for _, target in pairs:
        for before, token in zip([BOS, *target[:-1]], target, strict=True):
            log_z = np.log(np.exp(table[before]).sum())
            wanted = (1 - smoothing) * np.eye(VOCAB)[token] + smoothing / VOCAB
            expected.append(-(wanted * (table[before] - log_z)).sum() + z_loss * log_z**2)
            plain.append(log_z - table[before, token])
            right.append(table[before].argmax() == token)
    loss, (mutable, sums) = task.loss(variables, batch, task.totals(batch), jax.random.key(1))
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-5)
    assert mutable == {}
    for found in (sums, task.evaluate(variables, batch)):
        np.testing.assert_allclose(found["loss"], (sum(plain), len(plain)), rtol=1e-5)
        np.testing.assert_allclose(found["token_accuracy"], (sum(right), len(plain)))


def test_accuracy_counts_the_most_likely_tokens():
    task = make(Bigram())
    batch = make_batch([[(np.array([5, EOS]), np.array([6, 7, 8, EOS]))]])
    variables = {"params": {"table": jnp.zeros((VOCAB, VOCAB)).at[BOS, 6].set(1).at[6, 9].set(1).at[7, 8].set(1)}}
    # After 8 nothing is likelier than EOS, after 6 another token is.
    assert [float(x) for x in task.evaluate(variables, batch)["token_accuracy"]] == [3, 4]


def test_losses_of_parts_add_up_to_the_loss_of_the_whole():
    task = make(label_smoothing=0.1, z_loss=1e-2)
    pairs = make_pairs(7)
    batch = make_batch([pairs[:2], pairs[2:4], pairs[4:5], pairs[5:]], padding=2)
    variables, totals = fresh(), task.totals(batch)
    loss = jit(lambda part: task.loss(variables, part, totals, jax.random.key(1))[0])
    parts = [{name: array[i::2] for name, array in batch.items()} for i in range(2)]
    np.testing.assert_allclose(sum(map(loss, parts)), loss(batch), rtol=1e-6)


def test_packed_examples_lose_as_much_as_each_alone():
    task = make(label_smoothing=0.1, z_loss=1e-2)
    pairs = make_pairs(6)
    together = make_batch([pairs[:2], pairs[2:4], pairs[4:]])
    alone = make_batch([[pair] for pair in pairs])

    @jit
    def gradients(params, batch):
        loss = lambda params: task.loss({"params": params}, batch, task.totals(batch), jax.random.key(1))
        return jax.value_and_grad(loss, has_aux=True)(params)

    (one, (_, sums)), grads = gradients(fresh()["params"], together)
    (other, (_, other_sums)), other_grads = gradients(fresh()["params"], alone)
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6)
    close(one, other)
    jax.tree.map(close, sums, other_sums)
    jax.tree.map(close, grads, other_grads)
    assert sums["loss"][1] == sum(len(target) for _, target in pairs)


@functools.cache
def first_state():
    return jax.device_get(build(ema=0.0)[1].init.lower().compile(FAST)())


def first_step(**options):
    """What the first step makes of `packed(16)`, from the same state whatever the options of the program."""
    _, program = build(settings=(("label_smoothing", 0.1), ("z_loss", 1e-3)), ema=0.0, **options)
    state = jax.tree.map(lambda leaf, to: jax.device_put(leaf, to.sharding), first_state(), program.state)
    batch = feed.to_mesh(packed(16), program.batch_sharding)
    state, metrics = program.train_step.lower(state, batch).compile(FAST)(state, batch)
    return jax.device_get((state.params, metrics))


@pytest.mark.parametrize(
    "options",
    [{"microbatches": 2}, pytest.param({"devices": 8, "mesh": (1, 2, 2, 2)}, marks=pytest.mark.long)],
    ids=["microbatches", "mesh"],
)
def test_microbatches_and_meshes_take_the_same_step(options):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), first_step(**options), first_step()
    )


def test_a_vocabulary_that_is_split_is_never_put_together():
    task, program = build(devices=2, mesh=(1, 1, 2, 1))
    text = program.eval_step.lower(program.state.variables, task.example(4)).compile().as_text()
    assert f"f32[4,{LENGTHS[1]},{VOCAB // 2}]" in text
    assert not re.search(rf"\[4,{LENGTHS[1]},{VOCAB}\]", text)


# ---- decoding


@pytest.mark.parametrize("settings", [{"decoder": "greedy"}, {"decoder": "sample", "top_k": 1}])
def test_greedy_answers_are_those_of_the_whole_model(settings):
    task = make(max_decode_length=6, **settings)
    batch = make_batch([[pair] for pair in make_pairs(3)])
    tokens = np.zeros((3, 6), np.int32)
    positions = np.broadcast_to(np.arange(6), (3, 6))
    source = [batch[name] for name in ("source", "source_segments", "source_positions")]
    apply = jit(functools.partial(task.model.apply, fresh()))
    for position in range(6):
        target_in = seq2seq.shift_right(tokens, positions, BOS)
        logits = apply(*source, target_in, np.ones((3, 6), np.int32), positions)
        ended = (tokens[:, :position] == EOS).any(1)
        tokens[:, position] = np.where(ended, 0, logits[:, position].argmax(-1))
    outputs = jit(task.predict)(fresh(), batch, jax.random.key(0))
    assert outputs["tokens"].shape == (3, 1, 6) and outputs["scores"].shape == (3, 1)
    np.testing.assert_array_equal(outputs["tokens"][:, 0], tokens)


def test_a_beam_of_one_is_greedy_but_where_an_early_end_is_likelier():
    batch = make_batch([[pair] for pair in make_pairs(4)])
    (greedy, one), (beam, other) = (
        jax.tree.map(lambda x: np.asarray(x)[:, 0], (outputs["tokens"], outputs["scores"]))
        for settings in ({"decoder": "greedy"}, {"decoder": "beam", "beam_size": 1, "length_penalty": 0.0})
        for outputs in [jit(make(max_decode_length=6, **settings).predict)(fresh(), batch, jax.random.key(0))]
    )
    same = (greedy == beam).all(1)
    assert same.any()
    np.testing.assert_allclose(other[same], one[same], rtol=1e-5)
    assert (other[~same] > one[~same]).all() and (beam[~same] == EOS).any(1).all()


class Ending(nn.Module):
    """Answers a source at once with EOS, and padding with a text that has no end; tells `seen` each position."""

    seen: Callable[[jax.Array], None]
    vocab_size: int = VOCAB

    def encode(self, source, segments, positions):
        return source

    def init_cache(self, encoded, segments, max_length, beams, source):
        return {"hypotheses": {}, "token": jnp.repeat(jnp.where(segments[:, 0] > 0, EOS, 5), beams)}

    def decode_step(self, token, position, cache):
        jax.debug.callback(self.seen, position)
        return 99 * jax.nn.one_hot(cache["token"], self.vocab_size), cache


@pytest.mark.parametrize("settings", [{"decoder": "beam", "beam_size": 2}, {"decoder": "greedy"}])
def test_padding_does_not_prolong_decoding(settings):
    steps = []
    task = make(Ending(steps.append), max_decode_length=9, **settings)
    outputs = task.predict({}, make_batch([[pair] for pair in make_pairs(2)], padding=2), jax.random.key(0))
    jax.block_until_ready(outputs)
    jax.effects_barrier()
    assert steps == [0]


@pytest.mark.parametrize("settings", [{"decoder": "beam", "beam_size": 3, "num_return": 2}, {"decoder": "sample"}])
def test_answers_do_not_depend_on_padding(settings):
    task = make(max_decode_length=5, **settings)
    rows = [[pair] for pair in make_pairs(4)]
    predict = jit(task.predict)
    whole, part = make_batch(rows), make_batch(rows[:3], padding=1)
    whole, part = (jax.device_get(predict(fresh(), batch, jax.random.key(0))) for batch in (whole, part))
    count = settings.get("num_return", 1)
    assert whole["tokens"].shape == (4, count, 5) and whole["scores"].shape == (4, count)
    np.testing.assert_array_equal(part["tokens"][:3], whole["tokens"][:3])
    np.testing.assert_allclose(part["scores"][:3], whole["scores"][:3], rtol=1e-5)
    assert (np.diff(whole["scores"]) <= 0).all() and np.isfinite(part["scores"]).all()


@pytest.mark.parametrize(
    "settings,line",
    [
        ({"decoder": "viterbi"}, r"decoder='viterbi' is unknown; choose from beam, greedy, sample"),
        ({"metrics": ("blue",)}, r"metrics=\('blue',\) is unknown; choose from accuracy, .*bleu"),
        ({"num_return": 5}, r"num_return=5 must be at least 1 and at most beam_size=4"),
        ({"num_return": 2, "decoder": "greedy"}, r"num_return=2 must be .* at most 1 with decoder='greedy'"),
        ({"label_smoothing": 1.0}, r"label_smoothing=1.0 must be at least 0 and less than 1"),
        ({"z_loss": -1.0}, r"z_loss=-1.0 must be at least 0"),
        ({"max_decode_length": 0}, r"max_decode_length=0 must be between 1 and"),
        ({"decoder": "sample", "temperature": -1.0}, r"temperature=-1.0 must be between 0 and"),
        ({"decoder": "sample", "top_p": 0.0}, r"top_p=0.0 must be greater than 0 and at most 1"),
    ],
)
def test_bad_settings_are_refused_at_once(settings, line):
    with pytest.raises(ValueError, match=line):
        make(Bigram(), **settings)


def test_what_chooses_a_checkpoint():
    assert make(Bigram()).selection == ("loss", "min")
    assert make(Bigram(), select_by="perplexity").selection == ("perplexity", "min")
    assert make(Bigram(), select_by="bleu").selection == ("bleu", "max")


# ---- evaluation and scores


class Words:
    """A vocabulary of single words: `w7` is token 7."""

    def decode(self, ids):
        ids = np.asarray(ids).tolist()
        return " ".join(f"w{i}" for i in ids[: ids.index(EOS) if EOS in ids else None])


class Data:
    """A test split of unequal examples, served in batches whose last one is padded."""

    vocabulary = Words()

    def __init__(self, pairs):
        self.pairs = pairs

    @property
    def counts(self):
        return {"test": len(self.pairs)}

    def reference(self, split, index):
        assert split == "test" and 0 <= index < len(self.pairs)
        answer = self.vocabulary.decode(self.pairs[index][1])
        return {"references": (answer, "Ümläut\nw9"), "task": index % 2, "source": "private"}

    def eval_batches(self, split, batch_size, rows):
        for start in range(0, len(self.pairs), batch_size):
            chunk = self.pairs[start : start + batch_size]
            batch = make_batch([[pair] for pair in chunk], padding=batch_size - len(chunk))
            batch["index"] = np.where(batch["index"] >= 0, batch["index"] + start, -1).astype(np.int32)
            yield {name: array[rows] for name, array in batch.items()}


def outputs_of(data, index, weight):
    """What predict_step would give if the model knew the first of every two answers."""
    tokens = np.zeros((len(index), 2, 8), np.int32)
    for row, i in enumerate(index):
        answer = data.pairs[i][1]
        tokens[row, 0, : len(answer)] = answer
        tokens[row, 1, 0] = EOS
        if i % 2:
            tokens[row, 0, 0] += 1
    scores = np.full((len(index), 2), np.log(0.5), np.float32)
    return {"tokens": tokens, "scores": scores, "index": np.array(index), "weight": np.array(weight, np.float32)}


def test_perplexity_is_exact_over_a_split_in_batches_of_any_size():
    task, program = build()
    data = Data(make_pairs(7, seed=3))
    values = [evaluation.evaluate(program, task, data, fresh(), "test", size) for size in (2, 7)]
    alone = jit(functools.partial(task.evaluate, fresh()))
    losses = [alone(make_batch([[pair]]))["loss"] for pair in data.pairs]
    total, tokens = np.sum(losses, axis=0)
    assert tokens == sum(len(target) for _, target in data.pairs)
    for found in values:
        assert found["test/loss"] == pytest.approx(total / tokens, rel=1e-5)
        assert found["test/perplexity"] == pytest.approx(np.exp(total / tokens), rel=1e-5)
    assert task.derived({"loss": 1e4}) == {"perplexity": float("inf")}


def test_the_scorer_compares_the_best_answers_with_the_references(tmp_path):
    data = Data(make_pairs(6, seed=4))
    task = make(Bigram(), metrics=("accuracy", "accuracy_by_task", "bleu", "squad"))
    scorer = task.scorer(data, "test")
    scorer.add(outputs_of(data, [4, 1], [1, 1]))
    scorer.add(outputs_of(data, [0, 5, 2, 3], [1, 1, 1, 1]))
    scorer.add(outputs_of(data, [1, 2], [0, 0]) | {"index": np.array([-1, -1])})
    scorer.add(outputs_of(data, [5, 0], [1, 1]))  # a second time, which counts no more
    result = scorer.result()
    assert result["accuracy"] == 0.5 and result["accuracy_task_00"] == 1 and result["accuracy_task_01"] == 0
    assert result["exact_match"] == 50 and 50 < result["f1"] < 100
    assert scorer.signatures.keys() == result.keys() and "tok:13a" in scorer.signatures["bleu"]

    path = tmp_path / "predictions.jsonl"
    scorer.save(path)
    lines = path.read_text("utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    assert "Ümläut" in lines[0] and "private" not in path.read_text("utf-8")
    assert [entry["index"] for entry in entries] == list(range(6))
    again = {}
    for metric in task.spec.metrics:
        again |= text_scores.METRICS[metric]([entry["prediction"] for entry in entries], entries)[0]
    assert again == result


@pytest.mark.parametrize("settings", [{"decoder": "greedy"}, {"decoder": "beam", "length_penalty": 0.6}])
def test_the_probability_of_a_text_is_that_of_its_tokens(settings, tmp_path):
    task = make(max_decode_length=7, metrics=("accuracy",), **settings)
    pairs = make_pairs(4)
    outputs = dict(jit(task.predict)(fresh(), make_batch([[pair] for pair in pairs]), jax.random.key(0)))
    outputs |= {"index": np.arange(4), "weight": np.ones(4)}
    scorer = task.scorer(Data(pairs), "test")
    scorer.add(jax.tree.map(np.asarray, outputs))
    scorer.save(tmp_path / "predictions.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text("utf-8").splitlines()]
    for line, (source, _), tokens in zip(lines, pairs, np.asarray(outputs["tokens"][:, 0]), strict=True):
        length = [*tokens, EOS].index(EOS) + 1  # an untrained model may say padding before it
        loss, _ = task.evaluate(fresh(), make_batch([[(source, tokens[:length])]]))["loss"]
        assert line["probability"] == pytest.approx(np.exp(-loss), rel=1e-4)


def test_a_task_without_metrics_scores_nothing_on_the_host():
    assert make(Bigram()).scorer(Data([]), "test") is None


def test_a_split_is_decoded_and_scored_once_an_example():
    task, program = build(devices=2, settings=(("metrics", ("accuracy",)), ("max_decode_length", 7), ("beam_size", 2)))
    pairs = make_pairs(5, seed=5)
    batch = feed.to_mesh(make_batch([[pair] for pair in pairs[:4]]), program.batch_sharding)
    answers = jax.device_get(program.predict_step(fresh(), batch, jax.random.key(0)))["tokens"]
    # The first three examples ask for what the model says.
    known = [(source, np.asarray(tokens[0])) for (source, _), tokens in zip(pairs[:3], answers, strict=False)]
    data = Data(pairs)
    data.reference = lambda split, index: {"references": (Words().decode(known[index][1]) if index < 3 else "-",)}
    values = evaluation.evaluate(program, task, data, fresh(), "test", 4, scorer=task.scorer(data, "test"))
    assert values["test/accuracy"] == pytest.approx(3 / 5)
    assert {"test/loss", "test/token_accuracy", "test/perplexity"} < values.keys()
