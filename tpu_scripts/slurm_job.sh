#!/usr/bin/env bash
# Usage: sbatch --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 tpu_scripts/slurm_job.sh COMMAND [WORD...]
# Runs a command as one process for each GPU of a SLURM job, from the root of the repository, in its .venv. Two minutes
# before the time limit, or on preemption, training saves and exits with 75, and the job is requeued.
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append

set -euo pipefail
if (($# == 0)); then
  echo "error: slurm_job.sh needs a command" >&2
  exit 2
fi
export PATH=$PWD/.venv/bin:$PATH

code=0
srun --kill-on-bad-exit=0 "$@" || code=$? # the highest exit code of all processes
if ((code == 75)); then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
