#!/usr/bin/env bash
# A shell in the guest: `tools/vm/boot.sh [DIRECTORY]`. DIRECTORY is /host there. `exit` switches it off.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

"$ROOT/tools/vm/setup.sh"
run=$(mktemp -d "$VM/run.XXXXXX")
trap 'rm -rf "$run"' EXIT
if [ $# -gt 0 ]; then ln -s "$(cd "$1" && pwd -P)" "$run/share"; else mkdir "$run/share"; fi
guest "$run" "${BARMAN_SNAP_VM_SECONDS:-86400}" -serial mon:stdio
