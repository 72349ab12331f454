"""`--mesh=auto`: searches mesh, remat policy and number of microbatches for a config on a slice.

All combinations are ranked by formulas, which takes seconds, and the best few are compiled, which takes minutes.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh

from research.measure import progress
from research.measure.flops import forward_flops
from research.models.remat import REMAT
from research.parallel import mesh as mesh_lib
from research.parallel import sharding
from research.plan import bounds
from research.plan.estimate import Plan, make_plan
from research.plan.topology import Topology
from research.spec import override
from research.spec.serial import leaves
from research.train import lora, optimizer
from research.train.program import build_program
from research.train.settings import Experiment

MICROBATCHES = (1, 2, 4, 8, 16)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A combination with its estimates: `memory_bytes` per device, and `step_time_s` at peak rates."""

    mesh: dict[str, int]
    remat: str | None
    microbatches: int
    memory_bytes: float
    step_time_s: float
    fits: bool

    @property
    def rank(self) -> tuple:
        """Sort key, smaller is better: fits in memory, then step time, then fewer shards."""
        return (not self.fits, round(self.step_time_s, 6), self.microbatches, self.memory_bytes)


def search(config: Experiment, topology: Topology, tries: int, teacher: Any = None) -> list[Plan]:
    """Compiles the `tries` most promising combinations and returns their plans, the best first.

    `teacher` is the task of one, see `make_plan`.

    Raises ValueError where no combination divides the batch.
    """
    ranked = sorted(candidates(config, topology), key=lambda candidate: candidate.rank)
    if not ranked:
        raise ValueError(
            f"no mesh of {topology.name} divides config.train.batch_size={config.train.batch_size} and "
            f"eval_batch_size={config.train.eval_batch_size}"
        )
    plans: list[Plan] = []
    rejection: ValueError | None = None
    with progress.bar(tries, f"{len(ranked)} combinations; compiling", "plans") as bar:
        for candidate in ranked:
            changed = with_choice(config, candidate.mesh, candidate.remat, candidate.microbatches)
            try:
                plans.append(make_plan(changed, changed.build()[0], topology, teacher))
            except ValueError as error:  # a mesh that this model has no use for
                rejection = error
                continue
            bar.update()
            if len(plans) == tries:
                break
    if not plans and rejection is not None:
        raise rejection
    return sorted(plans, key=lambda plan: (not plan.fits, plan.step_time_s or math.inf, plan.peak_bytes))


def with_choice(config: Experiment, mesh: Mapping[str, int], remat: str | None, microbatches: int) -> Experiment:
    """The config with another mesh, remat policy and number of microbatches."""
    words = [f"mesh.{axis}={size}" for axis, size in mesh.items()] + [f"train.microbatches={microbatches}"]
    return override(config, [*words, f"model.remat={remat}"] if remat else words)


def meshes(count: int, axes: Sequence[str]) -> Iterator[dict[str, int]]:
    """Every way to write `count` as a product of the sizes of `axes`; the other axes have size 1."""
    divisors = [size for size in range(1, count + 1) if count % size == 0]
    for sizes in itertools.product(divisors, repeat=len(axes)):
        if math.prod(sizes) == count:
            yield {axis: dict(zip(axes, sizes, strict=True)).get(axis, 1) for axis in mesh_lib.AXES}


def candidates(config: Experiment, topology: Topology) -> list[Candidate]:
    """All combinations whose sizes divide, with their estimates."""
    task = config.build()[0]
    # Tensor parallelism needs models with such an axis; sequence parallelism is only used if the config has it.
    names = {name for _, names in task.logical_axes for name in names}
    axes = ("data", "fsdp", "tensor") if names & {"heads", "mlp", "vocab"} else ("data", "fsdp")
    one_device = mesh_lib.make_mesh(dict.fromkeys(mesh_lib.AXES, 1), topology.devices[:1])
    state = build_program(config, task, one_device).state
    batch_axes = sharding.ACTIVATION_RULES["batch"]
    possible = [
        mesh
        for mesh in meshes(len(topology.devices), axes)
        if config.train.eval_batch_size % math.prod(mesh[axis] for axis in batch_axes) == 0
    ]
    found = []
    for policy in tuple(REMAT) if "model.remat" in leaves(config) else (None,):
        changed = with_choice(config, config.mesh.sizes, policy, 1)
        estimate = _Estimate(changed, changed.build()[0], state, topology)
        for mesh in possible:
            found += estimate.candidates(mesh, policy)
    return found


