"""`tessera baseline --config=FILE[:VARIANT]`: scores of simple methods on the data of a config."""

import json
from collections.abc import Sequence
from pathlib import Path

from research import command, files
from research import config as config_lib
from research.baselines import run
from research.cli import experiments
from research.report import baselines, records
from research.train import reporting, result


def main(words: Sequence[str]) -> None:
    """Measures the baselines of a config, saves their predictions and prints a table; --out and --record save the rows.

    Raises ValueError for user errors.
    """
    parser = command.Parser(
        prog="tessera baseline",
        description="Simple methods on the data of a config: fitted on train, chosen on validation, scored on test.",
        epilog="Any field of the config can be overridden: --config.data.name=fsdd/without_lucas",
    )
    parser.add_argument("--config", required=True, metavar="FILE[:VARIANT]", help="e.g. configs/NAME/CONFIG.py:cpu")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a .jsonl file for the rows")
    parser.add_argument("--record", action="store_true", help="add the rows to the experiment's results.jsonl")
    parser.add_argument(
        "--predictions",
        type=Path,
        metavar="FOLDER",
        default=records.ROOT / baselines.PREDICTIONS,
        help=f"for the test predictions (default: {baselines.PREDICTIONS} of the repository, which reports read)",
    )
    overrides, others = command.overrides_of(words)
    arguments = parser.parse_args(others)
    source = config_lib.Source.parse(arguments.config)
    config = config_lib.load(source.file, source.variant, overrides)
    report = reporting.of_file(config_lib.plain(config.source), source.file)
    if arguments.record:
        records.results_path(config.source.experiment)
        if records.is_other_data(config_lib.plain(config.source), report):
            raise ValueError(
                f"--record: {config_lib.flat(config)['data.name']} is not the data set of {source.file}; leave it out, "
                "or use --out=FILE"
            )
    revision = result.revision()  # read first, since the working tree may change during the measurement
    data, measured = run.measure(config, run.short(report["metric"]), experiments.load_weights)
    rows = []
    for each in measured:
        rows.append(run.row(config, data, report, each, revision))
        if each.test.scorer:
            path = arguments.predictions / baselines.predictions_path(rows[-1], each.baseline.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            each.test.scorer.save(path)
    print(run.table(rows))
    if arguments.out:
        files.write_atomically(arguments.out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    if arguments.record:
        for row in rows:
            records.record(row)
        print(f"experiments/{config.source.experiment}/results.jsonl: {len(rows)} baselines")
        print("now run: python -m research.report tables")
