"""The front end and the sizes against transformers' Whisper; features that padding does not change."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models import speech
from research.models.decoding import ctc_greedy
from research.parallel.sharding import logical_axes, path_name

SMALL = {"width": 16, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 2, "kv_dim": 8, "mlp_dim": 32}
MELS = {"tiny": 80, "base": 80, "small": 80, "medium": 80, "large": 128}  # of version 3 of `large`
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def arrays(batch, frames, mels, encoder_length, length):
    rows = lambda length: jnp.broadcast_to(jnp.arange(length), (batch, length))
    ones = lambda length: jnp.ones((batch, length), jnp.int32)
    source = jnp.zeros((batch, frames, mels)), ones(encoder_length), rows(encoder_length)
    return *source, ones(length), ones(length), rows(length)


@pytest.mark.parametrize("size", speech.SIZES)
def test_transformers_counts_as_many_parameters(size):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    settings, vocab = speech.SIZES[size], 51866 if size == "large" else 51865
    spec = speech.RecogniserSpec(**settings)
    model = speech.Recogniser(spec, vocab, max_target_length=448)
    config = transformers.WhisperConfig(
        vocab_size=vocab, num_mel_bins=MELS[size], d_model=spec.width, encoder_layers=spec.encoder_depth,
        decoder_layers=spec.decoder_depth, encoder_attention_heads=spec.num_heads,
        decoder_attention_heads=spec.num_heads, encoder_ffn_dim=spec.mlp_dim, decoder_ffn_dim=spec.mlp_dim,
    )  # fmt: skip
    with torch.device("meta"):
        reference = transformers.WhisperForConditionalGeneration(config)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *arrays(1, 8, MELS[size], 4, 3)))
    # Its sinusoids are a parameter that is not trained.
    sinusoids = reference.model.encoder.embed_positions.weight.numel()
    assert count(shapes) == sum(each.numel() for each in reference.parameters()) - sinusoids
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes["params"]):
        assert len(logical_axes(path_name(path), model.logical_axes)) == leaf.ndim


def test_the_front_end_is_that_of_whisper():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.WhisperConfig(
        vocab_size=30, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, num_mel_bins=10, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=3,
    )  # fmt: skip
    encoder = transformers.WhisperForConditionalGeneration(config).model.encoder
    mel = np.random.default_rng(0).normal(0, 1, (3, 10, 24)).astype(np.float32)
    with torch.no_grad():
        gelu = torch.nn.functional.gelu
        expected = gelu(encoder.conv2(gelu(encoder.conv1(torch.tensor(mel))))).mT.numpy()
    of = lambda conv: {"kernel": conv.weight.detach().numpy().transpose(2, 1, 0), "bias": conv.bias.detach().numpy()}
    params = {"conv1": of(encoder.conv1), "conv2": of(encoder.conv2)}
    found = speech.FrontEnd(speech.RecogniserSpec(width=16)).apply({"params": params}, mel.swapaxes(1, 2))
    assert found.shape == (3, 12, 16)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("strides", [(1, 2), (2, 2), (3,), (2, 3)])
def test_features_do_not_depend_on_padding(strides):
    spec = speech.RecogniserSpec(width=16, strides=strides)
    front = speech.FrontEnd(spec)
    frames = np.random.default_rng(0).normal(size=(1, 6 * spec.downsampling, 10))
    variables = front.init(jax.random.key(0), frames)
    variables = jax.tree.map(lambda leaf: leaf + 0.3, variables)  # so that padding is not 0 after one layer
    short = front.apply(variables, frames)
    long = front.apply(variables, np.pad(frames, [(0, 0), (0, 5 * spec.downsampling), (0, 0)]))
    assert short.shape[1] == 6
    np.testing.assert_allclose(long[:, :6], short, atol=1e-6)
    # And a frame reaches the positions around it alone.
    moved = np.array(frames)
    moved[0, 3 * spec.downsampling] += 1
    changed = np.abs(front.apply(variables, moved) - short).max((0, 2)) > 1e-7
    assert changed[3] and not changed[:2].any() and not changed[5:].any()


def test_invalid_strides_and_frames_are_named():
    for strides in ((), (1, 1), (2, 1), (4,), (0, 2)):
        with pytest.raises(ValueError, match=r"strides=.* must be 2 or 3 each, the first may be 1"):
            speech.RecogniserSpec(strides=strides)
    with pytest.raises(ValueError, match="7 frames are not a multiple of 4"):
        speech.FrontEnd(speech.RecogniserSpec(width=16, strides=(2, 2))).init(jax.random.key(0), jnp.zeros((1, 7, 10)))


def test_both_logits_are_those_of_one_model():
    model = speech.Recogniser(speech.RecogniserSpec(**SMALL, strides=(2, 2)), 30, ctc=True)
    given = arrays(2, 24, 10, 6, 5)
    given = (jax.random.normal(jax.random.key(1), given[0].shape), *given[1:])
    variables = jit(model.init)(jax.random.key(0), *given)
    apply = jit(model.apply, static_argnames="method")
    decoded, named = apply(variables, *given, method="both_logits")
    np.testing.assert_allclose(decoded, apply(variables, *given), atol=1e-5)
    encoded = apply(variables, *given[:3], method="encode")
    np.testing.assert_allclose(named, encoded @ variables["params"]["ctc_head"], atol=1e-5)
    assert named.shape == (2, 6, 30)


def collapse(path):
    kept = [token for before, token in zip([0, *path], path, strict=False) if token not in (0, before)]
    return kept[:4] + [0] * (4 - len(kept))


def test_greedy_ctc_drops_repeats_and_blanks():
    rng = np.random.default_rng(0)
    paths = rng.integers(0, 4, (200, 7))
    lengths = rng.integers(0, 8, 200)
    mask = np.arange(7) < lengths[:, None]
    logits = rng.uniform(0, 1, (200, 7, 4)) + 3 * np.eye(4)[paths]
    tokens, scores = ctc_greedy(jnp.asarray(logits), jnp.asarray(mask), 4)
    assert tokens.tolist() == [collapse(path[:length]) for path, length in zip(paths.tolist(), lengths, strict=True)]
    best = np.log(np.exp(logits).max(-1) / np.exp(logits).sum(-1))
    for path, length, score, row in zip(paths.tolist(), lengths, scores, best, strict=True):
        begins = [place for place in range(length) if path[place] not in (0, path[place - 1] if place else 0)]
        if begins:
            np.testing.assert_allclose(score, row[begins[:4]].sum(), rtol=1e-5)
        else:  # of all paths only that of blanks says nothing
            np.testing.assert_allclose(score, row[:length].sum() if length else -np.inf, rtol=1e-5)
    empty = tokens[:, 0] == 0
    assert empty.any()
    assert (scores[empty] < 0).all(), "nothing is never certain"
