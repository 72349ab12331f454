"""Plans a config for a slice without an accelerator: whether it fits, its bottleneck, and a bound of its speed.

python -m research.plan --config=FILE[:VARIANT] --topology=v5e:16x16 [--config.FIELD=VALUE ...] [--mesh=auto] [--json]
"""

from research import interrupt

if __name__ == "__main__":
    interrupt.end_on_interrupt()  # before the slow imports, so that Ctrl-C never ends in a traceback

import argparse
import dataclasses
import json
import logging
import math
import sys
from collections.abc import Sequence

from research import command
from research import config as config_lib
from research.plan import topology

PROG = "python -m research.plan"


def parse(argv: Sequence[str], prog: str = PROG) -> tuple[argparse.Namespace, list[str]]:
    """The arguments and the overrides (`mesh.fsdp=16`). Raises ValueError for invalid arguments."""
    parser = command.Parser(
        prog=prog,
        description="Compile the train step of a config ahead of time for a slice, and estimate memory and time.",
        epilog="Any field of the config can be overridden: --config.mesh.fsdp=16",
    )
    parser.add_argument("--config", required=True, metavar="FILE[:VARIANT]", help="as for an experiment's main.py")
    parser.add_argument("--topology", required=True, metavar="CHIP:SHAPE", help="e.g. v5e:16x16 or v5p:4x4x8")
    parser.add_argument(
        "--mesh",
        choices=("config", "auto"),
        default="config",
        help="auto: search mesh, remat policy and number of microbatches",
    )
    parser.add_argument("--tries", type=int, default=3, metavar="N", help="with --mesh=auto: how many to compile")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    overrides, others = command.overrides_of(argv)
    arguments = parser.parse_args(others)
    if arguments.tries < 1:
        raise ValueError(f"--tries={arguments.tries} must be at least 1")
    return arguments, overrides


def main(argv: Sequence[str], prog: str = PROG) -> None:
    """Runs the command: compiles, and prints the plan."""
    arguments, overrides = parse(argv, prog)
    chip, shape = topology.parse(arguments.topology)
    topology.prepare_environment()
    topology.make_cpu_devices(math.prod(shape) * chip.cores)
    source = config_lib.Source.parse(arguments.config, overrides)
    from research.cli import experiments
    from research.plan import estimate, search, show
    from research.train import settings

    config = settings.load(source)

    logging.getLogger("jax").setLevel(logging.ERROR)
    slice_ = topology.describe(arguments.topology)
    if not slice_.real:
        why = "GPUs are planned on a CPU" if slice_.is_gpu else "libtpu (the extra [tpu]) is not installed"
        _say(f"{why}: compiling for {len(slice_.devices)} virtual CPU devices")
    task = config.build()[0]
    teacher = experiments.load_teacher(config.distill.teacher, task).task if config.distill.teacher else None
    if arguments.mesh == "auto":
        plans = search.search(config, slice_, arguments.tries, teacher)
    else:
        _say("compiling; minutes for a large model")
        plans = [estimate.make_plan(config, task, slice_, teacher)]
    if arguments.json:
        best, *others = [dataclasses.asdict(plan) for plan in plans]
        print(json.dumps(best | ({"others": others} if arguments.mesh == "auto" else {})))
        return
    if arguments.mesh == "auto":
        print(show.ranking(plans) + "\n\nthe best of them\n")
    print(show.table(plans[0]))


def _say(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    with command.begin():
        main(sys.argv[1:])
