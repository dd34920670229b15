//! Files in the directories of databases that are no relations: core dumps, notes, what an editor leaves.
//!
//! PostgreSQL ignores them; `pg_checksums` takes each for a relation, and calls a good backup damaged. They are removed from
//! the throw-away copy before it runs. Of what PostgreSQL might have written nothing is removed.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::host::beneath::Beneath;
use crate::restore::workplace::open_inside;

/// Names that are no numbers, in the directories that `pg_checksums` reads, and that it knows.
const KNOWN: [&str; 5] = ["pg_control", "pg_filenode.map", "pg_internal.init", "PG_VERSION", "pgsql_tmp"];

/// Removes them from a restored, stopped data directory and its `tablespaces`; returns how many there were. Through no link: the
/// server ran in it until now, with all that the backup makes it run.
///
/// # Errors
/// Those of the file system.
pub(super) fn remove(pgdata: &Path, tablespaces: &[PathBuf]) -> Result<u64> {
    let open = |path: &Path| {
        open_inside(path)?.ok_or_else(|| Error::precondition(format!("{} is no directory any more", path.display())))
    };
    let data = open(pgdata)?;
    let mut removed = 0;
    if let Some(global) = data.enter(Path::new("global"))? {
        removed += sweep(&global)?;
    }
    if let Some(base) = data.enter(Path::new("base"))? {
        removed += databases(&base)?;
    }
    let mut spaces = tablespaces.iter().map(|location| open(location)).collect::<Result<Vec<_>>>()?;
    if let Some(links) = data.enter(Path::new("pg_tblspc"))? {
        // Directories: tablespaces that were made in place. The links lead to those that are known.
        for name in links.names()? {
            spaces.extend(links.enter(Path::new(&name))?);
        }
    }
    for space in spaces {
        for name in space.names()?.iter().filter(|name| name.as_encoded_bytes().starts_with(b"PG_")) {
            if let Some(version) = space.enter(Path::new(name))? {
                removed += databases(&version)?;
            }
        }
    }
    Ok(removed)
}

/// A directory of which each entry is the directory of a database.
fn databases(directory: &Beneath) -> Result<u64> {
    let mut removed = 0;
    for name in directory.names()? {
        let (path, text) = (Path::new(&name), name.to_str());
        match directory.enter(path)? {
            Some(database) if text.is_some_and(is_number) => removed += sweep(&database)?,
            _ if text.is_some_and(|text| KNOWN.contains(&text)) => {}
            _ => removed += u64::from(directory.remove(path)?),
        }
    }
    Ok(removed)
}

/// The directory of a database, or `global`.
fn sweep(directory: &Beneath) -> Result<u64> {
    let mut removed = 0;
    for name in directory.names()? {
        if !name.to_str().is_some_and(|name| KNOWN.contains(&name) || is_relation(name)) {
            removed += u64::from(directory.remove(Path::new(&name))?);
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn relations_stay_and_everything_else_goes() {
        let dir = tempfile::tempdir().unwrap();
        for directory in
            ["base/5", "base/lost+found", "base/pgsql_tmp", "global", "pg_tblspc/16384/PG_15_1/5", "ts/PG_15_1/5"]
        {
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
            "ts/PG_15_1/5/1",
        ];
        let strays = [
            "base/5/core.1234",
            "base/5/notes.txt",
            "base/5/16400.bak",
            "base/5/16400_old",
            "global/.nfs1",
            "base/core",
            "pg_tblspc/16384/PG_15_1/5/x",
            "ts/PG_15_1/5/x",
        ];
        for name in relations.iter().chain(&strays) {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        // What a program in the server has put there, so that we remove files elsewhere.
        let outside = dir.path().join("outside");
        fs::create_dir_all(outside.join("PG_15_1/5")).unwrap();
        fs::write(outside.join("PG_15_1/5/precious"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, dir.path().join("pg_tblspc/7")).unwrap();
        std::os::unix::fs::symlink(outside.join("PG_15_1/5"), dir.path().join("base/7")).unwrap();
        let spaces = [dir.path().join("ts")];
        assert_eq!(remove(dir.path(), &spaces).unwrap(), strays.len() as u64 + 2, "and lost+found, and the link");
        assert!(outside.join("PG_15_1/5/precious").exists());
        assert!(relations.iter().all(|name| dir.path().join(name).exists()));
        assert!(strays.iter().all(|name| !dir.path().join(name).exists()));
        assert!(dir.path().join("base/pgsql_tmp").exists());
    }
}
