"""A `python` and a `tessera` that start in milliseconds: a server forks them from a process with the libraries.

Importing JAX, Flax and Orbax takes seconds of every command, and the pages hold hundreds. The server imports libraries
only, nothing of the repository, and starts no backend; a command still has a process, an environment, a working
directory, standard streams, signals and an exit code of its own.
"""

import array
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

LIBRARIES = ("jax", "flax.linen", "optax", "orbax.checkpoint", "grain", "tensorflow_datasets", "matplotlib.pyplot")
# The client needs nothing that takes long to import; -S and -E leave out the site packages and PYTHON* variables.
CLIENT = """#!{python} -SE
import array, json, os, signal, socket, sys
words = sys.argv[1:]
if {command!r} == "tessera":
    words = ["-m", "research.cli.tessera", *words]
settings = {{name: value for name, value in os.environ.items() if name.startswith("JAX_")}}
if words[:1] != ["-m"] or settings != {settings!r}:  # JAX reads its settings while it is imported
    os.execv({python!r}, [{python!r}, *words])
words = words[1:]
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
server.sendmsg([b"s"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
message = json.dumps([words, os.getcwd(), dict(os.environ)]).encode()
server.sendall(len(message).to_bytes(4, "big") + message)
answers = server.makefile()
child = int(answers.readline())
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, frame: os.kill(child, number))
status = int(answers.read())
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""


class ForkServer:
    """The server, and `folder` with its `python` and `tessera`, to be put first into PATH."""

    def __init__(self, folder: Path, environment: Mapping[str, str]):
        folder.mkdir()
        self.folder, address = folder, str(folder / "socket")
        settings = {name: value for name, value in environment.items() if name.startswith("JAX_")}
        for command in ("python", "tessera"):
            path = folder / command
            path.write_text(CLIENT.format(python=sys.executable, command=command, address=address, settings=settings))
            path.chmod(0o755)
        listening, ready = os.pipe()
        program = [sys.executable, __file__, address, str(ready)]
        self._process = subprocess.Popen(program, pass_fds=[ready], env=environment, stdin=subprocess.DEVNULL)
        os.close(ready)
        assert os.read(listening, 1), "the server did not start"
        os.close(listening)

    def close(self) -> None:
        """Ends the server, not what it started."""
        self._process.kill()
        self._process.wait()


def serve(address: str, ready: int) -> None:
    """Forks a process for every client, which forks that of the command and waits for it; returns in the latter."""
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # a collection in a child would copy every page of what was imported
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    server = socket.socket(socket.AF_UNIX)
    server.bind(address)
    server.listen(64)
    os.write(ready, b"1")
    os.close(ready)
    while True:
        client, _ = server.accept()
        if os.fork() == 0:
            server.close()
            return _start(client)
        client.close()


def _start(client: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, [(_, _, streams)], _, _ = client.recvmsg(1, socket.CMSG_SPACE(12))
    words, folder, environment = json.loads(_receive(client, int.from_bytes(_receive(client, 4), "big")))
    child = os.fork()
    if child:
        client.sendall(f"{child}\n".encode())
        _, status = os.waitpid(child, 0)
        client.sendall(str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)
    client.close()
    for number, stream in enumerate(array.array("i", streams)):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:1] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(":"))]
    sys.argv = words


def _receive(client: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        got += client.recv(size - len(got))
    return got


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
    # What follows is a command, which ends as `python -m` does: its exit code, a traceback, what is registered atexit.
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
