"""`tessera COMMAND ...`: every command of the repository under one name; see `tessera --help`."""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from research import huge_pages, interrupt  # nothing slow to import here: `main` handles Ctrl-C first

USAGE = """usage: tessera COMMAND ...

commands:
  train     train a model, or resume a run:
              tessera train --config=FILE[:VARIANT] --workdir=DIR [--config.FIELD=VALUE ...]
  evaluate  evaluate a trained run on validation and test:
              tessera evaluate --workdir=RUN
  predict   predict with a trained run:
              tessera predict --workdir=RUN [--out=FILE.csv|.jsonl] INPUT ...
  show      show the resolved config, and what differs from the defaults:
              tessera show FILE[:VARIANT] [--docs] [--parameters] [--config.FIELD=VALUE ...]
              tessera show --list
  prepare   prepare a data set:
              tessera prepare NAME [--manual_dir=DIR] [--data_dir=DIR]
  plan      compile a config ahead of time for a TPU slice, without the hardware:
              tessera plan --config=FILE[:VARIANT] --topology=v5e:2x2
  import, export, check
            convert weights from and to other formats, and compare them
  baseline  scores of simple methods on the data of a config:
              tessera baseline --config=FILE[:VARIANT] [--out=FILE.jsonl] [--record]
  sweep     many runs of a config, ranked on validation:
              tessera sweep FILE.toml --workdir=DIR [--processes=N] [--record]
  rows      train and record the runs of a list whose rows are missing or stale:
              tessera rows [experiments/rows.txt] [--list] [--commit]
  report    results rows and tables:
              tessera report add|show|compare|tables|check|trust|privacy ...

See tessera COMMAND --help. Run commands in the root of the repository, like python -m."""

_MODES = ("train", "evaluate", "predict")
_IN_REPORT = ("trust", "privacy")  # subcommands of `report` that import experiments, so they are in research/cli
_IN_CLI = ("baseline", "sweep", "rows")  # commands implemented in research/cli/COMMAND.py
_MODULES = {  # command -> its module, and whether it is a subcommand there
    "prepare": ("research.data.__main__", True),
    "plan": ("research.plan.__main__", False),
    "import": ("research.interop.__main__", True),
    "export": ("research.interop.__main__", True),
    "check": ("research.interop.__main__", True),
    "report": ("research.report.__main__", False),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command; exits with code 2 and one line on stderr after a user error."""
    interrupt.end_on_interrupt()
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return
    _use_code_of_current_folder(words)
    name, *rest = words
    if argv is None and name in _MODES:
        huge_pages.enable()
    sys.path.insert(0, os.getcwd())  # experiments and configs are those of the repository in the current folder
    if name in _MODES:
        from research.train import preemption

        preemption.exit_on_sigterm()  # before the slow imports, so that SIGTERM always means 75
    from research import command

    with command.begin():
        action = _action(name)
    action(rest)


def _use_code_of_current_folder(words: Sequence[str]) -> None:
    """Re-executes the command with the repository in the current folder if this code is from another clone.

    The script of an environment runs the clone that it was installed from; configs and code must be of one clone.
    """
    here = Path("research/cli/tessera.py")
    if here.is_file() and not here.samefile(__file__):
        os.execv(sys.executable, [sys.executable, "-m", "research.cli.tessera", *words])


def _action(name: str) -> Callable[[Sequence[str]], None]:
    """The function of a command. Raises ValueError if it is unknown."""
    if name in _MODES:
        return lambda words: _experiment(words, name)
    if name == "show":
        return _show
    if name in _IN_CLI:
        return lambda words: _in_cli(words, name)
    if name not in _MODULES:
        raise ValueError(f"unknown command {name!r}; choose from {', '.join((*_MODES, 'show', *_IN_CLI, *_MODULES))}")
    module, is_subcommand = _MODULES[name]

    def run(words: Sequence[str]) -> None:
        from research import command

        if name == "report" and words[:1] and words[0] in _IN_REPORT:
            return _in_cli(words[1:], words[0])

        with command.begin():
            main = importlib.import_module(module).main
            sys.exit(main([name, *words], "tessera") if is_subcommand else main(words, f"tessera {name}"))

    return run


def _experiment(words: Sequence[str], mode: str) -> None:
    """Trains, evaluates or predicts, like `python -m experiments.NAME.main` with the experiment of the config."""
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

        parser = command.Parser(prog="tessera show", description="Shows the resolved fields of a config.")
        parser.add_argument("config", nargs="?", metavar="FILE[:VARIANT]")
        parser.add_argument("--docs", action="store_true", help="with the meaning and the role of each field")
        parser.add_argument("--parameters", action="store_true", help="a table of the model's parameters instead")
        parser.add_argument("--list", action="store_true", help="all configs and data sets")
        overrides, others = command.overrides_of(words)
        arguments = parser.parse_args(others)
        if arguments.list == bool(arguments.config):
            raise ValueError("give either a config, such as configs/image_classification/digits_vit.py:cpu, or --list")
        from research.cli import show

        if arguments.list:
            lines = show.listing(Path.cwd())
        else:
            source = config_lib.Source.parse(arguments.config, overrides)
            lines = show.parameters(source) if arguments.parameters else show.fields(source, arguments.docs)
        for line in lines:
            print(line)


def _in_cli(words: Sequence[str], name: str) -> None:
    """See research/cli/baseline.py, sweep.py, rows.py, trust.py and privacy.py."""
    from research import command

    with command.begin():
        importlib.import_module(f"research.cli.{name}").main(words)


if __name__ == "__main__":
    main()
