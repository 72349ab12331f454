"""Compilation in a background thread, while the state is initialised and the first batch is read."""

import threading

from jax.stages import Compiled, Wrapped


class BackgroundCompile:
    """Compiles a jitted function for abstract arguments in a thread, from construction on."""

    def __init__(self, function: Wrapped, *arguments: object):
        self._function, self._arguments = function, arguments
        self._compiled: Compiled | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._compile, name="compile", daemon=True)
        self._thread.start()

    def _compile(self) -> None:
        try:
            self._compiled = self._function.lower(*self._arguments).compile()
        except BaseException as error:  # noqa: BLE001  `result` raises it
            self._error = error

    def result(self) -> Compiled:
        """Waits for the compiled function and returns it. Raises any error of the compilation."""
        self._thread.join()
        if self._error:
            raise self._error
        assert self._compiled is not None  # else there is an error
        return self._compiled
