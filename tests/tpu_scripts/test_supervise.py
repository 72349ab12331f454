"""The supervisor: restarts after preemption and failures, stops where a retry is useless, always offers deletion."""

import signal
import subprocess
import time

import pytest

from tests.tpu_scripts.conftest import DELETE, DELETE_LINE
from tests.tpu_scripts.test_scripts import NOT_FOUND

OFFER = f"\n  {DELETE_LINE}\n"
COMMAND = ["python", "-m", "experiments.x.main", "--workdir=gs://my-bucket/runs/a b", "--config.note=it's"]
NEW = ["create", "scp", "ssh install", "ssh start"]
NO_SSH = [255, "", "ERROR: (gcloud.compute.tpus.tpu-vm.ssh) [/usr/bin/ssh] exited with return code [255]."]
NO_NETWORK = [1, "", "ERROR: gcloud crashed (TransportError): Unable to connect"]


def workers(*states):
    return "\n".join(f"tessera: w-{index} {state}" for index, state in enumerate(states))


RUNNING, DONE, SAVED = workers("running", "running"), workers("exited 0", "exited 0"), workers("exited 75", "exited 75")


def supervise(cloud, *options, **env):
    return cloud.run("supervise.sh", *options, "--", *COMMAND, **env)


def test_from_nothing_to_done(cloud):
    cloud.answers(describe=[NOT_FOUND, NOT_FOUND, "PROVISIONING", "ACTIVE"], ssh_status=[RUNNING, RUNNING, DONE])
    done = supervise(cloud)
    assert done.returncode == 0, done.stderr
    assert cloud.verbs == NEW
    assert done.stderr.count(OFFER) == 1


@pytest.mark.parametrize(
    "states, nodes",
    [
        ([*[NOT_FOUND] * 2, "ACTIVE", *["SUSPENDED"] * 3, NOT_FOUND, "ACTIVE"], ["READY"]),
        ([*[NOT_FOUND] * 2, "ACTIVE", *["ACTIVE"] * 3, NOT_FOUND, "ACTIVE"], ["READY", *["PREEMPTED"] * 3, "READY"]),
        ([*[NOT_FOUND] * 2, "ACTIVE", *["SUSPENDING"] * 3, "SUSPENDED", NOT_FOUND, "ACTIVE"], ["READY"]),
    ],
    ids=["suspended", "only its VM is preempted", "still suspending"],
)
def test_a_preempted_slice_is_made_again_and_the_same_command_goes_on(cloud, states, nodes):
    cloud.answers(describe=states, node=nodes, ssh_status=[RUNNING, NO_SSH, RUNNING, DONE])
    done = supervise(cloud, TPU_RETRIES="0")
    assert done.returncode == 0, done.stderr
    assert cloud.verbs == [*NEW, "delete", *NEW]
    starts = [call for call in cloud.calls if "worker.sh start" in call[-1]]
    assert len(starts) == 2 and starts[0] == starts[1]
    assert "'--workdir=gs://my-bucket/runs/a b'" in starts[0][-1]


def test_a_command_that_saved_is_started_again_where_it_was(cloud):
    cloud.answers(ssh_status=[DONE, RUNNING, SAVED, DONE, RUNNING, DONE])
    assert supervise(cloud, TPU_RETRIES="0").returncode == 0
    assert cloud.verbs == ["ssh start"] * 2


def test_a_slice_that_was_not_set_up_is_set_up(cloud):
    no_script = [127, "", "bash: tessera/tpu_scripts/worker.sh: No such file or directory"]
    cloud.answers(ssh_status=[no_script, DONE])
    assert supervise(cloud).returncode == 0
    assert cloud.verbs == ["scp", "ssh install", "ssh start"]


@pytest.mark.parametrize("state", [workers("exited 2", "exited 2"), workers("exited 1", "exited 2", "exited 75")])
def test_a_mistake_is_not_tried_again(cloud, state):
    cloud.answers(ssh_status=[DONE, RUNNING, state], ssh_tail=["error: unknown config"])
    done = supervise(cloud)
    assert done.returncode == 2 and "error: unknown config" in done.stderr and DELETE_LINE in done.stderr
    assert cloud.verbs == ["ssh start", "ssh tail"]


def test_another_command_on_the_workers_is_a_mistake_too(cloud):
    cloud.answers(
        ssh_status=[RUNNING], ssh_start=[[2, "", "error: w-0 is running sleep 9; first: tpu_scripts/stop.sh"]]
    )
    done = supervise(cloud)
    assert done.returncode == 2 and "w-0 is running sleep 9" in done.stderr


def test_other_failures_are_retried_a_few_times(cloud):
    cloud.answers(ssh_status=[DONE, workers("exited 0", "exited 9")])
    done = supervise(cloud, TPU_RETRIES="2")
    assert done.returncode == 9 and DELETE_LINE in done.stderr
    assert cloud.verbs == ["ssh start", "ssh tail"] * 3


