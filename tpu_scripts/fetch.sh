#!/usr/bin/env bash
# Usage: tpu_scripts/fetch.sh [--checkpoints] [--dry-run] WORKDIR [FOLDER]
# Copies a run directory to FOLDER here (runs/NAME unless given); its checkpoints only with --checkpoints.
# WORKDIR is gs://BUCKET/..., or a path in TPU_BUCKET, or, where TPU_BUCKET is empty, a path in ~/tessera on worker 0.

set -euo pipefail
source "$(dirname "$0")/lib.sh"
parse_options "--checkpoints" "$@"
((${#REST[@]} == 1 || ${#REST[@]} == 2)) || fail "fetch.sh needs WORKDIR and perhaps FOLDER; see fetch.sh --help"
load_settings

workdir=${REST[0]%/}
folder=${REST[1]:-runs/$(basename "$workdir")}
if [[ $workdir != gs://* && $TPU_BUCKET ]]; then
  workdir=${TPU_BUCKET%/}/$workdir
fi
run mkdir -p "$folder"
if [[ $workdir == gs://* ]]; then
  without=(--exclude='^checkpoints/.*')
  [[ ! ${CHECKPOINTS:-} ]] || without=()
  run gcloud storage rsync "$workdir" "$folder" --recursive ${without[@]+"${without[@]}"}
else
  pack="tar -cz --exclude=./checkpoints"
  [[ ! ${CHECKPOINTS:-} ]] || pack="tar -cz"
  # A dry run prints the first half; the second has nothing to unpack then.
  on_workers 0 "$pack -C tessera/$(quoted "$workdir") ." |
    if [[ $TPU_DRY_RUN ]]; then cat; else tar -xzf - -C "$folder"; fi
fi
