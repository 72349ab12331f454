#!/usr/bin/env bash
# Usage: tpu_scripts/stop.sh [--grace=SECONDS] [--dry-run]
# Stops the command on every worker: SIGTERM, on which training saves; after --grace (120 s), SIGKILL for what is left.

set -euo pipefail
source "$(dirname "$0")/lib.sh"
parse_options "--grace=" "$@"
no_words
load_settings

worker_script all stop "${GRACE:-120}"
