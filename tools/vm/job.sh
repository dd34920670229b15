#!/bin/bash
# What `make test-vm` runs inside of the guest: every test program in /host (`*.test`), one test at a time. FILTER, if
# /host/filter has one, is that of the tests.
set -uo pipefail
mkfs.ext4 -q -F /dev/disk/by-id/virtio-diska && mkdir -p /cycle && mount /dev/disk/by-id/virtio-diska /cycle || exit 1
# Servers run as another user.
chmod 755 /cycle
if [ -e /host/barman-snap ]; then install -m 755 /host/barman-snap /cycle/barman-snap; fi
export TMPDIR=/cycle BARMAN_SNAP_TEST_DIR=/cycle BARMAN_SNAP_BIN=/cycle/barman-snap BARMAN_SNAP_PG_BIN_DIRS=/usr/local/lib/pg/bin
export RUST_BACKTRACE=0 CI=true
modprobe loop
# Without it every test would be skipped.
[ -e /sys/module/zfs ] || { echo "the guest has no ZFS"; exit 1; }
failed=()
for program in /host/*.test; do
    name=$(basename "$program" .test)
    install -m 755 "$program" /cycle/test
    echo "==> $name"
    begin=$SECONDS
    filter=$(cat /host/filter 2>/dev/null)
    # The conformance suite of the other methods runs everywhere.
    [ "$name" != conformance_local ] || filter=zfs_snapshots_pass
    # shellcheck disable=SC2086,SC2266 # Words; and it is meant to be piped.
    /cycle/test --test-threads 1 --nocapture $filter 2>&1 | tee /cycle/said
    [ "${PIPESTATUS[0]}" = 0 ] || failed+=("$name")
    # Here it would hide that nothing was tested.
    ! grep -q 'skipped:' /cycle/said || failed+=("$name (skipped)")
    echo "    $((SECONDS - begin)) s"
done
if [ ${#failed[@]} -gt 0 ]; then echo "failed: ${failed[*]}"; exit 1; fi
