//! From directories to volumes: which subvolume, dataset or directory is the unit of the snapshot, how it can be taken,
//! and where its snapshots will lie. Changes nothing that stays (the reflink probe uses files without names).

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::LocalOptions;
use super::method::{Method, Sight, choose};
use super::{btrfs, copy, here, inside, place, zfs};
use crate::error::{Error, ErrorKind, Result};
use crate::host::{Mount, MountTable};
use crate::provider::{Volume, VolumeSelection};

/// Attribute of a [`Volume`]: the directory of its snapshots.
pub(super) const SNAPSHOTS: &str = "snapshot_directory";
/// Attribute of a [`Volume`]: the ZFS dataset.
pub(super) const DATASET: &str = "dataset";
/// Attribute of a [`Volume`]: the paths of the cluster on it, as a JSON array. Absent if it was named by the user.
const HOLDS: &str = "holds";
/// Attribute of a [`Volume`]: roots of other volumes of the same selection that lie below its root, as a JSON array.
const INNER: &str = "inner_roots";

/// The volumes of a selection.
pub(super) fn volumes(options: &LocalOptions, selection: &VolumeSelection) -> Result<Vec<Volume>> {
    let mounts = MountTable::current()?;
    let (directories, named) = match selection {
        VolumeSelection::Named(names) => (named_directories(names)?, true),
        VolumeSelection::Holding(paths) => (real_directories(paths)?, false),
    };
    let mut found: Vec<(Volume, Vec<PathBuf>)> = Vec::new();
    for directory in &directories {
        let volume = volume_of(options, &mounts, directory, if named { &[] } else { &directories })?;
        match found.iter_mut().find(|(other, _)| other.root == volume.root) {
            Some((_, holds)) => holds.push(directory.clone()),
            None => found.push((volume, vec![directory.clone()])),
        }
    }
    if !named {
        drop_inner_directories(&mut found);
    }
    let roots: Vec<PathBuf> = found.iter().map(|(volume, _)| volume.root.clone()).collect();
    Ok(found
        .into_iter()
        .map(|(mut volume, holds)| {
            let inner: Vec<&PathBuf> =
                roots.iter().filter(|root| **root != volume.root && root.starts_with(&volume.root)).collect();
            set_paths(&mut volume.attributes, INNER, &inner);
            if !named {
                set_paths(&mut volume.attributes, HOLDS, &holds.iter().collect::<Vec<_>>());
            }
            here::note_volume(&mut volume);
            volume
        })
        .collect())
}

/// The cluster's paths on a volume that was found by itself.
pub(super) fn holds(volume: &Volume) -> Option<Vec<PathBuf>> {
    volume.attributes.get(HOLDS).and_then(|text| serde_json::from_str(text).ok())
}

/// The other volumes inside of this one.
pub(super) fn inner_roots(volume: &Volume) -> Vec<PathBuf> {
    volume.attributes.get(INNER).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// The directory of its snapshots.
pub(super) fn snapshots(volume: &Volume) -> PathBuf {
    match volume.attributes.get(SNAPSHOTS) {
        Some(directory) => PathBuf::from(directory),
        None => place::snapshot_directory(&volume.root, &volume.mount_point, place::may_write, |_| false),
    }
}

fn set_paths(attributes: &mut BTreeMap<String, String>, key: &str, paths: &[&PathBuf]) {
    // Paths that are no UTF-8 are left out: the checks that use this get stricter, not looser.
    let texts: Vec<&str> = paths.iter().filter_map(|path| path.to_str()).collect();
    if let Ok(json) = serde_json::to_string(&texts) {
        attributes.insert(key.to_owned(), json);
    }
}

fn named_directories(names: &[String]) -> Result<Vec<PathBuf>> {
    let (mut found, mut unknown) = (Vec::new(), Vec::new());
    for name in names {
        match Path::new(name).canonicalize() {
            Ok(path) if Path::new(name).is_absolute() && path.is_dir() => found.push(path),
            _ => unknown.push(name.as_str()),
        }
    }
    if unknown.is_empty() {
        return Ok(found);
    }
    Err(Error::not_found(format!("no such disk on this host: {}", unknown.join(", ")))
        .with_hint("for the local provider a disk is the absolute path of a mount point, a subvolume or a directory"))
}

fn real_directories(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    paths
        .iter()
        .map(|path| {
            if !path.is_absolute() {
                return Err(Error::invalid(format!("not an absolute path: {}", path.display())));
            }
            path.canonicalize().map_err(|source| Error::io("find", path, source))
        })
        .collect()
}

/// A tablespace inside of the data directory, or `pg_wal` that is a plain directory, needs no volume of its own.
fn drop_inner_directories(found: &mut Vec<(Volume, Vec<PathBuf>)>) {
    let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev()).ok();
    let all: Vec<(PathBuf, Option<u64>)> = found.iter().map(|(v, _)| (v.root.clone(), device(&v.root))).collect();
    let outer_of = |root: &Path| {
        let own = device(root);
        all.iter().find(|(other, dev)| other != root && root.starts_with(other) && *dev == own).map(|(o, _)| o.clone())
    };
    let moved: Vec<(PathBuf, PathBuf)> = found
        .iter()
        .flat_map(|(v, holds)| holds.iter().filter_map(|h| Some((outer_of(&v.root)?, h.clone()))))
        .collect();
    found.retain(|(volume, _)| outer_of(&volume.root).is_none());
    for (outer, path) in moved {
        if let Some((_, holds)) = found.iter_mut().find(|(volume, _)| volume.root == outer) {
            holds.push(path);
        }
    }
}

