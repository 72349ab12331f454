"""The command line of an experiment.

    python -m experiments.NAME.main --config=FILE[:VARIANT] [--config.FIELD=VALUE ...] --workdir=DIR \\
      [--mode=train|evaluate|predict] [--profile=STEP:COUNT] [--out=FILE] [INPUT ...]

A trained run knows its config: `--workdir=RUN --mode=predict INPUT ...` needs no `--config`.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from research import command
from research import config as config_lib
from research.cli import experiments
from research.measure import profile
from research.parallel import processes
from research.predicting import answers
from research.train import rundir

MODES = ("train", "evaluate", "predict")
_OVERRIDE = command.OVERRIDE
_WHAT = {"": "Train, evaluate or use a model.", "train": "Train a model, or continue a run.",
         "evaluate": "Score a trained run.", "predict": "Use a trained run."}  # fmt: skip


def parse(argv: Sequence[str], mode: str = "") -> tuple[argparse.Namespace, list[str]]:
    """The arguments and the overrides (`train.steps=100`). Raises ValueError for an argument that is not known.

    With a `mode` they are those of `tessera MODE`, which has no --mode.
    """
    parser = command.Parser(
        prog=f"tessera {mode}" if mode else "python -m experiments.NAME.main",
        description=_WHAT[mode],
        epilog="Any field of the config can be overridden: --config.train.steps=100",
    )
    parser.add_argument(
        "--config",
        default="",
        metavar="FILE[:VARIANT]",
        help="e.g. configs/NAME/CONFIG.py:cpu; the variant is full unless given; a trained run has its own",
    )
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="the run directory: checkpoints, metrics, result"
    )
    if not mode:
        parser.add_argument("--mode", choices=MODES, default="train")
    parser.add_argument(
        "--profile",
        metavar="STEP:COUNT",
        help=f"trace COUNT steps after step STEP; short for {_OVERRIDE}{profile.FIELD}",
    )
    if mode in ("", "predict"):
        parser.add_argument(
            "--out", default="", metavar="FILE", help="a .csv or .jsonl file with all that predict finds"
        )
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="what predict is given: files, folders, quoted patterns, or - for standard input; of text, texts too",
    )
    overrides, others = command.overrides_of(argv)
    arguments = parser.parse_args(others)
    arguments.mode = mode or arguments.mode
    said = f"tessera {mode}" if mode else f"--mode={arguments.mode}"
    if arguments.mode == "train" and not arguments.config:
        raise ValueError(f"{said} needs --config=FILE[:VARIANT]")
    if arguments.inputs and arguments.mode != "predict":
        raise ValueError(f"{said} takes no inputs, but {arguments.inputs[0]!r} was given")
    if arguments.mode == "predict" and not arguments.inputs:
        raise ValueError(f"{said} needs at least one input")
    arguments.out = getattr(arguments, "out", "")
    if arguments.out:
        if arguments.mode != "predict":
            raise ValueError(f"{said} writes no answers; leave out --out={arguments.out}")
        answers.check(arguments.out)
    if arguments.profile:
        overrides.append(f"{profile.FIELD}={arguments.profile}")
    return arguments, overrides


def load(arguments: argparse.Namespace, overrides: Sequence[str]) -> Any:
    """The config that the arguments name, or that of the run in `--workdir`. Raises ValueError where there is none."""
    if arguments.config:
        source = config_lib.Source.parse(arguments.config)
        return config_lib.load(source.file, source.variant, overrides)
    rundir.check_workdir(arguments.workdir, write=False)
    folder = rundir.RunDirectory(arguments.workdir)
    content = rundir.config_of(folder, arguments.workdir)
    cls = experiments.config_class(config_lib.source_of(content)["experiment"])
    return config_lib.of_run(cls, content, overrides)


def run(
    main: Callable[..., dict[str, Any] | None],
    argv: Sequence[str] | None = None,
    mode: str = "",
) -> None:
    """Runs `main(config, workdir, mode, inputs)`, with `out` where --out says so.

    Leaves with 2 and one line on stderr for what a user can fix.
    """
    with processes.fail_fast(), command.begin():
        arguments, overrides = parse(sys.argv[1:] if argv is None else argv, mode)
        config = load(arguments, overrides)
        rundir.check_workdir(arguments.workdir, write=arguments.mode == "train")
        processes.initialize()
        given = {"--mode": arguments.mode, "--workdir": arguments.workdir, "inputs": arguments.inputs}
        processes.assert_equal_across_processes(
            given | {f"config.{name}": value for name, value in config_lib.flat(config).items()}
        )
        more = {"out": arguments.out} if arguments.out else {}
        result = main(config, arguments.workdir, arguments.mode, arguments.inputs, **more)
        if processes.is_main() and result is not None:
            _close(arguments, result)


def _close(arguments: argparse.Namespace, result: dict[str, Any]) -> None:
    """Prints the summary at the end of a run."""
    if arguments.mode == "evaluate":
        print(
            f"step {result['step']}: " + ", ".join(f"{name} {value:.4f}" for name, value in result["metrics"].items())
        )
        return
    from research.report import curves, records  # here, so that plotting does not delay the first step

    folder = rundir.RunDirectory(arguments.workdir)
    curves.draw(folder.files)
    print(records.summary(folder.files))
    folder.push()
    workdir = folder.root if "://" in arguments.workdir else Path(arguments.workdir)
    for name, what in (("curves.png", "curves"), ("events", "TensorBoard"), ("checkpoints", "checkpoints")):
        print(f"{what:12} {workdir / name}")
