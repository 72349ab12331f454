"""Models of transformers with random weights, as the library saves them, and ours with the same weights."""

import importlib.metadata

import jax
import numpy as np
import pytest

from research.cli.experiments import config_class
from research.interop import checkpoints, loading

torch = pytest.importorskip("torch", reason="PyTorch is not installed; it comes with the extra [interop]")
transformers = pytest.importorskip("transformers", reason="transformers is not installed; see the extra [interop]")

RELATIVE = 1e-4  # in float32, of the largest number


def randomise(model, seed=0):
    """Random weights and statistics of a size that lets every part of the model show in its logits."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            if name.endswith("encoder.embed_positions.weight"):
                continue  # sinusoids, which Whisper does not train
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 1
            if name.endswith("Attention.q.weight"):
                # T5 does not divide the logits of attention. Were they larger than those of trained weights, PyTorch's
                # own float32 would be as far from its float64.
                fan_in *= model.config.d_kv
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(0.5 + noise.abs())
            elif "norm" in name and name.endswith("weight"):
                tensor.copy_(1 + 0.2 * noise)
            elif "layer_scale" in name or "lambda1" in name:
                tensor.copy_(0.5 + 0.1 * noise)
            elif tensor.ndim >= 2:
                tensor.copy_(noise * (2.0 / fan_in) ** 0.5)
            else:
                tensor.copy_(0.2 * noise)
    return model.eval()


def vit(head=True, **options):
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 40}
    config = transformers.ViTConfig(**(sizes | {"image_size": 24, "patch_size": 8, "num_labels": 7} | options))
    return randomise((transformers.ViTForImageClassification if head else transformers.ViTModel)(config))


def resnet(layer_type="bottleneck", **options):
    sizes = (32, 64, 128) if layer_type == "bottleneck" else (8, 16, 32)
    options = {"embedding_size": 8, "hidden_sizes": sizes, "depths": (2, 1, 2), "num_labels": 5} | options
    return randomise(
        transformers.ResNetForImageClassification(transformers.ResNetConfig(layer_type=layer_type, **options))
    )


def convnext(**options):
    options = {"hidden_sizes": (8, 16, 24), "depths": (1, 2, 1), "num_stages": 3, "num_labels": 6} | options
    return randomise(transformers.ConvNextForImageClassification(transformers.ConvNextConfig(**options)))


def t5(untied=True, family="T5", **options):
    """T5 v1.1 or, with `family` "MT5", mT5; with tied weights T5 1.0."""
    options = {
        "vocab_size": 30, "d_model": 24, "d_kv": 10, "d_ff": 40, "num_layers": 2, "num_decoder_layers": 3,
        "num_heads": 3, "feed_forward_proj": "gated-gelu" if untied else "relu", "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 12, "tie_word_embeddings": not untied, "decoder_start_token_id": 0,
    } | options  # fmt: skip
    model = getattr(transformers, f"{family}ForConditionalGeneration")(
        getattr(transformers, f"{family}Config")(**options)
    )
    if untied:  # transformers 5 ties the weights of every T5 that it makes, but not of those it reads
        model.lm_head.weight = torch.nn.Parameter(torch.zeros(options["vocab_size"], options["d_model"]))
        model.config.tie_word_embeddings = False
    return randomise(model)


def whisper(head=True, **options):
    options = {
        "vocab_size": 40, "num_mel_bins": 10, "d_model": 24, "encoder_layers": 2, "decoder_layers": 3,
        "encoder_attention_heads": 3, "decoder_attention_heads": 3, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40,
        "max_source_positions": 20, "max_target_positions": 16, "pad_token_id": 5, "bos_token_id": 5,
        "eos_token_id": 5, "decoder_start_token_id": 7, "suppress_tokens": None, "begin_suppress_tokens": None,
    } | options  # fmt: skip
    kind = transformers.WhisperForConditionalGeneration if head else transformers.WhisperModel
    return randomise(kind(transformers.WhisperConfig(**options)))


_BERT = {
    "vocab_size": 30, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 40,
    "max_position_embeddings": 20, "num_labels": 4,
}  # fmt: skip
_DISTILBERT = {
    "vocab_size": 30, "dim": 24, "n_layers": 3, "n_heads": 3, "hidden_dim": 40, "max_position_embeddings": 20,
    "num_labels": 4,
}  # fmt: skip


def bert(family="Bert", head=True, pooler=False, head_of="SequenceClassification", **options):
    """BERT or, with `family` "Roberta" or "DistilBert", one of those; without a head perhaps with a pooler."""
    options = (_DISTILBERT if family == "DistilBert" else _BERT) | options
    kind = getattr(transformers, f"{family}For{head_of}" if head else f"{family}Model")
    config = getattr(transformers, f"{family}Config")(**options)
    model = randomise(kind(config) if head or family == "DistilBert" else kind(config, add_pooling_layer=pooler))
    if family == "Roberta":  # nothing stands at the positions before the first
        table = model.base_model.embeddings.position_embeddings.weight
        with torch.no_grad():
            table[: config.pad_token_id + 1] = 0
    return model


_TOWER = {
    "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 40, "image_size": 24,
    "patch_size": 8,
}  # fmt: skip
_TEXT = {
    "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 28,
    "max_position_embeddings": 12,
}  # fmt: skip


def clip(kind="Model", text=None, **options):
    """A CLIP or, with `kind` "VisionModel" or "VisionModelWithProjection", its image tower."""
    vision = _TOWER | {"projection_dim": 20} | options
    if kind != "Model":
        return randomise(getattr(transformers, f"CLIP{kind}")(transformers.CLIPVisionConfig(**vision)))
    text = _TEXT | {"projection_dim": 20} | (text or {})
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)
    model = randomise(transformers.CLIPModel(config))
    with torch.no_grad():
        model.logit_scale.fill_(2.5)
    return model


def siglip(kind="Model", text=None, **options):
    """A SigLIP or, with `kind` "VisionModel", its image tower."""
    vision = _TOWER | options
    if kind != "Model":
        return randomise(transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**vision)))
    text = _TEXT | {"projection_size": vision["hidden_size"]} | (text or {})
    model = randomise(transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision)))
    with torch.no_grad():
        model.logit_scale.fill_(2.0)
        model.logit_bias.fill_(-3.0)
    return model


def dinov2(head=True, registers=0, **options):
    """A DINOv2, with the token of masked patches, if it has one, as in an export: zero."""
    name = "Dinov2WithRegisters" if registers else "Dinov2"
    own = {"num_register_tokens": registers} if registers else {"use_mask_token": False}
    sizes = {name: size for name, size in _TOWER.items() if name != "intermediate_size"}
    config = getattr(transformers, f"{name}Config")(**(sizes | {"mlp_ratio": 2, "num_labels": 5} | own | options))
    model = randomise(getattr(transformers, f"{name}ForImageClassification" if head else f"{name}Model")(config))
    if registers:
        with torch.no_grad():
            model.base_model.embeddings.mask_token.zero_()
    return model


def save(model, folder, **options):
    """The folder as transformers writes it."""
    model.save_pretrained(folder, **options)
    return folder


def load(path, channels=3, **settings):
    """Our model and its variables for the checkpoint at `path`, of which nothing may be left over."""
    checkpoint = checkpoints.open_checkpoint(str(path), config_class)
    model = checkpoint.make_model(**settings)
    shapes = loading.abstract(model, channels)
    plan = loading.plan(checkpoint, model, loading.leaves_of(shapes), exact=True)
    return model, plan.variables(shapes)


def images(size, count=2, channels=3, seed=0):
    return np.random.default_rng(seed).normal(0, 1, (count, size, size, channels)).astype(np.float32)


def channels_first(images):
    return torch.tensor(images.transpose(0, 3, 1, 2))


def assert_close(ours, theirs):
    """To `RELATIVE` of the largest number, none of which may be tiny by accident."""
    theirs = theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else theirs
    scale = np.abs(theirs).max()
    assert scale > 1e-3 and np.shape(ours) == theirs.shape
    assert np.abs(np.asarray(ours) - theirs).max() <= RELATIVE * scale


def assert_same(first, second):
    """Bit for bit, in the same structure."""
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert one.dtype == other.dtype and one.tobytes() == other.tobytes()


def installed(name):
    """The version of a package, else None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
