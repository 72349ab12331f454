# shellcheck shell=bash
# What the scripts share: settings, options, the gcloud commands, the offer to delete. Sourced, never run.

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export TPU_DRY_RUN=${TPU_DRY_RUN:-} TPU_SUPERVISED=${TPU_SUPERVISED:-}
exec 3>&1  # where a dry run prints from inside $(...)

say() { printf '%s\n' "$*" >&2; }

fail() {
  say "error: $*"
  exit 2
}

# quoted WORD...: one line that bash reads as the same words.
quoted() {
  local word line="" quote="'\\''"
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || word="'${word//\'/$quote}'"
    line+="${line:+ }$word"
  done
  printf '%s\n' "$line"
}

# run WORD...: shows a command and runs it; a dry run prints it, on stdout, and no more.
run() {
  if [[ $TPU_DRY_RUN ]]; then
    quoted "$@"
  else
    say "+ $(quoted "$@")"
    "$@"
  fi
}

# parse_options "--delete --worker=" "$@": sets DELETE=yes, WORKER=VALUE; other words, and all after --, go to REST.
parse_options() {
  local known=" $1 " word name
  shift
  REST=()
  while (($#)); do
    word=$1 name=${1%%=*}
    shift
    case $word in
      --) REST+=("$@") && return ;;
      --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" && exit ;;
      --dry-run) TPU_DRY_RUN=yes && continue ;;
      --*=*) [[ $known == *" $name= "* ]] ;;
      --*) [[ $known == *" $word "* ]] ;;
      *) REST+=("$word") && continue ;;
    esac || fail "unknown option $word; see $(basename "$0") --help"
    name=$(tr a-z- A-Z_ <<<"${name#--}")
    if [[ $word == *=* ]]; then printf -v "$name" %s "${word#*=}"; else printf -v "$name" yes; fi
  done
}

no_words() {
  ((${#REST[@]} == 0)) || fail "$(basename "$0") takes no words, but '${REST[0]}' was given"
}

load_settings() {
  local file=${TPU_SETTINGS:-$HERE/settings.sh} name
  [[ -f $file ]] || fail "no $file; copy $HERE/settings.example.sh there and edit it"
  # shellcheck source=settings.example.sh
  source "$file"
  for name in TPU_PROJECT TPU_ZONE TPU_NAME TPU_TYPE TPU_RUNTIME; do
    [[ ${!name:-} ]] || fail "$name is empty; set it in $file"
  done
  for name in TPU_POLL_S TPU_RETRIES TPU_BACKOFF_S; do
    [[ ${!name} =~ ^[0-9]+$ ]] || fail "$name is '${!name}'; it must be a whole number"
  done
  [[ $TPU_SPOT == yes || $TPU_SPOT == no ]] || fail "TPU_SPOT is '$TPU_SPOT'; it must be yes or no"
  [[ $TPU_BUCKET == gs://* || -z $TPU_BUCKET ]] ||
    fail "TPU_BUCKET is '$TPU_BUCKET'; it must begin with gs:// or be empty"
  command -v gcloud >/dev/null || [[ $TPU_DRY_RUN ]] || fail "gcloud is not on the PATH; install the Google Cloud CLI"
  WHERE=(--project="$TPU_PROJECT" --zone="$TPU_ZONE")
  DELETE_COMMAND=(gcloud compute tpus queued-resources delete "$TPU_NAME" "${WHERE[@]}" --force --quiet)
  read -ra SSH_FLAGS <<<"$TPU_SSH_FLAGS" || true
}

# on_workers WORKER COMMAND: runs a command line on one worker, or on all at the same time, through ssh.
on_workers() {
  run gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${WHERE[@]}" ${SSH_FLAGS[@]+"${SSH_FLAGS[@]}"} \
    --worker="$1" --command="$2" </dev/null
}

# worker_script WORKER WORD...: worker.sh with these words, on one worker or on all.
worker_script() {
  on_workers "$1" "bash tessera/tpu_scripts/worker.sh $(quoted "${@:2}")"
}

# slice_state: the state of the queued resource, or of its VM where that says more; NONE when there is none,
# UNKNOWN when gcloud cannot tell (no network, no permission).
slice_state() {
  local state errors node
  if [[ $TPU_DRY_RUN ]]; then
    run gcloud compute tpus queued-resources describe "$TPU_NAME" "${WHERE[@]}" '--format=value(state.state)' >&3
    echo DRY
    return
  fi
  errors=$(mktemp)
  if state=$(gcloud compute tpus queued-resources describe "$TPU_NAME" "${WHERE[@]}" \
    '--format=value(state.state)' 2>"$errors" </dev/null); then
    if [[ $state == ACTIVE ]]; then
      node=$(gcloud compute tpus tpu-vm describe "$TPU_NAME" "${WHERE[@]}" '--format=value(state)' \
        2>/dev/null </dev/null) || true
      [[ $node != PREEMPTED && $node != TERMINATED ]] || state=PREEMPTED
    fi
    echo "$state"
  elif grep -q NOT_FOUND "$errors"; then
    echo NONE
  else
    cat "$errors" >&2
    echo UNKNOWN
  fi
  rm -f "$errors"
}

# offer_delete: asks on a terminal, otherwise prints the command; --delete deletes without a question.
offer_delete() {
  [[ ! $TPU_SUPERVISED ]] || return 0
  if [[ ${DELETE:-} ]]; then
    run "${DELETE_COMMAND[@]}"
    return
  fi
  say "$TPU_NAME may still be there, and then it costs money. To delete it:"
  say "  $(quoted "${DELETE_COMMAND[@]}")"
  if [[ -t 0 && -t 2 && ! $TPU_DRY_RUN ]] && read -r -p "Delete it now? [y/N] " answer && [[ $answer == [yY]* ]]; then
    run "${DELETE_COMMAND[@]}"
  fi
}

# pause SECONDS: a sleep that signals interrupt at once.
pause() {
  sleep "$1" >/dev/null 2>&1 3>&- &
  wait $! || true
}
