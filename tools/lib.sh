# What the scripts of this folder share. Sourced, never run; the caller has `set -euo pipefail`.
#
# Gives: ROOT (the checkout), TOOLS (where downloaded tools are kept), say, die, has, as_root, python, make_venv,
# venv_install, target_dir, and a PATH and toolchain that work here. Names no host: apt, pip and cargo are used as the
# machine has them set up.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

# Runs a command as root, or says what root would have to do.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif has sudo && sudo -n true 2>/dev/null; then sudo "$@"
    else die "root is needed for: $*"
    fi
}

# Whether every user can enter this directory. PostgreSQL refuses to run as root, and the user it runs as instead
# cannot look into, say, /root.
open_to_all() {
    local path
    path=$(cd "$1" && pwd -P) || return 1
    while [ "$path" != / ]; do
        case $(stat -c %A "$path") in *[xt]) ;; *) return 1 ;; esac
        path=$(dirname "$path")
    done
}

# Tools live in .tools of the checkout; that is a link into /var/tmp when other users cannot enter the checkout, or to
# BARMAN_SNAP_TOOLS when the caller wants to keep them between checkouts.
prepare_tools() {
    local want=${BARMAN_SNAP_TOOLS:-}
    if [ -z "$want" ] && [ ! -e "$ROOT/.tools" ] && [ "$(id -u)" = 0 ] && ! open_to_all "$ROOT"; then
        want=/var/tmp/barman-snap-tools-$(id -u)
    fi
    if [ -n "$want" ]; then
        # shellcheck disable=SC2174 # What is above it is there: /var/tmp, or what the caller has made.
        mkdir -p -m 0755 "$want"
        # Everybody may write to /var/tmp: a directory that somebody else has put there is not run from.
        [ -O "$want" ] && [ ! -L "$want" ] || die "$want belongs to another user, or is a link"
        if [ -L "$ROOT/.tools" ] || [ ! -e "$ROOT/.tools" ]; then ln -sfn "$want" "$ROOT/.tools"; fi
    fi
    mkdir -p "$ROOT/.tools"
    TOOLS=$(cd "$ROOT/.tools" && pwd -P)
}

# Uses the newest Rust that is here when the pinned one is neither here nor to be had: see rust-toolchain.toml.
prepare_rust() {
    has cargo || return 0
    if ! (cd "$ROOT" && cargo --version) >/dev/null 2>&1; then
        RUSTUP_TOOLCHAIN=$(rustup default 2>/dev/null | awk '{print $1}')
        export RUSTUP_TOOLCHAIN
        say "the Rust of rust-toolchain.toml is not to be had; using ${RUSTUP_TOOLCHAIN:-none}"
    fi
}

# The Python of the distribution before any other: one in a home directory cannot be run by the user of the servers, and
# an environment made with it cannot either.
python() {
    if [ -x /usr/bin/python3 ]; then echo /usr/bin/python3; else command -v python3; fi
}

# Makes the one virtual environment of the tools, unless it is there.
make_venv() {
    [ ! -x "$TOOLS/venv/bin/python" ] || return 0
    say "making a Python environment"
    rm -rf "$TOOLS/venv"
    "$(python)" -m venv "$TOOLS/venv"
}

# venv_install PACKAGE... puts Python packages into it.
venv_install() {
    make_venv
    # pip takes a second even when there is nothing to do, so what was asked for is remembered.
    if ! printf '%s\n' "$@" | grep -qvxFf <(cat "$TOOLS/venv/wanted" 2>/dev/null); then return 0; fi
    say "installing for Python: $*"
    "$TOOLS/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" || return 1
    printf '%s\n' "$@" >>"$TOOLS/venv/wanted"
}

# Where cargo builds to; CARGO_TARGET_DIR and cargo's own configuration are respected.
target_dir() {
    cargo metadata --format-version 1 --no-deps --offline | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p'
}

prepare_tools
export PATH="$TOOLS/bin:$PATH:$HOME/.cargo/bin"
prepare_rust
cd "$ROOT" || exit
