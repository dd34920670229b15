#!/usr/bin/env bash
# Shows the whole story on a PostgreSQL made for it, and leaves nothing behind: `make demo`.
#
# Built without the cloud SDKs, which take most of the time of a full build.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
"$ROOT/tools/setup.sh" demo

say "building (about two minutes the first time)"
cargo build --quiet -p barman-snap-cli --no-default-features
cargo build --quiet -p barman-snap-tests --bin demo
# Not `cargo run`: cargo would stand between the terminal and the program when somebody presses Ctrl-C.
exec "$(target_dir)/debug/demo" "$@"
