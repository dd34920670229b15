#!/usr/bin/env bash
# Shows the whole story on a PostgreSQL made for it, and leaves nothing behind: `make demo`.
#
# Built without optimisation and without the cloud SDKs, which take most of the time of a full build.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
"$ROOT/tools/setup.sh" demo

say "building (about two minutes the first time)"
# In one go, so that both programs share what they are made of.
cargo build --quiet --no-default-features -p barman-snap-cli -p barman-snap-tests --bin barman-snap --bin demo
# Not `cargo run`: cargo would stand between the terminal and the program when somebody presses Ctrl-C.
exec "$(target_dir)/debug/demo" "$@"
