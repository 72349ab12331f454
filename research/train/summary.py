"""The summary at the start of training: model size, hardware, data and steps."""

from research.data.spec import DataSpec
from research.spec.contracts import DatasetInfo, Program
from research.train.settings import Experiment


def lines(config: Experiment, program: Program, info: DatasetInfo, step: int) -> list[str]:
    """A few lines for the user about a run that continues at `step`."""
    sizes = [f"{axis} {size}" for axis, size in program.mesh.shape.items() if size > 1]
    kind = program.mesh.devices.flat[0].device_kind
    where = f"{program.mesh.size} x {kind} ({', '.join(sizes)})" if sizes else f"1 x {kind}"
    counts = ", ".join(f"{count:,} {split}" for split, count in info.counts.items())
    dtypes = f"parameters in {config.precision.params}, computed in {config.precision.compute}"
    first = f", from step {step:,} on" if step else ""
    data = getattr(config, "data", None)
    both = isinstance(data, DataSpec) and data.fit_on != "train"
    seen = "; train includes validation, whose scores are therefore training scores" if both else ""
    frozen = [
        f"training: {program.num_trained:,} of them are trained, the others frozen; the optimizer state takes "
        f"{program.optimizer_bytes / 2**20:,.1f} MiB"
    ]
    return [
        f"training: {program.num_params:,} {dtypes}, on {where}",
        *(frozen if config.optimizer.freeze or config.lora.adapts else ()),
        f"training: {info.name} with {counts} examples{seen}",
        f"training: {config.train.steps:,} steps of {config.train.batch_size:,}{first}",
    ]
