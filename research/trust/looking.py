"""What a model looks at: scores of the parts of its inputs, for any task that has them; see `explain`."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from research.models.alexnet import AlexNet
from research.models.attention import CAPTURED
from research.models.bert import Bert
from research.models.video import VideoViT
from research.models.vit import ViT
from research.tasks.classification import ImageTask
from research.tasks.seq2seq import Seq2SeqTask, shift_right
from research.tasks.span_extraction import SpanExtractionTask
from research.tasks.text_classification import TextClassificationTask
from research.trust import attending, gradients
from research.trust.gradients import Tap

GRAD_CAM, ATTENTION, ROLLOUT, GRADIENTS = "Grad-CAM", "attention", "roll-out", "gradient x input"
# Method -> scores [batch, height, width], of clips [batch, time, height, width], of texts [batch, length].
Maps = dict[str, np.ndarray]
DESCRIBED = {
    GRAD_CAM: "Grad-CAM: where the last feature map speaks for the predicted class (Selvaraju et al., 2017)",
    ATTENTION: "attention: that of the last layer, mean over heads, from the tokens that are pooled",
    ROLLOUT: "roll-out: attention through all layers with their residual connections (Abnar and Zuidema, 2020)",
    GRADIENTS: "gradient x input: red speaks for the prediction, blue against it",
}
Explain = Callable[[Any, Mapping[str, Any]], Maps]  # from variables and a batch

_ROOT = Tap("", of_input=True)


def of(task: Any) -> Explain | None:
    """The methods for a task; None if there is none.

    CNNs that classify images or faces: Grad-CAM of the predicted class. Vision transformers: attention of the last
    layer and roll-out, from the tokens that are pooled to the patches. Texts: the same, and gradients times input of
    the predicted class, span or tokens.
    """
    model = getattr(task, "model", None)
    inner = getattr(model, "backbone", model)
    if isinstance(inner, ViT):
        return _vision(task, inner)
    if isinstance(task, ImageTask) and inner is not None:
        tap = Tap(feature_map(model))
        compute = jax.jit(lambda variables, batch: gradients.grad_cam(tap, lambda: best_logits(task, variables, batch)))
        return lambda variables, batch: {GRAD_CAM: np.asarray(compute(variables, batch), np.float32)}
    if isinstance(task, TextClassificationTask | SpanExtractionTask | Seq2SeqTask):
        return _text(task)
    return None


def feature_map(model: Any) -> str:
    """The path of the module whose output is the last feature map of a CNN, or of the backbone of a model."""
    inner, prefix = getattr(model, "backbone", model), "backbone/" if hasattr(model, "backbone") else ""
    if isinstance(inner, AlexNet):
        return f"{prefix}conv5"
    stages = inner.spec.stage_sizes
    return f"{prefix}stage{len(stages)}_block{stages[-1]}"


def best_logits(task: ImageTask, variables: Any, batch: Any) -> jax.Array:
    """The highest logit of each image [batch]; of faces the highest cosine."""
    found: Any = task.logits(variables, batch)
    return (found[1] if isinstance(found, tuple) else found).max(-1)


def _vision(task: Any, inner: ViT) -> Explain:
    run = task.logits if isinstance(task, ImageTask) else task.predict

    @jax.jit
    def captured(variables, batch):
        images = _ROOT.read(lambda: run(variables, batch))
        return task.model.apply(variables, images, train=False, mutable=[CAPTURED])[1][CAPTURED]

    def explain(variables: Any, batch: Mapping[str, Any]) -> Maps:
        layers, count = attending.maps(captured(variables, batch)), len(batch["image"])
        spec: Any = inner.spec
        columns = (getattr(spec, "image_width", 0) or spec.image_size) // spec.patch_size
        if isinstance(inner, VideoViT):
            time, space = spec.frames // spec.tubelet, columns**2
            is_factorised = spec.space_time == "factorised"
            layers = attending.over_space_and_time(layers, count, time, space, is_factorised)
            pooled = np.full((count, time * space), 1 / (time * space))
            return {name: found.reshape(count, time, -1, columns) for name, found in _attended(layers, pooled).items()}
        length, has_cls = layers[0].shape[-1], spec.pool == "cls"
        pooled = np.eye(length)[:1].repeat(count, 0) if has_cls else np.full((count, length), 1 / length)
        found = _attended(layers, pooled)
        return {name: scores[:, int(has_cls) :].reshape(count, -1, columns) for name, scores in found.items()}

    return explain


def _attended(layers: list[attending.Map], pooled: np.ndarray) -> Maps:
    """Scores [batch, keys] of the last layer's attention and of roll-out, from tokens weighted [batch, queries]."""
    from_pooled = lambda weights: np.einsum("bq,bqk->bk", pooled, weights)
    return {ATTENTION: from_pooled(layers[-1].mean(1)), ROLLOUT: from_pooled(attending.rollout(layers))}


def _text(task: Any) -> Explain:
    model = task.model
    is_bert = isinstance(model, Bert)

    @jax.jit
    def computed(variables, batch):
        source = tuple(batch[f"source{part}"] for part in ("", "_segments", "_positions"))
        if is_bert:
            types = batch.get("source_types")
            _, stored = model.apply(variables, *source, types, mutable=[CAPTURED])
            # The embeddings of tokens, to which those of positions are added before the norm.
            tap, inputs = Tap("norm", of_input=True), variables["params"]["embedding"][source[0]]
            run = lambda: _bert_scores(task, cast(Any, model.apply(variables, *source, types)), batch)
        else:
            _, stored = model.apply(variables, *source, method="encode", mutable=[CAPTURED])
            tap, inputs = Tap("", "embed_source"), None
            tokens = task.predict(variables, batch, jax.random.key(0))["tokens"][:, 0]
            run = lambda: _written(task, variables, source, tokens)
        return gradients.times_input(tap, run, inputs), stored[CAPTURED]

    def explain(variables: Any, batch: Mapping[str, Any]) -> Maps:
        scores, stored = computed(variables, batch)
        real = np.asarray(batch["source_segments"]) > 0
        pooled = real / real.sum(1, keepdims=True)
        if is_bert and not model.of_tokens and model.spec.pool != "mean":
            pooled = np.eye(real.shape[1])[:1].repeat(len(real), 0)
        return {GRADIENTS: np.asarray(scores, np.float32), **_attended(attending.maps(stored), pooled)}

    return explain


def _bert_scores(task: Any, logits: jax.Array, batch: Mapping[str, Any]) -> jax.Array:
    """The highest logit of each text [batch]; of spans the highest start plus the highest end in the context."""
    if not isinstance(task, SpanExtractionTask):
        return logits.max(-1)
    inside = (batch["source_context"] > 0)[..., None]
    return jnp.where(inside, logits, jnp.finfo(logits.dtype).min).max(1).sum(-1)


def _written(task: Seq2SeqTask, variables: Any, source: Any, tokens: jax.Array) -> jax.Array:
    """The log-probability [batch] of the `tokens` [batch, length] that were generated, 0 after EOS."""
    mask = (tokens > 0).astype(jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    given = shift_right(tokens, positions, task.bos)
    logits = cast(jax.Array, task.model.apply(variables, *source, given, mask, positions))
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=-1)[..., 0]
    return (chosen * mask).sum(-1)
