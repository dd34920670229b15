//! Where the snapshots of a volume lie, and what they are called.
//!
//! Always a directory named [`SNAPSHOT_DIRECTORY`], private to its owner, on the same file system as the volume where the
//! method needs that, and outside of every PostgreSQL directory as long as there is such a place.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};

use crate::error::{Error, Result};
use crate::id::BackupId;
use crate::provider::names::hash;

/// The name of the directory that holds snapshots and their records. The engine touches nothing outside of such a one.
pub const SNAPSHOT_DIRECTORY: &str = ".barman_snap";

/// The file that marks a directory as made by a restore, where there are no extended attributes for that. No part of a
/// cluster: the next backup leaves it out.
pub(super) const MARK_FILE: &str = ".barman_snap_volume";

/// The longest name of a snapshot: with suffixes of ours below the 255 bytes of every file system.
const LONGEST_NAME: usize = 200;

/// The directory for the snapshots of the volume with this root: at the mount point (unless that is the root of the
/// whole system, where nobody looks for them), else the nearest directory above the root that may be written, else inside
/// of the root (the owner of no more than the volume has no other place). None that is `taken`, by PostgreSQL, if there is
/// another one.
pub(super) fn snapshot_directory(
    root: &Path,
    mount_point: &Path,
    may_write: impl Fn(&Path) -> bool,
    taken: impl Fn(&Path) -> bool,
) -> PathBuf {
    let usable = |directory: &&Path| is_usable(directory, &may_write) && !taken(&directory.join(SNAPSHOT_DIRECTORY));
    let above = || root.ancestors().skip(1).take_while(|ancestor| ancestor.starts_with(mount_point));
    let candidates = std::iter::once(mount_point).filter(|at| *at != root && *at != Path::new("/")).chain(above());
    candidates.chain([root]).find(usable).unwrap_or(mount_point).join(SNAPSHOT_DIRECTORY)
}

/// True if snapshots can be put into the directory of ours in `directory`.
pub(super) fn is_usable(directory: &Path, may_write: impl Fn(&Path) -> bool) -> bool {
    let ours = directory.join(SNAPSHOT_DIRECTORY);
    if ours.is_dir() { may_write(&ours) } else { may_write(directory) }
}

/// True if this process may make entries in `directory`.
pub(super) fn may_write(directory: &Path) -> bool {
    rustix::fs::accessat(CWD, directory, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}

/// As [`may_write`], with the reason.
pub(super) fn check_write(directory: &Path) -> Result<()> {
    rustix::fs::accessat(CWD, directory, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(|error| Error::io("write to", directory, error.into()))
        .map_err(|error| Error::precondition("its snapshots cannot be deleted").with_source(error))
}

/// Every directory in which snapshots of this volume may lie, also ones made with other rights or options.
pub(super) fn all_places(root: &Path, mount_point: &Path, known: Option<&Path>) -> Vec<PathBuf> {
    let above = root.ancestors().take_while(|ancestor| ancestor.starts_with(mount_point));
    let mut places: Vec<PathBuf> = known.map(Path::to_owned).into_iter().collect();
    for place in above.map(|ancestor| ancestor.join(SNAPSHOT_DIRECTORY)) {
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

/// The name of the snapshot of the volume `id`: `<id>-<backup id>`, with `-` for `/`. Where that could be the name for
/// another id as well, or is too long, a hash of the id keeps them apart.
pub(super) fn snapshot_name(id: &str, backup_id: &BackupId) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '.' | '/');
    let trimmed = id.strip_prefix('/').unwrap_or(id);
    let readable: String =
        trimmed.chars().map(|c| if plain(c) && c != '/' { c } else { '-' }).take(LONGEST_NAME - 40).collect();
    let readable = match readable.trim_start_matches(['.', '-']) {
        "" => "volume",
        text => text,
    };
    let is_certain = id.starts_with('/')
        && trimmed.len() <= LONGEST_NAME - 40
        && !trimmed.is_empty()
        && !trimmed.starts_with(['.', '/'])
        && trimmed.chars().all(plain);
    if is_certain {
        format!("{readable}-{}", backup_id.lower())
    } else {
        format!("{readable}-{:08x}-{}", hash(id), backup_id.lower())
    }
}

/// True if `name` can be the name of a snapshot: one path component of harmless characters, not hidden.
pub(super) fn is_valid_name(name: &str) -> bool {
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b':');
    !name.is_empty() && name.len() <= LONGEST_NAME && !name.starts_with(['.', '-']) && name.bytes().all(harmless)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(id: &str) -> String {
        snapshot_name(id, &"20260529T101112".parse().unwrap())
    }

    #[test]
    fn names_are_readable_and_differ_for_different_volumes() {
        assert_eq!(name("/srv/pg/data"), "srv-pg-data-20260529t101112");
        let ids = ["/a/b", "/a-b", "/a b", "/", "a/b", "/.a", "/a", "/ä", "/ö"];
        let names: std::collections::BTreeSet<_> = ids.iter().map(|id| name(id)).collect();
        assert_eq!(names.len(), ids.len(), "{names:?}");
        assert!(names.iter().all(|name| is_valid_name(name)), "{names:?}");
    }

    #[test]
    fn long_names_are_cut_and_stay_different() {
        let (a, b) = (format!("/{}/a", "x".repeat(300)), format!("/{}/b", "x".repeat(300)));
        assert_ne!(name(&a), name(&b));
        assert!(is_valid_name(&name(&a)));
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_refused() {
        for name in ["", ".", "..", "../x", "a/b", ".hidden", "-o", "a b", &"x".repeat(300)] {
            assert!(!is_valid_name(name), "{name}");
        }
    }

    #[test]
    fn the_place_is_outside_of_the_cluster_where_that_is_possible() {
        let place = |root: &str, writable: &'static [&'static str]| {
            let may = move |p: &Path| writable.contains(&p.to_str().unwrap());
            snapshot_directory(Path::new(root), Path::new("/m"), may, |place| place.starts_with("/m/pgdata"))
                .to_str()
                .unwrap()
                .to_owned()
        };
        assert_eq!(place("/m/a/pg", &["/m", "/m/a", "/m/a/pg"]), "/m/.barman_snap");
        assert_eq!(place("/m/a/pg", &["/m/a", "/m/a/pg"]), "/m/a/.barman_snap");
        assert_eq!(place("/m/a/pg", &["/m/a/pg"]), "/m/a/pg/.barman_snap");
        assert_eq!(place("/m", &["/m"]), "/m/.barman_snap");
        assert_eq!(place("/m/pgdata/ts", &["/m/pgdata/ts", "/m/pgdata", "/m"]), "/m/.barman_snap");
        let on_system = snapshot_directory(Path::new("/var/pg"), Path::new("/"), |_| true, |_| false);
        assert_eq!(on_system, Path::new("/var/.barman_snap"));
        assert_eq!(place("/m/sub", &[]), "/m/.barman_snap");
    }

    #[test]
    fn a_place_is_found_again_whoever_looks() {
        let places = all_places(Path::new("/m/a/pg"), Path::new("/m"), Some(Path::new("/else/.barman_snap")));
        let expected = ["/else/.barman_snap", "/m/a/pg/.barman_snap", "/m/a/.barman_snap", "/m/.barman_snap"];
        assert_eq!(places, expected.map(PathBuf::from));
    }
}
