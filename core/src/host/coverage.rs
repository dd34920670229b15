//! Which place of a cluster lies on which volume: the coverage check.
//!
//! Pure. A backup whose snapshots leave out a tablespace can be taken and can never be restored; therefore an uncovered
//! path is an error before anything starts, and never a warning.

use std::path::{Path, PathBuf};

use super::mounts::MountTable;
use super::paths::{PgPath, PgPaths};
use super::survey::survey;
use crate::error::{Error, Result};
use crate::provider::Volume;

/// A path of the cluster and the volume that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The path.
    pub path: PgPath,
    /// The index of its volume in the list that was asked about.
    pub volume: usize,
    /// Where the path lies inside of the volume, relative to its root; empty if it is the root.
    pub subtree: PathBuf,
}

/// The answer of [`cover`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// What lies on a volume, in the order of [`PgPaths::iter`].
    pub placed: Vec<Placed>,
    /// What lies on none, with the mount point it is on, where that is known.
    pub uncovered: Vec<(PgPath, Option<PathBuf>)>,
    /// The indexes of volumes that hold nothing of the cluster.
    pub unused: Vec<usize>,
}

/// Places each path on the volume with the longest root that it lies below, provided that this root is on the same mount:
/// a file system that is mounted *inside* of a volume is not in its snapshot.
pub fn cover(paths: &PgPaths, volumes: &[Volume], mounts: &MountTable) -> Coverage {
    let mut coverage = Coverage { placed: Vec::new(), uncovered: Vec::new(), unused: Vec::new() };
    for path in paths.iter() {
        let mount = mounts.of_path(&path.real);
        let same_mount = |root: &Path| match (mount, mounts.of_path(root)) {
            (Some(of_path), Some(of_root)) => of_path.id == of_root.id,
            // Without a mount table (another host) only the names can be compared.
            _ => true,
        };
        let best = volumes
            .iter()
            .enumerate()
            .filter(|(_, volume)| path.real.starts_with(&volume.root) && same_mount(&volume.root))
            .max_by_key(|(_, volume)| volume.root.as_os_str().len());
        match best {
            Some((index, volume)) => {
                let subtree = path.real.strip_prefix(&volume.root).unwrap_or(Path::new("")).to_owned();
                coverage.placed.push(Placed { path: path.clone(), volume: index, subtree });
            }
            None => coverage.uncovered.push((path.clone(), mount.map(|mount| mount.mount_point.clone()))),
        }
    }
    coverage.unused = (0..volumes.len()).filter(|i| !coverage.placed.iter().any(|p| p.volume == *i)).collect();
    coverage
}

impl Coverage {
    /// The placed paths, or an error that names every path that no volume holds.
    pub fn require(self) -> Result<Vec<Placed>> {
        if self.uncovered.is_empty() {
            return Ok(self.placed);
        }
        let names: Vec<String> = self.uncovered.iter().map(|(path, _)| path.to_string()).collect();
        let mut wanted: Vec<String> = Vec::new();
        for (path, mount_point) in &self.uncovered {
            let place = match mount_point {
                Some(mount_point) if mount_point != Path::new("/") => mount_point,
                _ => &path.real,
            };
            let option = format!("--snapshot-disk {}", place.display());
            if !wanted.contains(&option) {
                wanted.push(option);
            }
        }
        Err(Error::precondition(format!("not on any of the volumes to be snapshotted: {}", names.join(", "))).with_hint(
            format!(
                "name the disk that holds it (on this host: {}), or leave out --snapshot-disk to have the volumes found",
                wanted.join(" ")
            ),
        ))
    }
}

/// Finds file systems and subvolumes that begin inside of the cluster's directories and that no snapshot of `volumes`
/// would hold. Looks at the directories of the cluster; changes nothing.
///
/// # Errors
/// [`ErrorKind::Precondition`](crate::error::ErrorKind::Precondition) with all of them.
pub fn check_nested(paths: &PgPaths, volumes: &[Volume], skip: &str) -> Result<()> {
    let mut missing: Vec<PathBuf> = Vec::new();
    for path in paths.iter() {
        let foreign = survey(&path.real, skip)?.foreign;
        missing.extend(uncovered_below(&foreign, volumes.iter().map(|volume| volume.root.as_path())));
    }
    missing.sort();
    missing.dedup();
    nested_error(&missing)
}

