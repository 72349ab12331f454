"""The CTC loss against PyTorch's; its share in the loss; decoding by the encoder alone; WER by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from research.metrics import text_scores
from research.models.speech import Recogniser, RecogniserSpec
from research.tasks import seq2seq, speech

VOCAB, POSITIONS, LENGTH, MELS, EOS = 12, 8, 5, 6, 1
NET = {"width": 16, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 2, "kv_dim": 8, "mlp_dim": 32}
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def make(**settings):
    spec = speech.SpeechTaskSpec(**{"max_decode_length": LENGTH, "decoder": "greedy"} | settings)
    model = Recogniser(RecogniserSpec(**NET, strides=(2, 2)), VOCAB, ctc=spec.ctc_weight > 0)
    return speech.SpeechTask(model, spec, POSITIONS, LENGTH, bos=3, eos=EOS, unk=2, mels=MELS)


def make_batch(targets=((4, 5, 5), (6,), (7, 8, 9, 10)), positions=(8, 3, 6), padding=1):
    rng, count = np.random.default_rng(0), len(targets) + padding
    batch = {"index": np.arange(count, dtype=np.int32), "weight": np.ones(count, np.float32)}
    batch["weight"][len(targets) :] = 0
    batch["index"][len(targets) :] = -1
    mask = np.arange(POSITIONS) < np.array([*positions, *[0] * padding])[:, None]
    batch["source"] = (rng.normal(size=(count, POSITIONS * 4, MELS)) * mask.repeat(4, 1)[..., None]).astype(np.float32)
    batch["source_segments"] = mask.astype(np.int32)
    batch["source_positions"] = (np.arange(POSITIONS) * mask).astype(np.int32)
    batch |= {f"target{what}": np.zeros((count, LENGTH), np.int32) for what in ("", "_segments", "_positions")}
    for row, target in enumerate(targets):
        size = len(target) + 1
        batch["target"][row, :size] = [*target, EOS]
        batch["target_segments"][row, :size] = 1
        batch["target_positions"][row, :size] = np.arange(size)
    return batch


def test_an_example_has_the_shapes_of_a_batch():
    batch, example = make_batch(), make().example(4)
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in example.items()} == {
        name: (array.shape, array.dtype) for name, array in batch.items()
    }


def test_the_ctc_loss_is_that_of_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; it comes with the extra [interop]")
    batch = make_batch()
    logits = np.random.default_rng(1).normal(0, 2, (4, POSITIONS, VOCAB)).astype(np.float32)
    found = speech._ctc(jnp.asarray(logits), batch, EOS)
    expected = torch.nn.functional.ctc_loss(
        torch.tensor(logits).log_softmax(-1).transpose(0, 1),
        torch.tensor(batch["target"]),
        torch.tensor([8, 3, 6, 0]),
        torch.tensor([3, 1, 4, 0]),
        blank=0,
        reduction="none",
    )
    np.testing.assert_allclose(found[:3], expected[:3], rtol=1e-4)
    assert found[3] == 0  # padding


def test_a_sound_that_is_too_short_for_its_tokens_has_no_ctc_loss():
    logits = jnp.zeros((2, POSITIONS, VOCAB))
    # Three positions are enough for two different tokens and a blank between equal ones, but not for three with a
    # blank.
    found = speech._ctc(logits, make_batch(((5, 5), (5, 5, 6)), (3, 3), padding=0), EOS)
    assert found[0] == pytest.approx(3 * np.log(VOCAB), rel=1e-5) and found[1] == 0


def test_the_loss_is_shared_between_decoder_and_encoder():
    batch, key = make_batch(), jax.random.key(1)
    tasks = {weight: make(ctc_weight=weight, label_smoothing=0.1) for weight in (0.25, 1.0)}
    variables = jit(tasks[1.0].init)(jax.random.key(0))
    plain = make(label_smoothing=0.1)
    without = {"params": {name: tree for name, tree in variables["params"].items() if name != "ctc_head"}}
    totals = plain.totals(batch)
    assert totals["tokens"] == 4 + 2 + 5
    found = {weight: jit(tasks[weight].loss)(variables, batch, totals, key) for weight in tasks}
    decoder = jit(plain.loss)(without, batch, totals, key)[0]
    encoder, (_, sums) = found[1.0]
    np.testing.assert_allclose(found[0.25][0], 0.75 * decoder + 0.25 * encoder, rtol=1e-5)
    np.testing.assert_allclose(encoder, sums["ctc_loss"][0] / 11, rtol=1e-5)
    evaluated = jit(tasks[0.25].evaluate)(variables, batch)
    np.testing.assert_allclose(evaluated["ctc_loss"], sums["ctc_loss"], rtol=1e-5)
    np.testing.assert_allclose(evaluated["loss"], jit(plain.evaluate)(without, batch)["loss"], rtol=1e-5)


@pytest.mark.parametrize("decoder", ["greedy", "ctc"])
def test_an_overfitted_model_transcribes_its_sounds_with_ctc_and_decoder(decoder):
    """Overfits four sounds: both ways of decoding return their transcripts."""
    task = make(ctc_weight=0.5, decoder=decoder)
    batch = make_batch(((4, 5, 5), (6,), (7, 8), (9, 4)), (8, 4, 6, 6), padding=1)
    totals, variables = task.totals(batch), jit(task.init)(jax.random.key(0))
    optimizer = optax.adam(1e-2)

    @jit
    def step(variables, state):
        loss, grads = jax.value_and_grad(lambda v: task.loss(v, batch, totals, jax.random.key(1))[0])(variables)
        updates, state = optimizer.update(grads, state)
        return loss, optax.apply_updates(variables, updates), state

    state = optimizer.init(variables)
    for _ in range(200):
        loss, variables, state = step(variables, state)
    assert loss < 0.05
    outputs = jit(task.predict)(variables, batch, jax.random.key(0))
    said = [[token for token in row[0].tolist() if token not in (0, EOS)] for row in outputs["tokens"]]
    assert said[:4] == [[4, 5, 5], [6], [7, 8], [9, 4]]
    assert outputs["tokens"].shape == (5, 1, LENGTH) and (outputs["scores"] <= 0).all()
    # What follows a sound changes nothing.
    longer = batch | {"source": np.pad(batch["source"], [(0, 0), (0, 16), (0, 0)])}
    longer |= {name: np.pad(batch[name], [(0, 0), (0, 4)]) for name in ("source_segments", "source_positions")}
    np.testing.assert_array_equal(jit(task.predict)(variables, longer, jax.random.key(0))["tokens"], outputs["tokens"])


def test_invalid_settings_are_named():
    with pytest.raises(ValueError, match=r"ctc_weight=1\.5"):
        make(ctc_weight=1.5)
    with pytest.raises(ValueError, match="decoder='ctc' needs"):
        make(decoder="ctc")
    with pytest.raises(ValueError, match="decoder='nonsense' is unknown"):
        make(decoder="nonsense")
    assert "ctc" not in seq2seq.Seq2SeqTaskSpec.DECODERS
    assert make(metrics=("wer",), select_by="wer").selection == ("wer", "min")


# ---- Scores.


def example(text, speaker="anna"):
    return {"references": (text,), "speaker": speaker}


def test_wer_counts_words_of_the_whole_corpus():
    examples = [example("one two three"), example("four"), example("Five, it's six!", "bert")]
    scores, signature = text_scores.wer(["one too three", "four five", "five its"], examples)
    # two -> too; five is inserted; it's -> its, six is lost: of 7 words.
    expected = {"wer": 100 * 4 / 7, "substitutions": 2, "insertions": 1, "deletions": 1}
    assert {name: scores[name] for name in expected} == pytest.approx(expected)
    # Characters, spaces included: w -> o; " five"; "'" and " six" are lost, of 13 + 4 + 13.
    assert scores["cer"] == pytest.approx(100 * (1 + 5 + 1 + 4) / 30)
    assert signature.startswith("jiwer ") and text_scores.SPOKEN in signature


def test_wer_by_speaker_is_that_of_each_speaker():
    examples = [example("one two"), example("one"), example("two", "bert")]
    scores, _ = text_scores.wer_by_speaker(["one", "one", ""], examples)
    assert scores == {"wer_speaker_anna": pytest.approx(100 / 3), "wer_speaker_bert": 100.0}
    with pytest.raises(ValueError, match="field speaker"):
        text_scores.wer_by_speaker(["one"], [{"references": ("one",)}])


@pytest.mark.parametrize(
    ("given", "spoken"),
    [
        ("  One TWO\tthree ", "one two three"), ("it\u2019s, 'twas; well-known!", "it's twas well known"),
        ("\u00dcber 20 \u4e2d\u6587.", "\u00fcber 20\u4e2d\u6587"), ("...", ""), ("' '", ""),
        ("\u0915\u093f\u0924\u093e\u092c, cafe\u0301s", "\u0915\u093f\u0924\u093e\u092c caf\u00e9s"),
    ],
)  # fmt: skip
def test_the_normalisation_that_is_stated(given, spoken):
    assert text_scores.normalise_spoken(given) == spoken


def test_a_reference_without_words_is_named():
    with pytest.raises(ValueError, match=r"reference '\.\.\.' has no words"):
        text_scores.wer(["one"], [example("...")])