def test_the_pauses_after_failures_grow(cloud):
    cloud.answers(ssh_status=[DONE, workers("dead")])
    stderr = supervise(cloud, TPU_RETRIES="3", TPU_BACKOFF_S="1", PATH=without_sleeping(cloud)).stderr
    assert [f"retrying in {pause} s" in stderr for pause in (1, 2, 4)] == [True] * 3


def without_sleeping(cloud):
    (cloud.folder / "sleep").write_text("#!/bin/sh\n")
    (cloud.folder / "sleep").chmod(0o755)
    return cloud.env["PATH"]


def test_what_hangs_after_the_death_of_another_worker_is_stopped(cloud):
    cloud.answers(ssh_status=[DONE, RUNNING, *[workers("dead", "running")] * 5, DONE, DONE])
    done = supervise(cloud)
    assert done.returncode == 0, done.stderr
    assert cloud.verbs == ["ssh start", "ssh stop", "ssh tail", "ssh start"]


def test_a_worker_that_finishes_first_is_waited_for(cloud):
    cloud.answers(ssh_status=[DONE, *[workers("running", "exited 0")] * 8, DONE])
    assert supervise(cloud).returncode == 0
    assert cloud.verbs == ["ssh start"]


@pytest.mark.parametrize(
    "answers",
    [
        {"describe": [NOT_FOUND], "create": [[1, "", "ERROR: no quota"]]},
        {"describe": [NOT_FOUND, NOT_FOUND, *["FAILED"] * 4, NOT_FOUND, "FAILED"]},
    ],
    ids=["refused", "FAILED"],
)
def test_a_creation_that_keeps_failing_ends_with_the_offer(cloud, answers):
    cloud.answers(**answers)
    done = supervise(cloud, TPU_RETRIES="1")
    assert done.returncode == 1 and done.stderr.count(OFFER) == 1
    assert [verb for verb in cloud.verbs if verb == "create"] == ["create"] * 2


def test_gcloud_that_cannot_tell_at_the_start_is_no_network_to_wait_for(cloud):
    cloud.answers(describe=[NO_NETWORK])
    done = supervise(cloud, TPU_RETRIES="1")
    assert done.returncode == 1 and "Unable to connect" in done.stderr and "create" not in cloud.verbs


def test_no_network_here_is_waited_out(cloud):
    states = [RUNNING, RUNNING, *[NO_SSH] * 12, DONE]
    cloud.answers(describe=["ACTIVE", *[NO_NETWORK] * 12, "ACTIVE"], ssh_status=states)
    done = supervise(cloud, TPU_RETRIES="0")
    assert done.returncode == 0, done.stderr
    assert cloud.verbs == ["ssh start"]


def test_a_slice_that_somebody_deleted_is_not_made_again(cloud):
    cloud.answers(describe=["ACTIVE", NOT_FOUND], ssh_status=[RUNNING, NO_SSH])
    done = supervise(cloud)
    assert done.returncode == 1 and "somebody deleted it" in done.stderr
    assert "create" not in cloud.verbs


def test_delete_when_done(cloud):
    cloud.answers(ssh_status=[DONE])
    assert supervise(cloud, "--delete").returncode == 0
    assert cloud.verbs == ["ssh start", "delete"] and cloud.calls[-1] == DELETE


def test_results_on_the_slice_are_not_deleted(cloud):
    done = cloud.run("supervise.sh", "--delete", "--", "python", "main.py", "--workdir=runs/a")
    assert done.returncode == 2 and "gs://" in done.stderr and cloud.calls == []


@pytest.mark.parametrize("sent, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_offers_deletion_and_leaves_the_command_alone(cloud, sent, code):
    cloud.answers(ssh_status=[RUNNING])
    process = subprocess.Popen(
        [cloud.repository / "tpu_scripts/supervise.sh", "--", *COMMAND],
        env=cloud.env | {"TPU_POLL_S": "600"},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(300):
        if "ssh start" in cloud.verbs:
            break
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(sent)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == code
    assert "keeps running" in stderr and stderr.count(OFFER) == 1
    assert cloud.verbs == ["ssh start"]


def test_a_dry_run_shows_the_whole_way(cloud):
    lines = supervise(cloud, "--dry-run").stdout.splitlines()
    shown = [
        "queued-resources create",
        "git clone",
        "tpu-vm scp",
        "worker.sh install",
        "worker.sh start",
        "worker.sh status",
    ]
    indices = [next(index for index, line in enumerate(lines) if words in line) for words in shown]
    assert indices == sorted(indices) and cloud.calls == []
    assert supervise(cloud, "--dry-run", "--delete").stdout.splitlines()[-1] == DELETE_LINE
