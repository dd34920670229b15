# The three acts. Sourced by ../playground, never run.

# What the first two acts have in common.
life_of_a_backup() {
    shown check
    shown generate_dummy_rows 500
    shown switch-wal
    shown cron
    shown backup
    shown list-backups
    shown show-backup
    # Lost, but for the backup.
    shown generate_dummy_rows 50
    shown restore
}

story() {
    say "A PostgreSQL 17 and a Barman server"
    shown reset
    shown barman --version
    shown seed

    say "Act 1: stock Barman, backup_method = postgres"
    life_of_a_backup

    say "Act 2: the same Barman, backup_method = snapshot, on our engine"
    shown method snapshot
    shown cron
    life_of_a_backup
    shown journal

    say "Act 3: our own commands alone"
    shown own
    shown ours check
    shown generate_dummy_rows 500
    shown ours backup
    shown ours list
    shown ours show
    shown generate_dummy_rows 50
    shown restore-ours
    shown ours verify
    say "The end: all three restored servers had the rows of their backup"
}
