"""The command line of an experiment.

    python -m experiments.NAME.main --config=FILE[:VARIANT] [--config.FIELD=VALUE ...] --workdir=DIR \\
      [--mode=train|evaluate|predict] [INPUT ...]
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from research import config as config_lib
from research.parallel import processes

MODES = ("train", "evaluate", "predict")
_OVERRIDE = "--config."


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see --help")


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The arguments and the overrides (`train.steps=100`). Raises ValueError for an argument that is not known."""
    parser = _Parser(
        prog="python -m experiments.NAME.main",
        description="Train, evaluate or use a model.",
        epilog="Any field of the config can be overridden: --config.train.steps=100",
    )
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE[:VARIANT]",
        help="e.g. configs/NAME/CONFIG.py:cpu; the variant is full unless given",
    )
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="the run directory: checkpoints, metrics, result"
    )
    parser.add_argument("--mode", choices=MODES, default="train")
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="what --mode=predict is given, e.g. picture files")
    overrides = [word.removeprefix(_OVERRIDE) for word in argv if word.startswith(_OVERRIDE)]
    arguments = parser.parse_args([word for word in argv if not word.startswith(_OVERRIDE)])
    if arguments.inputs and arguments.mode != "predict":
        raise ValueError(f"--mode={arguments.mode} takes no inputs, but {arguments.inputs[0]!r} was given")
    if arguments.mode == "predict" and not arguments.inputs:
        raise ValueError("--mode=predict needs at least one input")
    return arguments, overrides


def run(
    main: Callable[[Any, str, str, Sequence[str]], dict[str, Any] | None], argv: Sequence[str] | None = None
) -> None:
    """Runs `main(config, workdir, mode, inputs)`; leaves with 2 and one line on stderr for what a user can mend."""
    with one_line_errors():
        arguments, overrides = parse(sys.argv[1:] if argv is None else argv)
        source = config_lib.Source.parse(arguments.config, overrides)
        config = config_lib.load(source.file, source.variant, source.overrides)
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns about every checkpoint without a score
        processes.initialize()
        result = main(config, arguments.workdir, arguments.mode, arguments.inputs)
        if processes.is_main() and result is not None:
            _close(arguments, result)


def _close(arguments: argparse.Namespace, result: dict[str, Any]) -> None:
    """What a person sees at the end of a run."""
    if arguments.mode == "evaluate":
        print(
            f"step {result['step']}: " + ", ".join(f"{name} {value:.4f}" for name, value in result["metrics"].items())
        )
        return
    from research.report import curves, records  # here, so that plotting does not delay the first step

    workdir = Path(arguments.workdir)
    curves.draw(workdir)
    print(records.summary(workdir))
    for name, what in (("curves.png", "curves"), ("events", "TensorBoard"), ("checkpoints", "checkpoints")):
        print(f"{what:12} {workdir / name}")


class one_line_errors:  # noqa: N801  Reads as a statement: `with one_line_errors():`
    """A context that turns a user's errors into one line on stderr and an exit code."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if isinstance(error, KeyboardInterrupt):
            self._leave("interrupted; the same command continues from the last checkpoint", 130)
        if isinstance(error, FloatingPointError):
            self._leave(str(error), 1)
        if type(error) is ValueError and _raised_here(traceback):
            self._leave(str(error), 2)

    @staticmethod
    def _leave(message: str, code: int) -> NoReturn:
        print("error: " + " ".join(message.split()), file=sys.stderr)
        sys.exit(code)


def _raised_here(traceback) -> bool:
    """Whether this repository raised the error on purpose; one from a library is a bug and keeps its traceback."""
    while traceback.tb_next:
        traceback = traceback.tb_next
    return Path(__file__).parents[1] in Path(traceback.tb_frame.f_code.co_filename).resolve().parents and (
        ".venv" not in traceback.tb_frame.f_code.co_filename
    )
