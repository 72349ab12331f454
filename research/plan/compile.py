"""Compiles the train step of a config ahead of time for a topology; nothing is run."""

import dataclasses
import math
import re
from typing import Any

import jax

from research.plan.topology import Topology
from research.train import session
from research.train.feed import batch_rows
from research.train.program import ShardedProgram

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device, after the compiler's padding.

    `peak` = arguments + outputs - aliased + temporaries + code. If the step does not fit, XLA reports only the total,
    and sometimes the arguments; the other figures are None.
    """

    peak: int
    arguments: int | None = None
    temporaries: int | None = None
    fits: bool = True


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program, the memory of its train step and the optimised HLO text (None if it does not fit)."""

    program: ShardedProgram
    memory: Memory
    hlo: str | None


def compile_step(config: Any, task: Any, topology: Topology, teacher: Any = None) -> Compiled:
    """Compiles the train step of `session.build` ahead of time; running out of memory is a result, not an error."""
    program = session.build(config, task, topology.devices, teacher)
    batch = task.example(batch_rows(config, program.mesh))
    lowered = program.train_step.lower(program.state, batch, *program.teacher)
    # A program for devices that are not attached cannot be loaded from a cache either.
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        memory = out_of_memory(str(error))
        if memory is None:
            raise
        return Compiled(program, memory, None)
    usage = compiled.memory_analysis()
    assert usage is not None, f"XLA reports no memory analysis for {topology.name}"
    peak = (
        usage.argument_size_in_bytes
        + usage.output_size_in_bytes
        - usage.alias_size_in_bytes
        + usage.temp_size_in_bytes
        + usage.generated_code_size_in_bytes
    )
    hbm = topology.chip.hbm_bytes // topology.chip.cores
    memory = Memory(peak, usage.argument_size_in_bytes, usage.temp_size_in_bytes, fits=peak <= hbm)
    return Compiled(program, memory, compiled.as_text())


def out_of_memory(message: str) -> Memory | None:
    """The memory needed according to XLA's out-of-memory message; None for any other error."""
    used = re.search(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm", message)
    if not used:
        return None
    size = lambda number, unit: round(float(number) * _UNITS[unit])
    arguments = re.search(r"arguments\s+([\d.]+)([KMGT]?)", message)
    return Memory(size(*used.groups()[:2]), arguments and size(*arguments.groups()), fits=False)


def bytes_per_device(tree: Any) -> int:
    """Bytes of the shards of an abstract tree that one device holds, without the compiler's padding."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
