"""`python -m research.report.instructions RUN`: the time of traced steps of a run, by HLO instruction.

The run must have been trained with `--profile=STEP:COUNT`. Times are per step, summed over all threads or cores of a
device that executed the instruction; products that run in a separate thread pool count only the time waited for them.
"""

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

from jax.profiler import ProfileData

from research import command

_NUMBER = re.compile(r"[.\d]+$")  # of an instruction: `fusion.12`


def seconds(folder: Path) -> tuple[dict[str, float], int]:
    """Seconds per instruction in the newest trace below `folder`, and the smallest execution count (the steps).

    Raises ValueError if there is no trace.
    """
    traces = sorted(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not traces:
        raise ValueError(f"{folder} holds no trace; train with --profile=STEP:COUNT, such as --profile=10:5")
    spent: dict[str, float] = defaultdict(float)
    times: Counter[str] = Counter()
    for plane in ProfileData.from_file(str(traces[-1])).planes:
        for line in plane.lines:
            for event in line.events:
                name = dict(event.stats).get("hlo_op")
                if name is not None:
                    spent[str(name)] += event.duration_ns / 1e9
                    times[str(name)] += 1
    if not spent:
        raise ValueError(f"{traces[-1]} holds no HLO instructions; trace a step that does not compile")
    return spent, min(times.values())


def lines(spent: Mapping[str, float], steps: int, most: int = 20) -> list[str]:
    """A table of the kinds of instructions, and of single ones, that took longest, in ms per step."""
    kinds: dict[str, float] = defaultdict(float)
    for name, value in spent.items():
        kinds[_NUMBER.sub("", name)] += value
    longest = lambda of: sorted(of.items(), key=lambda item: -item[1])[:most]
    found = [f"{'ms a step':>10}  kind of instruction"]
    found += [f"{value / steps * 1e3:10.2f}  {name}" for name, value in longest(kinds)]
    found += ["", f"{'ms a step':>10}  instruction"]
    found += [f"{value / steps * 1e3:10.2f}  {name}" for name, value in longest(spent)]
    return found


def main(argv: list[str]) -> None:
    """Prints the table of a run."""
    parser = command.Parser(prog="python -m research.report.instructions", description="Time by HLO instruction.")
    parser.add_argument("run", type=Path, metavar="RUN", help="the --workdir of a run that was traced")
    spent, steps = seconds(parser.parse_args(argv).run)
    print("\n".join(lines(spent, steps)))


if __name__ == "__main__":
    with command.begin():
        main(sys.argv[1:])
