"""The RESULT of a config file, as stored in `result.json`, so that reports need no other file.

metric, direction         the main metric, and "max" or "min", whichever is best: as declared in
                          research/metrics/metric.py, or by RESULT for a custom metric
also                      further metrics of the table
floor, reference          the scores it is compared with, each with its `_source`
settings_chosen_on        "validation", or "test" if settings were compared on it, which is then noted in the table
over                      the field over which results are averaged, as over seeds, such as `data.fold`
group                     the digest that the runs of one table row share: that of the config without `over`
data                      the data set of the config file, on which floor and reference were measured
"""

from collections.abc import Mapping
from typing import Any

from research import config as config_lib
from research.metrics import metric as metric_lib

CHOSEN_ON = ("validation", "test")
_COPIED = ("floor", "floor_source", "reference", "reference_source")


def of_file(source: Mapping[str, Any], file: str) -> dict[str, Any]:
    """The report spec of a run with the config `source`, read from its config file, now at `file`.

    Raises ValueError if there is no such file, or if it has no RESULT.
    """
    spec = config_lib.result_spec(file, source["variant"])
    if "metric" not in spec:
        raise ValueError(f"RESULT in {file} has no metric; add one")
    over = spec.get("over")
    return {
        "metric": spec["metric"],
        "direction": spec.get("direction") or metric_lib.mode(spec["metric"].rpartition("/")[2]),
        "also": list(spec.get("also", ())),
        **{key: spec.get(key) for key in _COPIED},
        "settings_chosen_on": _chosen_on(spec, file),
        "over": over or "seed",
        "group": _group(source, over, file),
        "data": _data_name(file, source["variant"]),
    }


def _chosen_on(spec: Mapping[str, Any], file: str) -> str:
    chosen = spec.get("settings_chosen_on", "validation")
    if chosen not in CHOSEN_ON:
        raise ValueError(f"RESULT in {file} has settings_chosen_on={chosen!r}; choose from {', '.join(CHOSEN_ON)}")
    return chosen


def _data_name(file: str, variant: str) -> str:
    return config_lib.flat(config_lib.load(file, variant))["data.name"]


def of_source(source: config_lib.Source) -> dict[str, Any]:
    """The report spec of a new run; empty if its config file has none.

    Raises ValueError for a main metric that is not declared, before anything is trained.
    """
    try:
        spec = config_lib.result_spec(source.file, source.variant)
    except ValueError:  # such as of a config without file
        return {}
    return of_file(config_lib.plain(source), source.file) if "metric" in spec else {}


def current_digest(source: Mapping[str, Any], overrides: list[str], file: str) -> str | None:
    """The current config digest of `file`; None if it, the variant or a field of an override no longer exists."""
    try:
        return config_lib.load(file, source["variant"], overrides).source.digest
    except ValueError:
        return None


def _group(source: Mapping[str, Any], over: str | None, file: str) -> str:
    """The group of a run; its own digest if its config file has changed."""
    overrides = list(source["overrides"])
    if over is None or current_digest(source, overrides, file) != source["digest"]:
        return source["digest"]
    return current_digest(source, [text for text in overrides if not text.startswith(f"{over}=")], file) or ""
