"""Suite `memory`: the peak memory of a training process, and XLA's memory analysis of the step.

`python -m experiments.performance.memory FILE:VARIANT` is that process: a few steps, then one JSON object on a line.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from experiments.performance.measurement import CIFAR10, DIGITS, Measured, Measurement, load, program_and_batches, say
from research.train import feed

MIB = 2**20


def measure(configs: Sequence[str] = (DIGITS, CIFAR10)) -> Measured:
    """Measures each config in a new process."""
    for config in configs:
        say(f"  {config}")
        command = [sys.executable, "-m", "experiments.performance.memory", config]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        yield config, [Measurement(name, size / MIB, "MiB") for name, size in json.loads(output).items()]


def step_process_bytes(config: str, steps: int = 3) -> dict[str, int]:
    """Takes `steps` steps in this process; returns bytes by what they are for."""
    loaded, task, data = load(config)
    imported = peak_resident_bytes()
    program, batches = program_and_batches(loaded, task, data)
    state = program.init()
    train_step = program.train_step.lower(program.state, task.example(loaded.train.batch_size)).compile()
    for _ in range(steps):
        state, _ = train_step(state, feed.to_mesh(next(batches), program.batch_sharding))
    jax.block_until_ready(state)
    planned = train_step.memory_analysis()
    return {
        "peak resident": peak_resident_bytes(),
        "peak resident after the imports": imported,
        "arguments of the step (state and batch)": planned.argument_size_in_bytes,
        "temporaries of the step": planned.temp_size_in_bytes,
    }


def peak_resident_bytes() -> int:
    """The peak resident memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux not ru_maxrss: it keeps the peak of the process that started this one.
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS


if __name__ == "__main__":
    print(json.dumps(step_process_bytes(sys.argv[1])))
