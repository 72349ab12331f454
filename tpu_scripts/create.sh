#!/usr/bin/env bash
# Usage: tpu_scripts/create.sh [--no-wait] [--delete] [--dry-run]
# Requests the slice of settings.sh from Cloud TPU (a queued resource, spot or on demand) and waits until it is ACTIVE.
# If this fails or is interrupted, deletion is offered, or done with --delete. Exit code 75: preempted meanwhile.

set -euo pipefail
source "$(dirname "$0")/lib.sh"
parse_options "--no-wait --delete" "$@"
no_words
load_settings

ask_for_it() {
  local flags=() spot=()
  read -ra flags <<<"$TPU_CREATE_FLAGS" || true
  [[ $TPU_SPOT == no ]] || spot=(--spot)
  run gcloud compute tpus queued-resources create "$TPU_NAME" "${WHERE[@]}" --node-id="$TPU_NAME" \
    --accelerator-type="$TPU_TYPE" --runtime-version="$TPU_RUNTIME" \
    ${spot[@]+"${spot[@]}"} ${flags[@]+"${flags[@]}"}
}

wait_until_active() {
  local state before=""
  while true; do
    state=$(slice_state)
    [[ $state == "$before" ]] || say "$(date '+%F %T') $TPU_NAME: $state"
    before=$state
    case $state in
      ACTIVE | DRY) return ;;
      SUSPENDING | SUSPENDED | PREEMPTED) return 75 ;;
      FAILED | DELETING | NONE)
        run gcloud compute tpus queued-resources describe "$TPU_NAME" "${WHERE[@]}" >&2 || true
        return 1
        ;;
    esac
    pause "$TPU_POLL_S"
  done
}

finish() {
  local code=$?
  ((code == 0)) || offer_delete
  exit $code
}

trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
case $(slice_state) in
  NONE | DRY) ask_for_it ;;
  UNKNOWN) exit 1 ;;
  FAILED | SUSPENDING | SUSPENDED | PREEMPTED | DELETING)
    say "error: there is a $TPU_NAME already that no longer works; delete it first"
    exit 1
    ;;
esac
[[ ${NO_WAIT:-} ]] || wait_until_active