class _Estimate:
    """Estimates for one remat policy; parts that do not depend on the mesh are traced once."""

    def __init__(self, config: Any, task: Any, state: Any, topology: Topology):
        self.config, self.task, self.state, self.topology = config, task, state, topology
        self.residuals = residual_bytes(task) * config.train.batch_size
        loss, params, *rest = _abstract_loss(task, config.train.batch_size)
        flops = forward_flops(jax.grad(loss), params, *rest)
        # If the peak is unknown, all candidates have the same compute time, and the links decide.
        peak = topology.chip.peak_flops(config.precision.compute) or math.inf
        self.compute_s = flops / (topology.num_chips * peak)

    def candidates(self, mesh: dict[str, int], policy: str | None) -> Iterator[Candidate]:
        """Yields a candidate for each number of microbatches that divides the batch."""
        abstract = AbstractMesh(tuple(mesh.values()), tuple(mesh))
        state = self.state
        table = lora.with_updates(self.task.logical_axes, self.config.lora, state.params)
        params = sharding.parameter_shardings(state.params, table, abstract)
        opt_state = sharding.optimizer_shardings(state.opt_state, state.params, table, abstract)
        ema = {name: sharding.parameter_shardings(tree, table, abstract) for name, tree in state.ema.items()}
        trained = functools.partial(optimizer.trained, self.config.optimizer, self.config.lora)
        gradients = _local_bytes(trained(state.params), trained(params))
        held = _local_bytes(state.params, params) + gradients + _local_bytes(state.opt_state, opt_state)
        held += _local_bytes(state.ema, ema)
        shards = math.prod(mesh[axis] for axis in sharding.ACTIVATION_RULES["batch"])
        for parts in MICROBATCHES:
            if self.config.train.batch_size % (shards * parts):
                continue
            changed = with_choice(self.config, mesh, policy, parts)
            moved = bounds.lower_bound_bytes(changed.train, changed.precision.compute, self.task, state.params, params)
            links_s = moved / (2 * self.topology.chip.link_bandwidth / self.topology.chip.cores)
            memory = held + self.residuals / (shards * mesh["sequence"] * parts)
            fits = memory < 0.9 * self.topology.chip.hbm_bytes / self.topology.chip.cores
            yield Candidate(mesh, policy, parts, memory, max(self.compute_s, links_s) + 0.1 * links_s, fits)


def residual_bytes(task: Any) -> int:
    """Bytes of residuals that the backward pass needs per example."""

    def kept(batch_size):
        loss, params, *rest = _abstract_loss(task, batch_size)
        pullback = lambda params, *rest: jax.vjp(lambda params: loss(params, *rest), params)[1]
        backward = jax.eval_shape(pullback, params, *rest)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward))

    return kept(2) - kept(1)


def _abstract_loss(task: Any, batch_size: int) -> tuple:
    """The loss of a task as a function of its parameters and other arguments, and these as abstract values."""
    batch, rng = task.example(batch_size), jax.eval_shape(lambda: jax.random.key(0))
    variables = dict(jax.eval_shape(task.init, rng))
    params = variables.pop("params")
    loss = lambda params, rest, batch, totals, rng: task.loss({"params": params, **rest}, batch, totals, rng)[0]
    return loss, params, variables, batch, jax.eval_shape(task.totals, batch), rng


def _local_bytes(tree: Any, shardings: Any) -> int:
    sizes = jax.tree.map(
        lambda leaf, placed: math.prod(placed.shard_shape(leaf.shape)) * leaf.dtype.itemsize, tree, shardings
    )
    return sum(jax.tree.leaves(sizes))
