#!/usr/bin/env bash
# Builds the Python wheel (abi3: one for all versions of Python) into dist/: `make wheel`.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
"$ROOT/tools/setup.sh" check

venv_install maturin
"$TOOLS/venv/bin/maturin" build --release --strip --manifest-path python/Cargo.toml --out dist
ls -l dist
