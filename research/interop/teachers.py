"""`config.distill.teacher`: a trained run as the teacher of another one."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from research import config as config_lib
from research.data import recorded
from research.interop import runs
from research.interop.merged import MergedTensors
from research.parallel.sharding import path_name
from research.spec.contracts import Variables
from research.tasks import distillation
from research.tasks.classification import LabelTask

_FIELD = "config.distill.teacher"


def open_teacher(path: str, task: Any, experiments: config_lib.Experiments) -> "RunTeacher":
    """The run at `path` as the teacher of the student's `task`; little more than headers is read.

    `experiments` gives the class of the config of a run. Raises ValueError for what is no run, and for a task with
    other inputs or classes.
    """
    try:
        run = runs.open_run(Path(path).expanduser(), experiments)
    except ValueError as error:
        raise ValueError(f"{_FIELD}: {error}") from None
    theirs = distillation.distillable(run.task)
    if isinstance(theirs, LabelTask) != isinstance(task, LabelTask):
        raise ValueError(f"{_FIELD}={path} is a {type(theirs).__name__}, but the config has a {type(task).__name__}")
    for what, ours, other in _compared(task, theirs):
        if ours != other:
            raise ValueError(f"{_FIELD}={path} has {what} {other}, but the config {ours}; set it to that")
    return RunTeacher(path, run)


def _compared(ours: Any, theirs: Any) -> list[tuple[str, Any, Any]]:
    """What has to be equal, of the student and of the teacher."""
    if isinstance(ours, LabelTask):
        return [
            ("images of", ours.image_shape, theirs.image_shape),
            ("classes:", ours.model.num_classes, theirs.model.num_classes),
        ]
    return [
        ("task.classes", ours.spec.classes, theirs.spec.classes),
        ("data.source_length", ours.source_length, theirs.source_length),
        ("data.vocab_size", ours.model.vocab_size, theirs.model.vocab_size),
    ]


@dataclasses.dataclass(frozen=True)
class RunTeacher:
    """A run whose selected checkpoint is the teacher: its averages where it has some, low-rank updates added."""

    path: str
    run: runs.SavedRun

    @property
    def task(self) -> Any:
        """The task of the run."""
        return self.run.task

    @property
    def about(self) -> Mapping[str, Any]:
        """See train/teaching.py; the digest is over path, shape, dtype and checksum of what is evaluated."""
        saved = self._saved
        content = json.dumps(saved.identity, sort_keys=True)
        return {"path": self.path, "step": saved.step, "digest": hashlib.sha256(content.encode()).hexdigest()[:16]}

    @property
    def _saved(self) -> Any:
        tensors = self.run.tensors
        return tensors.whole if isinstance(tensors, MergedTensors) else tensors

    def check_with_data(self, data: Any) -> None:
        """Raises ValueError if the names of the classes, or the tokens of texts, differ from those of `data`."""
        known = recorded.read(Path(self.path).expanduser())
        names = tuple(getattr(known, "class_names", ()))
        if isinstance(self.task, LabelTask):
            if names and names != tuple(data.class_names):
                raise ValueError(f"{_FIELD}={self.path} has the classes {names}, but the data {data.class_names}")
            return
        theirs = self.run.tensors.trained_on.partition("vocabulary ")[2]
        if theirs != data.vocabulary.digest:
            raise ValueError(
                f"{_FIELD}={self.path} was trained with the vocabulary {theirs or 'of nobody'}, these data have "
                f"{data.vocabulary.digest}; name the former in config.data.vocabulary"
            )

    def variables(self, like: Variables) -> Variables:
        """Its weights, one parameter after the other; a process reads what its devices hold."""

        def loaded(path: Any, leaf: Any) -> jax.Array:
            name = path_name(path[1:])  # without the collection
            part = lambda index: np.asarray(self.run.tensors.read(name)[index]).astype(leaf.dtype)
            return jax.make_array_from_callback(leaf.shape, leaf.sharding, part)

        return jax.tree_util.tree_map_with_path(loaded, like)
