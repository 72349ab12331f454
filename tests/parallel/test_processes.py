"""The launchers that start several processes, and how the processes find out that they were not started alike."""

import pytest

from research.parallel import processes
from research.parallel.processes import ProcessInfo

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[003-004]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
EXPLICIT = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:99", "JAX_NUM_PROCESSES": "3", "JAX_PROCESS_ID": "2"}
FIRST_PORT = 65535 - 2**12 + 1  # where JAX begins to count


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """One without a launcher, whatever the tests are run under."""
    for name in (*SLURM, *OPEN_MPI, *EXPLICIT, "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"):
        monkeypatch.delenv(name, raising=False)
    return lambda variables: [monkeypatch.setenv(*pair) for pair in variables.items()]


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({}, None),
        (SLURM, ProcessInfo(f"node003:{FIRST_PORT + 7}", 4, 2)),
        (SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"}, None),  # in a batch script outside srun there is one process
        (OPEN_MPI, ProcessInfo(f"10.96.0.1:{FIRST_PORT + 1531576320 // 2**12 % 2**12}", 2, 1)),
        (EXPLICIT, ProcessInfo("10.0.0.1:99", 3, 2)),
        (SLURM | EXPLICIT, ProcessInfo("10.0.0.1:99", 3, 2)),
        ({"JAX_NUM_PROCESSES": "1"}, None),
    ],
)
def test_the_launcher_is_found(variables, place, environment):
    environment(variables)
    assert processes.detect_cluster() == place


@pytest.mark.parametrize("hosts", ["10.0.0.5", "10.0.0.5,10.0.0.6,10.0.0.7"])
def test_a_cloud_tpu_slice_is_found(hosts, environment, monkeypatch):
    from jax._src.clusters import cloud_tpu_cluster

    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(cloud_tpu_cluster, "get_tpu_env_value_from_metadata", lambda key: None)
    environment({"TPU_WORKER_HOSTNAMES": hosts, "TPU_WORKER_ID": "1", "TPU_SKIP_MDS_QUERY": "1"})
    assert processes.detect_cluster() == (ProcessInfo("10.0.0.5:8482", 3, 1) if "," in hosts else None)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_COORDINATOR_ADDRESS and JAX_PROCESS_ID is not set"),
        (EXPLICIT | {"JAX_PROCESS_ID": "3"}, "JAX_PROCESS_ID=3 must be at least 0 and less than JAX_NUM_PROCESSES=3"),
        (EXPLICIT | {"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES='two' must be an integer"),
        (EXPLICIT | {"JAX_COORDINATOR_ADDRESS": "host"}, "JAX_COORDINATOR_ADDRESS='host' must be HOST:PORT"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "several processes, but not all of JAX_COORDINATOR_ADDRESS"),
        ({"JAX_COORDINATOR_ADDRESS": "10.0.0.1:99"}, "several processes, but not all of JAX_COORDINATOR_ADDRESS"),
    ],
)
def test_an_environment_that_does_not_fit_together_is_refused(variables, message, environment):
    environment(variables)
    with pytest.raises(ValueError, match=message):
        processes.detect_cluster()


def test_a_disagreement_names_the_field_the_values_and_the_processes():
    everyone = [{"a": 1, "b": [2]}, {"a": 1, "b": [3]}, {"a": 1}, {"a": 1, "b": [2]}]
    assert processes._disagreement("a", everyone) is None
    line = 'b is [2] on process 0, 3 and [3] on process 1 and "absent" on process 2'
    assert processes._disagreement("b", everyone) == line
