# shellcheck shell=bash disable=SC2034
# The slice and where it lives. Copy this file to tpu_scripts/settings.sh, which git ignores, and edit the copy.
# A variable of the same name in the environment wins: TPU_SPOT=no tpu_scripts/create.sh

: "${TPU_PROJECT=my-project}"             # gcloud projects list
: "${TPU_ZONE=us-west4-a}"                # where your project has quota for the type below
: "${TPU_NAME=tessera}"                   # of the queued resource and of the TPU VM
: "${TPU_TYPE=v5litepod-16}"              # 16 chips of v5e: 4 workers. v4 and v5p count cores, 2 a chip: v5p-128
: "${TPU_RUNTIME=v2-alpha-tpuv5-lite}"    # v6e: v2-alpha-tpuv6e; v5p: v2-alpha-tpuv5; v4: tpu-ubuntu2204-base
: "${TPU_SPOT=yes}"                       # yes: cheaper, can be preempted at any time; no: on demand
: "${TPU_BUCKET=gs://my-bucket}"          # run directories live here, so that they outlive the slice

# A shell command line that every worker runs at the end of each set-up, in the repository: new slices have empty disks.
# Write ~ for the home folder there; $HOME would be the one here.
: "${TPU_PREPARE=python -m research.data prepare digits}"

: "${TPU_CREATE_FLAGS=}"                  # more flags for `queued-resources create`, such as --network=NAME
: "${TPU_SSH_FLAGS=}"                     # more flags for `tpu-vm ssh` and `scp`, such as --internal-ip

# The supervisor: polling interval (s), number of retries, and the pause before the first one (s), then doubled.
: "${TPU_POLL_S=60}"
: "${TPU_RETRIES=5}"
: "${TPU_BACKOFF_S=60}"
