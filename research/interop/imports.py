"""`python -m research.interop import`: a foreign checkpoint becomes a run directory, with the config that fits it."""

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
from research.interop import checkpoints, configs, loading, runs
from research.interop.folders import atomic_directory
from research.models.speech import Recogniser
from research.parallel.sharding import path_name
from research.train import rundir, trainer

_FILE = '''"""{title}, as `python -m research.interop import {path}` read it. Every field may be overridden.

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
) -> list[str]:
    """Makes the run directory `workdir` of the checkpoint at `path`; returns what to tell the user.

    It is a run of the experiment that the checkpoint's family names, the class of whose config `experiments` gives.
    Raises ValueError for what `checkpoints.open_checkpoint` and `loading.plan` refuse; then nothing is left behind.
    """
    target = Path(workdir)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"--workdir={workdir} exists and is not empty; name a new folder")
    checkpoint = checkpoints.open_checkpoint(path, experiments)
    if checkpoint.kind == "run":
        raise ValueError(f"{path} is a run directory already; name it in config.train.init_from")
    cls = experiments(checkpoint.experiment)
    with atomic_directory(target) as folder:
        raw, notes = configs.make(checkpoint, folder, target, overrides)
        config = config_lib.complete(cls, raw, overrides)
        _refuse_other_models(raw, config_lib.plain(config))
        sizes = configs.sizes(checkpoint, config)
        task = runs.make_task(config, sizes)
        config = _write_config(checkpoint, config, task, folder, target)
        program = trainer.build(config, task, jax.devices()[:1])
        variables = {"params": program.state.params, **program.state.mutable}
        plan = loading.plan(checkpoint, task.model, loading.leaves_of(variables), skip, exact=True)
        meta = {"config": config_lib.plain(config), "data_fingerprint": _fingerprint(checkpoint)}
        streaming.write(folder / "checkpoints", _leaves(plan, task, program.state, config.seed), meta)
        special = configs.special_ids(checkpoint)
        report = plan.report() | {"sizes": sizes} | ({"special_ids": special} if special else {})
        rundir.write_json(folder / runs.IMPORTED, report)
        rundir.write_json(folder / "config.json", config_lib.plain(config))
    shape = ", ".join(f"{name}={value}" for name, value in checkpoint.fields.items())
    lines = [f"{checkpoint.kind}: {shape}", f"{program.num_params:,} parameters", *notes, *plan.lines()]
    return [*lines, f"wrote {workdir}; its config is {config.source.file}"]


def _write_config(checkpoint: checkpoints.Checkpoint, config: Any, task: Any, folder: Path, target: Path) -> Any:
    """Writes a config file that gives `config`; returns what it gives."""
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
    """Of the data that the weights have seen, where others could be mistaken for them: see `Session.check_data`.

    Whisper's own tokens are not read, and no other vocabulary has their ids: no data go with all of its weights.
    """
    return "of Whisper, vocabulary of its own" if issubclass(checkpoint.model, Recogniser) else None


def _refuse_other_models(raw: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    for field, value in raw["model"].items():
        is_open = field == "image_size" and raw["model"].get("positions") == "sincos"  # and fits every size
        if config["model"][field] != value and not is_open:
            raise ValueError(f"--config.model.{field}={config['model'][field]!r}, but the checkpoint says {value!r}")


def _leaves(plan: loading.Loading, task: Any, state: Any, seed: int) -> Any:
    """The first state of the run, yet to be read. Optimizers begin with zeros."""
    begin = jax.jit(lambda: {path: loading.leaves_of(task.init(jax.random.key(seed)))[path] for path in plan.fresh})
    fresh = {path: streaming.in_memory(np.asarray(value)) for path, value in begin().items()}

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
