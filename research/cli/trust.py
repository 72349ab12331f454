"""`tessera report trust RUN`: calibration, groups, robustness and mistakes of a trained run, as a page."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from research import command, files
from research.cli import experiment
from research.train import rundir, trainer
from research.trust import copies, corruptions, explaining, measure, page, showing, sounds, texts

DEFAULT, NONE = "default", "none"
SMALL = 64  # px: of larger images, and of sounds and texts, FEW are corrupted
MANY, FEW = 1000, 200
_KINDS = {"images": corruptions.KINDS, "sounds": sounds.KINDS, "texts": texts.KINDS}


def main(words: Sequence[str]) -> None:
    """Writes the report to the run directory and prints it and its path. Raises ValueError for user errors."""
    overrides, others = command.overrides_of(words)
    arguments = _parser().parse_args(others)
    for name, least in (("examples", 1), ("explain", 0), ("copies", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ValueError(f"--{name}={value} must be {least} or more")
    if arguments.explain > explaining.MOST:
        raise ValueError(f"--explain={arguments.explain} must be at most {explaining.MOST}, each a row of the figure")
    words_of_run = [f"--workdir={arguments.run}", *(f"{command.OVERRIDE}{override}" for override in overrides)]
    config = experiment.load(*experiment.parse(words_of_run, "evaluate"))
    task, data = config.build()
    data.prepare()
    predictor = trainer.Predictor(config, task, data, arguments.run)
    folder = rundir.RunDirectory(arguments.run)
    options = measure.Options(
        fields=tuple(arguments.group),
        kinds=_kinds(arguments.corruptions),
        examples=arguments.examples or _examples(task),
        metric=arguments.metric,
        headline=_headline(folder),
        shown=not arguments.public or showing.is_public(data.name),
        explained=arguments.explain,
        compared=arguments.copies,
        rows=config.train.eval_batch_size,
    )
    predict = functools.partial(predictor, rows=options.rows)  # batches of one size
    found = measure.measure(task, data, predict, options, predictor.variables)
    about = {"step": predictor.step, "config_digest": config.source.digest}
    content = {**about, "shown": options.shown, "public": showing.is_public(data.name), **found}
    image = showing.images(data) if options.shown and "image" in task.example(1) else showing.no_image
    title = f"{Path(arguments.run).name}: trust report"
    if not (folder.files / "result.json").exists():
        title += f" of an unfinished run, step {predictor.step} of {config.train.steps}"
    written = page.write(content, folder.files / page.FOLDER, title, image)
    files.write_atomically(written.with_name("report.json"), json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    folder.push()
    print(written.read_text("utf-8").split("\n## Mistakes")[0])
    print(f"page         {written.with_suffix('.html')}")


def _parser() -> command.Parser:
    parser = command.Parser(
        prog="tessera report trust",
        description="A page about a trained run: scores by group, and under corruptions of images, sounds and texts; "
        "what the model looks at; near-copies of test examples in train; the worst mistakes; for classifiers also "
        "calibration, with a temperature fitted on validation.",
        epilog="Fields of the config that a trained run may change can be overridden: --config.data.dir=DIR",
    )
    parser.add_argument("run", metavar="RUN", help="the run directory, of a finished run or of one with a checkpoint")
    parser.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="FIELD",
        help="a field of the examples, or a rule such as name:parent (default: all fields)",
    )
    parser.add_argument("--metric", default="", metavar="NAME", help="the score (default: the main one of the run)")
    known = "; ".join(f"of {kind} {', '.join(names)}" for kind, names in _KINDS.items())
    parser.add_argument(
        "--corruptions", default=DEFAULT, metavar="KIND,...", help=f"none, or some of them (default: all): {known}"
    )
    parser.add_argument(
        "--examples",
        type=int,
        metavar="N",
        help=f"examples to corrupt (default: {MANY} images of up to {SMALL} px, {FEW} others)",
    )
    parser.add_argument(
        "--explain",
        type=int,
        default=explaining.EXAMPLES,
        metavar="N",
        help=f"test examples for which to show what the model looks at (default: {explaining.EXAMPLES})",
    )
    parser.add_argument(
        "--copies",
        type=int,
        default=copies.MOST,
        metavar="N",
        help=f"train examples to search for near-copies of test examples (default: {copies.MOST}; 0: none)",
    )
    parser.add_argument(
        "--public", action="store_true", help="leave out examples of data sets that must not be published"
    )
    return parser


def _kinds(text: str) -> tuple[str, ...] | None:
    """The corruptions listed in --corruptions; None for all."""
    if text == DEFAULT:
        return None
    return () if text == NONE else tuple(text.split(","))


def _examples(task: Any) -> int:
    image = task.example(1).get("image")
    return MANY if image is not None and len(image.shape) == 4 and max(image.shape[1:3]) <= SMALL else FEW


def _headline(folder: rundir.RunDirectory) -> str:
    """The main metric of the run, without its split; "" if it is unknown."""
    path = folder.files / "result.json"
    report = rundir.read_json(path).get("report", {}) if path.exists() else {}
    return report.get("metric", "").rpartition("/")[2]
