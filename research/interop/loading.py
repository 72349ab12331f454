"""Maps the tensors of a checkpoint to the parameters of a model: loaded, resized or newly initialised."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from research import files
from research.checkpoint.leaves import parameter_path
from research.interop import models, positions
from research.interop.checkpoints import Checkpoint, is_unused
from research.interop.layouts import Index, Row
from research.interop.safetensors import TensorSpec
from research.models.bert import Bert
from research.models.seq2seq import Seq2Seq
from research.models.speech import Recogniser
from research.parallel.sharding import path_name
from research.train.lora import is_update

# Supported dtypes of checkpoints; converting a float64 would lose precision.
_FLOATS = ("float32", "bfloat16", "float16")
# Fields of a model that may differ from the checkpoint: training can adapt to them, or shapes show them.
_MAY_DIFFER = (
    "num_classes", "image_size", "pool", "dropout", "stochastic_depth", "zero_init_residual", "momentum", "attention",
    "remat", "unroll", "dtype", "param_dtype", "max_source_length", "max_target_length", "layer_scale", "vocab_size",
    "ctc", "image_width", "decoder_dropout", "embed_dropout", "max_length", "of_tokens",
    "projection", "unit_features",
)  # fmt: skip
# Fields with a small effect on results; differences are reported.
_EPSILONS = ("layer_norm_epsilon", "norm_epsilon", "epsilon", "last_epsilon")
# The parameters with an axis of classes, and the pooler, which is trained with them.
_HEAD = re.compile(r"(token_)?head/(class_conv/)?(kernel|bias)|centres|pooler/(kernel|bias)")
_SEQUENCE = re.compile(r"((encoder|decoder)/)?learned")  # positions [length, width], which may be truncated


def leaves_of(variables: Any) -> dict[str, Any]:
    """{path: leaf} of variables; paths are without the collection, since they are unique without it."""
    found = {}
    for tree in variables.values():
        found |= {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    return found


def abstract(model: nn.Module, channels: int = 3) -> dict[str, Any]:
    """The shapes and dtypes of the variables of a model; `channels` are those of images or the mel bands of speech."""
    array = lambda dtype, *shape: jax.ShapeDtypeStruct(shape, dtype)  # without memory
    if isinstance(model, Bert):
        inputs = (array(jnp.int32, 1, 1),) * 2
    elif isinstance(model, Seq2Seq):
        source = (1, 2, model.sentence_length) if model.sentence_length else (1, 2)
        inputs = (array(jnp.int32, *source), *(array(jnp.int32, 1, 2),) * 5)
        if isinstance(model, Recogniser):
            inputs = (array(jnp.float32, 1, 2 * model.spec.downsampling, channels), *inputs[1:])
    else:
        inputs = (array(jnp.float32, 1, *(getattr(model.spec, "image_size", 224),) * 2, channels),)
    return jax.eval_shape(lambda *inputs: model.init(jax.random.key(0), *inputs), *inputs)


@dataclasses.dataclass
class Loading:
    """The source of each parameter of a model. `state` and `read` load the values from the checkpoint."""

    checkpoint: Checkpoint
    shapes: Mapping[str, tuple[int, ...]]
    rows: dict[str, Row] = dataclasses.field(default_factory=dict)
    resized: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)  # path -> shape in the checkpoint
    fresh: dict[str, str] = dataclasses.field(default_factory=dict)  # path of an initialised parameter -> reason
    left_over: list[str] = dataclasses.field(default_factory=list)
    differs: list[str] = dataclasses.field(default_factory=list)
    grid: positions.Grid | None = None  # patch grid of the model, if it has one
    their_grid: positions.Grid | None = None  # patch grid of the checkpoint, if known

    def read(self, path: str, index: Index, dtype: np.dtype) -> np.ndarray:
        """The values of a parameter at `index`. Raises ValueError for NaN or infinite values."""
        values = self._values(path, index, dtype)
        # Row by row, since a boolean array of the whole would take a quarter of the memory of the largest parameter.
        if not all(np.isfinite(row).all() for row in np.atleast_1d(values)):
            raise ValueError(
                f"{self.checkpoint.path}: {self.rows[path].theirs} holds NaN or infinite values as {dtype}; the "
                "checkpoint is damaged, or its training diverged"
            )
        return values

    def _values(self, path: str, index: Index, dtype: np.dtype) -> np.ndarray:
        tensors, row, shape = self.checkpoint.tensors, self.rows[path], self.shapes[path]
        if path in self.resized:
            theirs = self.resized[path]
            whole = row.read(tensors, theirs, (slice(None),) * len(theirs), np.dtype(np.float32))
            if _SEQUENCE.fullmatch(path):
                return whole[: shape[0]][index].astype(dtype)
            return positions.resize(whole, shape[1], self.grid, self.their_grid)[index].astype(dtype)
        return row.read(tensors, shape, index, dtype)

    def variables(self, shapes: Any) -> Any:
        """All parameters on the host, in the structure of `abstract`; those not in the checkpoint are zeros."""

        def value(path, leaf):
            name = path_name(path[1:])
            whole = (slice(None),) * leaf.ndim
            return self.read(name, whole, leaf.dtype) if name in self.rows else np.zeros(leaf.shape, leaf.dtype)

        return jax.tree_util.tree_map_with_path(value, shapes)

    def state(self, state: Any) -> Any:
        """A train state with the loaded parameters replaced, one parameter and shard at a time."""

        def replaced(path, leaf):
            if path not in self.rows:
                return leaf
            read = lambda index: self.read(path, index, leaf.dtype)
            return jax.make_array_from_callback(leaf.shape, leaf.sharding, read)

        leaves, structure = jax.tree_util.tree_flatten_with_path(state)
        del state  # so that the memory of each replaced parameter is freed
        for place, (path, leaf) in enumerate(leaves):
            if (name := parameter_path(path_name(path))) is not None:
                leaves[place] = path, replaced(name, leaf)
                jax.block_until_ready(leaves[place][1])
        return jax.tree.unflatten(structure, [leaf for _, leaf in leaves])

    def lines(self) -> list[str]:
        """Lines for the user."""
        found = [f"loaded {len(self.rows)} of {len(self.shapes)} parameters from {self.checkpoint.path}"]
        for path, theirs in self.resized.items():
            found.append(f"resized {path}: {list(theirs)} -> {list(self.shapes[path])}")
        found += [f"initialised {path}: {why}" for path, why in self.fresh.items()]
        found += [f"differs: {line}" for line in self.differs]
        return found + ([f"left over: {', '.join(self.left_over)}"] if self.left_over else [])

    def report(self) -> dict[str, Any]:
        """The summary that is stored with a run."""
        path = self.checkpoint.path
        return {
            "path": path,
            **({"revision": files.located(path).name} if path.startswith(files.HUB) else {}),
            "kind": self.checkpoint.kind,
            "loaded": sorted(self.rows.keys() - self.resized.keys()),
            "resized": {path: [list(theirs), list(self.shapes[path])] for path, theirs in self.resized.items()},
            "fresh": self.fresh,
            "left_over": self.left_over,
            "differs": self.differs,
        }


def plan(
    checkpoint: Checkpoint, model: nn.Module, leaves: Mapping[str, Any], skip: Sequence[str] = (), exact: bool = False
) -> Loading:
    """Determines how the parameters of `model` are loaded; only headers of the checkpoint are read.

    Position embeddings of another image size are resized, those of longer sequences truncated, and a head for other
    classes is initialised.

    Args:
        checkpoint: The source.
        model: The model to load into.
        leaves: Its parameters, see `leaves_of`.
        skip: Regexes: parameters whose path matches are initialised, and tensors whose name matches are ignored.
        exact: Whether all parameters must fit and be loaded, and all tensors be used.

    Raises:
        ValueError: A parameter does not fit; the message has the names on both sides.
    """
    part, ours, theirs = _common(checkpoint, model)
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves.items()}
    loading = Loading(
        checkpoint, shapes, grid=positions.grid_of(part), their_grid=positions.grid_of_fields(checkpoint.fields)
    )
    _compare_fields(loading, part)
    inside = {path: path.removeprefix(ours) for path in leaves if path.startswith(ours)}
    rows = {row.ours: row for row in checkpoint.table(part, list(inside.values()))}
    used: set[str] = set()
    for path, leaf in leaves.items():
        if any(re.search(pattern, path) for pattern in skip):
            loading.fresh[path] = "skipped"
        elif is_update(path):
            loading.fresh[path] = "adapter"
        elif path not in inside:
            loading.fresh[path] = f"not part of the {type(part).__name__}, which is all that is loaded"
        elif inside[path] not in rows:
            raise ValueError(
                f"{path} has no counterpart in the table of {checkpoint.kind}; add it to config.train.init_skip"
            )
        else:
            row = rows[inside[path]]
            row = dataclasses.replace(row, theirs=theirs + row.theirs) if theirs else row
            used |= _place(loading, path, leaf, row, exact)
    extra = [name for name in checkpoint.tensors.specs if name not in used]
    loading.left_over = [checkpoint.tensors.there(name) for name in extra]
    unknown = [name for name in extra if not is_unused(checkpoint, name) and not _found(skip, name)]
    if exact and unknown:
        raise ValueError(
            f"{checkpoint.path} has {len(unknown)} tensors that this {checkpoint.kind} model does not use, first "
            f"{checkpoint.tensors.there(unknown[0])}"
        )
    return loading


def _common(checkpoint: Checkpoint, model: nn.Module) -> tuple[nn.Module, str, str]:
    """The part that `model` and the checkpoint share (a model or a backbone), and its path prefix in each.

    Raises ValueError if there is none.
    """
    hears = isinstance(model, Recogniser) and not issubclass(checkpoint.model, Recogniser)
    around = checkpoint.backbone is None or isinstance(getattr(model, "backbone", None), checkpoint.backbone)
    if not hears and issubclass(type(model), checkpoint.model) and around:
        return model, "", ""
    part, ours = (model.backbone, models.BACKBONE) if hasattr(model, "backbone") else (model, "")
    their_part, theirs = (checkpoint.backbone, models.BACKBONE) if checkpoint.backbone else (checkpoint.model, "")
    if hears or not issubclass(type(part), their_part):
        name = lambda kind, inner: kind.__name__ + (f" around a {inner.__name__}" if inner else "")
        raise ValueError(
            f"{checkpoint.path} holds a {name(checkpoint.model, checkpoint.backbone)}, but the config has a "
            f"{name(type(model), type(part) if ours else None)}"
        )
    return part, ours, theirs


def _found(patterns: Iterable[str], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _compare_fields(loading: Loading, model: nn.Module) -> None:
    for field, theirs in loading.checkpoint.fields.items():
        if not models.has(model, field) and not isinstance(model, loading.checkpoint.model):
            continue  # a field of a model around the backbone, which this model lacks
        ours = models.value(model, field)
        # Without layer scale, that of the checkpoint would be left over.
        lost = field == "layer_scale" and not ours
        if theirs == ours or (field in _MAY_DIFFER and not lost):
            continue
        group = "data" if field == "sentence_length" else "model"
        line = f"config.{group}.{field}={ours!r}, but {loading.checkpoint.path} was made with {theirs!r}"
        if field not in _EPSILONS:
            raise ValueError(f"{line}; set it to that")
        loading.differs.append(line)


def _place(loading: Loading, path: str, leaf: Any, row: Row, exact: bool) -> set[str]:
    """Determines the source of one parameter; returns the names of its tensors."""
    specs, there = loading.checkpoint.tensors.specs, loading.checkpoint.tensors.there
    shape, names = tuple(leaf.shape), row.names(tuple(leaf.shape))
    if absent := next((name for name in names if name not in specs), None):
        if _HEAD.fullmatch(path) and not (exact and _has_head(loading)):
            loading.fresh[path] = f"{there(absent)} is not in the checkpoint"
            return set()
        raise ValueError(f"{path} needs {there(absent)}, which is missing in {loading.checkpoint.path}")
    for name in names:
        if str(specs[name].dtype) not in (*_FLOATS, str(leaf.dtype)):
            raise ValueError(
                f"{there(name)} is {specs[name].dtype} in {loading.checkpoint.path}, but {path} is {leaf.dtype}; only "
                f"{', '.join(_FLOATS)} are converted"
            )
    expected = row.their_shape(shape)
    wrong = next((name for name in names if specs[name].shape != expected), None)
    is_other_grid = _is_positions(path) and positions.differ(loading.grid, loading.their_grid)
    if wrong is None and not is_other_grid:
        loading.rows[path] = row
        return set(names)
    wrong = wrong or names[0]
    if not exact and _HEAD.fullmatch(path) and _other_classes(specs[wrong], expected):
        loading.fresh[path] = f"{there(wrong)} is {list(specs[wrong].shape)}, of other classes"
        return set()
    source = None if exact else _source_shape(path, row, shape, specs[wrong], loading.their_grid)
    if source is None:
        fix = "" if exact else "; change the config, or add it to config.train.init_skip"
        raise ValueError(
            f"{there(wrong)} is {list(specs[wrong].shape)} in {loading.checkpoint.path}, but {path} {list(shape)} "
            f"needs {list(expected)}{fix}"
        )
    loading.rows[path], loading.resized[path] = row, source
    return set(names)


def _has_head(loading: Loading) -> bool:
    """Whether a checkpoint was saved with a head, which must then be complete."""
    names = ("classifier", "head/", "qa_outputs", "token_head/")
    has_head = "ForImageClassification" in str(loading.checkpoint.config.get("architectures"))
    return has_head or any(name.startswith(names) for name in loading.checkpoint.tensors.specs)


def _other_classes(theirs: TensorSpec, expected: tuple[int, ...]) -> bool:
    """Whether two heads differ only in the number of classes, that is, along one axis."""
    return len(theirs.shape) == len(expected) and sum(a != b for a, b in zip(theirs.shape, expected, strict=True)) == 1


def _is_positions(path: str) -> bool:
    return path.removeprefix(models.BACKBONE) == "positions"


def _source_shape(
    path: str, row: Row, shape: tuple[int, ...], theirs: TensorSpec, grid: positions.Grid | None
) -> tuple[int, ...] | None:
    """The shape, on our side, of the checkpoint's position embeddings for a parameter; None if it is not one."""
    if _SEQUENCE.fullmatch(path):
        if len(theirs.shape) != 2:
            return None
        source = row.layout.to_ours(np.broadcast_to(np.float32(0), theirs.shape), shape).shape
        return source if source[0] > shape[0] and source[1] == shape[1] else None
    return positions.source_shape(row, shape, theirs, grid) if _is_positions(path) else None
