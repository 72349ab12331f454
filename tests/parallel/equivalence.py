"""One training step of a tiny model on any mesh, with everything on that could tell meshes apart."""

import functools

import jax
import numpy as np
import optax

from research.models import (
    alexnet,
    bert,
    convnext,
    efficientnet,
    faces,
    resnet,
    seq2seq,
    speech,
    video,
    vit,
    whitened_cnn,
)
from research.parallel import mesh as mesh_lib
from research.parallel.sharding import path_name
from research.tasks import classification, retrieval, span_extraction
from research.tasks import faces as faces_task
from research.tasks import seq2seq as seq2seq_task
from research.tasks import speech as speech_task
from research.train import feed
from research.train.program import build_program
from tests.train import toy

SMALL = {
    "image_size": 8, "patch_size": 2, "width": 16, "depth": 2, "mlp_dim": 32, "num_heads": 4, "dropout": 0.2,
    "stochastic_depth": 0.3,
}  # fmt: skip
# A ViT with a class token has 17 tokens, which no mesh divides.
MODELS = {
    "vit": functools.partial(vit.ViT.of, **SMALL),
    "vit_22b": functools.partial(
        vit.ViT.of, **SMALL, pool="mean", parallel=True, qk_norm=True, qkv_bias=False, norm="rms", remat="full"
    ),
    "vit_conv": functools.partial(
        vit.ViT.of, **(SMALL | {"num_heads": 3, "width": 24}), stem="conv", positions="sincos", unroll=2, remat="dots"
    ),
    "vit_siglip": functools.partial(
        vit.ViT.of,
        **SMALL,
        pool="map",
        registers=3,
        layer_scale=0.5,
        first_norm=True,
        patch_bias=False,
        gelu="quick",
        projection=12,
        unit_features=True,
    ),
    "resnet": functools.partial(resnet.ResNet.of, stage_sizes=(1, 1), block="bottleneck", width=8, stem="imagenet"),
    "convnext": functools.partial(convnext.ConvNeXt.of, stage_sizes=(1, 1), widths=(8, 16), stochastic_depth=0.3),
    "efficientnet": functools.partial(
        efficientnet.EfficientNet.of,
        stage_sizes=(1, 1),
        widths=(32, 8),
        kernel_sizes=(3, 5),
        stage_strides=(1, 2),
        dropout=0.2,
        stochastic_depth=0.3,
    ),
    "alexnet": functools.partial(alexnet.AlexNet.of, mlp_dim=32),
    "whitened_cnn": functools.partial(whitened_cnn.WhitenedCNN.of, widths=(8, 16)),
}
CLIPS = {
    "vivit": functools.partial(video.VideoViT.of, **SMALL, frames=4),
    "vivit_factorised": functools.partial(video.VideoViT.of, **SMALL, frames=6, space_time="factorised", remat="full"),
}
SIZES = {"alexnet": 64, "resnet": 16, "convnext": 16, "efficientnet": 16}

TEXT = {
    "width": 16, "encoder_depth": 2, "decoder_depth": 2, "num_heads": 4, "kv_dim": 6, "mlp_dim": 32,
    "relative_buckets": 8, "relative_distance": 6, "dropout": 0.2,
}  # fmt: skip
VASWANI = {name: value for name, value in seq2seq.SIZES["vaswani_base"].items() if name not in TEXT}
WHISPER = {
    "norm": "layer", "activation": "gelu_exact", "gated": False, "bias": True, "key_bias": False, "logits": "tied",
    "attention_scale": True, "encoder_positions": "sinusoidal", "decoder_positions": "learned", "remat": "full",
}  # fmt: skip
# Whisper has 3 heads, 13 positions and 31 tokens here, which no mesh divides.
TEXTS = {
    "t5": functools.partial(seq2seq.Seq2Seq, seq2seq.Seq2SeqSpec(**TEXT), 32),
    "vaswani": functools.partial(
        seq2seq.Seq2Seq, seq2seq.Seq2SeqSpec(**TEXT, **VASWANI, unroll=2), 32, sentence_length=3
    ),
    "copying": functools.partial(seq2seq.Seq2Seq, seq2seq.Seq2SeqSpec(**TEXT, copy_mechanism=True), 32),
    "whisper": functools.partial(
        seq2seq.Seq2Seq,
        seq2seq.Seq2SeqSpec(**(TEXT | {"num_heads": 3}), **WHISPER),
        31,
        max_source_length=13,
        max_target_length=13,
    ),
}
# The same 3 heads and 13 positions, of spectrograms, with CTC.
SPEECH = functools.partial(
    speech.Recogniser,
    speech.RecogniserSpec(**(TEXT | {"num_heads": 3}), **WHISPER),
    31,
    max_source_length=13,
    max_target_length=13,
    ctc=True,
)
BERT = functools.partial(
    bert.Bert.of, vocab_size=32, max_length=16, width=16, depth=2, num_heads=4, mlp_dim=32, dropout=0.2
)
SPANS = functools.partial(BERT, num_classes=2, of_tokens=True)
BOS, EOS, UNK = 3, 1, 2


