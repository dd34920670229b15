#!/usr/bin/env bash
# Measures backups against pg_basebackup on clusters made for it: `make bench`. Arguments go to the program.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
"$ROOT/tools/setup.sh" test

say "building with optimisation"
cargo build --quiet --release -p barman-snap-cli --no-default-features
cargo build --quiet --release -p barman-snap-tests --bin bench
exec "$(target_dir)/release/bench" "$@"
