//! Links in a data directory that PostgreSQL did not make.
//!
//! It knows `pg_wal` and those in `pg_tblspc`. Somebody who has moved a database to another disk by hand has made others, and the
//! server does not mind. But what they lead to may lie on no volume of a backup, and in what is restored from it they lead to the
//! **original**. So they are refused: before a backup is begun, and before anything works on what was restored. Links of files
//! for people (`postgresql.conf`, `log`) are none of this module's business.

use std::fs;
use std::io::ErrorKind as Io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Directories with data of the cluster, which no restore empties or makes anew.
const DATA: [&str; 9] =
    ["base", "global", "pg_tblspc", "pg_xact", "pg_multixact", "pg_commit_ts", "pg_logical", "pg_twophase", "pg_stat"];

/// Refuses links where PostgreSQL keeps data. What cannot be read is not judged.
///
/// # Errors
/// [`Precondition`](crate::ErrorKind::Precondition), naming the first one.
pub(crate) fn refuse<'a>(data: &Path, tablespaces: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    let mut suspects: Vec<PathBuf> = DATA.iter().map(|name| data.join(name)).collect();
    suspects.extend(entries(&data.join("base"))?);
    for location in tablespaces {
        // `PG_17_202406281`; whatever else lies there is not PostgreSQL's.
        let is_version =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("PG_"));
        for version in entries(location)?.into_iter().filter(is_version) {
            suspects.extend(entries(&version)?);
            suspects.push(version);
        }
    }
    match suspects.iter().find_map(|path| Some((path, fs::read_link(path).ok()?))) {
        Some((path, to)) => Err(Error::precondition(format!(
            "{} is a link to {}, which a backup would miss, and a restored server would share with the original",
            path.display(),
            to.display()
        ))
        .with_hint("stop the server and move what it leads to into its place, or make it a tablespace")),
        None => Ok(()),
    }
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    // Not through a link, which is a suspect itself.
    if fs::symlink_metadata(directory).is_ok_and(|meta| !meta.is_dir()) {
        return Ok(Vec::new());
    }
    match fs::read_dir(directory) {
        Ok(found) => Ok(found.flatten().map(|entry| entry.path()).collect()),
        Err(error) if matches!(error.kind(), Io::NotFound | Io::PermissionDenied) => Ok(Vec::new()),
        Err(error) => Err(Error::io("read the directory", directory, error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_refused_only_where_the_data_is() {
        let dir = tempfile::tempdir().unwrap();
        let (data, space) = (dir.path().join("data"), dir.path().join("space"));
        fs::create_dir_all(data.join("base/1")).unwrap();
        fs::create_dir_all(space.join("PG_17_202406281/5")).unwrap();
        let judge = || refuse(&data, [space.as_path()]);
        for harmless in ["pg_wal", "log", "postgresql.conf"] {
            symlink("/elsewhere", data.join(harmless)).unwrap();
        }
        symlink("/elsewhere", space.join("theirs")).unwrap();
        judge().unwrap();
        for link in ["data/base/16384", "data/pg_xact", "space/PG_17_202406281/16385", "space/PG_16_202307071"] {
            let link = dir.path().join(link);
            symlink("/elsewhere", &link).unwrap();
            let error = judge().unwrap_err();
            assert!(error.message().contains(&*link.to_string_lossy()), "{error}");
            fs::remove_file(link).unwrap();
        }
        fs::rename(data.join("base"), dir.path().join("moved")).unwrap();
        symlink(dir.path().join("moved"), data.join("base")).unwrap();
        assert!(judge().is_err());
    }
}
