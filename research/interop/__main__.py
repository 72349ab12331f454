"""Weights to and from Hugging Face and big_vision.

python -m research.interop import PATH --workdir=DIR [--skip=REGEX ...] [--config.FIELD=VALUE ...]
python -m research.interop export WORKDIR PATH [--format=weights|stablehlo|peft] [--family=NAME]
python -m research.interop check PATH
"""

from research import interrupt

if __name__ == "__main__":
    interrupt.end_on_interrupt()  # before the slow imports, so that Ctrl-C never ends in a traceback

import sys
from collections.abc import Sequence

from research import command
from research.cli import experiments


def import_(path: str, workdir: str, skip: list[str], overrides: Sequence[str]) -> list[str]:
    """Makes a run directory, with its config, of the checkpoint at PATH."""
    from research.interop import imports

    return imports.run(path, workdir, experiments.config_class, overrides, skip)


def export(workdir: str, path: str, format: str, family: str, overrides: Sequence[str]) -> list[str]:
    """Writes the weights of a run as others read them, its low-rank updates alone (peft), or a whole program."""
    from research.interop import exports, stablehlo

    if overrides:
        raise ValueError(f"{command.OVERRIDE}{overrides[0]} is for import only; a run has its config")
    if format == "stablehlo":
        if family:
            raise ValueError(f"--family={family} is for --format=weights and peft only")
        return stablehlo.run(workdir, path, experiments.config_class)
    return exports.run(workdir, path, experiments.config_class, family, as_peft=format == "peft")


def check(path: str, overrides: Sequence[str]) -> list[str]:
    """Compares the logits of the checkpoint at PATH with those that transformers computes."""
    from research.interop import parity

    if overrides:
        raise ValueError(f"{command.OVERRIDE}{overrides[0]} is for import only")
    return parity.run(path, experiments.config_class)


def main(argv: Sequence[str], prog: str = "python -m research.interop") -> None:
    """Runs one command. Raises ValueError for what the user can fix."""
    parser = command.Parser(prog=prog, description="Weights of other libraries.")
    commands = parser.add_subparsers(required=True)
    for name, function in {"import": import_, "export": export, "check": check}.items():
        commands.add_parser(name, help=function.__doc__).set_defaults(function=function)
    added = commands.choices
    added["import"].add_argument("path", metavar="PATH", help="a folder with config.json, or a .npz file")
    added["import"].add_argument("--workdir", required=True, metavar="DIR", help="the run directory that is made")
    added["import"].add_argument(
        "--skip", action="append", default=[], metavar="REGEX", help="parameters to leave fresh, tensors to leave over"
    )
    added["export"].add_argument("workdir", metavar="WORKDIR", help="a run directory")
    added["export"].add_argument("path", metavar="PATH", help="the folder, or .npz file, that is made")
    added["export"].add_argument("--format", choices=("weights", "stablehlo", "peft"), default="weights")
    added["export"].add_argument("--family", default="", metavar="NAME", help="e.g. mt5 where t5 would be taken")
    added["check"].add_argument("path", metavar="PATH", help="as for import")
    overrides, others = command.overrides_of(argv)
    arguments = vars(parser.parse_args(others))
    for line in arguments.pop("function")(**arguments, overrides=overrides):
        print(line)


if __name__ == "__main__":
    with command.begin():
        main(sys.argv[1:])
