"""`python -m research.interop import`: converts a foreign checkpoint to a run directory with a matching config."""

import dataclasses
import pprint
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from research import config as config_lib
from research.checkpoint import streaming
from research.checkpoint.leaves import parameter_path
from research.data import recorded
from research.interop import checkpoints, configs, loading, runs, zero_shot
from research.interop.folders import atomic_directory
from research.models.speech import Recogniser
from research.parallel.sharding import path_name
from research.train import rundir, trainer

_FILE = '''"""{title}, imported by `python -m research.interop import {path}`. Every field may be overridden.

    python -m experiments.{experiment}.main --config={file} --workdir={workdir} --mode=evaluate

Training continues from the imported weights with a new optimizer, whose settings are a starting point, not a recipe.
"""

from ml_collections import ConfigDict

from {cls.__module__} import {cls.__name__}

EXPERIMENT = {cls.__name__}
VARIANTS = ("full",)

RESULT = {{"metric": {metric!r}, "floor": {floor!r}, "floor_source": {source!r}, "reference": None}}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    return ConfigDict(
        {config}
    )
'''


def run(
    path: str,
    workdir: str,
    experiments: config_lib.Experiments,
    overrides: Sequence[str] = (),
    skip: Sequence[str] = (),
    prompts: zero_shot.Prompts | None = None,
) -> list[str]:
    """Converts the checkpoint at `path` to the run directory `workdir`.

    Args:
        path: A checkpoint, see `checkpoints.open_checkpoint`.
        workdir: The folder to create, a run of the experiment of the checkpoint's family.
        experiments: From the name of an experiment to the class of its configs.
        overrides: Of the config, such as `train.steps=100`.
        skip: Regexes, see `loading.plan`.
        prompts: The classes of a zero-shot classifier, whose head is computed from their names.

    Returns:
        Lines for the user.

    Raises:
        ValueError: As `checkpoints.open_checkpoint`, `loading.plan` and `zero_shot.head`; then nothing is written.
    """
    target = Path(workdir)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"--workdir={workdir} exists and is not empty; name a new folder")
    checkpoint = checkpoints.open_checkpoint(path, experiments)
    if checkpoint.kind == "run":
        raise ValueError(f"{path} is a run directory already; set config.train.init_from to it")
    if prompts:
        checkpoint = zero_shot.classifier(checkpoint)
    cls = experiments(checkpoint.experiment)
    with atomic_directory(target) as folder:
        raw, notes = configs.make(checkpoint, folder, target, overrides)
        config = config_lib.complete(cls, raw, overrides)
        _refuse_other_models(raw, config_lib.plain(config))
        given: dict[str, np.ndarray] = {}
        if prompts:
            prompts = prompts.completed(config)
            checkpoint, given = zero_shot.with_classes(checkpoint, prompts)
            recorded.write(folder, zero_shot.description(prompts, checkpoint))
            notes = [*notes, *prompts.lines()]
        sizes = configs.sizes(checkpoint, config)
        task = runs.make_task(config, sizes)
        config = _write_config(checkpoint, config, task, folder, target)
        program = trainer.build(config, task, jax.devices()[:1])
        variables = {"params": program.state.params, **program.state.mutable}
        plan = loading.plan(checkpoint, task.model, loading.leaves_of(variables), skip, exact=True)
        plan.fresh |= dict.fromkeys(given, zero_shot.REASON)
        meta = {"config": config_lib.plain(config), "data_fingerprint": _fingerprint(checkpoint)}
        streaming.write(folder / "checkpoints", _leaves(plan, task, program.state, config.seed, given), meta)
        special = configs.special_ids(checkpoint)
        report = plan.report() | {"sizes": sizes} | ({"special_ids": special} if special else {})
        rundir.write_json(folder / runs.IMPORTED, report)
        rundir.write_json(folder / "config.json", config_lib.plain(config))
    shape = ", ".join(f"{name}={value}" for name, value in checkpoint.fields.items())
    lines = [f"{checkpoint.kind}: {shape}", f"{program.num_params:,} parameters", *notes, *plan.lines()]
    return [*lines, f"wrote {workdir}; its config is {config.source.file}"]


