"""`python -m tests.train.toy_main WORKDIR [SECONDS_A_BATCH [MODE [FIELD=INTEGER ...]]]`: a toy, slow enough to kill."""

import dataclasses
import sys
import time

from research import command
from research.train import preemption, trainer
from tests.train import toy


@dataclasses.dataclass(frozen=True)
class SlowData(toy.Data):
    delay_s: float = 0.0

    def train_batches(self, *args, **kwargs):
        return self._slowly(super().train_batches(*args, **kwargs))

    def eval_batches(self, *args, **kwargs):
        return self._slowly(super().eval_batches(*args, **kwargs))

    def _slowly(self, batches):
        for batch in batches:
            time.sleep(self.delay_s)
            yield batch


def main(workdir: str, delay_s: str = "0", mode: str = "train", *overrides: str) -> None:
    config = toy.make_config(**{name: int(value) for name, value in (text.split("=") for text in overrides)})
    trainer.run(mode, config, toy.make_task(), SlowData(delay_s=float(delay_s)), workdir)


if __name__ == "__main__":
    preemption.exit_on_sigterm()
    with command.begin():
        main(*sys.argv[1:])
