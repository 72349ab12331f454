"""`--profile=STEP:COUNT`: a trace of a few steps, for TensorBoard and Perfetto."""

import re
from pathlib import Path
from typing import Any

import jax

FIELD = "train.profile"


class Profile:
    """Traces the steps STEP + 1 to STEP + COUNT of a run into `folder`; nothing if `text` is "".

    Raises ValueError for any other text.
    """

    def __init__(self, text: str, folder: Path):
        if text and not re.fullmatch(r"[1-9]\d*:[1-9]\d*", text):
            raise ValueError(f"config.{FIELD}={text!r} must be STEP:COUNT, such as 10:5 for five steps after step 10")
        step, _, count = text.partition(":")
        self._first, self._last = (int(step), int(step) + int(count)) if text else (-1, -1)
        self._folder, self._tracing = folder, False

    def at(self, step: int, state: Any) -> Path | None:
        """Called after `step` steps, with the resulting `state`; returns the folder of the trace once complete."""
        if step == self._first:
            jax.block_until_ready(state)  # earlier steps that still run must not be in the trace
            # A Perfetto trace beside the one for TensorBoard: ui.perfetto.dev opens it.
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._tracing = True
        if not self._tracing or step < self._last:
            return None
        return self.close(state)

    def close(self, state: Any) -> Path | None:
        """Ends the trace early if the run ends during it; returns its folder."""
        if not self._tracing:
            return None
        jax.block_until_ready(state)
        jax.profiler.stop_trace()
        self._tracing = False
        return self._folder
