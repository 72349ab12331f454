"""`python -m research.interop import`: a foreign checkpoint becomes a run directory, with the config that fits it."""

import json
import pprint
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from research import config as config_lib
from research.interop import checkpoints, loading, runs, streaming
from research.interop.folders import whole_or_nothing
from research.models.seq2seq import Seq2Seq
from research.parallel.sharding import path_name
from research.tasks import classification, seq2seq
from research.train import rundir, trainer

_VOCABULARY = "spiece.model"  # what T5's is called
_NAMES = {model: name for name, model in runs.MODELS.items()}
_FILE = '''"""{title}, as `python -m research.interop import {path}` read it. Every field may be overridden.

    python -m experiments.{experiment}.main --config={file} --workdir={workdir} --mode=evaluate

Training goes on from the imported weights; the optimizer begins afresh, with settings that are a start, not a recipe.
"""

from ml_collections import ConfigDict

VARIANTS = ("full",)

RESULT = {{"metric": {metric!r}, "floor": {floor!r}, "floor_source": {source!r}, "reference": None}}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    return ConfigDict(
        {config}
    )
'''


def run(path: str, workdir: str, overrides: Sequence[str] = (), skip: Sequence[str] = ()) -> list[str]:
    """Makes the run directory `workdir` of the checkpoint at `path`; returns what to tell the user.

    Raises ValueError for what `checkpoints.open_checkpoint` and `loading.plan` refuse; then nothing is left behind.
    """
    target = Path(workdir)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"--workdir={workdir} exists and is not empty; name a new folder")
    checkpoint = checkpoints.open_checkpoint(path)
    if checkpoint.kind == "run":
        raise ValueError(f"{path} is a run directory already; name it in config.train.init_from")
    with whole_or_nothing(target) as folder:
        config = _write_config(checkpoint, folder, target, overrides)
        task = _task(checkpoint, config)
        program = trainer.build(config, task, jax.devices()[:1])
        variables = {"params": program.state.params, **program.state.mutable}
        plan = loading.plan(checkpoint, task.model, loading.leaves_of(variables), skip, exact=True)
        meta = {"config": config_lib.plain(config), "data_fingerprint": None}
        streaming.write(folder / "checkpoints", _leaves(plan, task, program.state, config.seed), meta)
        rundir.write_json(folder / runs.IMPORTED, plan.report())
        rundir.write_json(folder / "config.json", config_lib.plain(config))
    shape = ", ".join(f"{name}={value}" for name, value in checkpoint.fields.items())
    lines = [f"{checkpoint.kind}: {shape}", f"{program.num_params:,} parameters", *plan.lines()]
    return [*lines, f"wrote {workdir}; its config is {config.source.file}"]


def _write_config(checkpoint: checkpoints.Checkpoint, folder: Path, target: Path, overrides: Sequence[str]) -> Any:
    """Writes the config file of the run, and returns its config."""
    family = checkpoints.FAMILIES[checkpoint.kind]
    raw = (_text_config if family.model is Seq2Seq else _picture_config)(checkpoint, folder, target)
    source = config_lib.Source(f"configs/{family.experiment}/imported.py", "full")
    complete, _ = config_lib.complete(raw, config_lib.experiment_module(source).defaults, overrides)
    _refuse_other_models(raw, complete)
    file = Path(family.experiment) / "imported.py"
    (folder / family.experiment).mkdir()
    classes = checkpoint.fields.get("num_classes")
    known = classes and complete["data"]["name"]  # else other classes may follow
    text = _FILE.format(
        title=f"{checkpoint.model.__name__} of {Path(checkpoint.path).name}",
        path=checkpoint.path,
        experiment=family.experiment,
        file=target / file,
        workdir=target,
        metric="test/accuracy" if classes else "test/loss",
        floor=1 / classes if known else None,
        source="chance" if known else None,
        config=pprint.pformat(complete, width=100, sort_dicts=False).replace("\n", "\n        "),
    )
    (folder / file).write_text(text)
    config = config_lib.plain(config_lib.load(str(folder / file)))
    config["source"]["file"] = str(target / file)
    return ConfigDict(config).lock()