/// Those of `foreign` that are not themselves roots of volumes. Pure.
pub fn uncovered_below<'a>(foreign: &[PathBuf], roots: impl Iterator<Item = &'a Path>) -> Vec<PathBuf> {
    let roots: Vec<&Path> = roots.collect();
    foreign.iter().filter(|path| !roots.contains(&path.as_path())).cloned().collect()
}

/// The error about nested file systems, or nothing.
pub fn nested_error(missing: &[PathBuf]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|path| path.display().to_string()).collect();
    Err(Error::precondition(format!(
        "another file system or subvolume begins inside of the cluster and would be empty in the snapshot: {}",
        names.join(", ")
    ))
    .with_hint("make it a plain directory, or move it out and make it a tablespace"))
}

#[cfg(test)]
mod tests {
    use super::super::paths::PgRole;
    use super::*;

    fn volume(root: &str) -> Volume {
        Volume {
            id: root.into(),
            root: root.into(),
            mount_point: root.into(),
            mount_options: String::new(),
            file_systems: Vec::new(),
            device: String::new(),
            method: "copy".into(),
            attributes: Default::default(),
        }
    }

    fn paths() -> PgPaths {
        let path = |role, real: &str| PgPath { role, named: real.into(), real: real.into() };
        PgPaths::from_known(vec![
            path(PgRole::Data, "/srv/pg/data"),
            path(PgRole::Wal, "/wal/pg_wal"),
            path(PgRole::Tablespace { name: "fast".into(), oid: 16400 }, "/srv/pg/ts/fast"),
        ])
    }

    const MOUNTS: &str = "\
1 0 254:0 / / rw - ext4 /dev/vda rw
2 1 7:1 / /srv/pg rw - xfs /dev/loop1 rw
3 2 7:2 / /srv/pg/ts rw - xfs /dev/loop2 rw
4 1 7:3 / /wal rw - xfs /dev/loop3 rw
";

    fn mounts() -> MountTable {
        MountTable::parse(MOUNTS.as_bytes()).unwrap()
    }

    #[test]
    fn every_path_goes_to_the_volume_with_the_longest_root() {
        let volumes = [volume("/srv/pg"), volume("/srv/pg/ts"), volume("/wal"), volume("/srv")];
        let coverage = cover(&paths(), &volumes, &mounts());
        assert_eq!(coverage.unused, [3]);
        let placed = coverage.require().unwrap();
        let found: Vec<_> = placed.iter().map(|p| (p.volume, p.subtree.to_str().unwrap())).collect();
        assert_eq!(found, [(0, "data"), (2, "pg_wal"), (1, "fast")]);
    }

    #[test]
    fn a_mount_inside_of_a_volume_is_not_covered_by_it() {
        let error = cover(&paths(), &[volume("/srv/pg"), volume("/wal")], &mounts()).require().unwrap_err();
        assert_eq!(
            error.to_string(),
            "not on any of the volumes to be snapshotted: tablespace \"fast\" /srv/pg/ts/fast (name the disk that holds \
             it (on this host: --snapshot-disk /srv/pg/ts), or leave out --snapshot-disk to have the volumes found)"
        );
    }

    #[test]
    fn a_root_that_is_only_a_prefix_of_the_name_holds_nothing() {
        let coverage = cover(&paths(), &[volume("/srv/p"), volume("/srv/pg/dat")], &mounts());
        assert_eq!(coverage.uncovered.len(), 3);
        assert_eq!(coverage.unused, [0, 1]);
    }

    #[test]
    fn a_nested_file_system_that_is_a_volume_itself_is_fine() {
        let foreign = ["/srv/pg/data/pg_wal".into(), "/srv/pg/data/base".into()];
        let left = uncovered_below(&foreign, [Path::new("/srv/pg/data/pg_wal")].into_iter());
        assert_eq!(left, [PathBuf::from("/srv/pg/data/base")]);
        assert!(nested_error(&left).unwrap_err().message().ends_with("/srv/pg/data/base"));
        nested_error(&[]).unwrap();
    }
}
