"""A plan: memory, communication and roofline of a config on a slice."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from research.measure import flops
from research.plan import bounds, hlo, traffic
from research.plan.collectives import collectives, total_bytes
from research.plan.compile import Compiled, bytes_per_device, compile_step
from research.plan.roofline import axis_bandwidths, roofline
from research.plan.topology import Topology
from research.train.feed import batch_rows
from research.train.program import ShardedProgram


@dataclasses.dataclass(frozen=True)
class Plan:
    """The figures of a plan; bytes and FLOPs are per chip unless stated otherwise, None if unknown."""

    config: str
    topology: str
    chips: int
    mesh: dict[str, int]
    remat: str | None
    microbatches: int
    batch_size: int
    num_params: int
    memory_is_real: bool  # False: compiled for virtual CPU devices, so memory is indicative
    fits: bool
    hbm_bytes: int
    peak_bytes: int
    params_bytes: int
    optimizer_bytes: int
    ema_bytes: int
    argument_bytes: int | None
    temp_bytes: int | None
    model_flops: int  # of one step over all chips
    hardware_flops: int  # of one step over all chips
    collective_bytes: dict[str, int] | None
    collective_bytes_by_axis: dict[str, int] | None
    collective_lower_bound_bytes: int
    uncertain_collectives: int | None  # in loops whose length depends on the data; they count once
    hbm_traffic_bytes: int | None
    compute_s: float | None
    hbm_s: float | None
    links_s: float | None
    bound_by: str | None
    step_time_s: float | None
    mfu: float | None
    run_hours: float | None
    chip_hours: float | None


def make_plan(config: Any, task: Any, topology: Topology, teacher: Any = None) -> Plan:
    """Compiles the train step of a config for a topology and derives the plan; `teacher` is the task of one.

    Its model FLOPs and its lower bound of collectives are those of the student alone.
    """
    compiled = compile_step(config, task, topology, teacher)
    facts: dict[str, Any] = describe(config, topology, compiled) | {
        "model_flops": flops.step_flops(task, config.train.batch_size),
        "hardware_flops": hardware_flops(compiled.program, task.example(batch_rows(config, compiled.program.mesh))),
        "collective_lower_bound_bytes": lower_bound_bytes(config, task, compiled.program),
    }
    if compiled.hlo is None:
        return Plan(**facts, **dict.fromkeys(_FROM_HLO))
    module = hlo.parse(compiled.hlo)
    found = collectives(module, dict(compiled.program.mesh.shape))
    by_axes = total_bytes(found, "axes")
    # The fusions of a CPU differ from a TPU's, so its traffic is no estimate.
    hbm_traffic = traffic.hbm_bytes(module) if topology.real else None
    roof = roofline(
        topology,
        config.precision.compute,
        facts["hardware_flops"],
        hbm_traffic,
        by_axes,
        axis_bandwidths(topology, compiled.program.mesh, found),
    )
    hours = config.train.steps * roof.step_time_s / 3600
    peak = topology.chip.peak_flops(config.precision.compute)
    return Plan(
        **facts,
        collective_bytes=total_bytes(found),
        collective_bytes_by_axis={"+".join(axes): count for axes, count in by_axes.items()},
        uncertain_collectives=sum(not collective.certain for collective in found),
        hbm_traffic_bytes=hbm_traffic,
        compute_s=roof.compute_s,
        hbm_s=roof.hbm_s,
        links_s=roof.links_s,
        bound_by=roof.bound_by,
        step_time_s=roof.step_time_s,
        mfu=flops.mfu(facts["model_flops"], roof.step_time_s, topology.num_chips, peak),
        run_hours=hours,
        chip_hours=hours * topology.num_chips,
    )


_FROM_HLO = (
    "collective_bytes", "collective_bytes_by_axis", "uncertain_collectives", "hbm_traffic_bytes", "compute_s", "hbm_s",
    "links_s", "bound_by", "step_time_s", "mfu", "run_hours", "chip_hours",
)  # fmt: skip


def describe(config: Any, topology: Topology, compiled: Compiled) -> dict[str, Any]:
    """The figures that do not need the HLO."""
    program, memory = compiled.program, compiled.memory
    return {
        "config": f"{config.source.file}:{config.source.variant}",
        "topology": topology.name,
        "chips": topology.num_chips,
        "mesh": dict(program.mesh.shape),
        "remat": getattr(getattr(config, "model", None), "remat", None),
        "microbatches": config.train.microbatches,
        "batch_size": config.train.batch_size,
        "num_params": program.num_params,
        "memory_is_real": topology.real,
        "fits": memory.fits,
        "hbm_bytes": topology.chip.hbm_bytes // topology.chip.cores,
        "peak_bytes": memory.peak,
        "params_bytes": bytes_per_device(program.state.params),
        "optimizer_bytes": bytes_per_device(program.state.opt_state),
        "ema_bytes": bytes_per_device(program.state.ema),
        "argument_bytes": memory.arguments,
        "temp_bytes": memory.temporaries,
    }


def lower_bound_bytes(config: Any, task: Any, program: ShardedProgram) -> int:
    """See `bounds.lower_bound_bytes`."""
    params = program.state.params
    shardings = jax.tree.map(lambda leaf: leaf.sharding, params)
    return bounds.lower_bound_bytes(config.train, config.precision.compute, task, params, shardings)


def hardware_flops(program: ShardedProgram, batch: Mapping[str, jax.ShapeDtypeStruct]) -> int:
    """Of one train step over all chips: what the program computes, rematerialisation included."""
    return flops.forward_flops(program.train_step, program.state, batch, *program.teacher)
