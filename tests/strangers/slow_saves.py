"""`python -m tests.strangers.slow_saves WORKDIR SECONDS [diverge|full]`: trains the toy, SECONDS longer a save.

With `diverge` the training soon gives NaN; with `full` the disk is full when step 6 is saved.
"""

import errno
import os
import sys
import time

from orbax.checkpoint import JsonCheckpointHandler

from research import command
from research.train import preemption, trainer
from tests.train import toy


def slow_down(seconds: float, full_at: int | None) -> None:
    """Patches what writes the smallest part of a checkpoint, in a thread of Orbax's."""
    save = JsonCheckpointHandler._save_fn

    async def slowly(self, item, directory):
        time.sleep(seconds)
        if item.get("step") == full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        await save(self, item, directory)

    JsonCheckpointHandler._save_fn = slowly


def main(workdir: str, seconds: str, what: str = "") -> None:
    slow_down(float(seconds), full_at=6 if what == "full" else None)
    overrides = {}
    if what == "diverge":
        overrides = {"optimizer": {"name": "sgd", "learning_rate": 1e30, "warmup_steps": 0}}
        overrides |= {"train.checkpoint_every": 1}
    trainer.run("train", toy.make_config(**overrides), toy.make_task(), toy.Data(), workdir)


if __name__ == "__main__":
    preemption.exit_on_sigterm()
    with command.one_line_errors():
        main(*sys.argv[1:])
