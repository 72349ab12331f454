"""The command line of an experiment.

    python -m experiments.NAME.main --config=FILE[:VARIANT] [--config.FIELD=VALUE ...] --workdir=DIR \\
      [--mode=train|evaluate|predict] [--profile=STEP:COUNT] [--tracker=NAME] [--out=FILE] [INPUT ...]

A trained run holds its config: `--workdir=RUN --mode=predict INPUT ...` needs no `--config`.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from research import command
from research import config as config_lib
from research.cli import experiments
from research.measure import profile, progress
from research.parallel import processes
from research.predicting import answers
from research.tracking import base as tracking
from research.train import rundir

MODES = ("train", "evaluate", "predict")
_OVERRIDE = command.OVERRIDE
_DESCRIPTIONS = {
    "": "Train or evaluate a model, or predict with it.",
    "train": "Train a model, or resume a run.",
    "evaluate": "Evaluate a trained run on its validation and test splits.",
    "predict": "Predict with a trained run.",
}
_EPILOG = "Any field of the config can be overridden: --config.train.steps=100"
_EPILOG_OF_RUN = (
    "Fields with the role inference or runtime can be overridden: --config.task.beam_size=4 (tessera show FILE --docs)"
)


def parse(argv: Sequence[str], mode: str = "") -> tuple[argparse.Namespace, list[str]]:
    """The arguments and the overrides (`train.steps=100`). Raises ValueError for invalid arguments.

    With a `mode`, parses the arguments of `tessera MODE`, which has no --mode.
    """
    parser = command.Parser(
        prog=f"tessera {mode}" if mode else "python -m experiments.NAME.main",
        description=_DESCRIPTIONS[mode],
        epilog=_EPILOG if mode in ("", "train") else _EPILOG_OF_RUN,
    )
    file = "a config file, such as configs/NAME/CONFIG.py:cpu; the variant is full unless given"
    parser.add_argument(
        "--config",
        default="",
        metavar="FILE[:VARIANT]",
        help={"": f"{file}; not needed for a trained run", "train": file}.get(mode, "default: the config of the run"),
    )
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="the run directory: checkpoints, metrics, result"
    )
    if not mode:
        parser.add_argument("--mode", choices=MODES, default="train")
    if mode in ("", "train"):
        parser.add_argument(
            "--profile",
            metavar="STEP:COUNT",
            help=f"trace COUNT steps after step STEP; short for {_OVERRIDE}{profile.FIELD}",
        )
        parser.add_argument(
            "--tracker", action="append", default=[], choices=tracking.NAMES,
            help=f"also show metrics there, several are allowed; short for {_OVERRIDE}train.trackers",
        )  # fmt: skip
    if mode in ("", "evaluate"):
        parser.add_argument(
            "--follow", action="store_true",
            help="score every checkpoint on validation while another process trains, until the run is finished",
        )  # fmt: skip
        parser.add_argument(
            "--timeout", type=float, metavar="S", help="for --follow: give up after S seconds without a new checkpoint"
        )
    if mode in ("", "predict"):
        parser.add_argument("--out", default="", metavar="FILE", help="a .csv or .jsonl file for the predictions")
    inputs = "files, folders, quoted glob patterns, or - for standard input; for text models, also texts"
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        # Other commands take no inputs; `parse` raises an error of its own for them.
        help={"": f"for --mode=predict: {inputs}", "predict": inputs}.get(mode, argparse.SUPPRESS),
    )
    overrides, others = command.overrides_of(argv)
    arguments = parser.parse_args(others)
    arguments.mode = mode or arguments.mode
    invoked = f"tessera {mode}" if mode else f"--mode={arguments.mode}"
    if arguments.mode == "train" and not arguments.config:
        raise ValueError(f"{invoked} needs --config=FILE[:VARIANT]")
    if arguments.inputs and arguments.mode != "predict":
        raise ValueError(f"{invoked} takes no inputs, but {arguments.inputs[0]!r} was given")
    if arguments.mode == "predict" and not arguments.inputs:
        raise ValueError(f"{invoked} needs at least one input")
    arguments.follow, arguments.timeout = getattr(arguments, "follow", False), getattr(arguments, "timeout", None)
    if arguments.follow and arguments.mode != "evaluate":
        raise ValueError(f"--follow is for evaluation, not for {invoked}; leave it out")
    if arguments.timeout is not None and (not arguments.follow or not arguments.timeout > 0):
        raise ValueError(f"--timeout={arguments.timeout:g} must be more than 0 s, and needs --follow")
    arguments.out = getattr(arguments, "out", "")
    if arguments.out:
        if arguments.mode != "predict":
            raise ValueError(f"{invoked} writes no predictions; leave out --out={arguments.out}")
        answers.check(arguments.out)
    if getattr(arguments, "profile", None):
        overrides.append(f"{profile.FIELD}={arguments.profile}")
    if trackers := getattr(arguments, "tracker", []):
        overrides.append(f"train.trackers={tuple(dict.fromkeys(('tensorboard', *trackers)))}")
    return arguments, overrides


def load(arguments: argparse.Namespace, overrides: Sequence[str]) -> Any:
    """The config named by `--config`, or that of the run in `--workdir`. Raises ValueError if there is none."""
    if arguments.follow:
        from research.train import following  # imports the trainer

        rundir.check_workdir(arguments.workdir, write=False)
        following.wait_for_run(arguments.workdir, arguments.timeout, progress.say)
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
    """Runs `main(config, workdir, mode, inputs)`, with `out` if --out is given.

    Exits with code 2 and one line on stderr after a user error.
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
        if arguments.follow:
            from research.train import following

            task, data = config.build()
            result = following.Follower(config, task, data, arguments.workdir).follow(arguments.timeout)
        else:
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
    # Imported late, so that plotting does not delay the first step.
    from research.report import curves, plots, records

    folder = rundir.RunDirectory(arguments.workdir)
    curves.draw(folder.files)
    plots.draw(folder.files)
    print(records.summary(folder.files))
    folder.push()
    workdir = folder.root if "://" in arguments.workdir else Path(arguments.workdir)
    for name, what in (("curves.png", "curves"), ("events", "TensorBoard"), ("checkpoints", "checkpoints")):
        print(f"{what:12} {workdir / name}")