def _write_config(checkpoint: checkpoints.Checkpoint, config: Any, task: Any, folder: Path, target: Path) -> Any:
    """Writes a config file for `config`; returns the config as loaded from it."""
    experiment = checkpoint.experiment
    file = Path(experiment) / "imported.py"
    complete = config_lib.plain(config)
    del complete["source"]
    classes = None if checkpoint.fields.get("of_tokens") else checkpoint.fields.get("num_classes")
    chosen_by = task.selection[0]
    floor = 1 / classes if classes and complete["data"]["name"] else None  # else other classes may follow
    text = _FILE.format(
        title=f"{checkpoint.model.__name__} of {Path(checkpoint.path).name}",
        path=checkpoint.path,
        experiment=experiment,
        cls=type(config),
        file=target / file,
        workdir=target,
        # Scores of answers come before a loss that chooses among checkpoints.
        metric=f"test/{[*getattr(task.spec, 'metrics', ()), chosen_by][0] if chosen_by == 'loss' else chosen_by}",
        floor=floor,
        source="chance" if floor else None,
        config=pprint.pformat(complete, width=100, sort_dicts=False).replace("\n", "\n        "),
    )
    (folder / file).parent.mkdir()
    (folder / file).write_text(text)
    config = config_lib.load(str(folder / file))
    return config_lib.with_source(config, dataclasses.replace(config.source, file=str(target / file)))


def _fingerprint(checkpoint: checkpoints.Checkpoint) -> str | None:
    """The data fingerprint of the imported weights, see `Session.check_data`; None if it is not checked.

    Whisper's vocabulary is not supported, and others have different ids, so no data set fits all of its weights. As in
    the fingerprints of texts, the vocabulary comes last.
    """
    return "Whisper pre-training, vocabulary of Whisper" if issubclass(checkpoint.model, Recogniser) else None


def _refuse_other_models(raw: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    for field, value in raw["model"].items():
        is_open = field == "image_size" and raw["model"].get("positions") == "sincos"  # and fits every size
        if config["model"][field] != value and not is_open:
            raise ValueError(
                f"--config.model.{field}={config['model'][field]!r}, but the checkpoint has {value!r}; leave it out"
            )


def _leaves(plan: loading.Loading, task: Any, state: Any, seed: int, given: Mapping[str, np.ndarray]) -> Any:
    """The initial state of the run as lazily read leaves; optimizer states are zeros. `given` are values by path."""
    begin = jax.jit(lambda: {path: loading.leaves_of(task.init(jax.random.key(seed)))[path] for path in plan.fresh})
    begun = {path: np.asarray(value) for path, value in begin().items()}
    begun |= {path: value.astype(begun[path].dtype) for path, value in given.items()}
    fresh = {path: streaming.in_memory(value) for path, value in begun.items()}

    def leaf(path, like):
        name = parameter_path(path_name(path))
        if name is None:
            return streaming.zeros(like.shape, like.dtype)
        return fresh[name] if name in fresh else _leaf(plan, name, like)

    return jax.tree_util.tree_map_with_path(leaf, state)


def _leaf(plan: loading.Loading, name: str, like: Any) -> streaming.StreamedLeaf:
    rest = (slice(None),) * (len(like.shape) - 1)

    def rows():
        if not plan.rows[name].is_stacked:
            yield plan.read(name, (slice(None),) * len(like.shape), like.dtype)
            return
        for layer in range(like.shape[0]):
            yield plan.read(name, (slice(layer, layer + 1), *rest), like.dtype)[0]

    return streaming.StreamedLeaf(tuple(like.shape), np.dtype(like.dtype), rows, plan.rows[name].is_stacked)
