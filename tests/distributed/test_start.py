"""Errors at the start of a pod, and the exit codes of its launcher."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.distributed.pod import SCRIPT, Pod
from tests.killing import ROOT


def local_pod(*arguments, **environment):
    return subprocess.run(
        [SCRIPT, *arguments], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=60
    )


def alive(pid):
    """Whether a process runs; one that has ended and that nobody has asked about yet does not."""
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return listed != "" and not listed.startswith("Z")


def test_processes_with_different_configs_all_name_the_field(tmp_path):
    pod = Pod(tmp_path, 2, tmp_path / "run", "--other=1", devices=2)
    assert pod.wait() == 2, pod.text
    for index in range(2):
        assert len(pod.errors(index)) == 1, pod.text
        assert "config.optimizer.learning_rate is 0.01 on process 0 and 0.5 on process 1" in pod.errors(index)[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("index", [0, 1])
def test_a_coordinator_that_is_not_reached_is_named_after_the_time_limit(index, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    where = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(index)}
    command = [sys.executable, "-c", "from research.parallel import processes; processes.initialize()"]
    begun = time.time()
    ended = subprocess.run(
        command, cwd=ROOT, env=os.environ | where | {"TESSERA_START_TIMEOUT_S": "2"}, capture_output=True, text=True
    )
    assert ended.returncode == 2, ended.stderr
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and f"waited 2 s for the coordinator at {address}" in errors[0], ended.stderr
    assert time.time() - begun < 60


def test_each_process_is_told_its_place_and_shown_under_its_number():
    shown = 'echo "$JAX_PROCESS_ID of $JAX_NUM_PROCESSES at $JAX_COORDINATOR_ADDRESS: $XLA_FLAGS"'
    ended = local_pod("--devices=3", "2", "--", "bash", "-c", shown, XLA_FLAGS="--given")
    assert ended.returncode == 0, ended.stderr
    lines = sorted(ended.stdout.splitlines())
    for index, line in enumerate(lines):
        flags = "--given --xla_force_host_platform_device_count=3"
        assert re.fullmatch(rf"\[{index}\] {index} of 2 at 127\.0\.0\.1:\d+: {flags}", line), line
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("exit 0", 0),
        ("exit 75", 75),
        ("exit $((JAX_PROCESS_ID ? 75 : 0))", 75),
        ("exit $((JAX_PROCESS_ID ? 75 : 3))", 3),
        ("((JAX_PROCESS_ID)) && sleep 0.5 && exit 4; exit 3", 3),  # the first that fails counts
        ("((JAX_PROCESS_ID)) && sleep 0.5 && kill -KILL $$; exit 3", 137),  # unless another was killed
    ],
)
def test_the_exit_code_is_that_of_the_processes(command, code):
    assert local_pod("2", "--", "bash", "-c", command).returncode == code


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_is_passed_on_and_nothing_is_left_behind(sent, code, tmp_path):
    # Each starts a grandchild that ignores the signals, as the data workers do.
    (tmp_path / "command").write_text(
        "trap 'exit 75' TERM; trap 'exit 130' INT\n"
        f"(trap '' TERM INT; echo $BASHPID >{tmp_path}/child.$JAX_PROCESS_ID; sleep 300) &\n"
        "while :; do sleep 0.1; done\n"
    )
    # A test run in the background may have been started with SIGINT ignored, which bash then cannot trap.
    listen = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    command = [SCRIPT, "2", "--", "bash", tmp_path / "command"]
    pod = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=listen)
    children = [tmp_path / f"child.{index}" for index in range(2)]
    deadline = time.time() + 30
    while not all(path.exists() and path.read_text().strip() for path in children):
        assert time.time() < deadline and pod.poll() is None
        time.sleep(0.02)
    pod.send_signal(sent)
    errors = pod.communicate(timeout=30)[1]
    assert pod.returncode == code, errors
    while any(alive(int(path.read_text())) for path in children):
        assert time.time() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("0", "--", "true"), "the number of processes must be at least 1, not '0'"),
        (("--devices=x", "2", "--", "true"), "--devices must be at least 1, not 'x'"),
        (("2", "true"), "a command must follow '2 --'"),
        (("--cores=2", "2", "--", "true"), "unknown option --cores=2"),
    ],
)
def test_what_the_launcher_cannot_use_is_said_in_one_line(arguments, message):
    ended = local_pod(*arguments)
    assert ended.returncode == 2
    assert message in ended.stderr and ended.stderr.count("\n") == 1
