"""`python -m tests.distributed.toy_pod WORKDIR [--delay=S] [--slow-eval=S] [--other=PROCESS] [FIELD=VALUE ...]`.

Trains the toy on as many processes as the launcher says, slowly enough to be killed. Beside WORKDIR every process
writes which examples it reads. The process `--other` is given another learning rate. With `train.init_from` there is a
ViT in the place of the toy.
"""

import argparse
import ast
import dataclasses
import json
import os
import time
from pathlib import Path

from research.train import preemption

if __name__ == "__main__":
    preemption.exit_on_sigterm()

import jax

from research import command
from research import config as config_lib
from research.cli import experiments
from research.parallel import processes
from research.train import trainer
from tests.interop import test_init_from
from tests.train import toy


@dataclasses.dataclass(frozen=True)
class LoggedData(toy.Data):
    """The toy's data: says what it read, and takes its time."""

    log: Path | None = None
    delay_s: float = 0.0
    eval_delay_s: float = 0.0

    def train_batches(self, seed, batch_size, start=0, rows=None):
        return self._logged(super().train_batches(seed, batch_size, start, rows), "train", start, self.delay_s)

    def eval_batches(self, split, batch_size, rows=None):
        return self._logged(super().eval_batches(split, batch_size, rows), split, 0, self.eval_delay_s)

    def _logged(self, batches, split, start, delay_s):
        with self.log.open("a", buffering=1) as log:
            for k, batch in enumerate(batches, start=start):
                time.sleep(delay_s)
                real = batch["index"][batch["weight"] > 0].tolist()
                log.write(json.dumps({"split": split, "batch": k, "index": real, "rows": len(batch["index"])}) + "\n")
                yield batch


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir")
    parser.add_argument("--log", type=Path, help="the folder for what each process reads; beside WORKDIR")
    parser.add_argument("--mode", default="train")
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--slow-eval", type=float, default=0.0)
    parser.add_argument("--other", type=int)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_intermixed_args()
    overrides = {name: ast.literal_eval(value) for name, value in (text.split("=") for text in arguments.overrides)}
    if arguments.other is not None and int(os.environ["JAX_PROCESS_ID"]) == arguments.other:
        overrides["optimizer.learning_rate"] = 0.5
    processes.initialize()
    config = toy.make_config(**overrides)
    processes.assert_equal_across_processes(
        {f"config.{name}": value for name, value in config_lib.flat(config).items()}
    )
    workdir = Path(arguments.workdir)
    log = (arguments.log or workdir.parent) / f"{workdir.name}.read.{jax.process_index()}.jsonl"
    data = LoggedData(log=log, delay_s=arguments.delay, eval_delay_s=arguments.slow_eval)
    task = test_init_from.task_of() if config.train.init_from else toy.make_task()
    result = trainer.run(arguments.mode, config, task, data, arguments.workdir, experiments.load_weights)
    if arguments.mode == "evaluate" and processes.is_main():
        print(json.dumps(result))


if __name__ == "__main__":
    with processes.fail_fast(), command.begin():
        main()
