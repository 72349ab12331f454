#!/usr/bin/env bash
# Usage: tpu_scripts/status.sh [--dry-run]
# Shows the state of the slice, and of the command on every worker.

set -euo pipefail
source "$(dirname "$0")/lib.sh"
parse_options "" "$@"
no_words
load_settings

state=$(slice_state)
echo "$TPU_NAME ($TPU_TYPE in $TPU_ZONE): $state"
if [[ $state == ACTIVE || $state == DRY ]]; then
  worker_script all status
fi
