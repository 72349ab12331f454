#!/usr/bin/env bash
# Usage: tpu_scripts/delete.sh [--dry-run]
# Deletes the slice of settings.sh with its disks. What lies on gs:// stays. On a terminal it asks first.

set -euo pipefail
source "$(dirname "$0")/lib.sh"
parse_options "" "$@"
no_words
load_settings

if [[ -t 0 && -t 2 && ! $TPU_DRY_RUN ]]; then
  read -r -p "Delete $TPU_NAME in $TPU_ZONE with its disks? [y/N] " answer
  [[ $answer == [yY]* ]] || exit 1
fi
run "${DELETE_COMMAND[@]}"
