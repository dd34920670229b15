#!/usr/bin/env bash
# Runs a script in the guest and ends with its status: `tools/vm/run.sh SECONDS SCRIPT [FILE...]`.
#
# The guest is booted for it and switched off afterwards, after SECONDS at the latest. SCRIPT and the FILEs (links or copies,
# by their names) are in /host, where the script begins. What it says is shown when it has ended; where the guest did not come
# that far, its console is.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

[ $# -ge 2 ] || die "usage: tools/vm/run.sh SECONDS SCRIPT [FILE...]"
seconds=$1
script=$2
shift 2
"$ROOT/tools/vm/setup.sh"

run=$(mktemp -d "$VM/run.XXXXXX")
trap 'rm -rf "$run"' EXIT
mkdir -m 0755 "$run/share"
cp "$script" "$run/share/job"
for file in "$@"; do
    # A program without what only a debugger reads: the guest has little memory, and reads it through a socket.
    strip --strip-debug -o "$run/share/$(basename "$file")" "$file" 2>/dev/null || cp "$file" "$run/share/"
done
begin=$(date +%s)
rc=0
guest "$run" "$seconds" -serial "file:$run/console" || rc=$?
[ ! -e "$run/share/output" ] || cat "$run/share/output"
if [ ! -e "$run/share/status" ]; then
    tail -n 30 "$run/console" >&2 || true
    die "the guest did not end its work ($([ $rc = 124 ] && echo "after $seconds s" || echo "status $rc of qemu"))"
fi
say "$(accelerator): $(($(date +%s) - begin)) s in all, $(sed -n 's/.*GUEST READY \([0-9.]*\).*/\1/p' "$run/console") s of them to boot"
exit "$(cat "$run/share/status")"
