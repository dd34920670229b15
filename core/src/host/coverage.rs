//! Which place of a cluster lies on which volume: the coverage check.
//!
//! Pure. A backup whose snapshots leave out a tablespace can be taken and can never be restored; therefore an uncovered
//! path is an error before anything starts, and never a warning.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::mounts::{Mount, MountTable};
use super::nested::Nested;
use super::paths::{PgPath, PgPaths};
use super::survey::survey;
use crate::error::{Error, Result};
use crate::provider::{FileSystem, Volume};

/// A path of the cluster and the volume that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The path.
    pub path: PgPath,
    /// The index of its volume in the list that was asked about; of several disks under one file system, the first.
    pub volume: usize,
    /// The index of the file system in [`Volume::file_systems`], where the volume is a disk.
    pub file_system: Option<usize>,
    /// Where the path lies inside of the volume, relative to its root, or to where the file system is mounted; empty if it is
    /// that.
    pub subtree: PathBuf,
}

/// A path that no volume holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uncovered {
    /// The path.
    pub path: PgPath,
    /// The mount that it is on, where that is known.
    pub mount: Option<Mount>,
}

/// The answer of [`cover`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// What lies on a volume, in the order of [`PgPaths::iter`].
    pub placed: Vec<Placed>,
    /// What lies on none.
    pub uncovered: Vec<Uncovered>,
    /// The indexes of volumes that hold nothing of the cluster.
    pub unused: Vec<usize>,
    /// Mount points inside of paths that lie on disks, whose file systems lie on none of the volumes. (A local provider looks
    /// for such things itself.)
    pub nested: Vec<PathBuf>,
    /// Whether the volumes are disks, which have other names than what is mounted from them.
    disks: bool,
}

/// Places each path on its volume.
///
/// A disk holds what is on one of its file systems, wherever these are mounted. A directory or subvolume holds what is below
/// it, the one with the longest name first, provided that it is on the same mount: a file system that is mounted *inside* of a
/// volume is not in its snapshot.
pub fn cover(paths: &PgPaths, volumes: &[Volume], mounts: &MountTable) -> Coverage {
    let disks = volumes.iter().any(|volume| !volume.file_systems.is_empty());
    let mut coverage =
        Coverage { placed: Vec::new(), uncovered: Vec::new(), unused: Vec::new(), nested: Vec::new(), disks };
    let mut used = BTreeSet::new();
    for path in paths.iter() {
        let mount = mounts.of_path(&path.real);
        let places: Vec<Placed> = volumes.iter().enumerate().filter_map(|at| place(path, mount, at, mounts)).collect();
        used.extend(places.iter().filter(|place| place.file_system.is_some()).map(|place| place.volume));
        // The longest root leaves the shortest rest. Of equal ones the first.
        match places.into_iter().min_by_key(|place| place.subtree.as_os_str().len()) {
            Some(place) => {
                used.insert(place.volume);
                coverage.placed.push(place);
            }
            None => coverage.uncovered.push(Uncovered { path: path.clone(), mount: mount.cloned() }),
        }
    }
    coverage.unused = (0..volumes.len()).filter(|at| !used.contains(at)).collect();
    coverage.nested = nested_mounts(&coverage.placed, paths, volumes, mounts);
    coverage
}

/// Where a path lies on a volume, if it does.
fn place(path: &PgPath, mount: Option<&Mount>, volume: (usize, &Volume), mounts: &MountTable) -> Option<Placed> {
    let (index, volume) = volume;
    let placed = |file_system, root: &Path| {
        let subtree = path.real.strip_prefix(root).ok()?.to_owned();
        Some(Placed { path: path.clone(), volume: index, file_system, subtree })
    };
    if volume.file_systems.is_empty() {
        let same_mount = match (mount, mounts.of_path(&volume.root)) {
            (Some(of_path), Some(of_root)) => of_path.id == of_root.id,
            // Without a mount table only the names can be compared.
            _ => true,
        };
        return same_mount.then(|| placed(None, &volume.root)).flatten();
    }
    let mount = mount?;
    let at = volume.file_systems.iter().position(|file_system| is_mounted_as(file_system, mount))?;
    placed(Some(at), &mount.mount_point)
}

