#!/usr/bin/env bash
# Installs the Python module into the tools' environments, as a wheel like any user's, and proves its type stubs against
# it: `make stubs`. The others are those of the Barmans that the adapter is tested with. The examples and the tests are type-checked as well.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

venv_install maturin mypy pyright pytest pytest-xdist typing_extensions
say "building the Python module"
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
# Not `maturin develop`: that leads back into the checkout, which the user of the PostgreSQL servers may be unable to enter.
"$TOOLS/venv/bin/maturin" build --quiet --profile dev --features conformance --interpreter "$TOOLS/venv/bin/python" \
    --manifest-path python/Cargo.toml --out "$wheels"
"$TOOLS/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$wheels"/*.whl
for barman in "$TOOLS"/barman-*/bin/python; do
    [ ! -x "$barman" ] || "$barman" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$wheels"/*.whl
done
say "comparing the stubs"
"$TOOLS/venv/bin/python" -m mypy.stubtest barman_snap
"$TOOLS/venv/bin/python" -m mypy --strict -p barman_snap
"$TOOLS/venv/bin/python" -m mypy --strict examples/python python/tests
# Brings its own Node.js where there is none.
"$TOOLS/venv/bin/python" -m pyright --pythonpath "$TOOLS/venv/bin/python" examples/python python/tests
