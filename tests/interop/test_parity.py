"""Logits, gradients and tokens of models that transformers saved, against transformers itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.interop import layouts, safetensors
from research.interop.families import t5 as t5_family
from research.interop.families import vit as vit_family
from research.models import decoding
from tests.interop import reference
from tests.interop.reference import torch

BOS, EOS = 0, 1


def image_logits(path, images):
    model, variables = reference.load(path, images.shape[-1])
    return jax.jit(lambda variables: model.apply(variables, images))(variables)


def check_images(theirs, folder, images):
    ours = image_logits(reference.save(theirs, folder), images)
    with torch.no_grad():
        expected = theirs(reference.channels_first(images)).logits
    assert expected.std() > 1e-2
    reference.assert_close(ours, expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hidden_act": "gelu_new", "qkv_bias": False, "num_channels": 1, "layer_norm_eps": 1e-6},
        {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 32, "patch_size": 4},
    ],
)
def test_logits_of_vit(options, tmp_path):
    theirs = reference.vit(**options)
    channels = options.get("num_channels", 3)
    check_images(theirs, tmp_path, reference.images(theirs.config.image_size, channels=channels))


@pytest.mark.parametrize(
    ("layer_type", "options"), [("bottleneck", {}), ("basic", {}), ("basic", {"depths": (1,), "hidden_sizes": (8,)})]
)
def test_logits_of_resnet_with_its_statistics(layer_type, options, tmp_path):
    theirs = reference.resnet(layer_type, **options)
    assert theirs.resnet.embedder.embedder.normalization.running_var.std() > 0.1
    check_images(theirs, tmp_path, reference.images(40))


@pytest.mark.parametrize("options", [{}, {"layer_scale_init_value": 0.0}, {"hidden_act": "gelu_new"}])
def test_logits_of_convnext(options, tmp_path):
    check_images(reference.convnext(**options), tmp_path, reference.images(32))


def gradient_rows(table, parameters, path, shape):
    """The gradients of torch's parameters as one of ours, through the table that loads the weights."""

    class Gradients:
        specs: dict = {}  # noqa: RUF012

        def read(self, name):
            return parameters[name].grad.numpy()

    row = next(row for row in table if row.ours == path)
    return row.read(Gradients(), shape, (slice(None),) * len(shape), np.float32)


def check_gradients(table, parameters, gradients):
    leaves = {layout_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)}
    scale = max(float(jnp.abs(leaf).max()) for leaf in leaves.values())
    assert scale > 1e-2
    for path, leaf in leaves.items():
        expected = gradient_rows(table, parameters, path, leaf.shape)
        bound = reference.RELATIVE * max(np.abs(expected).max(), 1e-3 * scale)  # a key's bias has none
        assert np.abs(np.asarray(leaf) - expected).max() <= bound, path


def layout_path(path):
    return "/".join(key.key for key in path)


def hub_names(model, folder):
    """The parameters of a model by the names in its file: the one that has the very values."""
    tensors = safetensors.Safetensors(folder / "model.safetensors")
    found = {}
    for _, parameter in model.named_parameters():
        values = parameter.detach().numpy()
        found |= {name: parameter for name in tensors.specs if np.array_equal(tensors.read(name), values)}
    return found


def test_gradients_of_vit(tmp_path):
    theirs, labels = reference.vit(), np.array([3, 6])
    model, variables = reference.load(reference.save(theirs, tmp_path))
    images = reference.images(24)
    loss = torch.nn.functional.cross_entropy(theirs(reference.channels_first(images)).logits, torch.tensor(labels))
    loss.backward()

    def ours(params):
        log = jax.nn.log_softmax(model.apply({"params": params}, images))
        return -jnp.take_along_axis(log, labels[:, None], 1).mean()

    value, gradients = jax.jit(jax.value_and_grad(ours))(variables["params"])
    assert abs(float(value) - loss.item()) < 1e-4 * loss.item()
    check_gradients(vit_family.TABLE, hub_names(theirs, tmp_path), gradients)


# ---- T5.


