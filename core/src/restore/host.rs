//! What is at the places where a restore wants to write.
//!
//! The facts are plain data, so that [`plan`](super::plan::plan) can be tested as arithmetic; [`look`] is the only
//! function here that touches the disk, and it changes nothing. It never follows a link that a plan did not name.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::host::beneath::read_file;
pub(super) use crate::host::clusters::real_path;
use crate::host::clusters::{self, ClusterDir};

/// The facts of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// The effective user that restores.
    pub uid: u32,
    /// What is at each path that was asked for.
    pub places: BTreeMap<PathBuf, Place>,
}

impl HostFacts {
    /// What is at `path`; nothing when nobody looked.
    pub fn at(&self, path: &Path) -> Place {
        self.places.get(path).cloned().unwrap_or_default()
    }
}

/// What is at a path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// What it is.
    pub kind: PlaceKind,
    /// The path with all links resolved, as far as it exists.
    pub real: Option<PathBuf>,
    /// Where it leads, if the path itself is a link. Files are never written through one.
    #[serde(default)]
    pub link: Option<PathBuf>,
    /// True if a file system is mounted exactly there; it cannot be renamed then.
    pub mount_point: bool,
    /// Owner, if it exists.
    pub uid: Option<u32>,
    /// The major version in `PG_VERSION`, if it is a data directory.
    pub major: Option<u32>,
    /// The system identifier in `global/pg_control`, if it is a data directory.
    pub system_id: Option<String>,
    /// The process that runs on this data directory, from `postmaster.pid`, if it lives.
    pub running: Option<u32>,
    /// That process, if it works in this very directory, as a postmaster does. A volume made of a snapshot has the
    /// `postmaster.pid` of the original, whose process may live, or whose number another program has.
    pub served_by: Option<u32>,
    /// Where the links in `pg_tblspc` lead, if it is a data directory.
    pub tablespaces: BTreeMap<u32, PathBuf>,
    /// Where `pg_wal` leads, if it is a data directory whose WAL lies elsewhere behind a link.
    #[serde(default)]
    pub wal: Option<PathBuf>,
    /// The directory of a cluster that it lies in; not what it is itself.
    #[serde(default)]
    pub within: Option<ClusterDir>,
}

/// What is at a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlaceKind {
    /// Nothing.
    #[default]
    Absent,
    /// An empty directory.
    Empty,
    /// A directory with something in it.
    Full,
    /// Something that is no directory.
    Other,
}

/// Looks at `paths`.
///
/// # Errors
/// What exists but cannot be read: a plan must not be made on a guess.
pub fn look(paths: &[PathBuf]) -> Result<HostFacts> {
    let mut facts = HostFacts { uid: rustix::process::geteuid().as_raw(), places: BTreeMap::new() };
    for path in paths {
        let place = look_at(path)?;
        if let Some(wal) = place.wal.clone().filter(|wal| !facts.places.contains_key(wal)) {
            facts.places.insert(wal.clone(), look_at(&wal)?);
        }
        facts.places.insert(path.clone(), place);
    }
    Ok(facts)
}

fn look_at(path: &Path) -> Result<Place> {
    let real = real_path(path)?;
    let mut place = Place { real: Some(real.clone()), link: fs::read_link(path).ok(), ..Place::default() };
    place.within = clusters::above(path)?;
    // A dangling link is something that is in the way, not nothing.
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            place.kind = if fs::symlink_metadata(path).is_ok() { PlaceKind::Other } else { PlaceKind::Absent };
            return Ok(place);
        }
        Err(error) => return Err(Error::io("look at", path, error)),
    };
    place.uid = Some(meta.uid());
    if !meta.is_dir() {
        place.kind = PlaceKind::Other;
        return Ok(place);
    }
    let mut entries = fs::read_dir(path).map_err(|error| Error::io("read the directory", path, error))?;
    place.kind = if entries.next().is_some() { PlaceKind::Full } else { PlaceKind::Empty };
    place.mount_point =
        real.parent().and_then(|parent| fs::metadata(parent).ok()).is_none_or(|parent| parent.dev() != meta.dev());
    if let Some(text) = read_if_there(&path.join("PG_VERSION"))? {
        place.major = String::from_utf8_lossy(&text).trim().split('.').next().and_then(|major| major.parse().ok());
        place.system_id = read_if_there(&path.join("global/pg_control"))?.as_deref().and_then(system_id);
        place.running = running(path)?;
        place.served_by = place.running.filter(|process| works_in(*process, &meta));
        place.tablespaces = links(&path.join("pg_tblspc"))?;
        place.wal = fs::read_link(path.join("pg_wal")).ok().map(|link| super::tablespaces::normal(&path.join(link)));
    }
    Ok(place)
}

