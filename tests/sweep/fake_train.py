"""Replaces `tessera train`: steps of 20 ms, each kept at once, whose metric the overrides say.

    python fake_train.py --config=FILE --config.NAME=VALUE ... --workdir=DIR

`value` is what validation gives at the end; `fail=CODE` ends the process at step 2. `starts` counts the processes.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from research.files import sealed
from research.train.lock import Lock

STEPS = 6


def main():
    options = dict(word.removeprefix("--").removeprefix("config.").split("=", 1) for word in sys.argv[1:])
    folder, goal = Path(options["workdir"]), float(options["value"]) + 0.001 * int(options["seed"])
    folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder)
    try:
        lock.take()
    except ValueError as error:
        print(f"error: {error}")
        sys.exit(2)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(75))
    with (folder / "starts").open("a") as file:
        file.write(f"{options['train.test']}\n")
    metrics = folder / "metrics.jsonl"
    done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
    for step in range(done + 1, STEPS + 1):
        time.sleep(float(options.get("pause", 0.02)))
        if step == 2 and options.get("fail", "0") != "0":
            print("something is wrong")
            sys.exit(int(options["fail"]))
        with metrics.open("a") as file:
            value = goal * step / STEPS if goal == goal else None
            file.write(json.dumps({"step": step, "name": "validation/accuracy", "value": value}) + "\n")
    kept = goal if goal == goal else None  # as a trainer writes NaN
    content = {"steps": STEPS, "step": STEPS, "metrics": {"validation/accuracy": kept}}
    (folder / "selected.json").write_text(json.dumps(sealed(content)))
    if options["train.test"] == "true":
        (folder / "result.json").write_text(json.dumps(sealed({"metrics": {"test/accuracy": goal - 0.1}})))
    lock.release()


main()
