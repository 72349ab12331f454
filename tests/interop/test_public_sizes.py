"""The logits of public configurations, with random weights, beside those of transformers."""

import jax
import numpy as np
import pytest

from tests.interop import reference, test_parity, test_whisper
from tests.interop.reference import torch, transformers

pytestmark = pytest.mark.long


@pytest.mark.parametrize("name", ["vit_b16", "resnet50", "convnext_t"])
def test_logits_of_images_at_public_sizes(name, tmp_path):
    config, make = {
        "vit_b16": (transformers.ViTConfig(num_labels=1000), transformers.ViTForImageClassification),
        "resnet50": (transformers.ResNetConfig(num_labels=1000), transformers.ResNetForImageClassification),
        "convnext_t": (transformers.ConvNextConfig(num_labels=1000), transformers.ConvNextForImageClassification),
    }[name]
    test_parity.check_images(reference.randomise(make(config)), tmp_path, reference.images(224, count=1))


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("T5", {"vocab_size": 32128, "d_model": 768, "d_ff": 2048, "layers": 12, "num_heads": 12}),  # v1.1, base
        ("MT5", {"vocab_size": 250112, "d_model": 512, "d_ff": 1024, "layers": 8, "num_heads": 6}),  # small
    ],
)
def test_logits_of_t5_at_public_sizes(family, sizes, tmp_path):
    """A gigabyte each, of which theirs has gone when ours is read."""
    sizes, layers = dict(sizes), sizes["layers"]
    del sizes["layers"]
    theirs = reference.t5(
        family=family, d_kv=64, num_layers=layers, num_decoder_layers=layers, relative_attention_num_buckets=32,
        relative_attention_max_distance=128, **sizes,
    )  # fmt: skip
    batch = test_parity.text_batch(np.random.default_rng(0), sizes["vocab_size"], source=150, target=9)
    with torch.no_grad():
        logits = test_parity.t5_loss(theirs, batch)[0].numpy()
    count = theirs.num_parameters()
    reference.save(theirs, tmp_path, max_shard_size="400MB")
    del theirs
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    model, variables = reference.load(tmp_path)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == count
    ours = jax.jit(lambda variables: model.apply(variables, *batch))(variables)
    real = batch[4] > 0
    reference.assert_close(np.asarray(ours)[real], logits[real])


def test_whisper_tiny_at_its_public_size(tmp_path):
    theirs = reference.randomise(transformers.WhisperForConditionalGeneration(transformers.WhisperConfig()))
    test_whisper.check(theirs, reference.save(theirs, tmp_path), positions=1500, mels=80, length=40, batch=1)
