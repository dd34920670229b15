//! Whether a place lies inside of a directory of PostgreSQL.
//!
//! What lies there is the server's: `pg_basebackup` and `pg_rewind` take snapshots in it for data, and fail on them. So new
//! snapshots never go there. (Older versions have put some there; those are still found and deleted.)

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The directory of PostgreSQL that `place` lies in: one of `known`, or one that looks like one. `place` need not exist.
pub(super) fn postgres_around(place: &Path, known: &[PathBuf]) -> Option<PathBuf> {
    let is_one = |directory: &&Path| known.iter().any(|known| known == *directory) || looks_like_one(directory);
    place.ancestors().skip(1).find(is_one).map(Path::to_owned)
}

/// A data directory has its version in a file, a tablespace in the name of a directory, `pg_wal` its status directory.
fn looks_like_one(directory: &Path) -> bool {
    directory.join("PG_VERSION").is_file()
        || directory.join("archive_status").is_dir()
        || std::fs::read_dir(directory).into_iter().flatten().flatten().any(|entry| {
            entry.file_name().to_str().is_some_and(is_version) && entry.file_type().is_ok_and(|kind| kind.is_dir())
        })
}

/// `PG_17_202406281`
fn is_version(name: &str) -> bool {
    let parts = name.strip_prefix("PG_").and_then(|rest| rest.split_once('_'));
    parts.is_some_and(|(major, catalog)| {
        [major, catalog].iter().all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

/// Refuses a place inside of PostgreSQL's directories.
pub(super) fn refuse(place: &Path, known: &[PathBuf]) -> Result<()> {
    match postgres_around(place, known) {
        None => Ok(()),
        Some(around) => Err(Error::precondition(format!(
            "the snapshots would lie in {}, inside of PostgreSQL's own directory {}",
            place.display(),
            around.display()
        ))
        .with_hint(
            "give a directory outside of it with --snapshot-directory: for btrfs and reflink on the same file system (mount it \
             a second time, one level higher), for copy on any",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_postgresql_are_known_by_what_is_in_them() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        for directory in ["data/base", "space/PG_17_202406281", "wal/archive_status", "srv/PG_backups", "told"] {
            std::fs::create_dir_all(at(directory)).unwrap();
        }
        std::fs::write(at("data/PG_VERSION"), "17").unwrap();
        let around = |name: &str| postgres_around(&at(name), &[at("told")]);
        for (place, directory) in [
            ("data/.barman_snap", "data"),
            ("data/absent/.barman_snap", "data"),
            ("space/.barman_snap", "space"),
            ("wal/.barman_snap", "wal"),
            ("told/.barman_snap", "told"),
        ] {
            assert_eq!(around(place), Some(at(directory)), "{place}");
            assert!(
                refuse(&at(place), &[at("told")]).unwrap_err().any_hint().unwrap().contains("--snapshot-directory")
            );
        }
        assert_eq!(around("srv/.barman_snap"), None);
        assert_eq!(around(".barman_snap"), None);
    }
}