def make_task(name, dtype, **settings):
    """The task of a model."""
    if name == "speech":
        model = SPEECH(dtype=dtype, param_dtype=dtype)
        spec = speech_task.SpeechTaskSpec(label_smoothing=0.1, max_decode_length=7, ctc_weight=0.4, **settings)
        return speech_task.SpeechTask(model, spec, 13, 13, BOS, EOS, UNK, mels=6)
    if name in TEXTS:
        length = 13 if name == "whisper" else 16
        spec = seq2seq_task.Seq2SeqTaskSpec(
            label_smoothing=0.1, z_loss=0.01, word_dropout=0.1, max_decode_length=7, **settings
        )
        return seq2seq_task.Seq2SeqTask(
            TEXTS[name](dtype=dtype, param_dtype=dtype), spec, length, length, BOS, EOS, UNK
        )
    if name == "spans":
        spec = span_extraction.SpanExtractionSpec(max_answer_length=3, num_return=2, **settings)
        return span_extraction.SpanExtractionTask(SPANS(dtype=dtype, param_dtype=dtype), spec, 16, 3)
    if name == "retrieval":
        model = BERT(pool="mean", dtype=dtype, param_dtype=dtype)
        return retrieval.RetrievalTask(model, retrieval.RetrievalSpec(temperature=0.3, **settings), 16, 16, 4)
    if name == "faces":  # whose centres are a vocabulary of people
        backbone = resnet.ResNet.of(0, dtype, dtype, stage_sizes=(1, 1), block="basic", width=8, stem="half")
        model = faces.FaceModel.of(backbone, 10, param_dtype=dtype, embed_dim=16, flatten=True, embed_dropout=0.2)
        spec = faces_task.FaceSpec(margin_size=0.3, scale=8.0)
        return faces_task.FaceTask(model, (8, 8, 3), (128.0,) * 3, (74.0,) * 3, spec)
    if name in CLIPS:
        model = CLIPS[name](num_classes=10, dtype=dtype, param_dtype=dtype)
        shape, spec = (model.spec.frames, 8, 8, 3), classification.LabelSpec(label_smoothing=0.1)
        return classification.LabelTask(model, shape, (128.0,) * 3, (74.0,) * 3, spec)
    model = MODELS[name](num_classes=10, dtype=dtype, param_dtype=dtype)
    size = SIZES.get(name, SMALL["image_size"])
    spec = classification.ClassificationSpec(label_smoothing=0.1, mixup=0.4)
    return classification.ClassificationTask(model, (size, size, 3), (128.0,) * 3, (74.0,) * 3, spec)


def make_program(name, sizes, dtype, platform=None, lora=None, **settings):
    """The program of a model on a mesh of the first data x fsdp x tensor x sequence devices of a platform."""
    config = toy.make_config(
        **{
            "lora": lora or {},
            "mesh": dict(zip(mesh_lib.AXES, sizes, strict=True)),
            # Momentum, because after one step its trace is the gradient, unrounded.
            "optimizer": {"name": "sgd", "momentum": 0.9, "learning_rate": 0.1, "schedule": "constant"},
            "train.microbatches": 2,
        }
    )
    task = make_task(name, dtype, **settings)
    devices = jax.devices(platform)[: int(np.prod(sizes))]
    return build_program(config, task, mesh_lib.make_mesh(config.mesh.sizes, devices)), task


def make_batch(task):
    """16 images or rows of packed texts, the last of which is padding."""
    rng = np.random.default_rng(0)
    batch = {"index": np.arange(16, dtype=np.int32), "weight": np.array([1] * 15 + [0], np.float32)}
    if isinstance(task, classification.ImageTask):
        image = rng.integers(0, 256, (16, *task.image_shape)).astype(np.uint8)
        return {"image": image, "label": rng.integers(0, 10, 16).astype(np.int32), **batch}
    if isinstance(task, span_extraction.SpanExtractionTask):
        return batch | make_windows(rng)
    indices = np.arange(task.source_length)
    for side, starts, left in (("source", [0, 3, 5], 1), ("target", [0, 2, 6], 2)):
        segments = np.searchsorted(starts, indices, side="right") * (indices < len(indices) - left)
        positions = (indices - np.array([0, *starts])[segments]) * (segments > 0)
        tokens = rng.integers(4, task.model.vocab_size, (16, len(indices))) * (segments > 0)
        for name, rows in (("", tokens), ("_segments", segments), ("_positions", positions)):
            batch[side + name] = np.broadcast_to(rows, tokens.shape).astype(np.int32)
    if isinstance(task, speech_task.SpeechTask):
        return batch | make_sounds(rng)
    if isinstance(task, retrieval.RetrievalTask):  # some of whose texts are equal
        digests = {f"{side}_digest": rng.integers(0, 4, (16, 4, 2)).astype(np.int32) for side in ("source", "target")}
        return batch | digests
    if task.model.sentence_length:
        words = np.arange(task.model.sentence_length)
        sentences = np.repeat(batch["source"][..., None], len(words), axis=-1) + words
        batch["source"] = (sentences % 32 * (words < rng.integers(1, 4, sentences[..., :1].shape))).astype(np.int32)
    return batch


