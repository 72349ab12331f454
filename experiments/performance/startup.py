"""Suite `startup`: the time from process start to the end of the imports, and to the first step."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments.performance.measurement import DIGITS, Measured, Measurement, say
from research.measure import timeline

ENTRYPOINT = "experiments.image_classification.main"


def measure(config: str = DIGITS, imports: int = 5, runs: int = 3) -> Measured:
    """Medians over `imports` processes that only import the entrypoint and `runs` that train with it."""
    import_seconds()  # untimed: warms the file cache and compiles bytecode
    importing = _median("import", import_seconds, imports)
    starting = [first_step_seconds(config) for _ in range(runs)]
    for total, compiling in starting:
        say(f"  first step after {total:.2f} s, of which compiling {compiling:.2f} s")
    totals, compilings = zip(*starting, strict=True)
    yield (
        config,
        [
            Measurement("import of the entrypoint, warm", importing, "s", at_most=2.5),
            Measurement("process start to first step", statistics.median(totals), "s", at_most=10),
            Measurement("of which compiling the step", statistics.median(compilings), "s"),
        ],
    )


def _median(name, function, repeats) -> float:
    values = []
    for _ in range(repeats):
        values.append(function())
        say(f"  {name}: {values[-1]:.2f} s")
    return statistics.median(values)


def import_seconds() -> float:
    """Seconds from process start until the entrypoint is imported."""
    started = time.time()
    code = f"import {ENTRYPOINT}, time; print(time.time())"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return float(output) - started


def first_step_seconds(config: str, limit_s: float = 300) -> tuple[float, float]:
    """Seconds from the start of a training run to the end of its first step, and those spent compiling that step.

    Read from the run's own ledger; the run is killed then. Raises RuntimeError if it ends, or `limit_s` pass, before.
    """
    with tempfile.TemporaryDirectory() as folder:
        workdir, log = Path(folder) / "run", Path(folder) / "log"
        command = [sys.executable, "-m", ENTRYPOINT, f"--config={config}", f"--workdir={workdir}"]
        command += ["--config.train.log_every=1"]  # so that timeline.jsonl has the end of the first step
        with log.open("w") as output:
            started = time.time()
            process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            while time.time() - started < limit_s and process.poll() is None:
                ledger = {entry["kind"]: entry for entry in reversed(timeline.read(workdir / "timeline.jsonl"))}
                if "step" in ledger:
                    return ledger["step"]["start"] + ledger["step"]["seconds"] - started, ledger["compile"]["seconds"]
                time.sleep(0.05)
        finally:
            process.kill()
            process.wait()
        raise RuntimeError(f"no step within {limit_s} s of {' '.join(command)}: {log.read_text()[-2000:]}")
