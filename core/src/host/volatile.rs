//! Places of a cluster that are in memory only (tmpfs, ramfs): what lies there is gone when the host is restarted.
//!
//! Pure. No cloud has a disk under them, and a local snapshot of one is made of the same memory. A tablespace there is refused:
//! nobody who has made it so wants its content back, and PostgreSQL does not even start without its directories. It is left out by
//! name instead. A whole cluster there is made on purpose, for tests mostly, and can be copied somewhere else: that is only told.

use super::mounts::MountTable;
use super::paths::{PgPath, PgPaths, PgRole};
use crate::error::{Error, Result};

/// Refuses tablespaces in memory, and warns of a data directory or WAL there.
///
/// # Errors
/// [`Precondition`](crate::ErrorKind::Precondition) with all of them.
pub(crate) fn refuse(paths: &PgPaths, mounts: &MountTable) -> Result<()> {
    let (tablespaces, others): (Vec<&PgPath>, Vec<&PgPath>) = paths
        .iter()
        .filter(|path| mounts.of_path(&path.real).is_some_and(|mount| is_memory(&mount.fs_type)))
        .partition(|path| matches!(path.role, PgRole::Tablespace { .. }));
    // One in the data directory, and pg_wal, as a rule.
    let data = others.iter().find(|path| path.role == PgRole::Data).map(|path| path.real.as_path());
    let apart = |path: &&&PgPath| path.role == PgRole::Data || data.is_none_or(|data| !path.real.starts_with(data));
    let refused: Vec<&&PgPath> = tablespaces.iter().filter(apart).collect();
    if !refused.is_empty() {
        return Err(error(&refused));
    }
    for path in others.iter().filter(apart) {
        tracing::warn!(
            "{path} is in memory only: it is gone when the host is restarted, and so is a snapshot that lies there \
             (--snapshot-directory names another place)"
        );
    }
    Ok(())
}

fn is_memory(fs_type: &str) -> bool {
    matches!(fs_type, "tmpfs" | "ramfs")
}

fn error(refused: &[&&PgPath]) -> Error {
    let names: Vec<String> = refused.iter().map(ToString::to_string).collect();
    let options: Vec<String> = refused.iter().filter_map(|path| option(path)).collect();
    Error::precondition(format!("in memory only, so that no snapshot keeps it: {}", names.join(", "))).with_hint(format!(
        "leave it out with {}: it is restored empty then, and what is in it has to be made anew; or move it to a disk",
        options.join(" ")
    ))
}

fn option(path: &PgPath) -> Option<String> {
    match &path.role {
        PgRole::Tablespace { name, .. } => {
            Some(format!("--exclude-tablespace {}", crate::restore::settings::shell_quoted(name)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(data: &str, tablespace: &str) -> Result<()> {
        let mounts = MountTable::parse(
            b"1 0 254:0 / / rw - ext4 /dev/vda rw\n2 1 0:5 / /ram rw - tmpfs none rw\n3 1 0:6 / /srv/data/r rw - ramfs none rw\n",
        )
        .unwrap();
        let path = |role, real: &str| PgPath { role, named: real.into(), real: real.into() };
        let role = PgRole::Tablespace { name: "it's".into(), oid: 16_400 };
        refuse(
            &PgPaths::from_known(vec![
                path(PgRole::Data, data),
                path(PgRole::Wal, &format!("{data}/pg_wal")),
                path(role, tablespace),
            ]),
            &mounts,
        )
    }

    #[test]
    fn a_tablespace_in_memory_is_refused_and_the_option_can_be_copied() {
        for place in ["/ram/ts", "/srv/data/r"] {
            let error = judge("/srv/data", place).unwrap_err().to_string();
            assert!(error.contains(r"--exclude-tablespace 'it'\''s'") && error.contains(place), "{error}");
        }
        judge("/srv/data", "/srv/ts").unwrap();
    }

    #[test]
    fn a_cluster_that_is_in_memory_as_a_whole_is_not_refused() {
        judge("/ram/data", "/srv/ts").unwrap();
        judge("/ram/data", "/ram/data/ts").unwrap();
        assert!(judge("/ram/data", "/ram/ts").is_err());
    }
}
