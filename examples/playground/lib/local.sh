# The door to this machine: everything lives below one directory, and runs as an unprivileged user. Sourced by
# ../playground, never run.
#
# A door gives: DATA, RESTORED, SOCKET, RESTORED_SOCKET, PG_BIN, BARMAN_HOME, BARMAN_CONF, CATALOG, OURS (the words that
# start barman-snap), OWNER; on_postgres and on_barman, which run a command where that server is; and door_open (from
# nothing), door_find (what is there), door_stop, door_clean.

# shellcheck disable=SC2034 # What a door gives is read by the others.

DIR=${PLAYGROUND_DIR:-/var/tmp/barman-snap-playground-$(id -u)}
CHECKOUT=$(cd "$HERE/../.." && pwd -P)
BARMAN_VERSION=${PLAYGROUND_BARMAN_VERSION:-3.12.1}
# PostgreSQL refuses to run as root.
OWNER=$(id -un)
[ "$(id -u)" != 0 ] || OWNER=${PLAYGROUND_USER:-postgres}

DATA=$DIR/postgres/data
RESTORED=$DIR/restored/data
SOCKET=$DIR/s
RESTORED_SOCKET=$DIR/t
BARMAN_HOME=$DIR/barman
BARMAN_CONF=$DIR/barman.conf
CATALOG=$DIR/catalog
OURS=$DIR/bin/barman-snap
# Says that a directory is ours to remove.
MARK=$DIR/.barman-snap-playground

# Runs a command as the unprivileged user, with nothing of this environment.
on_postgres() {
    local become=()
    [ "$(id -u)" != 0 ] || become=(setpriv --reuid "$OWNER" --regid "$(id -gn "$OWNER")" --init-groups)
    (cd "$DIR" && exec "${become[@]}" env -i HOME="$DIR" USER="$OWNER" TERM="${TERM:-dumb}" LC_ALL=C.UTF-8 \
        PATH="$DIR/bin:$PG_BIN:/usr/sbin:/usr/bin:/sbin:/bin" "$@")
}
on_barman() { on_postgres "$@"; }

find_postgres() {
    local bin
    for bin in ${PLAYGROUND_PG_BIN:+"$PLAYGROUND_PG_BIN"} "$CHECKOUT/.tools/pg17/bin" /usr/lib/postgresql/17/bin /usr/pgsql-17/bin; do
        if [ -x "$bin/initdb" ] && [[ $("$bin/postgres" --version) = *" 17."* ]]; then
            PG_BIN=$(cd "$bin" && pwd -P)
            return
        fi
    done
    die "there is no PostgreSQL 17; install it, or name its programs: PLAYGROUND_PG_BIN=/usr/lib/postgresql/17/bin"
}

find_ours() {
    local target=${CARGO_TARGET_DIR:-$CHECKOUT/target} path
    for path in ${PLAYGROUND_BARMAN_SNAP:+"$PLAYGROUND_BARMAN_SNAP"} "$target/release/barman-snap" "$target/debug/barman-snap" \
        "$(command -v barman-snap || true)"; do
        if [ -n "$path" ] && [ -x "$path" ]; then
            # A copy: the unprivileged user may be unable to enter the checkout.
            cp --reflink=auto "$path" "$OURS"
            return
        fi
    done
    die "there is no barman-snap; build it (cargo build -p barman-snap-cli), or name it: PLAYGROUND_BARMAN_SNAP=/path/barman-snap"
}

# A Python environment of the playground's own, so that the adapter is installed there and nowhere else. Barman and our
# package come from one that is there (PLAYGROUND_BARMAN, or that of the tests), or from packages.
make_environment() {
    local python=/usr/bin/python3 found=${PLAYGROUND_BARMAN:-$CHECKOUT/.tools/barman-$BARMAN_VERSION} site words=()
    [ -x "$python" ] || python=$(command -v python3) || die "there is no Python 3"
    if [ -n "$(compgen -G "$found/lib/python*/site-packages/barman_snap/__init__.py")" ]; then
        python=$found/bin/python
        words=(--without-pip)
    fi
    "$python" -m venv ${words[@]+"${words[@]}"} "$DIR/env"
    site=$("$DIR/env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    if [ ${#words[@]} -gt 0 ]; then
        "$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/playground.pth"
    else
        say "installing Barman $BARMAN_VERSION and ${PLAYGROUND_WHEEL:-barman-snap}"
        "$DIR/env/bin/python" -m pip install --quiet --disable-pip-version-check "barman==$BARMAN_VERSION" "${PLAYGROUND_WHEEL:-barman-snap}"
    fi
    # The same as pip's own script.
    printf '#!%s\nimport sys\nfrom barman.cli import main\nsys.exit(main())\n' "$DIR/env/bin/python" >"$DIR/bin/barman"
    chmod 0755 "$DIR/bin/barman"
}

door_open() {
    door_clean
    find_postgres
    mkdir -p "$(dirname "$DIR")"
    mkdir -m 0755 "$DIR" || die "$DIR cannot be made"
    : >"$MARK"
    mkdir "$DIR/bin"
    find_ours
    make_environment
    printf '%s\n' "$PG_BIN" >"$DIR/pg_bin"
    [ "$(id -u)" != 0 ] || chown -R "$OWNER:$(id -gn "$OWNER")" "$DIR"
    # The sockets are where anybody could come in.
    on_postgres mkdir -m 0700 "$SOCKET" "$RESTORED_SOCKET" "$DIR/postgres" "$DIR/restored" "$BARMAN_HOME" "$CATALOG"
    on_postgres env/bin/python -m barman_snap.barman install
}

door_find() {
    [ -e "$MARK" ] && [ -e "$DIR/pg_bin" ] || die "there is no playground in $DIR; begin with: playground reset"
    PG_BIN=$(cat "$DIR/pg_bin")
}

# Stops what runs: the receiver of WAL first, which would look for the server again and again.
door_stop() {
    if [ -e "$BARMAN_CONF" ]; then run_barman receive-wal --stop "$SERVER" >/dev/null 2>&1 || true; fi
    stop_restored
    stop_server "$DATA"
}

door_clean() {
    [ -e "$DIR" ] || return 0
    [ -e "$MARK" ] && [ ! -L "$DIR" ] || die "$DIR is not a playground: it is left alone"
    if [ -e "$DIR/pg_bin" ]; then
        door_find
        door_stop
    fi
    rm -rf "$DIR"
}
