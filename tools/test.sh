#!/usr/bin/env bash
# Runs every test in every language: `make test`. Arguments go to the runner of the Rust tests (a filter, say), and then
# only those run.
#
# The tests use real servers and file systems; the PostgreSQL servers run as user postgres when this runs as root.
# Without root there are no loop mounts, and the tests that need one say that they were skipped. With CI=true such a
# skip is a failure.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
"$ROOT/tools/setup.sh" test

say "building"
# All of it, because the tests run the command line as a program, which cargo cannot know.
cargo build --quiet --workspace --all-targets --all-features

if [ $# = 0 ]; then
    say "examples in the documentation"
    cargo test --quiet --workspace --all-features --doc
fi

say "Rust tests"
if cargo nextest --version >/dev/null 2>&1; then
    profile=default
    [ "${CI:-}" != true ] || profile=ci
    cargo nextest run --workspace --all-features --profile "$profile" "$@"
else
    # A few at a time: cargo test knows no groups, and too many servers at once make every one of them slow.
    cargo test --workspace --all-features --lib --bins --tests "$@" -- --test-threads 2
fi
[ $# = 0 ] || exit 0

say "fakes of the clouds"
(cd tests && "$TOOLS/venv/bin/python" -m mypy --strict clouds)
"$TOOLS/venv/bin/python" -m pytest -q tests/clouds

say "scripts and containers"
scripts=(tools/*.sh tools/vm/*.sh .ci/run examples/playground/playground examples/playground/lib/*.sh)
"$TOOLS/venv/bin/shellcheck" --external-sources --source-path tools:examples/playground --shell bash "${scripts[@]}"
"$TOOLS/venv/bin/hadolint" examples/playground/docker/Dockerfile
"$TOOLS/venv/bin/check-jsonschema" --quiet --builtin-schema vendor.compose-spec examples/playground/docker/compose.yaml

say "documentation site"
"$TOOLS/venv/bin/python" -m mkdocs build --quiet --strict --site-dir "$(target_dir)/site"

if [ -e examples/c/Makefile ]; then
    say "C example"
    make --no-print-directory -C examples/c test LIBDIR="$(target_dir)/debug"
fi

if [ -e python/pyproject.toml ]; then
    say "Python tests"
    "$ROOT/tools/stubs.sh"
    # Whether threads run at once is seen without others beside them; the rest mostly waits for servers.
    "$TOOLS/venv/bin/python" -m pytest -q python/tests/test_threads.py
    "$TOOLS/venv/bin/python" -m pytest -q --numprocesses 3 --ignore python/tests/test_threads.py python/tests
fi
