"""Performance: speed and memory of the library, measured. See README.md."""

from research import interrupt

if __name__ == "__main__":
    interrupt.end_on_interrupt()  # before the slow imports, so that Ctrl-C never ends in a traceback

import argparse
import dataclasses
import importlib.util
import json
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.performance import (
    adapt_steps,
    compiling,
    image_steps,
    input_pipeline,
    loop,
    memory,
    plans,
    speech_shapes,
    speech_steps,
    startup,
    text_steps,
    turns,
    vision_steps,
    vit_steps,
)
from experiments.performance.measurement import SMOKE, Measurement, say
from experiments.performance.text_shapes import Shapes
from research import command, files
from research.data import prepare
from research.models.speech import SIZES
from research.report import formats, records
from research.train import result

Row = tuple[str, str, list[Measurement]]  # suite, config and what was measured

SUITES = {
    "loop": loop.measure,
    "input": input_pipeline.measure,
    "startup": startup.measure,
    "compile": compiling.measure,
    "memory": memory.measure,
    "vision": vision_steps.measure,
    "vit": vit_steps.measure,
    "plan": plans.measure,
    "text": text_steps.measure,
    "speech": speech_steps.measure,
    "images": image_steps.measure,
    "adapt": adapt_steps.measure,
}

# A check of all suites in a minute; the measured values are meaningless.
QUICK = {
    "loop": {"config": SMOKE, "segment": 5, "pairs": 2},
    "input": {"config": SMOKE, "repeats": 1, "batches": 5, "steps": 5},
    "startup": {"config": SMOKE, "imports": 1, "runs": 1},
    "compile": {"config": SMOKE, "depths": (2, 4), "repeats": 1},
    "memory": {"configs": (SMOKE,)},
    "vision": {
        "configs": tuple(f"{each.removesuffix(':cpu')}:smoke" for each in vision_steps.CONFIGS[::3]),
        "steps": 3, "repeats": 1, "asked": (1, 2), "answers": 1,
    },
    "vit": {"config": SMOKE, "runs": (("S", 8, "none", 0),), "steps": 4, "repeats": 1, "matmul": 64},
    "plan": {"config": SMOKE, "slices": (("v5e:2x2", 1024, 1, 4), ("v5e:2x4", 2048, 2, 4)), "overrides": ()},
    "text": {
        "shapes": Shapes(
            model={"width": 16, "encoder_depth": 2, "decoder_depth": 2, "num_heads": 2, "kv_dim": 8, "mlp_dim": 32},
            vocab_size=64, batch_size=2, source_length=6, target_length=5,
        ),
        "pairs": 2,
        "packed": "configs/translation/multi30k_en_de.py:smoke",
        "compiled": False,
    },
    "speech": {
        "shapes": speech_shapes.Shapes(
            model=SIZES["tiny"] | {
                "width": 16, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 2, "kv_dim": 8, "mlp_dim": 64,
            },
            vocab_size=64, mels=8, target_length=5, seconds=(1.0,),
        ),
        "pairs": 2,
        "compiled": False,
    },
    "images": {
        "steps": tuple(
            dataclasses.replace(step, config=f"{step.config.removesuffix(':cpu')}:smoke", batch_size=4)
            for step in image_steps.STEPS
        ),
        "pairs": 2,
        "compiled": False,
    },
    "adapt": {"config": "configs/sentiment/sst2_minilm.py:smoke", "steps": 3},
}  # fmt: skip
# Generated data sets, for --quick.
QUICK_DATA = ("digits", "boxed_shapes", "moving_digits/motion", "spelled_numbers")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the suites one after the other; a missed goal is shown in the table and is not an error."""
    arguments = parse(argv)
    if not arguments.quick:
        disable_compilation_cache()
    revision = result.revision()  # before recording changes the working tree
    measured: list[Row] = []
    for name in QUICK_DATA if arguments.quick else ():
        say(prepare.prepare(name))
    for name in arguments.suite or default_suites(arguments.quick):
        say(f"{name}:")
        for config, measurements in SUITES[name](**(QUICK[name] if arguments.quick else {})):
            measured.append((name, config, measurements))
            if arguments.record:  # at once: a later suite may fail, or the machine may be preempted
                records.record(row(*measured[-1], revision))
    print(table(measured))
    if arguments.out:
        text = json.dumps([row(*each, revision) for each in measured], indent=2, ensure_ascii=False) + "\n"
        files.write_atomically(Path(arguments.out), text)
    if arguments.record:
        say("recorded; now run: python -m research.report tables")


def default_suites(quick: bool) -> list[str]:
    """All suites that this machine can run; at toy size only an installed package can be missing."""
    left_out = {}
    if not quick and jax.default_backend() == "cpu":
        left_out["vit"] = "JAX has found no GPU or TPU"
    if not quick and importlib.util.find_spec("libtpu") is None:
        left_out["plan"] = "libtpu, of the extra [tpu], is not installed"
    if turns.missing():
        left_out |= dict.fromkeys(("text", "speech", "images", "adapt"), turns.missing())
    elif not quick and adapt_steps.missing():
        left_out["adapt"] = adapt_steps.missing()
    for name, reason in left_out.items():
        say(f"skipping the suite {name}: {reason}")
    return [name for name in SUITES if name not in left_out]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments. Raises ValueError for unknown or conflicting ones, and for a folder that does not exist."""
    parser = command.Parser(prog="python -m experiments.performance.main", description="Measures speed.")
    parser.add_argument("--suite", action="append", metavar="NAME", help=f"{', '.join(SUITES)}; may be repeated")
    parser.add_argument("--out", metavar="FILE", help="writes the measurements as JSON")
    parser.add_argument("--record", action="store_true", help="adds them to experiments/performance/results.jsonl")
    parser.add_argument("--quick", action="store_true", help="runs the suites at toy size; the figures are meaningless")
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        raise ValueError(f"unknown argument {unknown[0]!r}; see --help")
    if arguments.quick and arguments.record:
        raise ValueError("--quick measures nothing that is worth recording; leave out --quick or --record")
    for name in arguments.suite or ():
        if name not in SUITES:
            raise ValueError(f"--suite={name} is unknown; choose from {', '.join(SUITES)}")
    if arguments.out and not Path(arguments.out).absolute().parent.is_dir():
        raise ValueError(f"--out={arguments.out}: the folder does not exist; create it first")
    return arguments


