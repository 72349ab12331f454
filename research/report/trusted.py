"""What the trust report of a run adds to its row: calibration, the worst groups, the mean error under corruptions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.report import formats

REPORT = Path("trust/report.json")


def of(found: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a trust report (see research/trust/measure.py) that is recorded.

    `step`; `calibration` and `temperature` of those that have it; `groups`, the worst of each field, by metric;
    `corruptions`, without the single kinds.
    """
    recorded = {key: found[key] for key in ("step", "calibration", "temperature") if key in found}
    worst = {
        metric: {
            field: {
                "groups": len(each["groups"]),
                **next(one for one in each["groups"] if one["name"] == each["worst"]),
            }
            for field, each in fields.items()
            if each["worst"] is not None
        }
        for metric, fields in found["groups"].items()
    }
    recorded["groups"] = {metric: fields for metric, fields in worst.items() if fields}
    if found["corruptions"]:
        recorded["corruptions"] = {
            key: found["corruptions"][key] for key in ("metric", "examples", "clean", "mean_error")
        }
    return recorded


def fact(row: Mapping[str, Any]) -> str:
    """`trust report of seed 0: ECE 0.09 (0.02 with temperature 0.68), worst class 2 ...`; "" without a report."""
    found = row.get("trust")
    if not found:
        return ""
    parts = []
    if "calibration" in found:
        plain, scaled = (found["calibration"][name]["ece"] for name in ("uncalibrated", "temperature-scaled"))
        temperature = formats.number(found["temperature"])
        parts.append(f"ECE {formats.number(plain)} ({formats.number(scaled)} with temperature {temperature})")
    for metric, fields in list(found["groups"].items())[:1]:
        for field, worst in fields.items():
            bounds = f"[{formats.number(worst['low'])}, {formats.number(worst['high'])}]"
            parts.append(f"worst {field} {worst['name']} ({metric} {formats.number(worst['value'])} {bounds})")
    if "corruptions" in found:
        parts.append(f"mean error under corruptions {formats.number(found['corruptions']['mean_error'])}")
    return f"trust report of seed {row['seed']}: {', '.join(parts)}" if parts else ""
