"""`tessera COMMAND ...`: every command of the repository under one name; see `tessera --help`."""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from research import huge_pages, interrupt  # and nothing that is slow to import, before `main` has seen to Ctrl-C

USAGE = """usage: tessera COMMAND ...

commands:
  train     train a model, or continue a run:
              tessera train --config=FILE[:VARIANT] --workdir=DIR [--config.FIELD=VALUE ...]
  evaluate  score a trained run on validation and test:
              tessera evaluate --workdir=RUN
  predict   use a trained run:
              tessera predict --workdir=RUN [--out=FILE.csv|.jsonl] INPUT ...
  show      a config as it will run, with what differs from the defaults:
              tessera show FILE[:VARIANT] [--docs] [--parameters] [--config.FIELD=VALUE ...]
              tessera show --list
  prepare   prepare a data set:
              tessera prepare NAME [--manual_dir=DIR] [--data_dir=DIR]
  plan      compile a config for a TPU slice without one:
              tessera plan --config=FILE[:VARIANT] --topology=v5e:2x2
  import, export, check
            weights from and to other formats
  baseline  what simple methods reach on the data of a config:
              tessera baseline --config=FILE[:VARIANT] [--out=FILE.jsonl] [--record]
  report    results rows and tables:
              tessera report add|show|tables|check ...

Each command explains itself: tessera COMMAND --help. It runs in the root of the repository, like python -m."""

_MODES = ("train", "evaluate", "predict")
_MODULES = {  # command -> the module that has it, and whether it has others, of which this is one
    "prepare": ("research.data.__main__", True),
    "plan": ("research.plan.__main__", False),
    "import": ("research.interop.__main__", True),
    "export": ("research.interop.__main__", True),
    "check": ("research.interop.__main__", True),
    "report": ("research.report.__main__", False),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command; leaves with 2 and one line for what a user can fix."""
    interrupt.end_on_interrupt()
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return
    _stay_in_this_repository(words)
    name, *rest = words
    if argv is None and name in _MODES:
        huge_pages.enable()
    sys.path.insert(0, os.getcwd())  # experiments and configs are those of the repository that one stands in
    if name in _MODES:
        from research.train import preemption

        preemption.exit_on_sigterm()  # before the slow imports, so that SIGTERM always means 75
    from research import command

    with command.begin():
        action = _action(name)
    action(rest)


def _stay_in_this_repository(words: Sequence[str]) -> None:
    """Starts again with the code of the repository that one stands in, as python -m does, where the script has other.

    An environment knows the clone that it was installed from; configs and code of two clones must not be mixed.
    """
    here = Path("research/cli/tessera.py")
    if here.is_file() and not here.samefile(__file__):
        os.execv(sys.executable, [sys.executable, "-m", "research.cli.tessera", *words])


def _action(name: str) -> Callable[[Sequence[str]], None]:
    """The function of a command. Raises ValueError for one that is not known."""
    if name in _MODES:
        return lambda words: _experiment(words, name)
    if name == "show":
        return _show
    if name == "baseline":
        return _baseline
    if name not in _MODULES:
        raise ValueError(f"unknown command {name!r}; choose from {', '.join((*_MODES, 'show', 'baseline', *_MODULES))}")
    module, one_of_several = _MODULES[name]

    def run(words: Sequence[str]) -> None:
        from research import command

        with command.begin():
            main = importlib.import_module(module).main
            sys.exit(main([name, *words], "tessera") if one_of_several else main(words, f"tessera {name}"))

    return run


def _experiment(words: Sequence[str], mode: str) -> None:
    """Trains, evaluates or uses: the same as `python -m experiments.NAME.main`, whose NAME the config says."""
    from research import command

    with command.begin():
        from research.cli import experiment, experiments

        config = experiment.load(*experiment.parse(words, mode))
        module = experiments.entrypoint(config.source.experiment)
    experiment.run(module.main, words, mode)


def _show(words: Sequence[str]) -> None:
    """See research/cli/show.py."""
    from research import command

    with command.begin():
        from research import config as config_lib

        parser = command.Parser(prog="tessera show", description="A config as it will run.")
        parser.add_argument("config", nargs="?", metavar="FILE[:VARIANT]")
        parser.add_argument("--docs", action="store_true", help="with the meaning and the role of each field")
        parser.add_argument("--parameters", action="store_true", help="a table of the model's parameters instead")
        parser.add_argument("--list", action="store_true", help="all configs and data sets")
        overrides, others = command.overrides_of(words)
        arguments = parser.parse_args(others)
        if arguments.list == bool(arguments.config):
            raise ValueError("give a config, such as configs/image_classification/digits_vit.py:cpu, or --list")
        from research.cli import show

        if arguments.list:
            lines = show.listing(Path.cwd())
        else:
            source = config_lib.Source.parse(arguments.config, overrides)
            lines = show.parameters(source) if arguments.parameters else show.fields(source, arguments.docs)
        for line in lines:
            print(line)


def _baseline(words: Sequence[str]) -> None:
    """See research/cli/baseline.py."""
    from research import command

    with command.begin():
        from research.cli import baseline

        baseline.main(words)


if __name__ == "__main__":
    main()
