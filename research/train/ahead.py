"""Compiling in the background, while the state is made and the first batch is read."""

import threading

from jax.stages import Compiled, Wrapped


class Ahead:
    """A jitted function that is compiled for abstract arguments from now on, in a thread of its own."""

    def __init__(self, function: Wrapped, *arguments: object):
        self._function, self._arguments = function, arguments
        self._compiled: Compiled | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._compile, name="compile", daemon=True)
        self._thread.start()

    def _compile(self) -> None:
        try:
            self._compiled = self._function.lower(*self._arguments).compile()
        except BaseException as error:  # noqa: BLE001  It is raised where the function is wanted.
            self._error = error

    def result(self) -> Compiled:
        """The compiled function, when it is ready. Raises what compiling raised."""
        self._thread.join()
        if self._error:
            raise self._error
        assert self._compiled is not None  # else there is an error
        return self._compiled
