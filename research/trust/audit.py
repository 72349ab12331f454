"""The membership audit of a run: its losses, those of shadow runs, and the attacks on them (see membership.py).

A shadow run has the config of the run with another seed, and is trained on half of the training examples (`data.half`).
Runs 2 k - 1 and 2 k have complementary halves, so that every example is in half of them.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from research import config as config_lib
from research.command import Failure
from research.data import splits
from research.sweep import runs as sweep_runs
from research.sweep.running import Runner
from research.sweep.settings import Sweep
from research.train import feed, rundir
from research.train.session import Session
from research.trust import membership

FOLDER = "privacy"  # below the run directory
_SPLITS = ("train", "test")
_ASSIGNED = 1707  # the seed of the shadow models that count as trained with a test example

Opened = tuple[Any, Any, Any]  # config, task and data of a run directory


@dataclasses.dataclass(frozen=True)
class Shadows(Sweep):
    """The shadow runs as a sweep over halves, each with a seed of its own."""

    def overrides(self, trial: int, seed: int) -> list[str]:
        """All overrides of a run."""
        return [*super().overrides(trial, seed)[:-1], f"seed={seed + trial}"]


class Losses(NamedTuple):
    """The losses of one model on the training and test examples."""

    train: np.ndarray
    test: np.ndarray


def check_count(count: int) -> None:
    """Raises ValueError for a number of shadow runs other than 0, 4, 6, 8, ..."""
    if count % 2 or count == 2 or not 0 <= count <= 1000:
        raise ValueError(f"--shadows={count} must be 0, or an even number from 4 to 1000")


def shadows_of(config: Any, count: int) -> Shadows:
    """The shadow runs of a run. Raises ValueError if its config file no longer gives its config, or halves its data."""
    source = config.source
    if config.data.half:
        raise ValueError(
            f"a run with config.data.half={config.data.half} is a shadow run; audit the run that it belongs to"
        )
    now = config_lib.load(source.file, source.variant, source.overrides).source.digest
    if now != source.digest:
        raise ValueError(
            f"{source.file} has changed since the run, so that shadow runs would differ from it; restore it, or set "
            "--shadows=0"
        )
    halves = tuple((f"data.half={number}",) for number in range(1, count + 1))
    common = tuple(text for text in source.overrides if not text.startswith("seed="))
    return Shadows(f"{source.file}:{source.variant}", halves, common, seeds=(config.seed + 1,))


def train(
    shadows: Shadows, folder: Path, selection: tuple[str, str], words: list[str], processes: int, say: Any
) -> list[Path]:
    """Trains the shadow runs that are not finished, and returns their run directories.

    Args:
        shadows: The runs.
        folder: The folder of their run directories.
        selection: The metric that selects checkpoints, and "max" or "min".
        words: The train command.
        processes: The number of concurrent runs.
        say: Called with progress messages.

    Raises:
        Failure: A run failed.
    """
    rundir.check_workdir(folder, write=True)
    folder.mkdir(parents=True, exist_ok=True)
    sweep_runs.open_folder(folder, shadows)
    runner = Runner(shadows, folder, f"validation/{selection[0]}", selection[1], words, processes, say)
    runner.train()
    if runner.failed:
        run = next(iter(runner.failed))
        raise Failure(f"the shadow run {run.folder} failed: {runner.failed[run]}; see {run.log}")
    return [run.folder for run in runner.runs]


def losses(opened: Opened, workdir: Path, data: Any) -> Losses:
    """The losses of the training and test examples of `data`, without augmentation, for the checkpoint of a run.

    Raises ValueError for a task without a loss of single examples.
    """
    config, task, own = opened
    session = Session(config, task, own, str(workdir)).opened()
    _, state = session.restore_selected()
    session.checkpoints.close()
    vocabularies = [getattr(getattr(each, "vocabulary", None), "digest", "") for each in (own, data)]
    if vocabularies[0] != vocabularies[1]:
        raise ValueError(f"{workdir} has another vocabulary than the audited run; set config.data.vocabulary to a file")

    def of_one(variables, example):
        sums = task.evaluate(variables, jax.tree.map(lambda array: array[None], example))
        if "loss" not in sums:
            raise ValueError(
                f"a membership audit needs the losses of examples, which {type(task).__name__} does not have"
            )
        return sums["loss"]

    of_batch, placement = jax.jit(jax.vmap(of_one, in_axes=(None, 0))), session.program.batch_sharding
    found = {}
    for split in _SPLITS:
        by_index: dict[int, float] = {}
        for host in data.eval_batches(split, config.train.eval_batch_size):
            totals, weights = jax.device_get(of_batch(state.evaluated, feed.to_mesh(host, placement)))
            real = np.flatnonzero(host["weight"] > 0)
            by_index |= {int(host["index"][row]): float(totals[row] / max(weights[row], 1e-9)) for row in real}
        found[split] = np.array([by_index[index] for index in sorted(by_index)])
    return Losses(**found)


def attacks(run: Losses, shadows: list[Losses]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Attack -> the scores and the membership of its examples, [targets, examples].

    run_*       the run: its training examples are members, its test examples are not
    shadow_*    every shadow run in turn, attacked with all others but the one with the complementary half: its half of
                the training examples are members, the other half are not
    """
    members = np.append(np.ones(len(run.train), bool), np.zeros(len(run.test), bool))[None]
    found = {"run_loss": (-np.concatenate(run)[None], members)}
    if not shadows:
        return found
    count, numbers = len(run.train), range(1, len(shadows) + 1)
    inside = np.stack([np.isin(np.arange(count), splits.half(count, number)) for number in numbers])
    scores = membership.confidence(np.stack([each.train for each in shadows]))
    others = membership.confidence(np.stack([each.test for each in shadows]))
    # As many shadow models for each test example as for a training example.
    left = np.random.default_rng(_ASSIGNED).random((len(shadows) // 2, len(run.test))) < 0.5
    assigned = np.stack([left, ~left], axis=1).reshape(len(shadows), -1)
    everywhere = np.concatenate([scores, others], axis=1), np.concatenate([inside, assigned], axis=1)
    target = membership.confidence(np.concatenate(run))
    found["run_lira_offline"] = membership.lira(*everywhere, target, online=False)[None], members
    found["shadow_loss"] = -np.stack([each.train for each in shadows]), inside
    for name, online in (("shadow_lira_offline", False), ("shadow_lira_online", True)):
        rows = []
        for number in range(len(shadows)):
            used = np.arange(len(shadows)) // 2 != number // 2
            rows.append(membership.lira(scores[used], inside[used], scores[number], online))
        found[name] = np.stack(rows), inside
    return found


def content(
    opened: Opened, workdir: Path, shadows: list[Path], open_run: Callable[[Path], Opened], privacy: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The content of a report, ready for JSON, and the ROC curve [2, thresholds] of each attack.

    Args:
        opened: The config, task and data of the run.
        workdir: Its run directory.
        shadows: Those of its shadow runs.
        open_run: Opens the run in a run directory.
        privacy: What its result says of its privacy; {} without DP-SGD.
    """
    data = opened[2]
    of_shadows = [losses(open_run(folder), folder, data) for folder in shadows]
    of_run = losses(opened, workdir, data)
    found = attacks(of_run, of_shadows)
    epsilon, delta = privacy.get("epsilon"), privacy.get("delta")
    report = {
        "config_digest": opened[0].source.digest,
        "shadows": len(shadows),
        "counts": {split: len(values) for split, values in of_run._asdict().items()},
        "epsilon": epsilon,
        "delta": delta,
        "bound": None if epsilon is None or delta is None else membership.bound(epsilon, delta),
        "mean_loss": {split: float(values.mean()) for split, values in of_run._asdict().items()},
        "attacks": {name: membership.success(*pair)._asdict() for name, pair in found.items()},
    }
    return report, {name: membership.roc(*pair) for name, pair in found.items()}
