# The door to Docker: two containers, one volume. Sourced by ../playground, never run; see lib/local.sh for what a door
# gives.
#
# A container is taken for a host: it sleeps, and servers are started and stopped in it by the same commands as on this
# machine. There is no engine for containers where the tests run: of this door they check the files, not the running.

# shellcheck disable=SC2034 # What a door gives is read by the others.

DIR=/playground
CHECKOUT=$(cd "$HERE/../.." && pwd -P)
OWNER=postgres

DATA=$DIR/postgres/data
RESTORED=$DIR/restored/data
SOCKET=$DIR/s
RESTORED_SOCKET=$DIR/t
PG_BIN=/usr/lib/postgresql/17/bin
BARMAN_HOME=$DIR/barman
BARMAN_CONF=$DIR/barman.conf
CATALOG=$DIR/catalog
OURS=/usr/local/bin/barman-snap

compose() { docker compose --project-directory "$HERE/docker" "$@"; }

# With a terminal where there is one on both ends.
in_container() { # SERVICE COMMAND...
    local words=(--workdir "$DIR" --env "PATH=$PG_BIN:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" --env LC_ALL=C.UTF-8)
    [ -t 0 ] && [ -t 1 ] || words+=(--no-TTY)
    compose exec "${words[@]}" "$@"
}
on_postgres() { in_container postgres "$@"; }
on_barman() { in_container barman "$@"; }

# What the images are built of, beside Debian's packages.
gather() {
    local wheel path
    wheel=${PLAYGROUND_WHEEL:-$(compgen -G "$CHECKOUT/dist/*.whl" | tail -n 1)}
    [ -n "$wheel" ] || die "there is no wheel; build it (make wheel), or name it: PLAYGROUND_WHEEL=/path/barman_snap.whl"
    path=${PLAYGROUND_BARMAN_SNAP:-${CARGO_TARGET_DIR:-$CHECKOUT/target}/release/barman-snap}
    [ -x "$path" ] || die "there is no $path; build it (cargo build --release -p barman-snap-cli), or name another: PLAYGROUND_BARMAN_SNAP=/path/barman-snap"
    rm -rf "$HERE/docker/build"
    mkdir "$HERE/docker/build"
    cp "$wheel" "$path" "$HERE/docker/build/"
}

door_open() {
    docker compose version >/dev/null 2>&1 || die "there is no docker compose; without PLAYGROUND_DOOR=docker it is not needed"
    door_clean
    gather
    compose up --build --detach --wait
    on_postgres mkdir -m 0700 "$SOCKET" "$RESTORED_SOCKET" "$DIR/postgres" "$DIR/restored" "$BARMAN_HOME" "$CATALOG"
}

door_find() {
    [ -n "$(compose ps --quiet --status running postgres)" ] || die "no container runs; begin with: playground reset"
}

door_stop() {
    stop_restored
    stop_server "$DATA"
    compose stop
}
door_clean() { compose down --volumes --remove-orphans --timeout 10; }
