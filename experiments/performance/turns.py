"""What the suites against PyTorch share: two sides do the same work alternately in one process.

A side is set up for one kind of work and has `run()`, which does it once, and `num_params`. Between runs the speed of
the machine is measured, from which `bound.py` computes a lower bound on the time of the work.
"""

import dataclasses
import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from experiments.performance.bound import Machine, Phase, decoding, training
from experiments.performance.measurement import Measurement, say
from experiments.performance.memory import MIB
from research.train import feed, trainer

GIGA = 1e9
OURS = "Tessera"


class Side(Protocol):
    """An implementation under comparison."""

    num_params: int

    def run(self) -> Any:
        """Does the work once; returns when the result is available."""
        ...


class Tessera:
    """The program of the trainer, compiled here for one device.

    The work is a training step, or the prediction `output` for a batch. `inputs()` makes the batch in host memory; for
    predictions in every run, as part of the work. `phases` are the phases of the work for its bound.
    """

    def __init__(self, config: Any, task: Any, inputs: Callable[[], dict[str, np.ndarray]], output: str = ""):
        program, size = trainer.build(config, task, jax.devices()[:1]), config.train.batch_size  # as much as PyTorch
        batch, self._rng, self._output = task.example(size), jax.random.key(0), output
        begun = time.perf_counter()
        if output:
            lowered = program.predict_step.lower(program.state.evaluated, batch, self._rng)
        else:
            lowered = program.train_step.lower(program.state, batch)
        self._compiled = lowered.compile()
        self.compile_s = time.perf_counter() - begun
        self.temporary_bytes = self._compiled.memory_analysis().temp_size_in_bytes
        self.num_params = program.num_params
        self.phases = decoding(task, size) if output else training(task, program, size)
        self.dtype = config.precision.compute
        self.inputs = inputs
        self._to_mesh = lambda batch: feed.to_mesh(batch, program.batch_sharding)
        self._state, self._batch = program.init(), self._to_mesh(inputs())

    def run(self) -> np.ndarray:
        """Runs a training step and returns its loss, or returns the best predictions [batch, ...] for the inputs."""
        if not self._output:
            self._state, metrics = jax.block_until_ready(self._compiled(self._state, self._batch))
            return np.asarray(metrics["loss"])
        batch = self._to_mesh(self.inputs())
        return np.asarray(self._compiled(self._state.evaluated, batch, self._rng)[self._output][:, 0])


@dataclasses.dataclass(frozen=True)
class Rate:
    """How seconds of one run are shown: `of(seconds)` in `unit`."""

    of: Callable[[float], float]
    unit: str


def missing() -> str:
    """Why a comparison with PyTorch cannot run here; empty if it can."""
    if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")):
        return "torch and transformers, of the extra [interop], are not installed"
    return "" if jax.default_backend() == "cpu" else "it compares CPUs, and JAX has found something faster"


def require(suite: str) -> None:
    """Raises ValueError if `missing` gives a reason."""
    if missing():
        raise ValueError(f"the suite {suite} cannot run: {missing()}; choose other suites")


def fastest_pytorch(
    work: str, make: Callable[..., Side], compiled: bool, layouts: Sequence[str] = ()
) -> tuple[str, Side]:
    """PyTorch's side with the fastest of its settings, see `torch_settings.candidates`, and their name."""
    settings = importlib.import_module("experiments.performance.torch_settings")  # which imports torch
    return fastest(work, settings.candidates(make, compiled, layouts))


def fastest(work: str, candidates: Mapping[str, Callable[[], Side]], times: int = 3) -> tuple[str, Side]:
    """The settings with the shortest median of `times` runs, after an uncounted one, and the side with them.

    Candidates are timed one by one, so that at most two are in memory. A single candidate is not timed.
    """
    if len(candidates) == 1:
        ((name, make),) = candidates.items()
        return name, make()
    best: tuple[float, str, Side] | None = None
    for name, make in candidates.items():
        try:
            side = make()
            seconds = statistics.median([_seconds(side) for _ in range(times + 1)][1:])
        except Exception as error:  # a compiler of PyTorch that does not take this model raises anything
            if best is None:  # the plain settings, which have to work
                raise
            say(f"  {work}: PyTorch, {name}: left out ({' '.join(str(error).split())[:100]})")
            continue
        say(f"  {work}: PyTorch, {name}: {seconds:.2f} s")
        if best is None or seconds < best[0]:
            best = seconds, name, side
    if best is None:
        raise ValueError(f"{work}: there are no settings to choose from")
    return best[1:]


def in_turns(work: str, sides: Mapping[str, Side], pairs: int, machine: Machine) -> dict[str, np.ndarray]:
    """The seconds [pairs] of each side; the sides alternate, after an uncounted first run."""
    seconds = []
    for pair in range(pairs + 1):
        seconds.append([_seconds(side) for side in sides.values()])
        machine.measure()
        newest = " against ".join(f"{each:.2f} s" for each in seconds[-1])
        say(f"  {work}: {f'{pair} of {pairs}' if pair else 'not counted'}: {newest}")
    return dict(zip(sides, np.transpose(seconds[1:]), strict=True))


def compare(
    work: str, sides: Mapping[str, Any], goals: Mapping[str, float], pairs: int, rate: Rate, settings: str = ""
) -> list[Measurement]:
    """Medians over `pairs` of the time of each other side / the time of Tessera, and the speed of each side.

    Also the bound of the work and its fraction of Tessera's time. `settings` names the chosen settings of PyTorch.
    Raises ValueError for sides of different sizes.
    """
    ours, machine = sides[OURS], Machine(sides[OURS].dtype)
    sizes = {name: side.num_params for name, side in sides.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"{work}: the sides have different numbers of parameters ({sizes}); make them the same model")
    seconds = in_turns(work, sides, pairs, machine)
    median = {name: statistics.median(each) for name, each in seconds.items()}
    labels = {name: f"{name}, {settings}" if settings and name == "PyTorch" else name for name in sides}
    ratios = {name: statistics.median(seconds[name] / seconds[OURS]) for name in sides if name != OURS}
    return [
        *(Measurement(f"{work}: {OURS} / {name}", ratio, at_least=goals.get(name)) for name, ratio in ratios.items()),
        *(Measurement(f"{work}: {labels[name]}", rate.of(median[name]), rate.unit) for name in sides),
        Measurement(f"{work}: compile time", ours.compile_s, "s"),
        Measurement(f"{work}: temporaries", ours.temporary_bytes / MIB, "MiB"),
        *of_bound(work, ours.phases, machine, median[OURS]),
    ]


def of_bound(work: str, phases: Sequence[Phase], machine: Machine, seconds: float) -> list[Measurement]:
    """The speeds of the machine, the lower bound on the time of `phases` at these, and its fraction of `seconds`."""
    bound = machine.seconds(phases)
    return [
        Measurement(f"{work}: bound", bound * 1e3, "ms"),
        Measurement(f"{work}: fraction of the bound", bound / seconds),
        Measurement(f"{work}: a large product", machine.flops_per_s / GIGA, "GFLOP/s"),
        Measurement(f"{work}: memory", machine.bytes_per_s / GIGA, "GB/s"),
    ]


def _seconds(side: Side) -> float:
    begun = time.perf_counter()
    side.run()
    return time.perf_counter() - begun
