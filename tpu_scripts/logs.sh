#!/usr/bin/env bash
# Usage: tpu_scripts/logs.sh [--worker=0|N|all] [--tail=LINES] [--once] [--dry-run]
# Follows the log of the command on a worker (Ctrl-C stops following, not the command); --once prints it and exits.

set -euo pipefail
source "$(dirname "$0")/lib.sh"
parse_options "--worker= --tail= --once" "$@"
no_words
load_settings

follow="-F "
[[ ! ${ONCE:-} ]] || follow=""
on_workers "${WORKER:-0}" "tail ${follow}-n $(quoted "${TAIL:-100}") tessera_run/log"
