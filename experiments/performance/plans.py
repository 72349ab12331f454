"""Suite `plan`: ahead-of-time plans of ViT-L/16 for 16 and for 256 chips.

Its figures come from compiling ahead of time with libtpu, so they are the same on every machine.
"""

import importlib.util
import json
import subprocess
import sys

from experiments.performance.measurement import Measured, Measurement, say

CONFIG = "configs/image_classification/imagenet_vit_l16.py"
GIB = 2**30
# The same 16 images a chip on both: topology, images a step, mesh.data, mesh.fsdp.
SMALL, LARGE = ("v5e:4x4", 256, 1, 16), ("v5e:16x16", 4096, 16, 16)


def measure(
    config: str = CONFIG, slices: tuple = (SMALL, LARGE), overrides: tuple[str, ...] = ("model.remat=full",)
) -> Measured:
    """The plans of the two slices and how they compare. Raises ValueError without libtpu."""
    if importlib.util.find_spec("libtpu") is None and config == CONFIG:
        raise ValueError("the suite plan needs libtpu; install Tessera with the extra [tpu]")
    plans = []
    for topology, batch_size, data, fsdp in slices:
        say(f"  {config} on {topology}; a compile takes minutes")
        fields = (f"train.batch_size={batch_size}", f"mesh.data={data}", f"mesh.fsdp={fsdp}", *overrides)
        words = [f"--config={config}", f"--topology={topology}", "--json", *(f"--config.{field}" for field in fields)]
        command = [sys.executable, "-m", "research.plan", *words]
        plans.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
    values = [each for plan in plans for each in of_one(plan)]
    small, large = plans
    sizes = f"{large['chips']} / {small['chips']} chips"
    values.append(Measurement(f"temporaries, {sizes}", large["temp_bytes"] / small["temp_bytes"], at_most=1.05))
    moved = [sum(plan["collective_bytes"].values()) for plan in plans]
    values.append(Measurement(f"collective bytes a chip, {sizes}", moved[1] / moved[0], at_most=1.05))
    yield " ".join([config, *(f"--config.{field}" for field in overrides)]), values


def of_one(plan: dict) -> list[Measurement]:
    """The measurements of one slice."""
    name, moved = plan["topology"], sum(plan["collective_bytes"].values())
    bound = moved / plan["collective_lower_bound_bytes"]
    return [
        Measurement(f"{name}: peak of HBM", plan["peak_bytes"] / plan["hbm_bytes"], at_most=1),
        Measurement(f"{name}: temporaries", plan["temp_bytes"] / GIB, "GiB"),
        Measurement(f"{name}: collective bytes / lower bound", bound, at_most=1.2),
        Measurement(f"{name}: MFU at most (bound by {plan['bound_by']})", plan["mfu"]),
    ]
