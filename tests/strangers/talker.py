"""A command that talks as a training run does, without the seconds that one takes."""

import time

from research import command
from research.measure import progress

if __name__ == "__main__":
    with command.one_line_errors():
        with progress.bar(100, "training", "steps") as bar:
            for step in range(100):
                bar.update()
                progress.say(f"step {step}")
                print("a line of the result, " * 100, flush=step % 10 == 0)
        time.sleep(0.5)
        print("the end")
