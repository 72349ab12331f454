"""The job script hands its words to srun, and goes back to the queue exactly when training saved."""

import os
import subprocess

import pytest

from tests.tpu_scripts.conftest import SCRIPTS


@pytest.mark.parametrize("code, requeued", [(0, False), (75, True), (2, False), (1, False)])
def test_a_job_that_saved_goes_back_to_the_queue(tmp_path, code, requeued):
    log = tmp_path / "log"
    for name, ends in {"srun": code, "scontrol": 0}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\nprintf '<%s>' {name} \"$@\" >> {log}\nexit {ends}\n")
        (tmp_path / name).chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    done = subprocess.run([SCRIPTS / "slurm_job.sh", "python", "-m", "main", "a b"], env=env, cwd=tmp_path)
    assert done.returncode == code
    received = "<srun><--kill-on-bad-exit=0><python><-m><main><a b>"
    assert log.read_text() == received + ("<scontrol><requeue><7>" if requeued else "")


def test_a_job_without_a_command_is_a_mistake():
    done = subprocess.run([SCRIPTS / "slurm_job.sh"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "error: slurm_job.sh needs a command\n"
