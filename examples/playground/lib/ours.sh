# Our own commands, without Barman. Sourced by ../playground, never run; see lib/local.sh for what a door gives.

CONNINFO="host=$SOCKET user=barman dbname=postgres"

# barman-snap puts what it stores into a catalog of its own, WAL included.
own() {
    query <<END
ALTER SYSTEM SET archive_mode = on;
ALTER SYSTEM SET archive_command = '"$OURS" wal-archive --gzip $CATALOG $SERVER %p';
END
    restart_server
    query -c 'SELECT pg_switch_wal()' >/dev/null
    # The first file that has come.
    query -c "DO \$\$ BEGIN WHILE (SELECT archived_count FROM pg_stat_archiver) = 0 LOOP PERFORM pg_sleep(0.1); PERFORM pg_stat_clear_snapshot(); END LOOP; END \$\$"
}

# ours COMMAND [OPTION...]: the catalog and what else each command needs are put in.
ours() {
    local command=${1:-}
    [ $# = 0 ] || shift
    case $command in
        check) on_postgres "$OURS" check -d "$CONNINFO" "$CATALOG" "$SERVER" "$@" ;;
        backup)
            on_postgres "$OURS" backup -d "$CONNINFO" --immediate-checkpoint "$CATALOG" "$SERVER" "$@"
            sums | on_postgres tee "$CATALOG.sums" >/dev/null
            ;;
        show) on_postgres "$OURS" show "$CATALOG" "$SERVER" "${@:-last}" ;;
        verify) on_postgres "$OURS" verify --pg-bin-dir "$PG_BIN" "$CATALOG" "$SERVER" "$@" ;;
        '') die "usage: playground ours check|backup|list|show|verify|… [OPTION...]" ;;
        *) on_postgres "$OURS" "$command" "$CATALOG" "$SERVER" "$@" ;;
    esac
}

# Up to the end of the backup: rows that came later, and were archived, are not what is compared.
restore_ours() {
    stop_restored
    on_postgres rm -rf "$RESTORED"
    on_postgres "$OURS" restore --clone --target-immediate "$CATALOG" "$SERVER" "${1:-last}" "$RESTORED"
    compare "$(on_postgres cat "$CATALOG.sums")"
}
