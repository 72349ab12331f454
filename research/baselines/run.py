"""Measures the baselines of a config: fitted on train, hyperparameters chosen on validation, scored once on test.

The class of the config's data spec determines the baselines.
"""

import dataclasses
import functools
import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from research import config as config_lib
from research.baselines.base import Baseline, Kind, Scores
from research.baselines.boxes import Boxes
from research.baselines.clips import ClipBaselines
from research.baselines.faces import FaceBaselines
from research.baselines.images import Images
from research.baselines.masks import Masks
from research.baselines.retrieval import Retrieval
from research.baselines.sounds import Sounds
from research.baselines.texts import Texts
from research.data.images.detection import DetectionDataSpec
from research.data.images.segmentation import SegmentationDataSpec
from research.data.images.spec import ClipSpec, FaceDataSpec, ImageSpec
from research.data.sound.speech import SpeechSpec
from research.data.text.dataset import TextSpec
from research.measure import progress
from research.metrics import metric as metric_lib
from research.report import formats
from research.report.baselines import short
from research.tasks.retrieval import RetrievalSpec
from research.train import result
from research.train.session import LoadWeights

KINDS: dict[type, type[Kind]] = {
    ImageSpec: Images,
    FaceDataSpec: FaceBaselines,
    ClipSpec: ClipBaselines,
    SegmentationDataSpec: Masks,
    DetectionDataSpec: Boxes,
    SpeechSpec: Sounds,
    TextSpec: Texts,
}
_PACKAGES = ("scikit-learn", "scipy", "numpy")


@dataclasses.dataclass(frozen=True)
class Measured:
    """A baseline with the value of its setting that was best on validation, and its scores on test."""

    baseline: Baseline
    value: Any
    validation: float  # the score by which the value was chosen
    test: Scores
    wall_s: float

    @property
    def settings(self) -> dict[str, Any]:
        """The setting by name; empty if there is none."""
        return {self.baseline.setting: self.value} if self.baseline.setting else {}


def measure(config: Any, metric: str, load_weights: LoadWeights | None = None) -> tuple[Any, Iterator[Measured]]:
    """The data set of a config, and an iterator that measures its baselines.

    Settings are chosen by `metric` (such as `accuracy`) on validation. With `config.data.fit_on=train+validation`,
    each baseline is fitted again on both splits with the chosen setting. `load_weights` loads the weights of
    `config.train.init_from`, with which retrieval is measured without training.

    Raises ValueError for data that are not prepared, for data without baselines, and for an unknown metric.
    """
    kind = next((kind for spec, kind in KINDS.items() if isinstance(config.data, spec)), None)
    if isinstance(config.task, RetrievalSpec):  # texts for which nothing is written
        kind = functools.partial(Retrieval, config=config, load_weights=load_weights)
    if kind is None:
        known = ", ".join(sorted(spec.tag for spec in KINDS))
        raise ValueError(f"config.data is of the kind {config.data.tag!r}, which has no baselines; known: {known}")
    data, choosing = _prepared(kind, config)
    whole = choosing
    if config.data.fit_on != "train":
        _, choosing = _prepared(
            kind, dataclasses.replace(config, data=dataclasses.replace(config.data, fit_on="train"))
        )
    return data, _measured(choosing, whole, metric)


def _prepared(kind: Callable[..., Kind], config: Any) -> tuple[Any, Kind]:
    """The data set of a config, prepared, and its baselines."""
    task, data = config.build()
    data.prepare()
    return data, kind(task, data)


def _measured(choosing: Kind, whole: Kind, metric: str) -> Iterator[Measured]:
    """Settings are chosen with `choosing`, which fits on train alone; `whole` fits on the splits of `data.fit_on`."""
    for baseline, last in zip(choosing.baselines(), whole.baselines(), strict=True):
        started = time.monotonic()
        value, predict, score = _choose(choosing, baseline, metric)
        test = whole.scores("test", predict if whole is choosing else last.fit(value))
        yield Measured(baseline, value, score, test, time.monotonic() - started)


def _choose(kind: Kind, baseline: Baseline, metric: str) -> tuple[Any, Any, float]:
    """The best value on validation (the first of equally good ones), its predictor, and its score."""
    sign = 1 if metric_lib.mode(metric) == "max" else -1
    best: tuple[Any, Any, float] | None = None
    for value in baseline.values:
        predict = baseline.fit(value)
        values = kind.scores("validation", predict).values
        if metric not in values:
            raise ValueError(f"no baseline has the metric {metric!r}; choose from {', '.join(sorted(values))}")
        progress.say(f"{described(baseline.name, _setting(baseline, value))}: validation {metric} {values[metric]:.4f}")
        if best is None or sign * values[metric] > sign * best[2]:
            best = value, predict, values[metric]
    assert best is not None
    return best


def _setting(baseline: Baseline, value: Any) -> dict[str, Any]:
    return {baseline.setting: value} if baseline.setting else {}


def row(config: Any, data: Any, report: Mapping[str, Any], measured: Measured, revision: tuple[str, bool]) -> dict:
    """The results row of a baseline; `report` is the report spec of its config, see train/reporting.py.

    It has those keys of a run's row that apply to a baseline, and `baseline`, `settings` and `tried`.
    """
    source, main = config_lib.plain(config.source), report["metric"]
    metrics = {f"validation/{short(main)}": measured.validation}
    metrics |= {f"test/{name}": value for name, value in measured.test.values.items() if math.isfinite(value)}
    baseline = measured.baseline
    return {
        **{key: source[key] for key in ("experiment", "file", "variant", "overrides")},
        "baseline": baseline.name,
        "settings": measured.settings,
        "chosen_on": "validation" if len(baseline.values) > 1 else None,
        "tried": list(baseline.values) if baseline.setting else [],
        "note": baseline.note,
        "config_digest": source["digest"],
        **result.provenance(data, revision, _PACKAGES),
        "wall_s": round(measured.wall_s, 1),
        "command": command(source),
        "over": report["over"],
        "metric": main,
        "value": metrics[main],
        "signature": measured.test.signatures.get(short(main)),
        "also": [name for name in report["also"] if name in metrics],
        "metrics": metrics,
    }


def command(source: Mapping[str, Any]) -> str:
    """The command that reproduces the baselines of a config, from the root of the repository."""
    overrides = [f"--config.{override}" for override in source["overrides"]]
    return shlex.join(["tessera", "baseline", f"--config={source['file']}:{source['variant']}", *overrides])


def described(name: str, settings: Mapping[str, Any]) -> str:
    """A baseline and its settings as text, such as `logistic regression, C=0.1`."""
    return ", ".join([name, *(f"{key}={value:g}" for key, value in settings.items())])


def table(rows: list[dict]) -> str:
    """The rows as a table in plain text, best first."""
    (main, *others) = (rows[0]["metric"], *rows[0]["also"])
    best_first = sorted(rows, key=lambda row: row["value"], reverse=metric_lib.mode(short(main)) == "max")
    lines = [["baseline", main, *others, "time"]]
    for each in best_first:
        values = [formats.number(each["metrics"].get(name)) for name in (main, *others)]
        lines.append([described(each["baseline"], each["settings"]), *values, formats.duration(each["wall_s"])])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
