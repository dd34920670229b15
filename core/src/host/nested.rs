//! File systems and subvolumes that begin inside of a cluster's directories: which of them a backup must not miss.
//!
//! A snapshot ends where one begins. Where PostgreSQL keeps data that is fatal; but there are others that it knows nothing of,
//! such as the `.snapshots` of snapper, and they are no reason to refuse a backup. In doubt it is PostgreSQL's.

use std::path::{Component, Path, PathBuf};

use crate::error::Result;

use super::coverage::nested_error;

/// Directories whose content is PostgreSQL's, wherever they lie below one of its directories; besides `pg_…` and `PG_…`.
const KNOWN: [&str; 4] = ["base", "global", "archive_status", "summaries"];

/// What is to be done about each of them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Nested {
    /// PostgreSQL uses it, and a backup without it is none.
    pub missed: Vec<PathBuf>,
    /// PostgreSQL does not know it.
    pub strange: Vec<PathBuf>,
}

impl Nested {
    /// Sorts `foreign`, directories below `holder` at which another file system begins. `cluster` are the places of the cluster.
    pub fn sort_out(holder: &Path, foreign: Vec<PathBuf>, cluster: &[PathBuf]) -> Self {
        let (missed, strange) =
            foreign.into_iter().partition(|path| is_used(holder, path, cluster) || has_settings(path));
        Self { missed, strange }
    }

    /// Refuses the backup for those that are missed, and says in one warning which others are no part of it.
    ///
    /// # Errors
    /// [`ErrorKind::Precondition`](crate::ErrorKind::Precondition) with all that are missed.
    pub fn judge(self) -> Result<()> {
        nested_error(&self.missed)?;
        if !self.strange.is_empty() {
            let names: Vec<String> = self.strange.iter().map(|path| path.display().to_string()).collect();
            tracing::warn!(
                "not part of the backup, as another file system or subvolume begins there and PostgreSQL does not use it: {}",
                names.join(", ")
            );
        }
        Ok(())
    }
}

/// Whether PostgreSQL uses `path`, as far as its name tells. Pure.
fn is_used(holder: &Path, path: &Path, cluster: &[PathBuf]) -> bool {
    let Ok(inside) = path.strip_prefix(holder) else { return true };
    if cluster.iter().any(|place| place.starts_with(path)) {
        return true;
    }
    let names =
        || inside.components().filter_map(|part| if let Component::Normal(name) = part { name.to_str() } else { None });
    // PostgreSQL has no hidden files and looks at none.
    if names().any(|name| name.starts_with('.')) {
        return false;
    }
    names().any(|name| name.starts_with("pg_") || name.starts_with("PG_") || KNOWN.contains(&name))
}

/// Whether it looks like a directory with settings that the server reads (`include_dir`). One that cannot be read counts.
fn has_settings(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let Ok(entries) = std::fs::read_dir(path) else { return !hidden };
    let is_conf = |entry: std::fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == "conf");
    !hidden && entries.flatten().any(is_conf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_postgresql_keeps_data_in_is_missed_and_what_it_does_not_know_is_strange() {
        let data = Path::new("/d");
        let cluster = [PathBuf::from("/d"), PathBuf::from("/d/ts/one")];
        for used in
            ["/d/base", "/d/base/5", "/d/pg_wal", "/d/pg_tblspc/1/PG_17_2/5", "/d/ts", "/d/ts/one", "/elsewhere"]
        {
            assert!(is_used(data, Path::new(used), &cluster), "{used}");
        }
        for strange in ["/d/.snapshots", "/d/base/.snapshots", "/d/backups", "/d/log", "/d/ts/two"] {
            assert!(!is_used(data, Path::new(strange), &cluster), "{strange}");
        }
    }

    #[test]
    fn a_directory_with_settings_is_not_left_out() {
        let temp = tempfile::tempdir().unwrap();
        for name in ["conf.d", "notes", ".hidden"] {
            std::fs::create_dir(temp.path().join(name)).unwrap();
        }
        std::fs::write(temp.path().join("conf.d/memory.conf"), "").unwrap();
        std::fs::write(temp.path().join(".hidden/memory.conf"), "").unwrap();
        let foreign = ["conf.d", "notes", ".hidden"].map(|name| temp.path().join(name)).to_vec();
        let nested = Nested::sort_out(temp.path(), foreign, &[]);
        assert_eq!(nested.missed, [temp.path().join("conf.d")]);
        assert_eq!(nested.strange.len(), 2);
        assert!(nested.judge().is_err());
    }
}
