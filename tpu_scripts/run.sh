#!/usr/bin/env bash
# Usage: tpu_scripts/run.sh [--dry-run] -- COMMAND [WORD...]
# Starts a command on every worker, in the background: in ~/tessera, in its environment, with its output in
# ~/tessera_run/log. The words arrive as they are given here; no shell reads them again. Where the same command is
# running already, it is left alone.

set -euo pipefail
source "$(dirname "$0")/lib.sh"
parse_options "" "$@"
((${#REST[@]})) || fail "run.sh needs a command after --; see run.sh --help"
load_settings

worker_script all start "${REST[@]}"
say "running in the background; to watch: tpu_scripts/logs.sh, tpu_scripts/status.sh"
