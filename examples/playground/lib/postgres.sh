# The PostgreSQL server and what is in it. Sourced by ../playground, never run; see lib/local.sh for what a door gives.

# The three users: the superuser of the playground, and the two that Barman's manual asks for.
make_users() {
    query <<'END'
CREATE ROLE barman LOGIN;
CREATE ROLE streaming_barman LOGIN REPLICATION;
GRANT pg_read_all_settings, pg_read_all_stats, pg_checkpoint TO barman;
GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean) TO barman;
GRANT EXECUTE ON FUNCTION pg_switch_wal(), pg_create_restore_point(text) TO barman;
END
}

start_server() { # DATA SOCKET
    on_postgres pg_ctl --silent -D "$1" -o "-k $2" -l "$2/log" -w start && return
    on_postgres cat "$2/log" >&2
    die "the server in $1 does not start"
}
stop_server() { # DATA
    # Not by the file of its number, which a crash leaves behind.
    ! on_postgres pg_ctl -D "$1" status >/dev/null 2>&1 || on_postgres pg_ctl --silent -D "$1" -m fast -w stop
}
restart_server() {
    stop_server "$DATA"
    start_server "$DATA" "$SOCKET"
}
start_restored() { start_server "$RESTORED" "$RESTORED_SOCKET"; }
stop_restored() { stop_server "$RESTORED"; }

query() { on_postgres psql -XAtq -v ON_ERROR_STOP=1 -h "$SOCKET" -U postgres -d postgres "$@"; }
query_restored() { on_postgres psql -XAtq -v ON_ERROR_STOP=1 -h "$RESTORED_SOCKET" -U postgres -d postgres "$@"; }

make_cluster() {
    on_postgres initdb --no-sync -D "$DATA" -U postgres -A trust -k --locale=C.UTF-8 >/dev/null
    # Nothing but the socket, which nobody else can reach.
    on_postgres tee -a "$DATA/postgresql.conf" >/dev/null <<END
listen_addresses = ''
shared_buffers = 32MB
wal_level = replica
max_wal_senders = 5
max_replication_slots = 5
max_wal_size = 256MB
END
    start_server "$DATA" "$SOCKET"
}

seed() {
    query <<'END'
DROP TABLE IF EXISTS dummy;
CREATE TABLE dummy (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, made timestamptz NOT NULL DEFAULT clock_timestamp(),
    word text NOT NULL);
INSERT INTO dummy (word) SELECT md5(g::text) FROM generate_series(1, 10000) AS g;
END
    echo "table dummy: $(sums)"
}

generate_dummy_rows() {
    local rows=${1:-1000}
    [[ $rows =~ ^[0-9]+$ ]] || die "not a number of rows: $rows"
    query -c "INSERT INTO dummy (word) SELECT md5(random()::text) FROM generate_series(1, $rows)"
    echo "table dummy: $(sums)"
}

SUMS="SELECT format('%s rows, md5 %s', count(*), md5(string_agg(id || word || made, ',' ORDER BY id))) FROM dummy"
sums() { query -c "$SUMS"; }

enter() { on_postgres psql -h "$SOCKET" -U postgres -d postgres "$@"; }

# Starts the restored server, waits for its recovery, and compares: `compare WANTED`.
compare() {
    local wanted=$1 found
    start_restored
    query_restored -c "DO \$\$ BEGIN WHILE pg_is_in_recovery() LOOP PERFORM pg_sleep(0.1); END LOOP; END \$\$"
    found=$(query_restored -c "$SUMS")
    stop_restored
    echo "wanted:   $wanted"
    echo "restored: $found"
    [ "$found" = "$wanted" ] || die "the restored server has other rows"
    echo "sums equal"
}