fn is_mounted_as(file_system: &FileSystem, mount: &Mount) -> bool {
    file_system.mount_point == mount.mount_point && file_system.fs_root == mount.fs_root
}

/// What is mounted inside of a path on a disk and is neither on one of the volumes nor a place of the cluster itself.
fn nested_mounts(placed: &[Placed], paths: &PgPaths, volumes: &[Volume], mounts: &MountTable) -> Vec<PathBuf> {
    let is_known = |mount: &Mount| {
        let mut file_systems = volumes.iter().flat_map(|volume| &volume.file_systems);
        file_systems.any(|file_system| is_mounted_as(file_system, mount))
            || paths.iter().chain(paths.left_out()).any(|path| mounts.of_path(&path.real) == Some(mount))
    };
    let on_disks = placed.iter().filter(|place| place.file_system.is_some());
    let inside = on_disks.flat_map(|place| mounts.below(&place.path.real));
    let unknown: BTreeSet<PathBuf> = inside.filter(|mount| !is_known(mount)).map(|m| m.mount_point.clone()).collect();
    unknown.into_iter().collect()
}

impl Coverage {
    /// The placed paths, or an error that names every path that no volume holds.
    ///
    /// # Errors
    /// [`ErrorKind::Precondition`](crate::error::ErrorKind::Precondition).
    pub fn require(self) -> Result<Vec<Placed>> {
        if self.uncovered.is_empty() {
            nested_error(&self.nested)?;
            return Ok(self.placed);
        }
        let names: Vec<String> = self.uncovered.iter().map(|uncovered| uncovered.path.to_string()).collect();
        let mut wanted: Vec<String> = Vec::new();
        for uncovered in &self.uncovered {
            let option = uncovered.wanted(self.disks);
            if !wanted.contains(&option) {
                wanted.push(option);
            }
        }
        let found = match self.disks {
            true => "leave out --snapshot-disk to have the disks found",
            false => "leave out --snapshot-disk to have the volumes found",
        };
        Err(Error::precondition(format!("not on any of the volumes to be snapshotted: {}", names.join(", ")))
            .with_hint(format!(
                "name the disk that holds it (on this host: {}), or {found}",
                wanted.join(if self.disks { ", " } else { " " })
            )))
    }
}

impl Uncovered {
    /// What has to be added, in words that can be copied where that is possible.
    fn wanted(&self, disks: bool) -> String {
        match &self.mount {
            // What a cloud calls the disk is not known here.
            Some(mount) if disks => format!("{} mounted on {}", mount.source, mount.mount_point.display()),
            // A directory on btrfs may lie in a subvolume of its own, which the mount point does not name.
            Some(mount) if mount.mount_point != Path::new("/") && mount.fs_type != "btrfs" => {
                format!("--snapshot-disk {}", mount.mount_point.display())
            }
            _ => format!("--snapshot-disk {}", self.path.real.display()),
        }
    }
}

