"""Weights to and from Hugging Face and big_vision.

python -m research.interop import PATH --workdir=DIR [--skip=REGEX ...] [--config.FIELD=VALUE ...]
     [--zero-shot [--class=NAME ...] [--template=TEXT ...]]
python -m research.interop export WORKDIR PATH [--format=weights|stablehlo|onnx|peft] [--family=NAME]
python -m research.interop check PATH
"""

from research import interrupt

if __name__ == "__main__":
    interrupt.end_on_interrupt()  # before the slow imports, so that Ctrl-C never ends in a traceback

import sys
from collections.abc import Sequence

from research import command
from research.cli import experiments


def import_(
    path: str,
    workdir: str,
    skip: list[str],
    zero_shot: bool,
    classes: list[str],
    templates: list[str],
    overrides: Sequence[str],
) -> list[str]:
    """Converts the checkpoint at PATH to a run directory with a config."""
    from research.interop import imports
    from research.interop.zero_shot import Prompts

    if (classes or templates) and not zero_shot:
        raise ValueError("--class and --template are for --zero-shot only; add it, or leave them out")
    prompts = Prompts(tuple(classes), *([tuple(templates)] if templates else [])) if zero_shot else None
    return imports.run(path, workdir, experiments.config_class, overrides, skip, prompts)


def export(workdir: str, path: str, format: str, family: str, overrides: Sequence[str]) -> list[str]:
    """Exports a run: its weights, only its adapters (peft), or a compiled program (stablehlo, onnx)."""
    from research.interop import exports, onnx_format, stablehlo

    if overrides:
        raise ValueError(f"{command.OVERRIDE}{overrides[0]} is for import only; leave it out, a run has its config")
    if format in ("stablehlo", "onnx"):
        if family:
            raise ValueError(f"--family={family} is for --format=weights and peft only")
        return (stablehlo if format == "stablehlo" else onnx_format).run(workdir, path, experiments.config_class)
    return exports.run(workdir, path, experiments.config_class, family, as_peft=format == "peft")


def check(path: str, overrides: Sequence[str]) -> list[str]:
    """Compares the logits of the checkpoint at PATH with those of transformers."""
    from research.interop import parity

    if overrides:
        raise ValueError(f"{command.OVERRIDE}{overrides[0]} is for import only; leave it out")
    return parity.run(path, experiments.config_class)


def main(argv: Sequence[str], prog: str = "python -m research.interop") -> None:
    """Runs one command. Raises ValueError for user errors."""
    parser = command.Parser(prog=prog, description="Converts weights from and to other libraries.")
    commands = parser.add_subparsers(required=True)
    for name, function in {"import": import_, "export": export, "check": check}.items():
        commands.add_parser(name, help=function.__doc__).set_defaults(function=function)
    added = commands.choices
    added["import"].add_argument("path", metavar="PATH", help="a folder with config.json, or a .npz file")
    added["import"].add_argument("--workdir", required=True, metavar="DIR", help="the run directory to create")
    added["import"].add_argument(
        "--skip",
        action="append",
        default=[],
        metavar="REGEX",
        help="parameters to initialise instead of loading, and tensors to ignore",
    )
    added["import"].add_argument(
        "--zero-shot", action="store_true", help="an image classifier of CLIP or SigLIP from the names of its classes"
    )
    added["import"].add_argument(
        "--class", action="append", default=[], dest="classes", metavar="NAME",
        help="for --zero-shot: a class, once for each in order; default: those of config.data.name",
    )  # fmt: skip
    added["import"].add_argument(
        "--template", action="append", default=[], dest="templates", metavar="TEXT",
        help="for --zero-shot: a text with {} for the name of the class; default: 'a photo of a {}.'",
    )  # fmt: skip
    added["export"].add_argument("workdir", metavar="WORKDIR", help="a run directory")
    added["export"].add_argument("path", metavar="PATH", help="the folder, or .npz file, to create")
    added["export"].add_argument("--format", choices=("weights", "stablehlo", "onnx", "peft"), default="weights")
    added["export"].add_argument(
        "--family", default="", metavar="NAME", help="e.g. mt5 instead of t5; default: by the model"
    )
    added["check"].add_argument("path", metavar="PATH", help="as for import")
    overrides, others = command.overrides_of(argv)
    arguments = vars(parser.parse_args(others))
    for line in arguments.pop("function")(**arguments, overrides=overrides):
        print(line)


if __name__ == "__main__":
    with command.begin():
        main(sys.argv[1:])
