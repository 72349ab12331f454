"""Experiments by name: the only place that imports from `experiments/`."""

import importlib
from types import ModuleType
from typing import Any

from research.config import Config
from research.train.settings import TrainSpec


def config_class(name: str) -> type[Config]:
    """The config class of an experiment. Raises ValueError if there is no such experiment."""
    module = _module(name, "experiment")
    (cls,) = (
        each
        for each in vars(module).values()
        if isinstance(each, type)
        and issubclass(each, Config)
        and each.__module__ == module.__name__
        and each.tag == name
    )
    return cls


def load_weights(settings: TrainSpec, task: Any, program: Any, data: Any) -> Any:
    """Loads the weights of `config.train.init_from` for `trainer.run`, see interop/initial_weights.py.

    The weights of a run are read with the config class of its experiment, which may differ from this one.
    """
    from research.interop import initial_weights

    return initial_weights.open_weights(settings, task, program, data, config_class)


def load_teacher(path: str, task: Any) -> Any:
    """The run that `config.distill.teacher` names, for `trainer.run`, see interop/teachers.py."""
    from research.interop import teachers

    return teachers.open_teacher(path, task, config_class)


def entrypoint(name: str) -> ModuleType:
    """The module `experiments.NAME.main`. Raises ValueError if there is no such experiment."""
    return _module(name, "main")


def _module(experiment: str, part: str) -> ModuleType:
    name = f"experiments.{experiment}.{part}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not name.startswith(error.name or "-"):
            raise
        raise ValueError(
            f"there is no experiment {experiment!r}: experiments/{experiment}/{part}.py is missing"
        ) from None
