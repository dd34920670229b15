#!/usr/bin/env bash
# Builds the Python module into the tools' environment and proves its type stubs against it: `make stubs`.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

venv_install maturin mypy pytest
say "building the Python module"
# maturin installs into the environment that is active.
VIRTUAL_ENV=$TOOLS/venv "$TOOLS/venv/bin/maturin" develop --quiet --manifest-path python/Cargo.toml
say "comparing the stubs"
"$TOOLS/venv/bin/python" -m mypy.stubtest barman_snap
