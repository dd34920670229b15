//! Directories of PostgreSQL clusters, known by what is in them.
//!
//! What lies inside such a directory belongs to its server: PostgreSQL does not expect it, a backup of the cluster has it, and a
//! restore in place moves it away. What it is not: a search. Only a path and the directories above it are looked at.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A directory of a cluster that holds some path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterDir {
    /// Where it is, without symbolic links.
    pub path: PathBuf,
    /// True for the location of a tablespace, false for a data directory.
    pub is_tablespace: bool,
}

impl fmt::Display for ClusterDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.is_tablespace { "tablespace" } else { "data directory" };
        write!(f, "the {what} {}", self.path.display())
    }
}

/// The nearest directory of a cluster that `path` is or lies in. A directory into which nobody may look is none: nothing could
/// be written into it either.
///
/// # Errors
/// If the path cannot be followed.
pub fn holding(path: &Path) -> Result<Option<ClusterDir>> {
    Ok(real_path(path)?.ancestors().find_map(cluster_dir))
}

/// As [`holding`], but what `path` itself is does not count.
///
/// # Errors
/// As there.
pub fn above(path: &Path) -> Result<Option<ClusterDir>> {
    Ok(real_path(path)?.ancestors().skip(1).find_map(cluster_dir))
}

fn cluster_dir(directory: &Path) -> Option<ClusterDir> {
    let found = |is_tablespace| Some(ClusterDir { path: directory.to_owned(), is_tablespace });
    let is_file = |name: &str| directory.join(name).is_file();
    if is_file("PG_VERSION") && is_file("global/pg_control") {
        return found(false);
    }
    let entries = fs::read_dir(directory).ok()?;
    let mut names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    if names.any(|name| is_tablespace_version(&name)) { found(true) } else { None }
}

/// `PG_15_202209061`: what every server version makes in the location of a tablespace.
fn is_tablespace_version(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let numbers = name.strip_prefix("PG_").and_then(|rest| rest.split_once('_'));
    numbers.is_some_and(|(major, catalog)| digits(major) && catalog.len() == 9 && digits(catalog))
}

/// `path` with the links in its longest existing part resolved.
pub(crate) fn real_path(path: &Path) -> Result<PathBuf> {
    for existing in path.ancestors() {
        if existing.as_os_str().is_empty() {
            break;
        }
        match existing.canonicalize() {
            Ok(real) => return Ok(path.strip_prefix(existing).map_or(real.clone(), |rest| joined(real, rest))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("look at", existing, error)),
        }
    }
    Ok(path.to_owned())
}

/// `join` with an empty path would add a slash.
fn joined(base: PathBuf, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { base } else { base.join(rest) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_a_cluster_is_found_through_links_and_before_it_is_made() {
        let temp = tempfile::tempdir().unwrap();
        let base = temp.path().canonicalize().unwrap();
        let at = |path: &str| base.join(path);
        for dir in ["data/global", "data/base", "ts/PG_15_202209061", "papers/PG_letters_2"] {
            fs::create_dir_all(at(dir)).unwrap();
        }
        fs::write(at("data/PG_VERSION"), "15\n").unwrap();
        assert_eq!(holding(&at("data/base")).unwrap(), None, "half a data directory is none");
        fs::write(at("data/global/pg_control"), "x").unwrap();
        std::os::unix::fs::symlink(at("data/base"), at("link")).unwrap();
        for inside in ["data", "data/base", "data/not/yet/there", "link/deeper"] {
            let found = holding(&at(inside)).unwrap().unwrap();
            assert_eq!(found.to_string(), format!("the data directory {}", at("data").display()), "{inside}");
        }
        let found = holding(&at("ts/catalog")).unwrap().unwrap();
        assert_eq!(found.to_string(), format!("the tablespace {}", at("ts").display()));
        assert_eq!(above(&at("data")).unwrap(), None);
        assert!(above(&at("data/x")).unwrap().is_some());
        for outside in ["", "papers/x", "database"] {
            assert_eq!(holding(&at(outside)).unwrap(), None, "{outside}");
        }
    }
}
