"""`python -m tests.train.toy_main WORKDIR [SECONDS_PER_BATCH]`: trains the toy, slowly enough to be killed."""

import dataclasses
import sys
import time

from research import cli
from research.train import preemption, trainer
from tests.train import toy


@dataclasses.dataclass(frozen=True)
class SlowData(toy.Data):
    delay_s: float = 0.0

    def train_batches(self, *args, **kwargs):
        for batch in super().train_batches(*args, **kwargs):
            time.sleep(self.delay_s)
            yield batch

    def eval_batches(self, *args, **kwargs):
        for batch in super().eval_batches(*args, **kwargs):
            time.sleep(self.delay_s)
            yield batch


if __name__ == "__main__":
    preemption.exit_on_sigterm()
    with cli.one_line_errors():
        config = toy.make_config(**{"mesh.data": int(sys.argv[3])} if len(sys.argv) > 3 else {})
        trainer.run("train", config, toy.make_task(), SlowData(delay_s=float(sys.argv[2])), sys.argv[1])
