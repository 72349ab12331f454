"""`python -m research.data prepare NAME [--manual_dir=DIR] [--data_dir=DIR] [--skip_undecodable]`."""

from research import command
from research.data import prepare, sources


def main() -> None:
    """Prepares a data set. Raises ValueError for what the user can mend."""
    parser = command.Parser(prog="python -m research.data", description=__doc__)
    prepare_parser = parser.add_subparsers(required=True, metavar="COMMAND").add_parser("prepare", help=prepare.__doc__)
    prepare_parser.add_argument(
        "name", help=f"{', '.join(sources.OWN)}, {sources.FOLDER}PATH, or a TFDS catalogue name"
    )
    prepare_parser.add_argument("--manual_dir", default="", help="the folder that holds the archives of the data set")
    prepare_parser.add_argument("--data_dir", default="", help="default: $TFDS_DATA_DIR, else ~/tensorflow_datasets")
    prepare_parser.add_argument(
        "--skip_undecodable", action="store_true", help="leave out pictures that cannot be decoded"
    )
    print(prepare.prepare(**vars(parser.parse_args())))


if __name__ == "__main__":
    with command.one_line_errors():
        main()
