"""Experiments by name: the only place that imports from `experiments/`."""

import importlib
from types import ModuleType
from typing import Any

from research.config import Config
from research.train.settings import TrainSpec


def config_class(name: str) -> type[Config]:
    """The class of the configs of an experiment. Raises ValueError where there is no such experiment."""
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
    """The weights that `config.train.init_from` names, for `trainer.run`, see interop/initial_weights.py.

    Those of a run are read by the class of its own experiment, which may be another one.
    """
    from research.interop import initial_weights

    return initial_weights.open_weights(settings, task, program, data, config_class)


def entrypoint(name: str) -> ModuleType:
    """`experiments.NAME.main`. Raises ValueError where there is no such experiment."""
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
