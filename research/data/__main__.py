"""`python -m research.data prepare NAME [--manual_dir=DIR] [--data_dir=DIR] [--skip_undecodable]`."""

import argparse
import sys

from research.data import prepare, sources


def main() -> None:
    """Prepares a data set, or leaves with code 2 and one line on stderr for what the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m research.data", description=__doc__)
    command = parser.add_subparsers(required=True, metavar="COMMAND").add_parser("prepare", help=prepare.__doc__)
    command.add_argument("name", help=f"{', '.join(sources.OWN)}, {sources.FOLDER}PATH, or a TFDS catalogue name")
    command.add_argument("--manual_dir", default="", help="the folder that holds the archives of the data set")
    command.add_argument("--data_dir", default="", help="default: $TFDS_DATA_DIR, else ~/tensorflow_datasets")
    command.add_argument("--skip_undecodable", action="store_true", help="leave out pictures that cannot be decoded")
    arguments = parser.parse_args()
    try:
        print(prepare.prepare(**vars(arguments)))
    except ValueError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
