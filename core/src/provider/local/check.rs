//! What can be checked before the backup starts. Looks, and changes nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::discovery::{self, inner_roots};
use super::method::Method;
use super::sidecar::Slot;
use super::{LocalOptions, btrfs, inside, is_zfs, place, space, zfs};
use crate::error::{Error, ErrorKind, Result};
use crate::host::coverage::{nested_error, uncovered_below};
use crate::host::{Nested, survey};
use crate::provider::{CreateRequest, Volume, VolumeSnapshot};

/// Checks all requests of a session. What each volume needs that takes space from the start, by its id.
pub(super) fn requests(options: &LocalOptions, requests: &[CreateRequest]) -> Result<Vec<(String, u64)>> {
    let mut wanted = Vec::new();
    let volumes = || requests.iter().flat_map(|request| &request.volumes);
    let cluster: Vec<PathBuf> = volumes().filter_map(|at| discovery::holds(&at.volume)).flatten().collect();
    requests.iter().try_for_each(group)?;
    for snapshot in volumes() {
        wanted.extend(one(options, snapshot, &cluster)?.map(|space| (snapshot.volume.id.clone(), space)));
    }
    let (volumes, wanted): (Vec<String>, Vec<space::Wanted>) = wanted.into_iter().unzip();
    space::check_all(&wanted)?;
    Ok(volumes.into_iter().zip(wanted.iter().map(|space| space.bytes)).collect())
}

/// Checks one volume. Where its snapshot takes space from the start: which directory, and how much.
fn one(options: &LocalOptions, snapshot: &VolumeSnapshot, cluster: &[PathBuf]) -> Result<Option<space::Wanted>> {
    if !place::is_valid_name(&snapshot.name) {
        return Err(Error::invalid(format!("not a name for a local snapshot: {:?}", snapshot.name))
            .with_hint("letters, digits and _ . - : only, not hidden, at most 200"));
    }
    let volume = &snapshot.volume;
    match volume.method.parse()? {
        Method::Zfs => {
            let zfs = zfs::Zfs::new(&options.zfs_command);
            let name = format!("{}@{}", zfs::dataset(volume)?, snapshot.name);
            zfs.token_of(&name)?.map_or(Ok(()), |_| Err(taken(&name)))?;
            zfs.check_possible(volume)?;
            check_borders(volume, cluster)?;
        }
        Method::Btrfs => {
            if !btrfs::may_snapshot(&volume.root) {
                return Err(Error::new(
                    ErrorKind::PermissionDenied,
                    format!("the subvolume {} belongs to another user", volume.root.display()),
                )
                .with_hint("run as its owner or as root, or choose --snapshot-method reflink"));
            }
            check_place(snapshot, cluster)?;
            check_borders(volume, cluster)?;
        }
        Method::Reflink => return check_tree(snapshot, true, cluster).map(Some),
        Method::Copy => return check_tree(snapshot, false, cluster).map(Some),
        Method::Auto => return Err(Error::invalid(format!("no method was chosen for {}", volume.id))),
    }
    Ok(None)
}

/// True if these are several datasets of one ZFS pool, all different: only those are cut by one call.
pub(super) fn is_one_pool(volumes: &[Volume]) -> bool {
    let datasets: Option<Vec<&str>> =
        volumes.iter().map(|volume| is_zfs(&volume.method).then(|| zfs::dataset(volume).ok()).flatten()).collect();
    datasets.is_some_and(|datasets| {
        let different: BTreeSet<&str> = datasets.iter().copied().collect();
        let one_pool = datasets.iter().all(|dataset| zfs::pool(dataset) == zfs::pool(datasets[0]));
        // One call takes one snapshot of each dataset, and two bind mounts may show the same one.
        datasets.len() > 1 && different.len() == datasets.len() && one_pool
    })
}

/// Several volumes in one request are for ZFS only, and for one pool.
pub(super) fn group(request: &CreateRequest) -> Result<()> {
    let volumes: Vec<Volume> = request.volumes.iter().map(|snapshot| snapshot.volume.clone()).collect();
    match volumes.len() {
        0 => Err(Error::invalid("a request without volumes")),
        1 => Ok(()),
        _ if is_one_pool(&volumes) => Ok(()),
        _ => Err(Error::new(
            ErrorKind::Unsupported,
            "the local provider cuts several volumes at once on ZFS only, and in one pool only",
        )),
    }
}

fn check_tree(snapshot: &VolumeSnapshot, shared: bool, cluster: &[PathBuf]) -> Result<space::Wanted> {
    let volume = &snapshot.volume;
    check_place(snapshot, cluster)?;
    let seen = survey(&volume.root, place::SNAPSHOT_DIRECTORY)?;
    judge_nested(volume, &volume.root, &seen.foreign, cluster)?;
    let place = discovery::snapshots(volume);
    let existing = place.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("/")).to_owned();
    Ok(space::Wanted { bytes: space::needed(&seen, shared), directory: existing, place })
}

/// Subvolumes and mounts inside of the cluster's own directories, where these are known.
fn check_borders(volume: &Volume, cluster: &[PathBuf]) -> Result<()> {
    for path in discovery::holds(volume).unwrap_or_default() {
        let seen = survey(&path, place::SNAPSHOT_DIRECTORY)?;
        judge_nested(volume, &path, &seen.foreign, cluster)?;
    }
    Ok(())
}

/// Borders below `holder`, but for those of other volumes. Where nobody has said what of the cluster a volume holds, each
/// may be PostgreSQL's.
fn judge_nested(volume: &Volume, holder: &Path, foreign: &[PathBuf], cluster: &[PathBuf]) -> Result<()> {
    let left = uncovered_below(foreign, inner_roots(volume).iter().map(PathBuf::as_path));
    match discovery::holds(volume) {
        Some(_) => Nested::sort_out(holder, left, cluster).judge(),
        None => nested_error(&left),
    }
}

/// The directory of the snapshots can be written, and the name is free.
fn check_place(snapshot: &VolumeSnapshot, cluster: &[PathBuf]) -> Result<()> {
    let place = discovery::snapshots(&snapshot.volume);
    inside::refuse(&place, cluster)?;
    let written = if place.is_dir() { Some(place.as_path()) } else { place.parent() };
    if !written.is_some_and(place::may_write) {
        return Err(Error::new(
            ErrorKind::PermissionDenied,
            format!("cannot write to the place of the snapshots {}", place.display()),
        )
        .with_hint("run as the owner of the data or as root, or give another place with --snapshot-directory"));
    }
    let slot = Slot::new(&place, &snapshot.name);
    if slot.read()?.is_some() || slot.tree().symlink_metadata().is_ok() {
        return Err(taken(&slot.tree().display().to_string()));
    }
    Ok(())
}

fn taken(name: &str) -> Error {
    Error::new(ErrorKind::Conflict, format!("a snapshot of this name exists already: {name}"))
}
