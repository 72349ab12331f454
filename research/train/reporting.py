"""What the config file of a run says of its result, which lies in `result.json` so that reports need nothing else.

metric, direction         the main metric, and whether its "max" or its "min" is best: as declared in
                          research/metrics/metric.py, or by RESULT for a metric of one's own
also                      the metrics that stand beside it
floor, reference          what it is compared with, each with its `_source`
settings_chosen_on        "validation", or "test" where settings were compared on it, which the table then says
over                      the field that repeats a run as a seed does, such as `data.fold`
group                     the digest that the runs of one table row share: that of the config without `over`
data                      the data set of the config file, which floor and reference are about
"""

from collections.abc import Mapping
from typing import Any

from research import config as config_lib
from research.metrics import metric as metric_lib

CHOSEN_ON = ("validation", "test")
_SAID = ("floor", "floor_source", "reference", "reference_source")


def of_file(source: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Of a run whose config came from `source`, by its config file, which lies at `file` now.

    Raises ValueError where there is no such file, or it says nothing of results.
    """
    said = config_lib.result_spec(file, source["variant"])
    if "metric" not in said:
        raise ValueError(f"RESULT in {file} names no metric")
    over = said.get("over")
    return {
        "metric": said["metric"],
        "direction": said.get("direction") or metric_lib.mode(said["metric"].rpartition("/")[2]),
        "also": list(said.get("also", ())),
        **{key: said.get(key) for key in _SAID},
        "settings_chosen_on": _chosen_on(said, file),
        "over": over or "seed",
        "group": _group(source, over, file),
        "data": _data_name(file, source["variant"]),
    }


def _chosen_on(said: Mapping[str, Any], file: str) -> str:
    chosen = said.get("settings_chosen_on", "validation")
    if chosen not in CHOSEN_ON:
        raise ValueError(f"RESULT in {file} has settings_chosen_on={chosen!r}; it is one of {', '.join(CHOSEN_ON)}")
    return chosen


def _data_name(file: str, variant: str) -> str:
    return config_lib.flat(config_lib.load(file, variant))["data.name"]


def of_config(config: config_lib.Config) -> dict[str, Any]:
    """Of a run that begins; nothing where no config file says anything."""
    try:
        return of_file(config_lib.plain(config.source), config.source.file)
    except ValueError:  # of a config that was made by hand, for instance
        return {}


def digest_today(source: Mapping[str, Any], overrides: list[str], file: str) -> str | None:
    """The digest of what `file` says now; None when it, the variant or a field that an override names is gone."""
    try:
        return config_lib.load(file, source["variant"], overrides).source.digest
    except ValueError:
        return None


def _group(source: Mapping[str, Any], over: str | None, file: str) -> str:
    """A run whose config has changed since stands alone, under its own digest."""
    overrides = list(source["overrides"])
    if over is None or digest_today(source, overrides, file) != source["digest"]:
        return source["digest"]
    return digest_today(source, [text for text in overrides if not text.startswith(f"{over}=")], file) or ""