/// Finds file systems and subvolumes that begin inside of the cluster's directories and that no snapshot of `volumes`
/// would hold. Looks at the directories of the cluster; changes nothing. What PostgreSQL does not use is only warned of.
///
/// # Errors
/// [`ErrorKind::Precondition`](crate::error::ErrorKind::Precondition) with all of them.
pub fn check_nested(paths: &PgPaths, volumes: &[Volume], skip: &str) -> Result<()> {
    let cluster = paths.real();
    let mut nested = Nested::default();
    for holder in &cluster {
        let foreign = survey(holder, skip)?.foreign;
        let left = uncovered_below(&foreign, volumes.iter().map(|volume| volume.root.as_path()));
        let found = Nested::sort_out(holder, left, &cluster);
        nested.missed.extend(found.missed);
        nested.strange.extend(found.strange);
    }
    for found in [&mut nested.missed, &mut nested.strange] {
        found.sort();
        found.dedup();
    }
    nested.judge()
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

    /// The disks of a captured host on which these paths lie, as volumes.
    fn disks(name: &str, attached: &[&str], wanted: &[&str]) -> (Vec<Volume>, MountTable) {
        use super::super::devices::{AttachedDisk, DeviceHint, Disks, HostDescription};
        let path = format!("{}/tests/fixtures/hosts/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let host = HostDescription::from_file(Path::new(&path)).unwrap();
        let disk = |name: &&str| AttachedDisk {
            id: (*name).to_owned(),
            hints: vec![DeviceHint::ApiName(format!("/dev/xvd{name}")), DeviceHint::Serial(format!("vol{name}"))],
        };
        let attached: Vec<AttachedDisk> = attached.iter().map(disk).collect();
        let wanted: Vec<PathBuf> = wanted.iter().map(PathBuf::from).collect();
        let disks = Disks::on(&host, &attached).unwrap().holding(&wanted).unwrap();
        let volumes = disks.iter().map(|disk| disk.volume("ebs", Default::default()).unwrap()).collect();
        (volumes, host.mounts().unwrap())
    }

    fn places(list: &[&str]) -> PgPaths {
        let path = |(at, real): (usize, &&str)| PgPath {
            role: if at == 0 { PgRole::Data } else { PgRole::Wal },
            named: (*real).into(),
            real: (*real).into(),
        };
        PgPaths::from_known(list.iter().enumerate().map(path).collect())
    }

    #[test]
    fn a_disk_holds_what_is_on_any_of_its_mounts() {
        let (volumes, mounts) = disks("partitions_and_binds", &["f"], &["/srv/ts"]);
        let coverage = cover(&places(&["/srv/my pg/17/main", "/srv/ts/wal", "/mnt/data"]), &volumes, &mounts);
        let found: Vec<_> = coverage
            .require()
            .unwrap()
            .iter()
            .map(|p| (p.subtree.display().to_string(), volumes[p.volume].file_systems[p.file_system.unwrap()].clone()))
            .map(|(subtree, file_system)| (subtree, file_system.part, file_system.fs_root.display().to_string()))
            .collect();
        let expected = [("17/main", "1", "/pg"), ("wal", "2", "/"), ("", "1", "/")];
        assert_eq!(found, expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())));
    }

    #[test]
    fn both_disks_under_a_file_system_count_as_used() {
        let (volumes, mounts) = disks("lvm_two_disks", &["f", "g"], &["/srv/pg"]);
        let coverage = cover(&places(&["/srv/pg/17"]), &volumes, &mounts);
        assert!(coverage.unused.is_empty());
        assert_eq!(coverage.placed[0].volume, 0);
        let error = cover(&places(&["/srv/pg/17", "/mnt/wal"]), &volumes, &mounts).require().unwrap_err();
        assert_eq!(
            error.to_string(),
            "not on any of the volumes to be snapshotted: WAL directory /mnt/wal (name the disk that holds it (on this \
             host: /dev/xvda1 mounted on /), or leave out --snapshot-disk to have the disks found)"
        );
    }

    #[test]
    fn another_file_system_inside_of_a_cluster_on_a_disk_is_refused() {
        let (volumes, mounts) = disks("aws_nitro", &["0123456789abcdef0"], &["/srv/pg"]);
        let error = cover(&places(&["/srv/pg"]), &volumes, &mounts).require().unwrap_err();
        assert!(error.message().ends_with("would be empty in the snapshot: /srv/pg/ts"), "{error}");
        // Unless its disk is one of the volumes.
        let both = ["0123456789abcdef0", "0123456789abcdef1"];
        let (volumes, mounts) = disks("aws_nitro", &both, &["/srv/pg", "/srv/pg/ts"]);
        assert_eq!(cover(&places(&["/srv/pg"]), &volumes, &mounts).require().unwrap().len(), 1);
    }

    #[test]
    fn on_btrfs_the_directory_is_named_because_it_may_be_a_subvolume_of_its_own() {
        let mounts =
            MountTable::parse(b"1 0 254:0 / / rw - ext4 /dev/vda rw\n2 1 0:40 / /srv rw - btrfs /dev/loop1 rw\n")
                .unwrap();
        let error = cover(&places(&["/srv/pg/17"]), &[volume("/srv/other")], &mounts).require().unwrap_err();
        assert!(error.to_string().contains("--snapshot-disk /srv/pg/17)"), "{error}");
    }
}
