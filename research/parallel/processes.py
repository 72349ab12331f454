"""Start-up of a run that spans several processes; on one process it does nothing."""

import os

import jax


def _num_processes() -> int:
    """How many processes the launcher started, as far as the environment tells."""
    env = os.environ
    for count in ("JAX_NUM_PROCESSES", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"):
        if count in env:
            return int(env[count])
    return len(env.get("TPU_WORKER_HOSTNAMES", "localhost").split(","))


def initialize() -> None:
    """Joins the processes of one run; call it before anything touches a device.

    The launcher is found as `jax.distributed` finds it (Cloud TPU, SLURM, Open MPI), or named by the variables
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    """
    if _num_processes() == 1 or jax.distributed.is_initialized():
        return
    if "JAX_NUM_PROCESSES" in os.environ:
        jax.distributed.initialize(
            num_processes=int(os.environ["JAX_NUM_PROCESSES"]), process_id=int(os.environ["JAX_PROCESS_ID"])
        )
    else:
        jax.distributed.initialize()


def is_main() -> bool:
    """Whether this process writes the logs, rows and messages of the run."""
    return jax.process_index() == 0
