"""The config groups that every experiment shares."""

from typing import Any

from research import config as config_lib
from research.train import optimizer


def defaults(config: Any) -> dict[str, Any]:
    """The config groups that every experiment shares, with their defaults."""
    return {
        "seed": 0,
        "train": {
            "steps": 1000,
            "batch_size": 128,  # of the whole mesh
            "microbatches": 1,  # a step adds up the gradients of so many parts of the batch
            "eval_batch_size": 128,
            "eval_every": 1000,  # steps; a checkpoint follows every evaluation
            "checkpoint_every": 1000,  # steps
            "log_every": 50,  # steps
            "keep_last": 2,
            "keep_best": 1,
            "select": "last",  # which checkpoint is scored on the test split: "last" or "best" on validation
            "score": "test",  # which split is decoded and scored on the host, where a task has that: "test" or "all"
            "profile": "",  # STEP:COUNT traces COUNT steps after step STEP; --profile sets it
            "ema": 0.0,  # decay of the average of the weights that is evaluated; 0 is off
            "init_from": "",  # weights to begin with: a run directory, or what `python -m research.interop` reads
            "init_skip": (),  # regexes, searched in a parameter's path: what begins afresh all the same
        },
        "optimizer": optimizer.defaults(config.get("optimizer", {}).get("name", "adamw")),
        "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "sequence": 1},
        "precision": {"params": "float32", "compute": "float32"},
    }


def check(settings: Any) -> None:
    """Raises ValueError for a value of `config.train` that cannot be meant."""
    for field in ("log_every", "eval_every", "checkpoint_every", "steps"):
        if settings[field] < 1:
            raise ValueError(f"config.train.{field}={settings[field]} must be at least 1")
    for field, known in (("select", ("last", "best")), ("score", ("test", "all"))):
        config_lib.choose(dict.fromkeys(known), settings[field], f"train.{field}")
    if settings.init_skip and not settings.init_from:
        raise ValueError(f"config.train.init_skip={settings.init_skip} needs config.train.init_from, which is empty")
