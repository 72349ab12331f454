"""Pods of one machine: starting them, signalling one process, waiting for the end."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.killing import ROOT

SCRIPT = ROOT / "tpu_scripts" / "local_pod.sh"


class Pod:
    """`count` processes of `python -m module arguments`, with `devices` virtual devices altogether."""

    def __init__(self, folder: Path, count: int, *arguments: object, devices: int = 4, module: str | None = None):
        module = module or "tests.distributed.toy_pod"
        self._log = folder / f"pod-{time.time_ns()}.log"
        command = [SCRIPT, f"--devices={devices // count}", count, "--", sys.executable, "-m", module, *arguments]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=log, stderr=log)

    @property
    def text(self) -> str:
        """All that was written so far; progress bars end lines with carriage returns."""
        return self._log.read_text().replace("\r", "\n")

    @property
    def pids(self) -> list[int]:
        return [int(pid) for pid in re.findall(r"local_pod: process \d+ is pid (\d+)", self.text)]

    def lines(self, index: int) -> list[str]:
        """What process `index` wrote."""
        return [line for line in self._log.read_text().splitlines() if line.startswith(f"[{index}] ")]

    def errors(self, index: int) -> list[str]:
        return [line.removeprefix(f"[{index}] ") for line in self.lines(index) if line.startswith(f"[{index}] error: ")]

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 300) -> None:
        """Waits until `condition()` holds; the pod must still be running then."""
        deadline = time.time() + timeout_s
        while not condition():
            assert self._process.poll() is None and time.time() < deadline, self.text
            time.sleep(0.02)

    def send(self, signal: int) -> None:
        self._process.send_signal(signal)

    def wait(self, timeout_s: float = 300) -> int:
        """The exit code; the pod is ended when it takes longer."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            raise AssertionError(self.text) from None


def examples_read(workdir: Path, count: int) -> dict[str, dict[int, list[int]]]:
    """{split: {batch: the indices of its examples}} of what `count` processes read, in the order of the processes."""
    read: dict[str, dict[int, list[int]]] = {}
    for index in range(count):
        path = workdir.parent / f"{workdir.name}.read.{index}.jsonl"
        seen = set()
        for entry in map(json.loads, path.read_text().splitlines()):
            key = entry["split"], entry["batch"]
            if key not in seen:  # a split is evaluated again and again
                seen.add(key)
                read.setdefault(entry["split"], {}).setdefault(entry["batch"], []).extend(entry["index"])
    return read
