//! What a catalog claims of a backup, before anything believes it.
//!
//! Whoever may write to the catalog decides what is in a restored data directory. Beyond that directory he decides nothing: paths do not
//! lead out of what they name, settings are those that a backup records, and a tablespace goes into no directory of the system. What
//! is refused here was not written by a backup.
//!
//! Pure. The invariant: what has passed can be joined to a path, and written into a configuration.

use std::path::{Component, Path};

use crate::error::{Error, Result};
use crate::model::{BackupInfo, EngineRecord};

/// What a backup records of the settings that recovery needs (`postgres::statements::RECOVERY_SETTINGS`).
const SETTINGS: [&str; 5] = [
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
];

/// Directories of the system. A data directory that PostgreSQL's own installation makes is in none of them but `/usr/local`.
const SYSTEM: [&str; 13] =
    ["/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/root", "/run", "/sbin", "/sys", "/usr"];

/// Refuses what no backup has recorded.
///
/// # Errors
/// `corrupt`, with what is wrong.
pub(crate) fn check(info: &BackupInfo, record: &EngineRecord) -> Result<()> {
    path("data directory", info.pgdata.as_deref().unwrap_or("/"))?;
    for one in info.tablespaces.iter().flatten() {
        path("tablespace", &one.location)?;
        if one.name.contains('\0') || one.name.is_empty() {
            return Err(odd("name of a tablespace", &one.name));
        }
    }
    for file in [&info.config_file, &info.hba_file, &info.ident_file].into_iter().flatten() {
        path("configuration file", file)?;
    }
    for one in &record.snapshots {
        if !one.mount_point.is_empty() {
            path("mount point", &one.mount_point)?;
        }
        path("volume", &one.ticket.root.to_string_lossy())?;
        for system in &one.file_systems {
            path("mount point", &system.mount_point.to_string_lossy())?;
            path("directory of a file system", &system.fs_root.to_string_lossy())?;
        }
    }
    for (name, real) in &record.real_paths {
        path("path", name)?;
        path("path", real)?;
    }
    record.config_files.keys().try_for_each(|file| path("configuration file", file))?;
    for (name, value) in &record.settings {
        let number = !value.is_empty() && value.len() < 20 && value.bytes().all(|byte| byte.is_ascii_digit());
        if !SETTINGS.contains(&name.as_str()) || !number {
            return Err(odd("setting", &format!("{name} = {value}")));
        }
    }
    Ok(())
}

/// True for a directory of the system, or one inside.
pub(super) fn is_of_the_system(path: &Path) -> bool {
    SYSTEM.iter().any(|system| path.starts_with(system)) && !path.starts_with("/usr/local") || path.parent().is_none()
}

fn path(what: &str, text: &str) -> Result<()> {
    let path = Path::new(text);
    let leads_out = path.components().any(|part| part == Component::ParentDir);
    if path.is_absolute() && !leads_out && !text.contains('\0') { Ok(()) } else { Err(odd(what, text)) }
}

fn odd(what: &str, text: &str) -> Error {
    let short: String = text.chars().take(100).collect();
    Error::corrupt(format!("the metadata of the backup have a {what} that no backup records: {short:?}"))
        .with_hint("they were damaged, or written by somebody else: who can write to the catalog?")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Token;
    use crate::model::Tablespace;

    fn refused(change: impl FnOnce(&mut BackupInfo, &mut EngineRecord)) -> bool {
        let mut info = BackupInfo { pgdata: Some("/srv/pg".into()), ..BackupInfo::default() };
        let mut record = EngineRecord::new("local", Token::from_bits(1));
        check(&info, &record).unwrap();
        change(&mut info, &mut record);
        check(&info, &record).is_err()
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for bad in ["relative", "/srv/../etc", "/srv/pg/..", "", "/a\0b"] {
            assert!(refused(|info, _| info.pgdata = Some(bad.into())), "{bad:?}");
            let space = Tablespace { name: "ts".into(), oid: 1, location: bad.into() };
            assert!(refused(|info, _| info.tablespaces = Some(vec![space])), "{bad:?}");
            assert!(refused(|_, record| _ = record.real_paths.insert("/srv/pg".into(), bad.into())), "{bad:?}");
            assert!(refused(|_, record| _ = record.config_files.insert(bad.into(), String::new())), "{bad:?}");
        }
        assert!(!refused(|info, _| info.pgdata = Some("/srv/pg..old/it's a \n place".into())));
    }

    #[test]
    fn settings_are_those_that_a_backup_records() {
        for (name, value) in [
            ("archive_command", "1"),
            ("max_connections\narchive_command = 'x' #", "1"),
            ("max_connections", "1'\narchive_command = 'x"),
            ("max_connections", "-1"),
            ("max_connections", ""),
            ("max_connections", "123456789012345678901"),
        ] {
            assert!(refused(|_, record| _ = record.settings.insert(name.into(), value.into())), "{name:?} {value:?}");
        }
        assert!(!refused(|_, record| _ = record.settings.insert("max_connections".into(), "500".into())));
    }

    #[test]
    fn directories_of_the_system_are_known() {
        for path in ["/", "/etc", "/etc/cron.d/x", "/root/.ssh", "/usr/lib/x", "/run/pg"] {
            assert!(is_of_the_system(Path::new(path)), "{path}");
        }
        for path in ["/srv/pg", "/var/lib/postgresql/15", "/usr/local/pgsql/ts", "/etcetera", "/opt/me/ts"] {
            assert!(!is_of_the_system(Path::new(path)), "{path}");
        }
    }
}
