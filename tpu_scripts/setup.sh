#!/usr/bin/env bash
# Usage: tpu_scripts/setup.sh [--dry-run]
# Copies the repository as it stands, uncommitted changes included, to ~/tessera on every worker, installs it there
# with the [tpu] extra, and runs TPU_PREPARE. Again after every change of the code; ~/runs on the workers stays.

set -euo pipefail
source "$(dirname "$0")/lib.sh"
parse_options "" "$@"
no_words
load_settings

root=$(cd "$HERE/.." && pwd)
git -C "$root" rev-parse --verify --quiet HEAD >/dev/null ||
  fail "$root is no git checkout with a commit; results rows name one"
export COPYFILE_DISABLE=1 # the tar of macOS would add a ._ file to each file
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT

# The last commit comes along, so that a results row can name it and say whether files differ from it.
run git clone --quiet --depth=1 --no-checkout "file://$root" "$stage/tessera"
# shellcheck disable=SC2016
run bash -euo pipefail -c '
  cd "$1"
  git ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d "" file; do [[ ! -e $file ]] || printf "%s\0" "$file"; done |
    tar --null -T - -cf - | tar -xf - -C "$2"' copy "$root" "$stage/tessera"
run git -C "$stage/tessera" reset --quiet
run tar -czf "$stage/tessera.tgz" -C "$stage" tessera

run gcloud compute tpus tpu-vm scp "$stage/tessera.tgz" "$TPU_NAME:tessera.tgz" "${WHERE[@]}" \
  ${SSH_FLAGS[@]+"${SSH_FLAGS[@]}"} --worker=all
unpack="if [ -e tessera ]; then bash tessera/tpu_scripts/worker.sh idle || exit; fi"
unpack+="; rm -rf tessera && tar -xzf tessera.tgz"
on_workers all "$unpack && bash tessera/tpu_scripts/worker.sh install $(quoted "$TPU_PREPARE")"
