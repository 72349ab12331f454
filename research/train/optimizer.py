"""Optimizers and learning-rate schedules, with optax's names."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from research.parallel.sharding import Table, logical_axes, path_name
from research.spec import Spec, checks, field, invalid
from research.spec.fields import infos
from research.train.lora import LoraSpec
from research.train.matrices import by_matrix
from research.train.unfreezing import gradually

_DTYPE = checks.optional(checks.one_of("float32", "bfloat16", "float16", "float64"))
_DECAY_RATE = checks.from_up_to(0, 1)


class OptimizerSpec(Spec):
    """The fields of all optimizers: learning rate and schedule, weight decay, multipliers and clipping."""

    learning_rate: float = field(default=1e-3, check=checks.at_least(0), doc="peak learning rate")
    schedule: str = field(
        default="cosine", check=checks.one_of("cosine", "linear", "constant", "rsqrt"), doc="schedule after the warm-up"
    )
    warmup_steps: int = field(default=0, check=checks.at_least(0), doc="steps of linear warm-up from 0")
    final_fraction: float = field(
        default=0.0,
        check=checks.between(0, 1),
        doc="final learning rate as a fraction of the peak, for cosine and linear",
    )
    weight_decay: float = field(
        default=0.0, check=checks.at_least(0), doc="weight decay as in optax; for sgd it is added to the gradient"
    )
    decay: tuple[str, ...] = field(
        default=("kernel",), check=checks.each(checks.regex()),
        doc="regular expressions, searched in parameter paths: the parameters with weight decay; all matrices are "
        "named kernel except embedding, head and ctc_head of encoder-decoders and the face class centres",
    )  # fmt: skip
    multipliers: tuple[tuple[str, float], ...] = field(
        default=(), doc="(regular expression, factor): the first match in a path scales its learning rate"
    )
    layer_decay: float = field(
        default=1.0, absent=1.0, check=checks.above(0) & checks.at_most(1),
        doc="layer-wise learning-rate decay for fine-tuning (Clark et al., 2020): factor layer_decay ** (n - i) for "
        "layer i of n, layer_decay ** (n + 1) for embeddings, 1 for heads",
    )  # fmt: skip
    freeze: tuple[str, ...] = field(
        default=(), absent=(), check=checks.each(checks.regex()),
        doc="regular expressions, searched in parameter paths: the frozen parameters, without optimizer state",
    )  # fmt: skip
    unfreeze: tuple[tuple[int, str], ...] = field(
        default=(), absent=(),
        doc="(step, regular expression): the first match in a path says after how many steps it begins to be trained "
        "(Howard and Ruder, 2018); layer i of a stack is blocks/i/ there",
    )  # fmt: skip
    clip_norm: float = field(default=0.0, check=checks.at_least(0), doc="gradient clipping by global norm; 0: off")

    def validate(self) -> None:
        """Raises FieldError for an invalid regular expression, a negative factor, or a step that is none."""
        for pattern, factor in self.multipliers:
            if not checks.regex().accepts(pattern) or factor < 0:
                raise invalid(
                    self, "multipliers", "must be (regular expression, factor) pairs with factors of 0 or more"
                )
        for step, pattern in self.unfreeze:
            if not checks.regex().accepts(pattern) or not 0 < step < 2**31:
                raise invalid(self, "unfreeze", "must be (step, regular expression) pairs with steps of 1 or more")


class AdamW(OptimizerSpec, tag="adamw"):
    """Loshchilov and Hutter (2019), optax.adamw."""

    b1: float = field(default=0.9, check=_DECAY_RATE, doc="decay of the first moment")
    b2: float = field(default=0.999, check=_DECAY_RATE, doc="decay of the second moment")
    eps: float = field(default=1e-8, check=checks.at_least(0), doc="added to the root of the second moment")
    eps_root: float = field(default=0.0, check=checks.at_least(0), doc="added inside the root")
    mu_dtype: str | None = field(default=None, check=_DTYPE, doc="dtype of the first moment; None: of the parameter")
    nesterov: bool = field(default=False, doc="Nesterov momentum (Dozat, 2016)")


class SGD(OptimizerSpec, tag="sgd"):
    """Gradient descent, optax.sgd."""

    momentum: float | None = field(default=None, check=checks.optional(_DECAY_RATE), doc="momentum; None: off")
    nesterov: bool = field(default=False, doc="Nesterov momentum")
    accumulator_dtype: str | None = field(default=None, check=_DTYPE, doc="dtype of the momentum")


class Lion(OptimizerSpec, tag="lion"):
    """Chen et al. (2023), optax.lion."""

    b1: float = field(default=0.9, check=_DECAY_RATE, doc="decay in the interpolation whose sign is the update")
    b2: float = field(default=0.99, check=_DECAY_RATE, doc="decay of the momentum")
    mu_dtype: str | None = field(default=None, check=_DTYPE, doc="dtype of the momentum; None: of the parameter")


class Adafactor(OptimizerSpec, tag="adafactor", version=2):
    """Shazeer and Stern (2018), optax.adafactor, for each matrix of each layer separately (version 1: for stacks)."""

    min_dim_size_to_factor: int = field(default=128, check=checks.at_least(1), doc="smaller leaves are not factored")
    decay_rate: float = field(default=0.8, check=_DECAY_RATE, doc="exponent of the decay of the second moment")
    decay_offset: int = field(default=0, check=checks.at_least(0), doc="the step at which fine-tuning starts")
    multiply_by_parameter_scale: bool = field(default=True, doc="the learning rate is relative to a leaf's RMS")
    clipping_threshold: float | None = field(
        default=1.0, check=checks.optional(checks.above(0)), doc="clipping threshold of the RMS of an update"
    )
    momentum: float | None = field(default=None, check=checks.optional(_DECAY_RATE), doc="momentum; None: off")
    eps: float = field(default=1e-30, check=checks.at_least(0), doc="added to the squared gradient")
    factored: bool = field(default=True, doc="factored second moments")


class Lamb(OptimizerSpec, tag="lamb", version=2):
    """You et al. (2020), optax.lamb, for each matrix of each layer separately (version 1: for stacks)."""

    b1: float = field(default=0.9, check=_DECAY_RATE, doc="decay of the first moment")
    b2: float = field(default=0.999, check=_DECAY_RATE, doc="decay of the second moment")
    eps: float = field(default=1e-6, check=checks.at_least(0), doc="added to the root of the second moment")
    eps_root: float = field(default=0.0, check=checks.at_least(0), doc="added inside the root")


OPTIMIZERS = {each.tag: each for each in (AdamW, SGD, Lion, Adafactor, Lamb)}
_FUNCTIONS = {
    "adamw": optax.adamw,
    "sgd": optax.sgd,
    "lion": optax.lion,
    "adafactor": optax.adafactor,
    "lamb": optax.lamb,
}
# Parameters below the first layer: embeddings of patches, tokens, audio frames and positions.
EMBEDDINGS = r"(^|/)(embedding|patches|tubelets|stem|front_end|cls|positions|learned|types|space|time)(/|$)"
_PER_MATRIX = ("adafactor", "lamb")
_SHARED = tuple(each.name for each in infos(OptimizerSpec))


def _cosine(step: jax.Array, steps: int, final: float) -> jax.Array:
    return final + (1 - final) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / steps, 1)))


def _linear(step: jax.Array, steps: int, final: float) -> jax.Array:
    return 1 - (1 - final) * jnp.minimum(step / steps, 1)


SCHEDULES = {"cosine": _cosine, "linear": _linear, "constant": None, "rsqrt": None}


def schedule(spec: OptimizerSpec, steps: int) -> optax.Schedule:
    """The learning rate of step k, for k = 0 ... steps - 1.

    Linear warm-up over `warmup_steps` to `learning_rate`, then cosine or linear down to `final_fraction` of it at
    `steps`, constant, or rsqrt: learning_rate * sqrt(warmup / k) (Vaswani et al., 2017, section 5.3).
    """
    shape = SCHEDULES[spec.schedule]
    warmup, peak, final = spec.warmup_steps, spec.learning_rate, spec.final_fraction
    if warmup >= steps:
        raise ValueError(f"config.optimizer.warmup_steps={warmup} must be less than config.train.steps={steps}")

    def learning_rate(count):
        step = jnp.asarray(count, jnp.float32)
        if spec.schedule == "rsqrt":
            factor = jnp.sqrt(max(warmup, 1) / jnp.maximum(step + 1, max(warmup, 1)))
        elif shape is None:
            factor = jnp.ones_like(step)
        else:
            factor = shape(jnp.maximum(step - warmup, 0), steps - warmup, final)
        # (k + 1) / warmup, so that the first step is not 0 and the last warm-up step has the peak.
        return peak * factor * (jnp.minimum((step + 1) / warmup, 1) if warmup else 1)

    return learning_rate


def _matching(patterns: tuple[str, ...]):
    """A function from parameters to a tree of booleans: whether any pattern matches the path."""
    return lambda params: jax.tree_util.tree_map_with_path(
        lambda path, _: any(re.search(pattern, path_name(path)) for pattern in patterns), params
    )


def _scale_by_path(multipliers: tuple[tuple[str, float], ...]) -> optax.GradientTransformation:
    def factor(path):
        return next((value for pattern, value in multipliers if re.search(pattern, path_name(path))), 1.0)

    def update(updates, params=None):
        del params
        return jax.tree_util.tree_map_with_path(lambda path, leaf: leaf * factor(path), updates)

    return optax.stateless(update)


def _scale_by_depth(decay: float, table: Table) -> optax.GradientTransformation:
    """Scales updates by depth, see `layer_decay`; layers are the leading axis of stacked leaves."""

    def update(updates, params=None):
        del params
        paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(updates)]
        leaves = jax.tree.leaves(updates)
        stacked = [logical_axes(path, table)[:1] == ("layers",) for path in paths]
        deepest = max((leaf.shape[0] for leaf, whether in zip(leaves, stacked, strict=True) if whether), default=0)

        def scaled(path, leaf):
            name = path_name(path)
            if logical_axes(name, table)[:1] == ("layers",):
                above = leaf.shape[0] - jnp.arange(leaf.shape[0], dtype=leaf.dtype)
                return leaf * jnp.power(jnp.asarray(decay, leaf.dtype), above).reshape(-1, *[1] * (leaf.ndim - 1))
            return leaf * decay ** (deepest + 1 if re.search(EMBEDDINGS, name) else 0)

        return jax.tree_util.tree_map_with_path(scaled, updates)

    return optax.stateless(update)


def check_patterns(spec: OptimizerSpec, lora: LoraSpec, params: Any) -> None:
    """Raises ValueError for a pattern that matches no parameter, or if `freeze` leaves no parameter to train.

    `decay` is checked only if it is not the default and there is weight decay, as a model may have no kernels.
    """
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    patterns = {"multipliers": tuple(pattern for pattern, _ in spec.multipliers), "freeze": spec.freeze}
    default = next(each.default for each in infos(type(spec)) if each.name == "decay")
    if spec.weight_decay and spec.decay != default:
        patterns["decay"] = spec.decay
    for name, given in patterns.items():
        for pattern in given:
            if not any(re.search(pattern, path) for path in paths):
                some = ", ".join(paths[:: max(1, len(paths) // 3)][:4])
                raise ValueError(
                    f"config.optimizer.{name} has {pattern!r}, which matches no parameter such as {some}; "
                    "list all with tessera show CONFIG --parameters"
                )
    if not trained(spec, lora, params):
        raise ValueError(f"config.optimizer.freeze={spec.freeze} matches every parameter; leave some to train")


def trained(spec: OptimizerSpec, lora: LoraSpec, params: Any) -> dict[str, Any]:
    """A tree of the trained parameters only: those frozen neither by `freeze` nor by low-rank adaptation."""
    flat = traverse_util.flatten_dict(params, sep="/")
    frozen = lambda path: any(re.search(each, path) for each in spec.freeze) or not lora.trains(path)
    return traverse_util.unflatten_dict({path: leaf for path, leaf in flat.items() if not frozen(path)}, sep="/")


def merged(params: Any, trained: Any) -> dict[str, Any]:
    """`params` with the leaves in `trained` replaced."""
    flat = traverse_util.flatten_dict(params, sep="/") | traverse_util.flatten_dict(trained, sep="/")
    return traverse_util.unflatten_dict(flat, sep="/")


def build(spec: OptimizerSpec, steps: int, table: Table | None = None) -> optax.GradientTransformation:
    """Chains clipping, the optimizer with schedule and weight decay, and learning-rate multipliers.

    With `unfreeze`, the first two are those of gradual unfreezing, see unfreezing.py.

    Args:
      spec: The optimizer and its settings.
      steps: The number of steps of the schedule.
      table: The logical axes of the parameters. Without it, Adafactor and LAMB treat every leaf as one matrix.
    """
    clip = optax.clip_by_global_norm(spec.clip_norm)
    if spec.unfreeze:
        if table is None:
            raise ValueError("config.optimizer.unfreeze needs the logical axes of the parameters")
        make = functools.partial(_core, spec, steps, table)
        chain = [gradually(spec.unfreeze, table, clip if spec.clip_norm else optax.identity(), make)]
    else:
        chain = [clip] if spec.clip_norm else []
        chain += _core_parts(spec, steps, table)
    if spec.multipliers:
        chain.append(_scale_by_path(spec.multipliers))
    if spec.layer_decay < 1:
        if table is None:
            raise ValueError(
                f"config.optimizer.layer_decay={spec.layer_decay} needs the logical axes of the parameters"
            )
        chain.append(_scale_by_depth(spec.layer_decay, table))
    return optax.chain(*chain)


def _core(spec: OptimizerSpec, steps: int, table: Table, begin: int) -> optax.GradientTransformation:
    """The optimizer with schedule and weight decay, of parameters that are trained from step `begin` on."""
    return optax.chain(*_core_parts(spec, steps, table, begin))


def _core_parts(
    spec: OptimizerSpec, steps: int, table: Table | None, begin: int = 0
) -> list[optax.GradientTransformation]:
    name, mask, rate = spec.tag, _matching(spec.decay), schedule(spec, steps)
    arguments = {each.name: getattr(spec, each.name) for each in infos(type(spec)) if each.name not in _SHARED}
    arguments["learning_rate"] = lambda count: rate(count + begin)
    if name == "adafactor":
        arguments |= {"weight_decay_rate": spec.weight_decay or None, "weight_decay_mask": mask}
    elif name != "sgd":
        arguments |= {"weight_decay": spec.weight_decay, "mask": mask}
    transform = _FUNCTIONS[name](**arguments)
    decayed = [optax.add_decayed_weights(spec.weight_decay, mask)] if name == "sgd" else []
    return [*decayed, by_matrix(transform, table) if table is not None and name in _PER_MATRIX else transform]