def disable_compilation_cache() -> None:
    """Disables the compilation cache, here and in the processes that the suites start."""
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    jax.config.update("jax_enable_compilation_cache", False)


def row(suite: str, config: str, measurements: list[Measurement], revision: tuple[str, bool]) -> dict[str, Any]:
    """A results row, as research/report/records.py describes it."""
    commit, dirty = revision
    return {
        "experiment": "performance",
        "suite": suite,
        "config": config,
        "measurements": [
            {"name": each.name, "value": each.value, "unit": each.unit, "goal": each.goal, "met": each.met}
            for each in measurements
        ],
        "hardware": result.hardware(),
        "commit": commit,
        "dirty": dirty,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": shlex.join(["python", "-m", "experiments.performance.main", f"--suite={suite}"]),
    }


def table(measured: list[Row]) -> str:
    """The measurements as an aligned table with a header."""
    lines = [("suite", "config", "measured", "value", "unit", "goal", "met?")]
    for suite, config, measurements in measured:
        lines += [(suite, Path(config.split()[0]).name, *_cells(each)) for each in measurements]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in aligned)


def _cells(measurement: Measurement) -> tuple[str, ...]:
    met = {True: "yes", False: "no", None: "-"}[measurement.met]
    return measurement.name, formats.number(measurement.value), measurement.unit, measurement.goal or "-", met


if __name__ == "__main__":
    with command.begin():
        main()
