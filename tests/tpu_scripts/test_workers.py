"""Set-up, start, status and stop on two folders that play the workers: everything but the network is real."""

import json
import shutil
import subprocess
import sys
import time

import pytest

from tests.tpu_scripts.conftest import Cloud, make_repository

# Notes its words, then does what a Python would do, except for installing.
PYTHON = f"""#!/bin/bash
printf '%s\\n' "$*" >> "$HOME/python.log"
[[ $2 == pip ]] || exec {sys.executable} -I -S "$@"
"""


class Pod(Cloud):
    def __init__(self, folder):
        super().__init__(folder, make_repository(folder / "repository"))
        self.homes = [folder / "workers" / name for name in "01"]
        for home in self.homes:
            (home / "tessera_venv/bin").mkdir(parents=True)
            (home / "tessera_venv/bin/python").write_text(PYTHON)
            (home / "tessera_venv/bin/python").chmod(0o755)
        self.answers(**{kind: ["RUN"] for kind in ("scp", "ssh_install", "ssh_start", "ssh_status", "ssh_stop")})

    def set_up(self, **env):
        return self.run("setup.sh", **env)

    def states(self):
        lines = self.run("status.sh").stdout.splitlines()[1:]
        return [" ".join(line.split()[2:]) for line in lines]

    def wait(self):
        for _ in range(200):
            states = self.states()
            if "running" not in states:
                return states
            time.sleep(0.1)
        raise TimeoutError(states)


@pytest.fixture
def pod(tmp_path):
    return Pod(tmp_path)


def test_set_up_copies_the_repository_as_it_stands(pod):
    (pod.repository / "main.py").write_text("new")
    (pod.repository / "gone.py").unlink()
    (pod.repository / "a new file").write_text("new")
    (pod.repository / "runs").mkdir()
    (pod.repository / "runs/big").write_text("ignored")
    done = pod.set_up(TPU_PREPARE="python -c 'print(1 + 1)' > prepared; false || true")
    assert done.returncode == 0, done.stderr
    for home in pod.homes:
        copy = home / "tessera"
        assert (copy / "main.py").read_text() == (copy / "a new file").read_text() == "new"
        assert not (copy / "gone.py").exists() and not (copy / "runs/big").exists()
        assert (copy / "prepared").read_text() == "2\n"
        assert (
            "-m pip install --quiet --disable-pip-version-check -c constraints.txt -e .[tpu]"
            in (home / "python.log").read_text()
        )
        git = lambda *words, at=copy: subprocess.run(["git", *words], cwd=at, capture_output=True, text=True).stdout
        assert git("rev-parse", "HEAD") == git("rev-parse", "HEAD", at=pod.repository)
        assert git("status", "--porcelain", "-uno") == " D gone.py\n M main.py\n"
    assert list(pod.folder.glob("**/tmp.*")) == []


def test_runs_outlive_the_next_set_up(pod):
    assert pod.set_up().returncode == 0
    (pod.homes[0] / "tessera/runs/result").write_text("1")
    assert pod.set_up().returncode == 0
    assert (pod.homes[0] / "tessera/runs/result").read_text() == "1"


def test_a_failed_set_up_is_seen(pod):
    assert pod.set_up(TPU_PREPARE="false; true").returncode == 1
    assert pod.states() == ["unset", "unset"]
    done = pod.run("run.sh", "--", "true")
    assert done.returncode == 2 and "is not set up; first: tpu_scripts/setup.sh" in done.stderr


def test_without_a_commit_there_is_nothing_to_copy(pod):
    shutil.rmtree(pod.repository / ".git")
    done = pod.set_up(GIT_CEILING_DIRECTORIES=str(pod.folder))
    assert done.returncode == 2 and "is no git checkout" in done.stderr and pod.calls == []


def test_a_command_runs_on_all_workers_with_its_words_unchanged(pod):
    assert pod.set_up().returncode == 0
    assert pod.states() == ["none", "none"]
    words = ["it's", '"$HOME" `date`', "", "a  b;c&", "--flag=ä\nö", "*"]
    code = "import json, os, sys; json.dump([os.getcwd(), *sys.argv[1:]], open('words.json', 'w')); sys.exit(9)"
    assert pod.run("run.sh", "--", "python", "-c", code, *words).returncode == 0
    assert pod.wait() == ["exited 9", "exited 9"]
    for home in pod.homes:
        assert json.loads((home / "tessera/words.json").read_text()) == [str(home / "tessera"), *words]
        assert "exit code 9" in (home / "tessera_run/log").read_text()


def test_stop_lets_the_command_save(pod):
    assert pod.set_up().returncode == 0
    saves = ["bash", "-c", "trap 'echo saved; exit 75' TERM; echo ready; for i in {1..600}; do sleep 0.1; done"]
    assert pod.run("run.sh", "--", *saves).returncode == 0
    logs = [home / "tessera_run/log" for home in pod.homes]
    for _ in range(200):
        if all("ready" in log.read_text() for log in logs):
            break
        time.sleep(0.1)
    # The same command is left alone, another one is refused, and so is new code under a running command.
    assert pod.run("run.sh", "--", *saves).returncode == 0
    other = pod.run("run.sh", "--", "true")
    assert other.returncode == 2 and "is running bash -c" in other.stderr
    assert pod.set_up().returncode == 2
    assert pod.states() == ["running", "running"]
    done = pod.run("stop.sh")
    assert done.returncode == 0 and done.stdout.count("exited 75") == 2
    assert [log.read_text().splitlines().count("saved") for log in logs] == [1, 1]


def test_stop_kills_what_does_not_end(pod):
    assert pod.set_up().returncode == 0
    assert pod.run("run.sh", "--", "bash", "-c", "trap '' TERM; while true; do sleep 0.2; done").returncode == 0
    pod.run("stop.sh", "--grace=1")
    assert pod.wait() == ["dead", "dead"]


def test_the_supervisor_carries_a_command_through_being_told_to_save(pod):
    again = "cd ~; echo x >> tries; [[ $(wc -l < tries) -ge 3 ]] || exit 75"
    done = pod.run("supervise.sh", "--", "bash", "-c", again, "gs://my-bucket")
    assert done.returncode == 0, done.stderr
    assert [(home / "tries").read_text() for home in pod.homes] == ["x\nx\nx\n"] * 2


def test_a_python_that_is_too_old_is_replaced_through_uv(pod):
    shutil.rmtree(pod.homes[1])
    home = pod.homes[0]
    shutil.copytree(home / "tessera_venv", home / "made_by_uv")
    shutil.rmtree(home / "tessera_venv")
    for name in ("python3.12", "python3.11"):
        (pod.folder / name).write_text("#!/bin/sh\nexit 1\n")
    uv = 'printf "%s\\n" "$*" >> "$HOME/uv.log"; [ $2 = pip ] || mv "$HOME/made_by_uv" "$HOME/tessera_venv"'
    (pod.folder / "python3").write_text(f"#!/bin/sh\n{uv}\n")
    for name in ("python3.12", "python3.11", "python3"):
        (pod.folder / name).chmod(0o755)
    done = pod.set_up()
    assert done.returncode == 0, done.stderr
    assert (home / "uv.log").read_text().splitlines() == [
        "-m pip install --quiet --user uv",
        f"-m uv venv --quiet --seed --python 3.12 {home}/tessera_venv",
    ]
