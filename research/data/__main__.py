"""`python -m research.data prepare NAME [--manual_dir=DIR] [--data_dir=DIR] [--config=FILE] [...]`; see `--help`."""

from research import interrupt

if __name__ == "__main__":
    interrupt.end_on_interrupt()  # before the slow imports, so that Ctrl-C never ends in a traceback

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

from research import command
from research import config as config_lib
from research.data import groups, prepare, sources
from research.data.sound import speech
from research.data.spec import DataSpec
from research.data.text import dataset as text
from research.data.text import templates, token_data
from research.data.text.builders.texts import TextBuilder


def main(argv: Sequence[str], prog: str = "python -m research.data") -> None:
    """Prepares a data set. Raises ValueError for user errors."""
    parser = command.Parser(prog=prog, description=__doc__)
    prepare_parser = parser.add_subparsers(required=True, metavar="COMMAND").add_parser("prepare", help=prepare.__doc__)
    prepare_parser.add_argument(
        "name", help=f"{', '.join(sources.OWN)}, {sources.FOLDER}PATH, or a TFDS catalogue name"
    )
    prepare_parser.add_argument("--manual_dir", default="", help="the folder that holds the archives of the data set")
    prepare_parser.add_argument("--data_dir", default="", help="default: $TFDS_DATA_DIR, else ~/tensorflow_datasets")
    prepare_parser.add_argument(
        "--skip_undecodable", action="store_true", help="leave out images, sounds and videos that cannot be decoded"
    )
    prepare_parser.add_argument(
        "--config",
        default="",
        help="FILE[:VARIANT]: also make the vocabulary and the tokens of texts or transcripts for this config",
    )
    prepare_parser.add_argument(
        "--group",
        default="",
        metavar="RULE",
        help="print how many groups each split has with config.data.group=RULE; default: the rule of --config",
    )
    arguments = vars(parser.parse_args(argv))
    group = arguments.pop("group")
    if not groups.RULE.accepts(group):
        raise ValueError(f"--group={group!r} {groups.RULE.requirement}")
    spec, open_tokens = _data(arguments.pop("config"), arguments["name"], arguments["data_dir"], group)
    print(prepare.prepare(**arguments))
    if open_tokens:
        print(token_data.make_tokens(open_tokens()))
    elif spec.group:
        builder = sources.open_builder(spec.name, spec.dir)
        data = sources.Prepared(builder, spec.name, spec.validation_fraction, spec.fit_on, group=spec.group)
        print(f"{spec.name}: {prepare.described_groups(data)}")


def _data(
    config: str, name: str, data_dir: str, group: str
) -> tuple[DataSpec, Callable[[], token_data.TokenDataset] | None]:
    """The spec of the data, and a function that opens the data set if tokens are to be made (else None).

    Without a config, tokens are made for texts only, not for the transcripts of sounds.
    """
    if config:
        source = config_lib.Source.parse(config)
        loaded: Any = config_lib.load(source.file, source.variant)
        if loaded.data.name != name:
            raise ValueError(f"--config={config} is for {loaded.data.name!r}, not {name!r}")
        spec = dataclasses.replace(loaded.data, dir=data_dir, **({"group": group} if group else {}))
        here = dataclasses.replace(loaded, data=spec)
        has_tokens = isinstance(spec, text.TextSpec | speech.SpeechSpec)
        return spec, (lambda: here.build()[1]) if has_tokens else None
    builder: Any = sources.open_builder(name, data_dir)
    features: Any = builder.info.features
    if isinstance(builder, TextBuilder) and templates.choose(name).fits(features):
        spec = text.TextSpec(name=name, dir=data_dir, group=group)
        return spec, lambda: text.load(spec)
    return DataSpec(name=name, dir=data_dir, group=group), None


if __name__ == "__main__":
    with command.begin():
        main(sys.argv[1:])
