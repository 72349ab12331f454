"""The table of docs/privacy.md: score, epsilon and membership inference of every recorded run with an audit.

The text between `<!-- audits:begin -->` and `<!-- audits:end -->` is regenerated from the results of all experiments.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from research.report import formats, records, tables

PAGE = Path("docs/privacy.md")
_MARKER = re.compile(r"(<!-- audits:begin -->\n).*?(<!-- audits:end -->)", re.DOTALL)
_HEADER = ("config", "metric", "score", "epsilon", "loss threshold: TPR", "AUC", "LiRA: TPR", "AUC", "commit")
_ATTACKS = "run_loss", "shadow_lira_online"


def pages(root: Path) -> list[Path]:
    """The page, if the repository has it."""
    return [root / PAGE] if (root / PAGE).is_file() else []


def updated(page: Path, stale: Callable[[tables.Row], bool]) -> str:
    """The page with its table regenerated, rows that are `stale` marked; unchanged if it has no marker."""
    text, root = page.read_text("utf-8"), page.parents[1]
    rows = [row for path in sorted(root.glob("experiments/*/results.jsonl")) for row in records.read_lines(path)]
    audited = sorted((row for row in rows if row.get("audit")), key=lambda row: (row["data"]["name"], row["file"]))
    table = tables.table(_HEADER, [_line(row, stale) for row in audited])
    return _MARKER.sub(lambda found: found[1] + table + "\n" + found[2], text)


def _line(row: Mapping[str, Any], stale: Callable[[tables.Row], bool]) -> list[str]:
    attacks = row["audit"]["attacks"]
    spent = row.get("privacy") or {}
    epsilon = f"{formats.number(spent['epsilon'])} (delta {spent['delta']:g})" if spent.get("epsilon") else "-"
    scores = []
    for name in _ATTACKS:
        found = attacks.get(name)
        scores += [_rate(found), formats.number(found["auc"])] if found else ["-", "-"]
    return [
        f"[`{tables.label(row)}`](../{row['file']})" + (tables.STALE if stale(row) else ""),
        row["metric"].replace("/", " "),
        formats.number(row["value"]),
        epsilon,
        *scores,
        formats.commit(row),
    ]


def _rate(found: Mapping[str, Any]) -> str:
    return f"{formats.number(found['tpr'])} [{formats.number(found['low'])}, {formats.number(found['high'])}]"