def make_windows(rng):
    """Two windows a row, of 9 and 6 tokens: [CLS] question [SEP] context [SEP]; a third is absent."""
    segments = np.repeat([1, 2, 0], [9, 6, 1])
    positions = np.array([*range(9), *range(6), 0])
    context = np.array([0, 0, 0, 2, 2, 2, 1, 1, 0, 0, 0, 1, 2, 2, 0, 0])
    types = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0])
    answers = np.stack([rng.integers(3, 8, (16, 2)), rng.integers(2, 5, (16, 2)), np.full((16, 2), -1)], axis=1)
    rows = {"": rng.integers(4, 32, (16, 16)) * (segments > 0), "_segments": segments, "_positions": positions}
    rows |= {"_types": types, "_context": context}
    batch = {f"source{name}": np.broadcast_to(row, (16, 16)).astype(np.int32) for name, row in rows.items()}
    return batch | {"answer": np.sort(answers).astype(np.int32), "shift": np.arange(16, dtype=np.int32)}


def make_sounds(rng):
    """The source of 16 sounds of 5 to 13 positions, and targets of 1 to 4 tokens."""
    mask = np.arange(13) < rng.integers(5, 14, (16, 1))
    sounds = rng.normal(size=(16, 26, 6)) * mask.repeat(2, axis=1)[..., None]
    batch = {"source": sounds.astype(np.float32), "source_segments": mask.astype(np.int32)}
    batch["source_positions"] = (np.arange(13) * mask).astype(np.int32)
    ends = rng.integers(1, 5, (16, 1))
    written = np.arange(13) <= ends
    target = np.where(np.arange(13) < ends, rng.integers(4, 31, (16, 13)), EOS) * written
    batch |= {"target": target.astype(np.int32), "target_segments": written.astype(np.int32)}
    return batch | {"target_positions": (np.arange(13) * written).astype(np.int32)}


def first_state(program):
    """A state of random parameters, since behind a fresh head of zeros all gradients would be zero."""
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape), program.state.params)
    mutable = jax.tree.map(lambda leaf: rng.uniform(0.5, 1.5, leaf.shape), program.state.mutable)
    state = program.state.replace(
        step=np.zeros(()),
        params=params,
        mutable=mutable,
        opt_state=jax.tree.map(lambda leaf: np.zeros(leaf.shape), program.state.opt_state),
        ema={"params": params, **mutable},
    )
    place = lambda leaf, to: jax.device_put(np.array(leaf, to.dtype), to.sharding)
    return jax.tree.map(place, state, program.state)


@functools.cache
def step(name, sizes, dtype, platform=None, lora_rank=0):
    """(gradients, state after one step, metrics) of a model, on the host; with low-rank updates of all its kernels."""
    with jax.enable_x64(dtype == "float64"):
        lora = {"rank": lora_rank, "kernels": ("kernel$",)}
        program, task = make_program(name, sizes, dtype, platform, lora)
        batch = feed.to_mesh(make_batch(task), program.batch_sharding)
        state = first_state(program)
        # Compiled without LLVM's optimisations, which take most of the time and know nothing of the mesh.
        options = {} if platform == "gpu" else {"xla_backend_optimization_level": 0}
        compiled = program.train_step.lower(state, batch).compile(options)
        state, metrics = compiled(state, batch)
        gradients = optax.tree_utils.tree_get(state.opt_state, "trace")
        return jax.device_get((gradients, state, metrics))


def check(one, other, tolerance):
    """Two results of `step`, of which none is alone zero: each leaf to `tolerance` of it and a hundredth of all."""
    gradients, state, metrics = one
    total = norm([norm(leaf) for leaf in jax.tree.leaves(gradients)])
    flat = jax.tree_util.tree_leaves_with_path((gradients, state, metrics["loss"]))
    for (path, leaf), given in zip(flat, jax.tree.leaves((*other[:2], other[2]["loss"])), strict=True):
        assert leaf.dtype == given.dtype and leaf.shape == given.shape
        difference = norm(np.asarray(leaf, np.float64) - np.asarray(given, np.float64))
        allowed = tolerance * (norm(leaf) + 0.01 * total)
        assert difference <= allowed, (path_name(path), difference / allowed)
    dead = {path_name(path) for path, leaf in jax.tree_util.tree_leaves_with_path(gradients) if not np.any(leaf)}
    assert not dead


def norm(leaf):
    """In float64, the Euclidean norm."""
    return np.linalg.norm(np.asarray(leaf, np.float64).ravel())
