//! `backup_label` and `tablespace_map`, as `pg_backup_stop` returns them.
