//! Files in the directories of databases that are no relations: core dumps, notes, what an editor leaves.
//!
//! PostgreSQL ignores them; `pg_checksums` takes each for a relation, and calls a good backup damaged. They are removed from
//! the throw-away copy before it runs. Of what PostgreSQL might have written nothing is removed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::restore::pgdata::remove_any;

/// Names that are no numbers, in the directories that `pg_checksums` reads, and that it knows.
const KNOWN: [&str; 5] = ["pg_control", "pg_filenode.map", "pg_internal.init", "PG_VERSION", "pgsql_tmp"];

/// Removes them from a restored, stopped data directory; returns how many there were.
///
/// # Errors
/// Those of the file system.
pub(super) fn remove(pgdata: &Path) -> Result<u64> {
    let mut removed = sweep(&pgdata.join("global"))?;
    removed += databases(&pgdata.join("base"))?;
    for link in entries(&pgdata.join("pg_tblspc"))? {
        for version in entries(&link)? {
            let ours = version.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("PG_"));
            if ours && version.is_dir() {
                removed += databases(&version)?;
            }
        }
    }
    Ok(removed)
}

/// A directory of which each entry is the directory of a database.
fn databases(directory: &Path) -> Result<u64> {
    let mut removed = 0;
    for entry in entries(directory)? {
        let meta = fs::symlink_metadata(&entry).map_err(|error| Error::io("look at", &entry, error))?;
        if meta.is_dir() && name_of(&entry).is_some_and(is_number) {
            removed += sweep(&entry)?;
        } else if !name_of(&entry).is_some_and(|name| KNOWN.contains(&name)) {
            removed += u64::from(remove_any(&entry)?);
        }
    }
    Ok(removed)
}

/// The directory of a database, or `global`.
fn sweep(directory: &Path) -> Result<u64> {
    let mut removed = 0;
    for entry in entries(directory)? {
        if !name_of(&entry).is_some_and(|name| KNOWN.contains(&name) || is_relation(name)) {
            removed += u64::from(remove_any(&entry)?);
        }
    }
    Ok(removed)
}

/// `16400`, `16400_fsm`, `16400.1`, and temporary ones (`t3_16400`): what PostgreSQL's own tools take for a relation
/// (`storage/reinit.c`, `common/relpath.c`).
fn is_relation(name: &str) -> bool {
    let name = match name.strip_prefix('t').and_then(|rest| rest.split_once('_')) {
        Some((backend, rest)) if is_number(backend) => rest,
        _ => name,
    };
    let (name, segment) = name.split_once('.').map_or((name, None), |(name, segment)| (name, Some(segment)));
    let (number, fork) = name.split_once('_').map_or((name, None), |(number, fork)| (number, Some(fork)));
    is_number(number) && segment.is_none_or(is_number) && fork.is_none_or(|fork| matches!(fork, "fsm" | "vm" | "init"))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name().and_then(|name| name.to_str())
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let fail = |error| Error::io("read the directory", directory, error);
    fs::read_dir(directory).map_err(fail)?.map(|entry| entry.map(|entry| entry.path()).map_err(fail)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations_stay_and_everything_else_goes() {
        let dir = tempfile::tempdir().unwrap();
        for directory in ["base/5", "base/lost+found", "base/pgsql_tmp", "global", "pg_tblspc/16384/PG_15_1/5"] {
            fs::create_dir_all(dir.path().join(directory)).unwrap();
        }
        let relations = [
            "base/5/16400",
            "base/5/16400.1",
            "base/5/16400_fsm",
            "base/5/16400_vm.2",
            "base/5/t3_16400",
            "base/5/PG_VERSION",
            "base/5/pg_filenode.map",
            "global/pg_control",
            "pg_tblspc/16384/PG_15_1/5/1",
        ];
        let strays = [
            "base/5/core.1234",
            "base/5/notes.txt",
            "base/5/16400.bak",
            "base/5/16400_old",
            "global/.nfs1",
            "base/core",
            "pg_tblspc/16384/PG_15_1/5/x",
        ];
        for name in relations.iter().chain(&strays) {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        assert_eq!(remove(dir.path()).unwrap(), strays.len() as u64 + 1, "and lost+found");
        assert!(relations.iter().all(|name| dir.path().join(name).exists()));
        assert!(strays.iter().all(|name| !dir.path().join(name).exists()));
        assert!(dir.path().join("base/pgsql_tmp").exists());
    }
}
