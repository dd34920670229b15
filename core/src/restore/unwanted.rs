//! What a running server leaves in its data directory and a restored one must not have.
//!
//! Pure. The lists are those of `pg_basebackup` (PostgreSQL manual, "Base Backup Protocol": what is excluded), plus what
//! belongs to the life of the original only: recovery settings of old, and its server log.
//!
//! Unlogged relations stay: PostgreSQL itself throws all their forks but the init fork away at the start of every archive
//! recovery, and makes them anew at its end. Doing it here as well would be a second opinion about relation file names.

use std::path::Path;

/// Directories below the data directory whose content is not wanted. They themselves must exist.
///
/// `pg_replslot` is among them because a slot of the original would hold back WAL for ever, `pg_stat_tmp` was dropped by
/// PostgreSQL 15 but extensions still write to it.
pub const EMPTIED: [&str; 8] =
    ["pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"];

/// Directories of the server log in their usual places. Emptied if they exist, never created.
pub const LOGS: [&str; 2] = ["log", "pg_log"];

/// Entries of the data directory itself that are removed.
pub const REMOVED: [&str; 16] = [
    "backup_label",
    "backup_label.old",
    "tablespace_map",
    "tablespace_map.old",
    "backup_manifest",
    "postmaster.pid",
    "postmaster.opts",
    "postgresql.auto.conf.tmp",
    "current_logfiles",
    "current_logfiles.tmp",
    "recovery.signal",
    "standby.signal",
    "promote",
    "recovery.conf",
    "recovery.done",
    // Snapshots lie here when a volume is no larger than the data directory; they are no part of it.
    ".barman_snap",
];

/// True for a file or directory, anywhere below a data directory or a tablespace, that belongs to the running original:
/// relation caches (`pg_internal.init*`), temporary files (`pgsql_tmp*`) and temporary relations (`t3_16400`).
pub fn is_scratch(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    name.starts_with("pg_internal.init") || name.starts_with("pgsql_tmp") || is_temporary_relation(path, name)
}

/// `t<backend>_<file number>[_fork][.segment]` inside the directory of a database.
fn is_temporary_relation(path: &Path, name: &str) -> bool {
    let in_database = path
        .parent()
        .and_then(Path::file_name)
        .and_then(|parent| parent.to_str())
        .is_some_and(|parent| !parent.is_empty() && parent.bytes().all(|byte| byte.is_ascii_digit()));
    let Some((backend, rest)) = name.strip_prefix('t').and_then(|rest| rest.split_once('_')) else { return false };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (relation, segment) =
        rest.split_once('.').map_or((rest, None), |(relation, segment)| (relation, Some(segment)));
    let (number, fork) = relation.split_once('_').map_or((relation, None), |(number, fork)| (number, Some(fork)));
    in_database
        && digits(backend)
        && digits(number)
        && fork.is_none_or(|fork| matches!(fork, "fsm" | "vm" | "init"))
        && segment.is_none_or(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_temporary_files_and_temporary_relations_are_scratch() {
        for path in [
            "base/16384/t3_16400",
            "base/16384/t12_16400_fsm",
            "base/16384/t3_16400.1",
            "base/16384/t3_16400_vm.12",
            "global/pg_internal.init",
            "base/5/pg_internal.init.4711",
            "base/pgsql_tmp",
            "base/pgsql_tmp/pgsql_tmp99.0",
            "PG_15_202209061/5/t4_2619",
        ] {
            assert!(is_scratch(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn relations_and_files_of_users_are_not() {
        for path in [
            "base/16384/16400",
            "base/16384/16400_init",
            "base/16384/t_16400",
            "base/16384/t3_16400x",
            "base/16384/t3_",
            "t3_16400",
            "global/pg_control",
            "base/16384/t3_16400_xx",
            "base/16384/PG_VERSION",
        ] {
            assert!(!is_scratch(Path::new(path)), "{path}");
        }
    }
}
