#!/usr/bin/env bash
# A pod on one machine: starts N processes of one run on loopback, each with virtual CPU devices of its own.
#
#   tpu_scripts/local_pod.sh [--devices=K] N -- COMMAND [ARGUMENT ...]
#
#   --devices=K   virtual devices of each process (1)
#
# Each process finds the others through JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. Its output is
# shown with its number in front. SIGTERM and SIGINT are passed on to all; to reach one, signal the pid that is printed.
# Exit code: 0 or 75 (saved after SIGTERM, start again) when every process left with it; otherwise that of a process
# that was killed (128 + n for signal n), or of the first that failed. Processes that outlive a failed one by 90 seconds
# are killed.
set -uo pipefail

readonly GRACE_S=90

fail() {
  echo "error: $*" >&2
  exit 2
}

devices=1
while [[ "${1:-}" == --?* ]]; do
  case "$1" in
    --devices=*) devices="${1#*=}" ;;
    --help)
      sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
      exit 0
      ;;
    *) fail "unknown option $1; see $0 --help" ;;
  esac
  shift
done
count="${1:-}"
[[ "$count" =~ ^[1-9][0-9]*$ ]] || fail "the number of processes must be at least 1, not '$count'; see $0 --help"
[[ "$devices" =~ ^[1-9][0-9]*$ ]] || fail "--devices must be at least 1, not '$devices'"
[[ "${2:-}" == -- && $# -gt 2 ]] || fail "a command must follow '$count --'; see $0 --help"
shift 2

folder="$(mktemp -d)" || exit 1
pids=() printers=() codes=()

# Job control gives every process a group of its own, so that what it started can be signalled together with it.
set -m

# shellcheck disable=SC2329  # the trap below calls it
clean_up() {
  for pid in "${pids[@]}"; do kill -KILL -- "-$pid" 2>/dev/null; done
  rm -rf "$folder"
}
pass_on() {
  for pid in "${pids[@]}"; do kill -s "$1" -- "-$pid" 2>/dev/null; done
}
trap clean_up EXIT
trap 'pass_on TERM' TERM
trap 'pass_on INT' INT

# A port that nobody listens on.
port=$((20000 + RANDOM % 12000))
while (: </dev/tcp/127.0.0.1/"$port") 2>/dev/null; do port=$((port + 1)); done

export JAX_PLATFORMS=cpu JAX_CPU_COLLECTIVES_IMPLEMENTATION=gloo PYTHONUNBUFFERED=1
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices"
export JAX_COORDINATOR_ADDRESS="127.0.0.1:$port" JAX_COORDINATOR_BIND_ADDRESS="127.0.0.1:$port"
export JAX_NUM_PROCESSES="$count"
for ((index = 0; index < count; index++)); do
  mkfifo "$folder/$index"
  # The printer stays when the pod is signalled, to show the last lines; it ends with the process.
  (trap '' TERM INT && exec sed -u "s/^/[$index] /") <"$folder/$index" &
  printers+=("$!")
  JAX_PROCESS_ID="$index" "$@" >"$folder/$index" 2>&1 </dev/null &
  pids+=("$!")
  echo "local_pod: process $index is pid ${pids[index]}" >&2
done

# `wait` is ended early by a signal, so the end of each process is looked for again and again.
failure=0 failed_at=0 left=$count grace_over=""
while ((left > 0)); do
  sleep 0.1
  for ((index = 0; index < count; index++)); do
    if [[ -z "${codes[index]:-}" ]] && ! kill -0 "${pids[index]}" 2>/dev/null; then
      code=0
      wait "${pids[index]}" 2>/dev/null || code=$?
      codes[index]=$code
      left=$((left - 1))
      if ((code != 0 && code != 75)); then
        echo "local_pod: process $index ended with $code" >&2
        if ((failure == 0)); then failed_at=$SECONDS; fi
        # What ended the others within one look around is the one that was killed.
        if ((failure == 0 || (failure < 128 && code > 128))) && [[ -z "$grace_over" ]]; then failure=$code; fi
      fi
    fi
  done
  if ((failure && left && SECONDS - failed_at > GRACE_S)) && [[ -z "$grace_over" ]]; then
    echo "local_pod: $left processes outlived it by $GRACE_S s and are killed" >&2
    grace_over=yes
    pass_on KILL
  fi
done
# What the processes left behind, such as data workers, ends now; then the last lines are shown.
pass_on KILL
wait "${printers[@]}" 2>/dev/null

if ((failure)); then exit "$failure"; fi
for code in "${codes[@]}"; do
  if ((code == 75)); then exit 75; fi
done
exit 0
