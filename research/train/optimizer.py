"""Optimizers and schedules from the config, by the names that optax gives them."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from research import config as config_lib
from research.parallel.sharding import path_name

OPTIMIZERS = {
    "adamw": optax.adamw,
    "sgd": optax.sgd,
    "lion": optax.lion,
    "adafactor": optax.adafactor,
    "lamb": optax.lamb,
}

DEFAULTS = {
    "name": "adamw",
    "learning_rate": 1e-3,
    "schedule": "cosine",  # one of SCHEDULES
    "warmup_steps": 0,  # linear, from 0
    "final_fraction": 0.0,  # of the learning rate, where cosine and linear end
    "weight_decay": 0.0,  # as optax applies it; for sgd it is added to the gradient
    "decay": ("kernel",),  # regexes, searched in a parameter's path: what is decayed
    "multipliers": (),  # (regex, factor) pairs: the first that is found in a path scales its learning rate
    "clip_norm": 0.0,  # global norm above which gradients are scaled down; 0 is off
}
# The decay and the learning rate are this module's business; all other arguments are the optimizer's own.
_OURS = ("learning_rate", "weight_decay", "mask", "weight_decay_rate", "weight_decay_mask", "dtype_momentum")


def defaults(name: str) -> dict[str, Any]:
    """The keys of `config.optimizer` for one optimizer: `DEFAULTS` and the arguments of the optax function."""
    function = config_lib.choose(OPTIMIZERS, name, "optimizer.name")
    return DEFAULTS | config_lib.fields_of(function, leave_out=_OURS)


def _cosine(step: jax.Array, steps: int, final: float) -> jax.Array:
    return final + (1 - final) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / steps, 1)))


def _linear(step: jax.Array, steps: int, final: float) -> jax.Array:
    return 1 - (1 - final) * jnp.minimum(step / steps, 1)


SCHEDULES = {"cosine": _cosine, "linear": _linear, "constant": None, "rsqrt": None}


def schedule(config: Mapping[str, Any], steps: int) -> optax.Schedule:
    """The learning rate of step k, for k = 0 ... steps - 1.

    Linear warm-up over `warmup_steps` to `learning_rate`, then cosine or linear down to `final_fraction` of it at
    `steps`, constant, or rsqrt: learning_rate * sqrt(warmup / k) (Vaswani et al., 2017, section 5.3).
    """
    shape = config_lib.choose(SCHEDULES, config["schedule"], "optimizer.schedule")
    warmup, peak, final = config["warmup_steps"], config["learning_rate"], config["final_fraction"]
    if warmup >= steps:
        raise ValueError(f"config.optimizer.warmup_steps={warmup} must be less than config.train.steps={steps}")

    def learning_rate(count):
        step = jnp.asarray(count, jnp.float32)
        if config["schedule"] == "rsqrt":
            factor = jnp.sqrt(max(warmup, 1) / jnp.maximum(step + 1, max(warmup, 1)))
        elif shape is None:
            factor = jnp.ones_like(step)
        else:
            factor = shape(jnp.maximum(step - warmup, 0), steps - warmup, final)
        # The first step already moves: (k + 1) / warmup, which reaches 1 at the last step of the warm-up.
        return peak * factor * (jnp.minimum((step + 1) / warmup, 1) if warmup else 1)

    return learning_rate


def _matching(patterns: tuple[str, ...]):
    """A function from parameters to a tree of booleans: whether any pattern is found in the path."""
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


def build(config: Mapping[str, Any], steps: int) -> optax.GradientTransformation:
    """Clipping, the optimizer with its schedule and decay, then the learning-rate multipliers."""
    name, mask = config["name"], _matching(config["decay"])
    arguments = {key: config[key] for key in defaults(name) if key not in DEFAULTS}
    arguments["learning_rate"] = schedule(config, steps)
    chain = [optax.clip_by_global_norm(config["clip_norm"])] if config["clip_norm"] else []
    if name == "sgd":
        chain.append(optax.add_decayed_weights(config["weight_decay"], mask))
    elif name == "adafactor":
        arguments |= {"weight_decay_rate": config["weight_decay"] or None, "weight_decay_mask": mask}
    else:
        arguments |= {"weight_decay": config["weight_decay"], "mask": mask}
    chain.append(OPTIMIZERS[name](**arguments))
    if config["multipliers"]:
        chain.append(_scale_by_path(config["multipliers"]))
    return optax.chain(*chain)
