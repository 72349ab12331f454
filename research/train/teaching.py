"""The teacher of a run that distils (see tasks/distillation.py): another run, whose weights are never changed."""

from collections.abc import Mapping
from typing import Any, Generic, Protocol

from research.spec.contracts import DataT, DataT_contra, Task, Variables
from research.tasks import distillation
from research.train.settings import Experiment

META = "teacher"  # the key of `Teacher.about` in the metadata of checkpoints and in result.json


class Teacher(Protocol):
    """A trained run whose probabilities are the targets; see `interop/teachers.py`."""

    @property
    def task(self) -> Any:
        """Its task, a `distillation.Distillable`."""
        ...

    @property
    def about(self) -> Mapping[str, Any]:
        """Its `path` and `step`, and the `digest` of its weights."""
        ...

    def check_with_data(self, data: Any) -> None:
        """Raises ValueError if its classes or tokens are others than those of `data`, which are prepared by now."""
        ...

    def variables(self, like: Variables) -> Variables:
        """Its weights, with the shapes, dtypes and shardings of `like`."""
        ...


class LoadTeacher(Protocol):
    """Opens the run that `config.distill.teacher` names."""

    def __call__(self, path: str, task: Any, /) -> Teacher:
        """The teacher of the student's `task`. Raises ValueError if there is none, or if they do not fit."""
        ...


class OptionalTeacher(Generic[DataT]):
    """The teacher of a run, or none."""

    def __init__(self, config: Experiment, task: Task[DataT_contra], load: LoadTeacher | None):
        """Raises ValueError for a task that has no classes, and for a teacher that does not fit it."""
        path = config.distill.teacher
        self.teacher: Teacher | None = None
        if not path:
            return
        distillation.distillable(task)
        if load is None:
            raise ValueError(f"config.distill.teacher={path!r} is not supported by this experiment; leave it empty")
        self.teacher = load(path, task)

    @property
    def task(self) -> Any:
        """The task of the teacher; None without one."""
        return self.teacher.task if self.teacher else None

    @property
    def meta(self) -> dict[str, Any]:
        """What a checkpoint and a result say of the teacher."""
        return {META: dict(self.teacher.about)} if self.teacher else {}

    def check_with_data(self, data: DataT) -> None:
        """See `Teacher.check_with_data`."""
        if self.teacher:
            self.teacher.check_with_data(data)

    def check(self, meta: Mapping[str, Any]) -> None:
        """Raises ValueError if the checkpoint with this `meta` had another teacher."""
        before, now = (each.get(META, {}).get("digest") for each in (meta, self.meta))
        if before != now:
            raise ValueError(
                f"checkpoint {meta['step']} was distilled from {_named(meta)}, but config.distill.teacher is now "
                f"{_named(self.meta)}; set it to a copy of the former teacher, or choose another --workdir"
            )

    def variables(self, like: tuple[Variables, ...]) -> tuple[Variables, ...]:
        """The weights of the teacher, as a step takes them (`ShardedProgram.teacher`); () without one."""
        return tuple(self.teacher.variables(each) for each in like) if self.teacher else ()

    def lines(self) -> list[str]:
        """Messages for the user at the start of training."""
        return [f"training: distilled from {_named(self.meta)}"] if self.teacher else []


def _named(meta: Mapping[str, Any]) -> str:
    about = meta.get(META)
    return f"{about['path']} at step {about['step']} (digest {about['digest']})" if about else "no teacher"
