"""A task small enough to compile in a second, with everything that makes resuming hard: dropout, batch norm, mixup."""

import dataclasses

import numpy as np
from flax import linen as nn

from research import config as config_lib
from research.config import Source
from research.parallel.sharding import constrain
from research.spec.contracts import DatasetInfo
from research.tasks import classification
from research.train.settings import Experiment


class Net(nn.Module):
    """One hidden layer with batch norm and dropout."""

    num_classes: int = 4
    width: int = 16
    logical_axes = (
        ("hidden/kernel", ("embed", "mlp")),
        ("norm/.*", (None,)),
        ("head/kernel", ("embed", "classes")),
        ("head/bias", ("classes",)),
    )

    @nn.compact
    def __call__(self, images, train=False):
        x = constrain(images.reshape(images.shape[0], -1), ("batch", "embed"))
        x = nn.Dense(self.width, use_bias=False, name="hidden")(x)  # batch norm would cancel a bias
        x = constrain(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x), ("batch", "mlp"))
        x = nn.Dropout(0.3, deterministic=not train)(nn.relu(x))
        return nn.Dense(self.num_classes, name="head")(x)


@dataclasses.dataclass(frozen=True)
class Data:
    """Random images whose class is the brightest quarter, as a function of (seed, k)."""

    name: str = "toy"
    version: str = "1.0.0"
    fingerprint: str = "toy"
    is_prepared: bool = True
    class_names: tuple[str, ...] = ("first", "second", "third", "fourth")

    @property
    def counts(self):
        return {"train": 64, "validation": 20, "test": 22}

    def prepare(self):
        return DatasetInfo(self.name, self.version, self.counts, self.fingerprint, self.class_names)

    def record(self, folder):
        """Nothing: a run on random images is used with the data at hand."""

    def reference(self, split, index):
        """The label of an example, as its scorer wants it."""
        return {"index": index}

    def _examples(self, indices, weight=None):
        rows = [np.random.default_rng(int(i)).integers(0, 256, (4, 4, 1)) for i in indices]
        image = np.stack(rows).astype(np.uint8)
        label = image.reshape(len(rows), 4, 4).mean(-1).argmax(-1).astype(np.int32)
        weight = np.ones(len(rows), np.float32) if weight is None else weight
        return {"image": image, "label": label, "index": np.asarray(indices, np.int32), "weight": weight}

    def train_batches(self, seed, batch_size, start=0, rows=None):
        k = start
        while True:
            order = np.random.default_rng((seed, k)).integers(0, self.counts["train"], batch_size)
            yield self._examples(order[rows] if rows else order)
            k += 1

    def eval_batches(self, split, batch_size, rows=None):
        offset = {"train": 0, "validation": 1000, "test": 2000}[split]
        for begin in range(0, self.counts[split], batch_size):
            indices = np.arange(begin, begin + batch_size)
            weight = (indices < self.counts[split]).astype(np.float32)
            batch = self._examples(offset + indices, weight)
            yield {name: array[rows] if rows else array for name, array in batch.items()}


def make_config(**overrides) -> Experiment:
    """A complete config of the toy; overrides by dotted name, e.g. **{"train.steps": 3}."""
    raw = {
        "optimizer": {"learning_rate": 0.01, "warmup_steps": 2, "weight_decay": 0.01, "clip_norm": 1.0},
        "train": {
            "steps": 12, "batch_size": 16, "microbatches": 2, "eval_batch_size": 8, "eval_every": 4,
            "checkpoint_every": 3, "log_every": 1, "ema": 0.9,
        },
    }  # fmt: skip
    for name, value in overrides.items():
        group, _, key = name.rpartition(".")
        (raw.setdefault(group, {}) if group else raw)[key] = value
    config = config_lib.complete(Experiment, raw)
    return dataclasses.replace(config, source=Source(experiment="toy", file="toy.py", digest="0" * 12))


def make_task(**settings) -> classification.ClassificationTask:
    """The task with label smoothing and mixup on."""
    spec = classification.ClassificationSpec(**({"label_smoothing": 0.1, "mixup": 0.4} | settings))
    return classification.ClassificationTask(Net(), (4, 4, 1), (128.0,), (74.0,), spec)
