#!/usr/bin/env bash
# Runs on a worker, where the other scripts call it through ssh:
#   worker.sh idle                 fails while a command is running here
#   worker.sh install [COMMAND]    makes the environment; then runs a shell command line in the repository
#   worker.sh start WORD...        starts a command in the background, unless the same one is running
#   worker.sh status               prints `tessera: HOST running`, `exited CODE`, `dead`, `none` or `unset`
#   worker.sh stop [SECONDS]       SIGTERM, which saves; SIGKILL for what is left after SECONDS (120)
# Files: ~/tessera (the repository), ~/tessera_venv, ~/runs, ~/tessera_run/{command,pid,exit_code,log}.

set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
venv=$HOME/tessera_venv
state=$HOME/tessera_run

fail() {
  echo "error: $*" >&2
  exit 2
}

# A pid can be given to another process after a restart of the machine, so its name counts too.
running() {
  [[ -f $state/pid ]] && tr '\0' ' ' 2>/dev/null <"/proc/$(<"$state/pid")/cmdline" | grep -q 'worker.sh foreground'
}

idle() {
  ! running || fail "$(uname -n) is running $(<"$state/command"); first: tpu_scripts/stop.sh"
}

# Ubuntu 22.04 on the TPU images has Python 3.10; uv brings a newer one without root.
make_venv() {
  local python
  rm -rf "$venv"
  for python in python3.12 python3.11; do
    if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
      "$python" -m venv "$venv"
      return
    fi
  done
  PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
  python3 -m uv venv --quiet --seed --python 3.12 "$venv"
}

install() {
  idle
  rm -f "$venv/ready"
  [[ -x $venv/bin/python ]] || make_venv
  mkdir -p "$HOME/runs"
  ln -sfn "$HOME/runs" "$repository/runs"
  cd "$repository"
  export PATH=$venv/bin:$PATH
  python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[tpu]'
  [[ -z ${1:-} ]] || bash -euo pipefail -c "$1"
  touch "$venv/ready"
  echo "tessera: $(uname -n) installed"
}

start() {
  local command
  command=$(printf '%q ' "$@")
  [[ -f $venv/ready ]] || fail "$(uname -n) is not set up; first: tpu_scripts/setup.sh"
  if running; then
    [[ $command == "$(<"$state/command")" ]] || idle
  else
    mkdir -p "$state"
    rm -f "$state/exit_code"
    printf '%s\n' "$command" >"$state/command"
    setsid nohup bash "$0" foreground "$@" </dev/null >>"$state/log" 2>&1 &
    echo $! >"$state/pid"
  fi
  echo "tessera: $(uname -n) started"
}

foreground() {
  local child code=0
  cd "$repository"
  export PATH=$venv/bin:$PATH PYTHONUNBUFFERED=1
  echo "=== $(date -u '+%F %T UTC') $(uname -n): $(<"$state/command")"
  "$@" &
  child=$!
  trap 'kill -TERM "$child" 2>/dev/null' TERM
  wait "$child" || code=$?
  # A signal ends `wait` early with 128 + its number; the code of the child comes with the next one.
  while kill -0 "$child" 2>/dev/null; do
    code=0
    wait "$child" || code=$?
  done
  echo "=== $(date -u '+%F %T UTC') $(uname -n): exit code $code"
  echo "$code" >"$state/exit_code.partial"
  mv "$state/exit_code.partial" "$state/exit_code"
}

status() {
  local word="none"
  if [[ ! -f $venv/ready ]]; then
    word="unset"
  elif running; then
    word="running"
  elif [[ -f $state/exit_code ]]; then
    word="exited $(<"$state/exit_code")"
  elif [[ -f $state/pid ]]; then
    word="dead"
  fi
  echo "tessera: $(uname -n) $word"
}

stop() {
  local seconds
  if running; then
    kill -TERM "$(<"$state/pid")"
    for ((seconds = 0; seconds < ${1:-120}; seconds++)); do
      running || break
      sleep 1
    done
    ! running || kill -KILL -- "-$(<"$state/pid")"
  fi
  status
}

"$@"