/// The volume of a directory. `cluster`: directories of PostgreSQL, in which no snapshots may lie.
fn volume_of(options: &LocalOptions, mounts: &MountTable, directory: &Path, cluster: &[PathBuf]) -> Result<Volume> {
    let mount = mounts
        .of_path(directory)
        .ok_or_else(|| Error::precondition(format!("not on any mounted file system: {}", directory.display())))?;
    let subvolume = if mount.fs_type == "btrfs" { btrfs::subvolume_of(directory, &mount.mount_point) } else { None };
    let dataset = zfs_dataset(options, mount, directory)?;
    let snapshots = snapshot_directory(options, directory, &mount.mount_point, cluster)?;
    let sight = Sight {
        subvolume: subvolume.is_some(),
        may_snapshot: subvolume.as_deref().is_some_and(btrfs::may_snapshot),
        dataset: dataset.is_some(),
        reflink: matches!(options.method, Method::Auto | Method::Reflink) && can_share(directory, &snapshots),
    };
    let method = choose(options.method, sight, directory)?;
    let root = match (method, subvolume, &dataset) {
        (Method::Btrfs, Some(subvolume), _) => subvolume,
        (Method::Zfs, _, Some(dataset)) => dataset.mount_point.clone(),
        _ => directory.to_owned(),
    };
    let mut snapshots = snapshot_directory(options, &root, &mount.mount_point, cluster)?;
    if method == Method::Btrfs
        && inside::postgres_around(&snapshots, cluster).is_some()
        && let Some(elsewhere) = btrfs_elsewhere(mounts, mount, cluster)
    {
        snapshots = elsewhere;
    }
    let mut attributes = BTreeMap::from([(SNAPSHOTS.to_owned(), utf8(&snapshots)?.to_owned())]);
    if let (Method::Zfs, Some(dataset)) = (method, dataset) {
        attributes.extend(dataset.attributes);
    }
    Ok(Volume {
        id: utf8(&root)?.to_owned(),
        root,
        mount_point: mount.mount_point.clone(),
        mount_options: mount.options.clone(),
        file_systems: Vec::new(),
        device: mount.source.clone(),
        method: method.to_string(),
        attributes,
    })
}

/// Volumes and snapshots are named in metadata, which is UTF-8.
fn utf8(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, format!("a path that is not UTF-8 cannot be backed up: {}", path.display()))
    })
}

fn zfs_dataset(options: &LocalOptions, mount: &Mount, directory: &Path) -> Result<Option<zfs::Dataset>> {
    let is_zfs = matches!(mount.fs_type.as_str(), "zfs" | "fuse.zfs");
    if !is_zfs || !matches!(options.method, Method::Auto | Method::Zfs) {
        return Ok(None);
    }
    match zfs::Zfs::new(&options.zfs_command).dataset_of(mount, directory) {
        Ok(dataset) => Ok(dataset),
        Err(error) if options.method == Method::Auto => {
            tracing::warn!(error = %error.chain(), "cannot ask zfs, falling back to a copy");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// A place that is seen through another mount of the same btrfs. Its root counts only where it is not that of the system.
fn btrfs_elsewhere(mounts: &MountTable, mount: &Mount, cluster: &[PathBuf]) -> Option<PathBuf> {
    let same = |other: &&Mount| {
        (other.fs_type == "btrfs" && other.source == mount.source && other.id != mount.id)
            && other.mount_point != Path::new("/")
            && mounts.of_path(&other.mount_point) == Some(*other)
    };
    let usable = |place: &PathBuf| inside::postgres_around(place, cluster).is_none();
    mounts
        .iter()
        .filter(same)
        .filter(|other| place::is_usable(&other.mount_point, place::may_write))
        .map(|other| other.mount_point.join(place::SNAPSHOT_DIRECTORY))
        .find(usable)
}

fn snapshot_directory(options: &LocalOptions, root: &Path, mount_point: &Path, cluster: &[PathBuf]) -> Result<PathBuf> {
    let taken = |place: &Path| inside::postgres_around(place, cluster).is_some();
    match &options.snapshot_directory {
        None => Ok(place::snapshot_directory(root, mount_point, place::may_write, taken)),
        Some(directory) => {
            let real = directory.canonicalize().map_err(|source| Error::io("find", directory, source))?;
            let ours = real.file_name().is_some_and(|name| name == place::SNAPSHOT_DIRECTORY);
            Ok(if ours { real } else { real.join(place::SNAPSHOT_DIRECTORY) })
        }
    }
}

/// True if blocks can be shared between files in `directory` and in the place of the snapshots. Tried with two files that
/// have no name, so that nothing can stay behind.
fn can_share(directory: &Path, snapshots: &Path) -> bool {
    let place = if snapshots.is_dir() { Some(snapshots) } else { snapshots.parent() };
    let temporary =
        |at: &Path| rustix::fs::open(at, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR);
    let Some(Ok(target)) = place.map(temporary) else { return false };
    // A data directory belongs to the user that runs us, or we are root; if it is read-only the place must do.
    let Ok(source) = temporary(directory).or_else(|_| temporary(place.unwrap_or(directory))) else { return false };
    rustix::io::pwrite(&source, &[1; 4096], 0).is_ok_and(|count| count == 4096)
        && copy::share(source.as_fd(), target.as_fd()).unwrap_or(false)
}