def _refuse_other_models(raw: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    for field, value in raw["model"].items():
        if config["model"][field] != value:
            raise ValueError(f"--config.model.{field}={config['model'][field]!r}, but the checkpoint says {value!r}")


def _picture_config(checkpoint: checkpoints.Checkpoint, folder: Path, target: Path) -> dict[str, Any]:
    fields = {name: value for name, value in checkpoint.fields.items() if name != "num_classes"}
    size = fields.get("image_size") or checkpoint.config.get("image_size", 224)
    mean, std = _normalisation(checkpoint)
    resize = size if checkpoint.model is runs.MODELS["vit"] else round(size / 0.875)
    name = "imagenet2012" if checkpoint.fields["num_classes"] == 1000 else ""
    return {
        "seed": 0,
        "data": {"name": name, "image_size": size, "resize": resize, "crop": "inception", "flip": True,
                 "mean": mean, "std": std},
        "model": {"name": _NAMES[checkpoint.model], **fields},
        "optimizer": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.9, "warmup_steps": 50, "clip_norm": 1.0},
        "train": {"steps": 1000, "batch_size": 128},
    }  # fmt: skip


def _normalisation(checkpoint: checkpoints.Checkpoint) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the channels, in units of 0..255: those it was published with, or -1..1."""
    file = Path(checkpoint.path).expanduser() / "preprocessor_config.json"
    found = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    mean, std = found.get("image_mean", [0.5]), found.get("image_std", [0.5])
    if not file.is_file() and checkpoint.kind in ("resnet", "convnext"):
        mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of ImageNet
    scaled = lambda values: tuple(round(255 * value, 3) for value in values)
    return scaled(mean), scaled(std)


def _text_config(checkpoint: checkpoints.Checkpoint, folder: Path, target: Path) -> dict[str, Any]:
    fields = {name: value for name, value in checkpoint.fields.items() if name != "vocab_size"}
    vocabulary = Path(checkpoint.path).expanduser() / _VOCABULARY
    if vocabulary.is_file():
        shutil.copy(vocabulary, folder / _VOCABULARY)
    return {
        "seed": 0,
        "data": {
            "name": "",
            "vocabulary": str(target / _VOCABULARY) if vocabulary.is_file() else "",
            "vocab_size": checkpoint.fields["vocab_size"],
        },
        "model": fields,
        "optimizer": {"name": "adafactor", "learning_rate": 1e-3, "schedule": "constant", "clip_norm": 1.0},
        "train": {"steps": 1000, "batch_size": 128},
    }


def _task(checkpoint: checkpoints.Checkpoint, config: Any) -> Any:
    """The task as the experiment builds it, but with no data at hand."""
    settings = {"dtype": config.precision.compute, "param_dtype": config.precision.params}
    settings |= {name: value for name, value in config_lib.plain(config.model).items() if name != "name"}
    counts = {name: checkpoint.fields[name] for name in ("num_classes", "vocab_size") if name in checkpoint.fields}
    model = checkpoint.model(**settings, **counts)
    if isinstance(model, Seq2Seq):
        lengths = config.data.source_length, config.data.target_length
        return seq2seq.Task(model, *lengths, bos=0, eos=1, unk=2, **config_lib.plain(config.task))
    size, channels = config.data.image_size, checkpoints.channels(checkpoint)
    task = config_lib.plain(config.task)
    return classification.Task(model, (size, size, channels), config.data.mean, config.data.std, **task)


def _leaves(plan: loading.Loading, task: Any, state: Any, seed: int) -> Any:
    """The first state of the run, yet to be read. Optimizers begin with zeros."""
    begin = jax.jit(lambda: {path: loading.leaves_of(task.init(jax.random.key(seed)))[path] for path in plan.fresh})
    fresh = {path: streaming.whole(np.asarray(value)) for path, value in begin().items()}

    def leaf(path, like):
        field, *rest = path_name(path).split("/")
        name = "/".join(rest if field == "params" else rest[1:])
        if field not in ("params", "mutable", "ema"):
            return streaming.zeros(like.shape, like.dtype)
        return fresh[name] if name in fresh else _leaf(plan, name, like)

    return jax.tree_util.tree_map_with_path(leaf, state)


def _leaf(plan: loading.Loading, name: str, like: Any) -> streaming.Leaf:
    rest = (slice(None),) * (len(like.shape) - 1)

    def rows():
        if not plan.rows[name].is_stacked:
            yield plan.read(name, (slice(None),) * len(like.shape), like.dtype)
            return
        for layer in range(like.shape[0]):
            yield plan.read(name, (slice(layer, layer + 1), *rest), like.dtype)[0]

    return streaming.Leaf(tuple(like.shape), np.dtype(like.dtype), rows, plan.rows[name].is_stacked)
