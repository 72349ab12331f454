"""`python -m research.interop check`: compares our logits of a checkpoint with those of transformers."""

import importlib.util
from pathlib import Path
from typing import Any

import jax
import numpy as np

from research import numerics
from research.config import Experiments
from research.interop import checkpoints, loading
from research.models.bert import Bert
from research.models.seq2seq import Seq2Seq
from research.models.speech import Recogniser

RELATIVE = 1e-4  # of the largest logit, in float32
_CLASSES = {
    "vit": "ViTForImageClassification", "resnet": "ResNetForImageClassification",
    "convnext": "ConvNextForImageClassification", "t5": "T5ForConditionalGeneration",
    "mt5": "MT5ForConditionalGeneration", "whisper": "WhisperForConditionalGeneration",
    "bert": "BertForSequenceClassification", "roberta": "RobertaForSequenceClassification",
    "distilbert": "DistilBertForSequenceClassification", "dinov2": "Dinov2ForImageClassification",
    "dinov2_with_registers": "Dinov2WithRegistersForImageClassification",
}  # fmt: skip


def run(path: str, experiments: Experiments) -> list[str]:
    """Compares logits; returns lines for the user. Raises ValueError if they differ or cannot be compared.

    `experiments` maps the name of an experiment to the class of its configs.
    """
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"check needs {' and '.join(missing)}; install Tessera with the extra [interop]")
    numerics.check()
    checkpoint = checkpoints.open_checkpoint(path, experiments)
    if checkpoint.kind not in _CLASSES:
        raise ValueError(f"{path}: transformers has no model for {checkpoint.kind}; check is for {', '.join(_CLASSES)}")
    model = checkpoint.make_model()
    shapes = loading.abstract(model, checkpoints.channels(checkpoint))
    plan = loading.plan(checkpoint, model, loading.leaves_of(shapes), exact=True)
    if plan.fresh or (isinstance(model, Bert) and not model.num_classes):
        raise ValueError(f"{path} has no head, so it has no logits to compare; give a checkpoint with a head")
    inputs = _inputs(checkpoint, model)
    ours = np.asarray(jax.jit(lambda variables: model.apply(variables, *inputs))(plan.variables(shapes)))
    theirs = _theirs(checkpoint, inputs)
    difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    line = f"logits {list(ours.shape)} differ by {difference:.1e} of the largest, {np.abs(theirs).max():.3g}"
    if not difference <= RELATIVE:
        raise ValueError(f"{path}: {line}; at most {RELATIVE:g} is allowed")
    return [*plan.lines(), f"{line}; at most {RELATIVE:g} is allowed"]


def _inputs(checkpoint: checkpoints.Checkpoint, model: Any) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    channels = checkpoints.channels(checkpoint)
    normal = lambda *shape: rng.normal(0, 1, shape).astype(np.float32)
    ids = lambda length: rng.integers(2, model.vocab_size, (2, length))
    rows = lambda length: (np.ones((2, length), np.int32), np.broadcast_to(np.arange(length), (2, length)))
    if isinstance(model, Recogniser):  # transformers requires this length
        positions, length = model.max_source_length, min(30, model.max_target_length)
        return normal(2, positions * model.spec.downsampling, channels), *rows(positions), ids(length), *rows(length)
    if isinstance(model, Bert):
        length = min(40, model.max_length)
        return ids(length), rows(length)[0]
    if isinstance(model, Seq2Seq):
        return ids(40), *rows(40), ids(30), *rows(30)
    size = getattr(model.spec, "image_size", 224)
    return (normal(2, size, size, channels),)


def _theirs(checkpoint: checkpoints.Checkpoint, inputs: tuple[np.ndarray, ...]) -> np.ndarray:
    import torch  # pyright: ignore[reportMissingImports]  an extra
    import transformers  # pyright: ignore[reportMissingImports]

    where = Path(checkpoint.path).expanduser()
    folder = where if where.is_dir() else where.parent
    name = _CLASSES[checkpoint.kind]
    if checkpoint.fields.get("of_tokens"):
        name = name.replace("SequenceClassification", "QuestionAnswering")
    model = getattr(transformers, name).from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        if len(inputs) == 1:
            return model(torch.tensor(inputs[0].transpose(0, 3, 1, 2))).logits.numpy()
        if len(inputs) == 2:
            found = model(input_ids=torch.tensor(inputs[0]), attention_mask=torch.tensor(inputs[1]))
            if checkpoint.fields["of_tokens"]:
                return torch.stack([found.start_logits, found.end_logits], dim=-1).numpy()
            return found.logits.numpy()
        source, target = torch.tensor(inputs[0]), torch.tensor(inputs[3])
        if checkpoint.kind == "whisper":
            return model(input_features=source.mT, decoder_input_ids=target).logits.numpy()
        return model(input_ids=source, decoder_input_ids=target).logits.numpy()