def text_batch(rng, vocab=30, source=9, target=7):
    """Ids and segments of sources and targets with padding at their ends."""
    lengths = np.array([[source, target], [4, 5], [6, 1]])
    rows = lambda length: np.broadcast_to(np.arange(length), (3, length))
    ids = rng.integers(4, vocab, (3, source)), rng.integers(4, vocab, (3, target))
    masks = [(rows(part.shape[1]) < lengths[:, side, None]).astype(np.int32) for side, part in enumerate(ids)]
    return ids[0], masks[0], rows(source), ids[1], masks[1], rows(target)


def t5_loss(theirs, batch):
    source, source_mask, _, target, target_mask, _ = map(torch.tensor, batch)
    logits = theirs(
        input_ids=source, attention_mask=source_mask, decoder_input_ids=target, decoder_attention_mask=target_mask
    ).logits
    weights = target_mask / target_mask.sum()
    losses = torch.nn.functional.cross_entropy(logits.mT, target.roll(-1, 1), reduction="none")
    return logits, (losses * weights).sum()


@pytest.mark.parametrize(
    "options", [{}, {"untied": False}, {"family": "MT5"}, {"d_kv": 8, "num_heads": 5, "num_decoder_layers": 1}]
)
def test_logits_and_gradients_of_t5_with_padding(options, tmp_path):
    theirs, batch = reference.t5(**options), text_batch(np.random.default_rng(0))
    model, variables = reference.load(reference.save(theirs, tmp_path))
    assert model.spec.logits == ("untied" if options.get("untied", True) else "tied_scaled")
    logits, loss = t5_loss(theirs, batch)
    loss.backward()

    def ours(params):
        logits = model.apply({"params": params}, *batch)
        log = jax.nn.log_softmax(logits)
        picked = jnp.take_along_axis(log, np.roll(batch[3], -1, 1)[..., None], -1)[..., 0]
        return -(picked * batch[4]).sum() / batch[4].sum(), logits

    (value, mine), gradients = jax.jit(jax.value_and_grad(ours, has_aux=True))(variables["params"])
    real = batch[4] > 0
    reference.assert_close(np.asarray(mine)[real], logits.detach().numpy()[real])
    assert abs(float(value) - loss.item()) < 1e-4 * loss.item()
    check_gradients(t5_family.table(model), hub_names(theirs, tmp_path), gradients)


@pytest.mark.parametrize("untied", [True, False])
def test_greedy_generation_gives_the_same_tokens(untied, tmp_path):
    # As many layers on both sides, since its cache has as many as the encoder.
    theirs, length = reference.t5(untied, num_layers=2, num_decoder_layers=2, vocab_size=60), 12
    model, variables = reference.load(reference.save(theirs, tmp_path))
    source, mask, positions, *_ = text_batch(np.random.default_rng(3), 60)
    with torch.no_grad():
        expected = theirs.generate(
            torch.tensor(source), attention_mask=torch.tensor(mask), do_sample=False, num_beams=1, max_new_tokens=length
        ).numpy()[:, 1:]

    @jax.jit
    def generate(variables):
        apply = lambda method, *args: model.apply(variables, *args, method=method)
        encoded = apply("encode", source, mask, positions)
        cache = apply("init_cache", encoded, mask, length)
        step = lambda *args: apply("decode_step", *args)
        return decoding.greedy(step, cache, len(source), length, BOS, EOS)[0]

    ours = np.asarray(generate(variables))[:, : expected.shape[1]]
    assert len(np.unique(expected)) > 6
    np.testing.assert_array_equal(ours, expected)


def test_a_layout_undoes_itself():
    """Every layout, on arrays of every rank it is for."""
    rng = np.random.default_rng(0)
    for layout, ours in (
        (layouts.SAME, (3, 4)), (layouts.FLAT, (3, 4)), (layouts.CONV, (2, 3, 4, 5)), (layouts.LINEAR, (3, 4)),
        (layouts.LINEAR, (3, 4, 5)), (layouts.FROM_HEADS, (3, 4, 5)),
    ):  # fmt: skip
        array = rng.normal(size=ours)
        theirs = layout.to_theirs(array)
        assert theirs.shape == layout.their_shape(ours)
        np.testing.assert_array_equal(layout.to_ours(theirs, ours), array)
