"""Attention maps against NumPy, and roll-out against its formula in loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.models import attention, bert, dot_product, stack, vit
from research.models.attention import CAPTURED
from research.trust import attending

LENGTH, DEPTH = 5, 4


def softmax(logits):
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def test_probabilities_are_those_by_which_attention_weights_values():
    rng = np.random.default_rng(0)
    query, key, value = (rng.normal(size=(2, LENGTH, heads, DEPTH)).astype(np.float32) for heads in (4, 2, 2))
    bias, mask = rng.normal(size=(1, 4, LENGTH, LENGTH)).astype(np.float32), np.tri(LENGTH, dtype=bool)[None, None]
    options = {"bias": bias, "mask": mask, "scale": 0.3}
    both = lambda: (
        dot_product.probabilities(jnp.asarray(query), jnp.asarray(key), **options),
        dot_product.attention(*map(jnp.asarray, (query, key, value)), **options),
    )
    found, whole = map(np.asarray, jax.jit(both)())
    for head in range(4):
        logits = 0.3 * np.einsum("bqd,bkd->bqk", query[:, :, head], key[:, :, head // 2]) + bias[0, head]
        np.testing.assert_allclose(found[:, head], softmax(np.where(mask[0], logits, -1e30)), atol=1e-6)
    weighted = np.einsum("bhqk,bkhd->bqhd", found, value.repeat(2, axis=2))
    np.testing.assert_allclose(weighted, whole, atol=1e-5)


def test_rollout_is_its_formula():
    rng = np.random.default_rng(0)
    layers = [softmax(rng.normal(size=(2, 3, LENGTH, LENGTH))) for _ in range(3)]
    for row in range(2):
        expected = np.eye(LENGTH)
        for weights in layers:
            mixed = np.zeros((LENGTH, LENGTH))
            for i in range(LENGTH):
                for j in range(LENGTH):
                    mixed[i, j] = 0.5 * sum(weights[row, head, i, j] for head in range(3)) / 3 + 0.5 * (i == j)
                mixed[i] /= mixed[i].sum()
            expected = mixed.dot(expected)
        found = attending.rollout(layers)[row]
        np.testing.assert_allclose(found, expected)
        np.testing.assert_allclose(found.sum(-1), 1)


def small_vit(**options):
    model = vit.ViT.of(3, image_size=8, patch_size=4, width=8, depth=3, num_heads=2, mlp_dim=16, **options)
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 1)).astype(np.float32)
    return model, jax.jit(model.init)(jax.random.key(0), images), images


@pytest.mark.parametrize("remat", ["none", "full"])
def test_maps_of_a_vision_transformer_are_those_of_each_layer(remat):
    model, variables, images = small_vit(remat=remat)
    plain = jax.jit(model.apply)(variables, images)
    logits, stored = jax.jit(lambda v, x: model.apply(v, x, mutable=[CAPTURED]))(variables, images)
    np.testing.assert_allclose(logits, plain, atol=1e-6)
    found = attending.maps(stored[CAPTURED])
    assert [each.shape for each in found] == [(2, 2, 5, 5)] * 3
    # The first layer by hand.
    params = jax.tree.map(np.asarray, variables["params"])
    patches = images.reshape(2, 2, 4, 2, 4).transpose(0, 1, 3, 2, 4).reshape(2, 4, 16)
    tokens = patches @ params["patches"]["kernel"].reshape(16, 8) + params["patches"]["bias"]
    tokens = np.concatenate([np.broadcast_to(params["cls"], (2, 1, 8)), tokens], 1) + params["positions"]
    own = jax.tree.map(lambda leaf: leaf[0], params["blocks"])
    normed = (tokens - tokens.mean(-1, keepdims=True)) / np.sqrt(tokens.var(-1, keepdims=True) + 1e-6)
    normed = normed * own["attention_norm"]["scale"] + own["attention_norm"]["bias"]
    project = lambda part: np.einsum("ble,ehd->blhd", normed, part["kernel"]) + part["bias"]
    query, key = (project(own["attention"][name]) for name in ("query", "key"))
    np.testing.assert_allclose(found[0], softmax(np.einsum("bqhd,bkhd->bhqk", query, key) / 2), atol=1e-5)


def test_segments_of_a_stack_are_captured_in_order():
    spec = vit.ViTSpec(image_size=8, patch_size=4, width=8, depth=3, num_heads=2, mlp_dim=16)
    whole = vit.make_stack(spec, {"dtype": "float32", "param_dtype": "float32"}, "pre", vit.MIXERS)()
    parts = whole.clone(segments=(stack.Segment(1, unroll=1), stack.Segment(2, "full", unroll=2)))
    x, context = jnp.sin(jnp.arange(80.0)).reshape(2, 5, 8), attention.Context()
    variables = jax.jit(lambda: whole.init(jax.random.key(0), x, context))()

    @jax.jit
    def captured(variables):
        return [each.apply(variables, x, context, mutable=[CAPTURED])[1][CAPTURED] for each in (whole, parts)]

    one, other = map(attending.maps, captured(variables))
    assert len(one) == len(other) == 3
    np.testing.assert_allclose(one, other, atol=1e-5)
    plain = jax.eval_shape(lambda: parts.apply(variables, x, context))
    assert plain.shape == x.shape


def test_no_token_attends_to_padding():
    model = bert.Bert.of(vocab_size=20, num_classes=2, max_length=6, width=8, depth=2, num_heads=2, mlp_dim=16)
    tokens, segments = np.arange(6)[None] + 1, np.array([[1, 1, 1, 1, 0, 0]])
    variables = jax.jit(model.init)(jax.random.key(0), tokens, segments)
    _, stored = jax.jit(lambda v: model.apply(v, tokens, segments, mutable=[CAPTURED]))(variables)
    rolled = attending.rollout(attending.maps(stored[CAPTURED]))
    assert np.abs(rolled[0, :4, 4:]).max() < 1e-6 and rolled[0, :4, :4].sum(-1) == pytest.approx(1, abs=1e-6)


def test_nothing_is_captured_unless_it_is_asked_for():
    model, variables, images = small_vit(remat="none")
    assert variables.keys() == {"params"}
    lowered = jax.jit(lambda v, x: model.apply(v, x)).lower(variables, images).as_text()
    captured = jax.jit(lambda v, x: model.apply(v, x, mutable=[CAPTURED])).lower(variables, images).as_text()
    assert len(captured) > len(lowered) and lowered.count("exponential") < captured.count("exponential")
    assert attending.maps({}) == [] and attention.CAPTURED == "intermediates"


def test_maps_over_space_and_time_are_zero_between_other_tokens():
    rng = np.random.default_rng(0)
    batch, time, space = 2, 3, 4
    over_space = softmax(rng.normal(size=(batch * time, 2, space, space)))
    over_time = softmax(rng.normal(size=(batch * space, 2, time, time)))
    found = attending.over_space_and_time([over_space, over_time], batch, time, space, True)
    for row in range(batch):
        for (t, s), (u, r) in [((0, 1), (0, 3)), ((0, 1), (2, 1)), ((1, 2), (2, 3)), ((2, 0), (2, 0))]:
            one, other = t * space + s, u * space + r
            expected = over_space[row * time + t, :, s, r] * (t == u), over_time[row * space + s, :, t, u] * (s == r)
            for weights, values in zip(found, expected, strict=True):
                np.testing.assert_allclose(weights[row, :, one, other], values)
    for weights in found:
        np.testing.assert_allclose(weights.sum(-1), 1)
