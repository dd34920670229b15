#!/usr/bin/env bash
# The C header, generated from the Rust sources of ffi: `tools/header.sh write|check`.
#
# The generator is a test of the ffi crate, so that its version is pinned in Cargo.lock like everything else:
# with UPDATE_HEADER=1 it writes include/barman_snap.h, without it fails when the file differs. It is built with the whole
# workspace's features, so that the tests after it find the libraries of the clouds built.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

case ${1:-check} in
write) UPDATE_HEADER=1 cargo test --quiet --workspace --all-features --test header ;;
check) cargo test --quiet --workspace --all-features --test header ;;
*) die "usage: tools/header.sh write|check" ;;
esac
