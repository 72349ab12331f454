"""`python -m research.data prepare NAME [--manual_dir=DIR] [--data_dir=DIR] [--skip_undecodable] [--config=FILE]`."""

from research import interrupt

if __name__ == "__main__":
    interrupt.end_on_interrupt()  # before the slow imports, so that Ctrl-C never ends in a traceback

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

from research import command
from research import config as config_lib
from research.data import prepare, sources
from research.data.sound import speech
from research.data.text import dataset as text
from research.data.text import templates, token_data
from research.data.text.builders.texts import TextBuilder


def main(argv: Sequence[str], prog: str = "python -m research.data") -> None:
    """Prepares a data set. Raises ValueError for what the user can fix."""
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
        help="FILE[:VARIANT]: make the vocabulary and the tokens of texts or transcripts that this config wants",
    )
    arguments = vars(parser.parse_args(argv))
    open_data = _tokens(arguments.pop("config"), arguments["name"], arguments["data_dir"])
    print(prepare.prepare(**arguments))
    if open_data:
        print(token_data.make_tokens(open_data()))


def _tokens(config: str, name: str, data_dir: str) -> Callable[[], token_data.TokenDataset] | None:
    """What opens the data whose tokens are to be made; None for images, and where only a config can tell."""
    if config:
        source = config_lib.Source.parse(config)
        loaded: Any = config_lib.load(source.file, source.variant)
        if loaded.data.name != name:
            raise ValueError(f"--config={config} is for {loaded.data.name!r}, not {name!r}")
        if not isinstance(loaded.data, text.TextSpec | speech.SpeechSpec):
            return None
        here = dataclasses.replace(loaded, data=dataclasses.replace(loaded.data, dir=data_dir))
        return lambda: here.build()[1]
    builder: Any = sources.open_builder(name, data_dir)
    features: Any = builder.info.features
    if isinstance(builder, TextBuilder) and templates.choose(name).fits(features):
        return lambda: text.load(text.TextSpec(name=name, dir=data_dir))
    return None


if __name__ == "__main__":
    with command.begin():
        main(sys.argv[1:])