/// The system identifier: the first eight bytes of `pg_control`, in the byte order of the machine.
pub fn system_id(control: &[u8]) -> Option<String> {
    let bytes: [u8; 8] = control.get(..8)?.try_into().ok()?;
    Some(u64::from_ne_bytes(bytes).to_string())
}

/// The process of `postmaster.pid`, if one of that number lives. A number that another program has by now counts as
/// living: better to refuse once too often.
pub(super) fn running(pgdata: &Path) -> Result<Option<u32>> {
    let Some(text) = read_if_there(&pgdata.join("postmaster.pid"))? else { return Ok(None) };
    let text = String::from_utf8_lossy(&text);
    let number = text.lines().next().and_then(|line| line.trim().trim_start_matches('-').parse::<u32>().ok());
    Ok(number.filter(|number| Path::new("/proc").join(number.to_string()).exists()))
}

/// The process of `postmaster.pid`, if it lives and works in this very directory. A copy has the `postmaster.pid` of the original.
pub(super) fn served_by(pgdata: &Path) -> Result<Option<u32>> {
    let meta = match fs::metadata(pgdata) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("look at", pgdata, error)),
    };
    Ok(running(pgdata)?.filter(|process| works_in(*process, &meta)))
}

/// Whether the directory is the working directory of a process; when that cannot be seen, it is.
fn works_in(process: u32, directory: &fs::Metadata) -> bool {
    match fs::metadata(format!("/proc/{process}/cwd")) {
        Ok(cwd) => (cwd.dev(), cwd.ino()) == (directory.dev(), directory.ino()),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

fn links(directory: &Path) -> Result<BTreeMap<u32, PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(Error::io("read the directory", directory, error)),
    };
    Ok(entries
        .flatten()
        .filter_map(|entry| {
            let oid = entry.file_name().to_str()?.parse().ok()?;
            Some((oid, fs::read_link(entry.path()).ok()?))
        })
        .collect())
}

/// A file of PostgreSQL's at a place that may be anybody's: small and plain, or it is none.
fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    read_file(path, 64 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("empty")).unwrap();
        fs::create_dir_all(at("full/x")).unwrap();
        fs::write(at("file"), "x").unwrap();
        std::os::unix::fs::symlink("nowhere", at("dangling")).unwrap();
        let paths: Vec<_> = ["absent/deep", "empty", "full", "file", "dangling"].map(at).into();
        let facts = look(&paths).unwrap();
        let kinds: Vec<_> = paths.iter().map(|path| facts.at(path).kind).collect();
        use PlaceKind::{Absent, Empty, Full, Other};
        assert_eq!(kinds, [Absent, Empty, Full, Other, Other]);
        assert!(!facts.at(&at("empty")).mount_point);
        assert_eq!(facts.at(&at("dangling")).link.as_deref(), Some(Path::new("nowhere")));
        assert_eq!(facts.at(&at("full")).link, None);
        assert!(look(&["/proc".into()]).unwrap().at(Path::new("/proc")).mount_point);
    }

    #[test]
    fn a_data_directory_is_known_by_its_files() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("global")).unwrap();
        fs::create_dir_all(dir.path().join("pg_tblspc")).unwrap();
        fs::write(dir.path().join("PG_VERSION"), "15\n").unwrap();
        fs::write(dir.path().join("global/pg_control"), 7_710_505_904_199_992_481_u64.to_ne_bytes()).unwrap();
        fs::write(dir.path().join("postmaster.pid"), format!("{}\n/x\n", std::process::id())).unwrap();
        std::os::unix::fs::symlink("/srv/ts1", dir.path().join("pg_tblspc/16384")).unwrap();
        let place = look_at(dir.path()).unwrap();
        assert_eq!(place.major, Some(15));
        assert_eq!(place.system_id.as_deref(), Some("7710505904199992481"));
        assert_eq!(place.running, Some(std::process::id()));
        assert_eq!(place.served_by, None, "this process works elsewhere");
        assert!(works_in(std::process::id(), &fs::metadata(".").unwrap()));
        assert_eq!(place.tablespaces[&16384], Path::new("/srv/ts1"));
    }
}
