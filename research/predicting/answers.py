"""Writes the predictions of `predict` to a file: one record per input, as CSV or as JSON lines."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from research import files

Record = Mapping[str, Any]


def check(out: str) -> None:
    """Raises ValueError for an unknown suffix, or a folder that does not exist."""
    path = Path(out)
    if path.suffix not in WRITERS:
        raise ValueError(f"--out={out} must end in {' or '.join(WRITERS)}")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"--out={out}: the folder does not exist; create it first")
    if path.is_dir():
        raise ValueError(f"--out={out} is a folder; name a file")


def write(out: str, records: Sequence[Record]) -> None:
    """Writes `records` atomically, in the format of the suffix of `out`."""
    files.write_atomically(Path(out), WRITERS[Path(out).suffix](records))


def _json_lines(records: Sequence[Record]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _table(records: Sequence[Record]) -> str:
    """CSV with a column per field, and per key of a mapping (`probabilities.cat`); lists are JSON."""
    rows = [_flat(record) for record in records]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(record: Record, prefix: str = "") -> dict[str, Any]:
    row = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            row |= _flat(value, f"{prefix}{name}.")
        else:
            row[prefix + name] = json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
    return row


WRITERS = {".csv": _table, ".jsonl": _json_lines}
