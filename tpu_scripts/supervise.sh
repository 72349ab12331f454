#!/usr/bin/env bash
# Usage: tpu_scripts/supervise.sh [--delete] [--dry-run] -- COMMAND [WORD...]
# Keeps a command running until it is done: creates the slice and sets it up if needed, starts the command on every
# worker, monitors it, and starts over when the slice was preempted or the command saved and stopped (exit code 75).
# Exit code 0 is done; 2 is an invalid command, which is not retried; any other is retried TPU_RETRIES times, with
# exponential backoff. At the end, in every case, deletion of the slice is offered, or done with --delete.
# After Ctrl-C the command keeps running; the same command line resumes monitoring it.

set -euo pipefail
source "$(dirname "$0")/lib.sh"
parse_options "--delete" "$@"
((${#REST[@]})) || fail "supervise.sh needs a command after --; see supervise.sh --help"
load_settings
[[ " ${REST[*]}" == *gs://* || ! ${DELETE:-} ]] ||
  fail "--delete would delete the results too: no word of the command is on gs://, give it --workdir=gs://..."
[[ " ${REST[*]}" == *gs://* ]] ||
  say "warning: no word of the command is on gs://; its run directory is lost with the slice"
had_slice=""      # once it existed, a missing slice was deleted by somebody
AGAIN=75          # the exit code for: nothing is wrong, start me again

log() { say "$(date '+%F %T') $*"; }

# The summary of all workers: running, unset, unreachable, an exit code, or `ending CODE` while others still run.
run_state() {
  local answers code=0
  answers=$(worker_script all status 2>/dev/null) || code=$?
  case $code in
    0) awk '
      $1 != "tessera:" { next }
      $3 == "unset"    { unset = 1 }
      $3 == "running"  { running = 1; next }
      $3 == "exited"   { seen[$4] = 1; any = 1; if ($4 != 0 && $4 != 75) other = $4 }
      $3 == "dead" || $3 == "none" { other = 1; any = 1 }
      END {
        code = (2 in seen) ? 2 : other ? other : (75 in seen) ? 75 : 0
        if (unset) print "unset"
        else if (running) print any && code ? "ending " code : "running"
        else print any ? code : "unreachable"
      }' <<<"$answers" ;;
    127) echo unset ;;      # there is no worker.sh
    *) echo unreachable ;;
  esac
}

# ensure_slice: an ACTIVE slice, set up; what is dead is deleted first.
ensure_slice() {
  local state
  state=$(slice_state)
  case $state in
    UNKNOWN)
      [[ ! $had_slice ]] || return $AGAIN # it could be asked before, so the network is down
      return 1
      ;;
    NONE) [[ ! $had_slice ]] || { log "$TPU_NAME is gone: somebody deleted it" && exit 1; } ;;
    SUSPENDING | DELETING) return $AGAIN ;;
    SUSPENDED | PREEMPTED | FAILED)
      log "$TPU_NAME is $state; deleting it and requesting a new one"
      had_slice=""
      run "${DELETE_COMMAND[@]}" || return
      ;;
  esac
  [[ $state == ACTIVE ]] || "$HERE/create.sh" || return
  had_slice=yes
  if [[ $state != ACTIVE || $(run_state) == unset ]]; then
    "$HERE/setup.sh" || return
  fi
}

# slice_lost: whether the slice was taken away. FAILED is not: it was never there.
slice_lost() {
  case $(slice_state) in
    SUSPENDING | SUSPENDED | PREEMPTED) log "$TPU_NAME was preempted" ;;
    *) return 1 ;;
  esac
}

# watch: the exit code of the command, once it has ended on all workers.
watch() {
  local state before="" ending=0 unreachable=0
  if [[ $TPU_DRY_RUN ]]; then
    worker_script all status
    return
  fi
  while true; do
    pause "$TPU_POLL_S"
    state=$(run_state)
    [[ $state == "$before" ]] || log "$TPU_NAME: $state"
    before=$state
    case $state in
      running) ending=0 unreachable=0 ;;
      ending*) # by itself the trainer ends within a minute when one of its processes has died
        if ((++ending == 5)); then
          "$HERE/stop.sh" >&2 || true
          return "${state#ending }"
        fi
        ;;
      unreachable) # that counts only while the slice can be asked about: else the network here is down
        case $(slice_state) in
          UNKNOWN) ;;
          ACTIVE) ((++unreachable < 10)) || return 1 ;;
          *) return 1 ;;
        esac
        ;;
      unset) return 1 ;;
      *) return "$state" ;;
    esac
  done
}

attempt() {
  local code=0
  { ensure_slice && "$HERE/run.sh" -- "${REST[@]}" && watch; } || code=$?
  ((code == 0 || code == 2 || code == AGAIN)) || ! slice_lost || code=$AGAIN
  return "$code"
}

show_log() {
  [[ ! $had_slice ]] || "$HERE/logs.sh" --worker=all --tail=20 --once >&2 || true
}

supervise() {
  local code failures=0 wait_s=$TPU_BACKOFF_S
  while true; do
    code=0
    attempt || code=$?
    case $code in
      0) log "done" && return ;;
      2)
        show_log
        log "exit code 2: an invalid command or setting, which a retry would not fix"
        return 2
        ;;
      "$AGAIN") log "restarting in $TPU_POLL_S s" && pause "$TPU_POLL_S" ;;
      *)
        show_log
        ((++failures <= TPU_RETRIES)) || { log "exit code $code: failure $failures, no more tries" && return "$code"; }
        log "exit code $code: failure $failures of at most $TPU_RETRIES; retrying in $wait_s s"
        pause "$wait_s"
        wait_s=$((2 * wait_s))
        ;;
    esac
  done
}

finish() {
  local code=$?
  TPU_SUPERVISED=""
  [[ $code -lt 129 || ${DELETE:-} ]] ||
    say "A command that is running on the workers keeps running; the same command line resumes monitoring it."
  offer_delete || true
  exit $code
}

trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
TPU_SUPERVISED=yes
supervise
