//! Volumes that the user has made of the snapshots, attached and mounted: whether all are there, and in the right places.
//!
//! Pure. What stock tools check (`barman-cloud-restore --snapshot-recovery-instance`), and more: they want the recorded
//! mount points and the exact text of the mount options; here each directory of the cluster has to be where it was asked
//! for, by whatever mounts, and other options are only told.

use std::path::{Path, PathBuf};

use super::layout::{DevicePlan, PlannedVolume, ToCheck};
use super::options;
use crate::error::{Error, Result};
use crate::model::EngineRecord;
use crate::provider::{FileSystem, Volume};
use crate::restore::tablespaces::normal;

/// Checks every directory, puts the volumes into the plan, and returns warnings.
///
/// # Errors
/// `precondition` that names all volumes which are missing, or else all directories which are elsewhere.
pub(super) fn check(
    record: &EngineRecord,
    attached: &[Option<Volume>],
    wanted: &[ToCheck<'_>],
    plan: &mut DevicePlan,
) -> Result<Vec<String>> {
    let needed = needed(record, wanted);
    let volume = |index: usize| attached.get(index).and_then(Option::as_ref);
    let lost: Vec<_> = needed
        .iter()
        .filter(|index| volume(**index).is_none())
        .map(|index| {
            let one = &record.snapshots[*index];
            format!("{} (was mounted at {})", one.ticket.snapshot, one.mount_point)
        })
        .collect();
    if !lost.is_empty() {
        return Err(Error::precondition(format!(
            "no volume attached to {} was made of {}",
            plan.instance.name,
            lost.join(", ")
        ))
        .with_hint("make a volume of each snapshot, attach it and mount it; or restore without --mounted"));
    }
    let mut wrong = Vec::new();
    let mut warnings = Vec::new();
    for one in wanted {
        let Some(volume) = volume(one.snapshot) else { continue };
        let mounts = mounts(volume, one.fs);
        let seen: Vec<_> = mounts.iter().filter_map(|mount| Some((seen(mount, &one.full)?, mount))).collect();
        match seen.iter().find(|(at, _)| at == one.place) {
            Some((_, mount)) => warnings.extend(other_options(one, mount, volume)),
            None => wrong.push(misplaced(one, volume, &mounts, seen.first().map(|(at, _)| at.as_path()))),
        }
    }
    if !wrong.is_empty() {
        return Err(Error::precondition(wrong.join("; "))
            .with_hint("mount the volumes so, or name the places where the directories are"));
    }
    plan.volumes.extend(needed.into_iter().map(|index| PlannedVolume {
        ticket: record.snapshots[index].ticket.clone(),
        attached: volume(index).map(|volume| volume.id.clone()),
        like: String::new(),
    }));
    warnings.dedup();
    Ok(warnings)
}

/// The snapshots that are needed: those with a wanted directory, and the other disks of their file systems.
fn needed(record: &EngineRecord, wanted: &[ToCheck<'_>]) -> Vec<usize> {
    let shared = |one: &ToCheck<'_>, index: usize| one.fs.shared_with.contains(&record.snapshots[index].ticket.volume);
    (0..record.snapshots.len())
        .filter(|index| wanted.iter().any(|one| one.snapshot == *index || shared(one, *index)))
        .collect()
}

/// The mounts of the volume that can be those of `recorded`. A record of a stock tool does not say which part of the disk it
/// means, and a volume without parts was looked at by someone who does not know.
fn mounts(volume: &Volume, recorded: &FileSystem) -> Vec<FileSystem> {
    if volume.file_systems.is_empty() {
        let whole = FileSystem {
            mount_point: volume.mount_point.clone(),
            options: volume.mount_options.clone(),
            fs_root: "/".into(),
            ..recorded.clone()
        };
        return Some(whole).filter(|fs| !fs.mount_point.as_os_str().is_empty()).into_iter().collect();
    }
    let legacy = recorded.fs_type.is_empty();
    volume.file_systems.iter().filter(|fs| legacy || fs.part == recorded.part).cloned().collect()
}

/// Where the directory `full` of a file system appears through this mount.
fn seen(mount: &FileSystem, full: &Path) -> Option<PathBuf> {
    full.strip_prefix(&mount.fs_root).ok().map(|inside| normal(&mount.mount_point.join(inside)))
}

fn misplaced(one: &ToCheck<'_>, volume: &Volume, mounts: &[FileSystem], at: Option<&Path>) -> String {
    let (what, place, id) = (one.what, one.place.display(), &volume.id);
    match (at, mounts.first()) {
        (Some(at), _) => format!("{what} has to be at {place}, and is at {} on the volume {id}", at.display()),
        (None, Some(mount)) => {
            let (shown, top) = (mount.mount_point.display(), mount.fs_root.display());
            format!("{what} has to be at {place}, but of the volume {id} only {top} is mounted, at {shown}")
        }
        (None, None) => format!("{what} has to be at {place}, but the volume {id} is not mounted"),
    }
}

/// Other options are no danger: the kernel or the distribution may print others.
fn other_options(one: &ToCheck<'_>, mount: &FileSystem, volume: &Volume) -> Option<String> {
    let (then, now) = (options::kept(&one.fs.options), options::kept(&mount.options));
    (then != now).then(|| {
        format!(
            "the volume {} is mounted at {} with other options than the original: {now:?}, not {then:?}",
            volume.id,
            mount.mount_point.display()
        )
    })
}
