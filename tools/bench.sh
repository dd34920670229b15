#!/usr/bin/env bash
# Measures backups against pg_basebackup, restores against cp, WAL archiving against the stock tools, on clusters made for
# it: `make bench`, or `make bench SIZE=10G` (50 GB of free disk; 2G is the default and wants 12). Without make, further
# arguments go to the program: `tools/bench.sh --only btrfs --runs 1`.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
"$ROOT/tools/setup.sh" test

size=${SIZE:-2G}
base=${BARMAN_SNAP_TEST_DIR:-/var/tmp}
case $size in 2G) want=12 ;; 10G) want=50 ;; *) want=0 ;; esac
free=$(($(df --output=avail -k "$base" | tail -n 1) >> 20))
[ "$free" -ge "$want" ] || die "$want GB are needed in $base, $free are free; BARMAN_SNAP_TEST_DIR may name another place"

say "building with optimisation"
cargo build --quiet --release -p barman-snap-cli
cargo build --quiet --release -p barman-snap-tests --bin bench
out=$(target_dir)
exec "$out/release/bench" "$size" --json "$out/bench-$size.json" "$@"
