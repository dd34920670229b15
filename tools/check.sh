#!/usr/bin/env bash
# What must hold before a change is read by anybody: `make check`. Changes nothing, runs no server.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
"$ROOT/tools/setup.sh" check

# step NAME COMMAND... runs a check and remembers when it failed, so that one run shows all that is wrong.
failed=()
step() {
    local name=$1
    shift
    say "$name"
    "$@" || failed+=("$name")
}

# Longer files are divided: nobody reads them top-down.
file_lengths() {
    local file lines rc=0
    while IFS= read -r file; do
        lines=$(wc -l <"$file")
        if [ "$lines" -gt 600 ]; then
            echo "$file has $lines lines, more than 600" >&2
            rc=1
        fi
    done < <(git ls-files '*.rs' '*.py' '*.pyi' '*.c' '*.h' '*.sh' ':!include/barman_snap.h')
    return $rc
}

# Paths and hosts of one machine work on no other. The letters in brackets keep this file out of the finding.
machine_paths() {
    ! git grep -nIE '(^|[^A-Za-z0-9._-])/(wor[k]/|far[m]/|home/[a-z]|Users/[a-z])|artifactor[y]|codearti[f]act' -- . ':!tests/fixtures'
}

# A dead link in a script is found when somebody needs it.
shell_syntax() {
    local file
    for file in tools/*.sh tools/vm/*.sh .ci/run examples/playground/playground examples/playground/lib/*.sh; do bash -n "$file" || return 1; done
}

docs() { RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps --all-features; }

step "format" cargo fmt --all --check
step "file lengths" file_lengths
step "machine paths" machine_paths
step "shell syntax" shell_syntax
step "clippy" cargo clippy --quiet --workspace --all-targets --all-features -- -D warnings
step "documentation" docs
if [ -e ffi/Cargo.toml ]; then step "C header" tools/header.sh check; fi
# Without advisories: those come from outside, and must not turn an old commit red.
step "licences and sources" cargo deny --all-features --log-level error check --hide-inclusion-graph bans licenses sources

if [ ${#failed[@]} -gt 0 ]; then
    die "failed: $(IFS=,; echo "${failed[*]}")"
fi
say "all checks passed"
