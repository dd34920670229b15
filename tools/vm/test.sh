#!/usr/bin/env bash
# Runs the tests that need a real ZFS in a guest that has it: `make test-vm`. An argument is a filter of their names.
#
# The first time makes the guest (tools/vm/setup.sh). Emulated, the tests take a quarter of an hour; they end after
# BARMAN_SNAP_VM_SECONDS (3600) in any case. No part of .ci/run.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

rc=0
"$ROOT/tools/vm/setup.sh" || rc=$?
# It has said why.
if [ "$rc" = "$SKIPPED" ]; then exit 0; fi
[ "$rc" = 0 ] || exit "$rc"

say "building"
heavy cargo build --quiet --workspace --all-features --bin barman-snap
share=$(mktemp -d "$VM/tests.XXXXXX")
trap 'rm -rf "$share"' EXIT
# All in one call, and with the features of `make test`: other ones would build the clouds' libraries again.
built=$(heavy cargo test --workspace --all-features --no-run --test conformance_local --test local_zfs --test zfs 2>&1) ||
    die "$built"
for name in conformance_local local_zfs zfs; do
    program=$(echo "$built" | sed -n "s|.*tests/$name\.rs (\(.*\))$|\1|p")
    [ -n "$program" ] || die "cargo has not said where the test program $name is: $built"
    cp "$program" "$share/$name.test"
done
cp "$(target_dir)/debug/barman-snap" "$share/"
echo "${1:-}" >"$share/filter"
say "running the tests in the guest"
"$ROOT/tools/vm/run.sh" "${BARMAN_SNAP_VM_SECONDS:-3600}" "$ROOT/tools/vm/job.sh" "$share"/*
