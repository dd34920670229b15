# The Barman server. Sourced by ../playground, never run; see lib/local.sh for what a door gives.

run_barman() { on_barman env BARMAN_SNAP="$(engine)" barman -c "$BARMAN_CONF" "$@"; }

# Whether our adapter is on (docs/barman-adapter.md). Off is Barman as it is.
engine() { if on_barman grep -qs '^backup_method = snapshot' "$BARMAN_CONF"; then echo on; else echo off; fi; }

# Writes barman.conf; what it says of the method is all that differs between the first two acts.
method() {
    local lines
    case ${1:-} in
        postgres)
            lines='backup_method = postgres'
            ;;
        snapshot)
            lines=$'backup_method = snapshot\nsnapshot_provider = local'
            ;;
        *) die "usage: playground method postgres|snapshot" ;;
    esac
    on_barman tee "$BARMAN_CONF" >/dev/null <<END
[barman]
barman_user = $OWNER
barman_home = $BARMAN_HOME
configuration_files_directory = $BARMAN_HOME
log_file = $BARMAN_HOME/barman.log
log_level = INFO

[$SERVER]
description = PostgreSQL of the playground
conninfo = host=$SOCKET user=barman dbname=postgres
streaming_conninfo = host=$SOCKET user=streaming_barman dbname=postgres
streaming_archiver = on
slot_name = barman
create_slot = auto
path_prefix = $PG_BIN
retention_policy = RECOVERY WINDOW OF 7 DAYS
$lines
END
    echo "$lines"
}

reset() {
    make_cluster
    make_users
    method postgres
    # The first run makes the slot and starts the receiver of WAL; then something must come.
    cron
    switch_wal
}

cron() { run_barman cron; }

# Until the receiver runs there is nobody to wait for: cron starts it and does not wait.
switch_wal() {
    local tries
    for tries in {1..50}; do
        [ "$(query -c "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'barman_receive_wal'")" = 0 ] || break
        [ "$tries" != 50 ] || die "nothing receives WAL; playground cron starts it"
        sleep 0.2
    done
    run_barman switch-wal --force --archive --archive-timeout 60 "$SERVER"
}

check() { run_barman check "$SERVER"; }

# The sums of a backup are kept, to be compared when it is restored. Nothing else writes meanwhile.
backup() {
    local id
    run_barman backup "$SERVER" --immediate-checkpoint "$@"
    id=$(latest)
    sums | on_barman tee "$BARMAN_HOME/$id.sums" >/dev/null
    # Not --wait: on an idle server the segment in which the backup ends would never become full. Then the backup is DONE.
    switch_wal
    run_barman check-backup "$SERVER" "$id"
    echo "backup id: $id"
}

# journal [ID]: what happened when, an entry a line.
journal() {
    local id=${1:-latest}
    [ "$id" != latest ] || id=$(latest)
    on_barman find "$BARMAN_HOME/$SERVER/barman-snap/$SERVER/sessions/$id" -name '*.json' -exec \
        sed -n '/^  "at":/{s/.*: "//;s/".*//;h};/^  "event":/{s/.*: "//;s/".*//;H;g;s/\n/ /p}' {} + | sort
}

# The id of the newest backup.
latest() { run_barman list-backups --minimal "$SERVER" | sed -n 1p; }
list_backups() { run_barman list-backups "$SERVER"; }
show_backup() { run_barman show-backup "$SERVER" "${1:-latest}"; }

restore() {
    local id=${1:-latest} wanted
    [ "$id" != latest ] || id=$(latest)
    wanted=$(on_barman cat "$BARMAN_HOME/$id.sums") || die "backup $id was not taken with: playground backup"
    stop_restored
    on_barman rm -rf "$RESTORED"
    run_barman restore --target-immediate --target-action promote "$SERVER" "$id" "$RESTORED"
    compare "$wanted"
}
