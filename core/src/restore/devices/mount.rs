//! Mounts and unmounts with mount(2) and umount2(2), and says how it would be written in `/etc/fstab`.
//!
//! All functions but [`unmount`] block; the caller runs them on a thread for that.

use std::ffi::CString;
use std::fs::DirBuilder;
use std::io::ErrorKind as Io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::UnmountFlags;
use serde::{Deserialize, Serialize};

use super::facts::mounted_btrfs;
use super::find::Device;
use super::layout::{PlannedMount, same_btrfs};
use super::options::{bits, is_on_device, needed, only_bits};
use super::probe::probe;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::host::MountTable;
use crate::host::devices::DeviceHint;
use crate::provider::RestoredVolume;

/// A file system that a restore has mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountedFileSystem {
    /// The volume it is on, as its provider names it.
    pub volume: String,
    /// The device, as the kernel names it now.
    pub device: PathBuf,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Its type.
    pub fs_type: String,
    /// Its UUID.
    pub uuid: String,
    /// The options that it was mounted with.
    pub options: String,
    /// The line for `/etc/fstab` that mounts it again after a reboot.
    pub fstab: String,
    /// What the user should know about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Mounts what is on `device` as planned.
pub(super) fn mount(planned: &PlannedMount, volume: &RestoredVolume, device: &Device) -> Result<MountedFileSystem> {
    let at = planned.mount_point.display();
    let (fs_type, uuid) = expected(planned, volume, device)?;
    if fs_type == "btrfs" && mounted_btrfs().contains(&uuid) {
        return Err(same_btrfs(&uuid));
    }
    let needed = needed(&fs_type, Some(&planned.subvolume));
    let with = |recorded: &str| -> String {
        let recorded = Some(recorded.to_owned()).filter(|text| !text.is_empty());
        recorded.into_iter().chain(needed.iter().cloned()).collect::<Vec<_>>().join(",")
    };
    let mut options = with(&planned.options);
    let mut warnings = Vec::new();
    let mut mounted = try_mount(&device.path, &planned.mount_point, &fs_type, &options);
    // This kernel may not know, or no longer know, an option of the original; a restore must not fail by that. What every kernel
    // knows stays: `noexec` may have been somebody's intention.
    if mounted == Err(rustix::io::Errno::INVAL) && !planned.options.is_empty() {
        options = with(&only_bits(&planned.options));
        mounted = try_mount(&device.path, &planned.mount_point, &fs_type, &options);
        warnings.push(format!("this host cannot mount {at} with the options of the original: {}", planned.options));
    }
    mounted.map_err(|errno| {
        Error::io("mount", &planned.mount_point, errno.into())
            .with_context("device", device.path.display().to_string())
            .with_context("type", fs_type.clone())
            .with_hint("the kernel log (dmesg) says more")
    })?;
    let mut mounted = MountedFileSystem {
        volume: volume.id.clone(),
        device: device.path.clone(),
        mount_point: planned.mount_point.clone(),
        fs_type,
        uuid,
        options,
        fstab: String::new(),
        warnings,
    };
    name_for_good(&mut mounted, volume);
    Ok(mounted)
}

/// Type and UUID of what is on the device, if it is what the backup has recorded.
fn expected(planned: &PlannedMount, volume: &RestoredVolume, device: &Device) -> Result<(String, String)> {
    let shown = device.path.display();
    let Some(found) = &device.found else {
        return match planned.fs_type.as_str() {
            "" => Err(Error::precondition(format!("there is no file system on {shown}, the volume {}", volume.id))
                .with_hint("if it has partitions or LVM, mount what is on it and restore with --mounted")),
            known if is_on_device(known, &std::fs::read_to_string("/proc/filesystems").unwrap_or_default()) => {
                Ok((known.to_owned(), planned.uuid.clone().unwrap_or_default()))
            }
            other => {
                Err(Error::corrupt(format!("the backup has {other:?} for the type of the file system on {shown}"))
                    .with_hint("that is no file system on a disk; nothing was mounted"))
            }
        };
    };
    match planned.uuid.as_deref() {
        Some(wanted) if !wanted.eq_ignore_ascii_case(&found.uuid) => Err(Error::new(
            ErrorKind::Corrupt,
            format!("{shown}, the volume {}, has the file system {}, the backup had {wanted}", volume.id, found.uuid),
        )
        .with_hint("it is not the volume that was made of the snapshot, and was not mounted")),
        _ => Ok((found.fs_type.to_owned(), found.uuid.clone())),
    }
}

fn try_mount(device: &Path, at: &Path, fs_type: &str, options: &str) -> rustix::io::Result<()> {
    let (flags, words) = bits(options);
    let data = CString::new(words.join(",")).map_err(|_| rustix::io::Errno::INVAL)?;
    rustix::mount::mount(device, at, fs_type, flags, data.as_c_str())
}

/// The line for `/etc/fstab`: by UUID, unless another file system that is mounted here has the same one.
fn name_for_good(mounted: &mut MountedFileSystem, volume: &RestoredVolume) {
    let link = volume.hints.iter().find_map(|hint| match hint {
        DeviceHint::Link(link) if link.canonicalize().is_ok_and(|real| real == mounted.device) => Some(link.clone()),
        _ => None,
    });
    // A partition is no volume and has a link of its own; if udev has made none, the name of the moment has to do.
    let link = link.or_else(|| link_to(Path::new(BY_ID), &mounted.device));
    let stable = link.unwrap_or_else(|| mounted.device.clone()).display().to_string();
    let name = match twin(mounted) {
        Some(twin) => {
            mounted.warnings.push(format!(
                "{} is mounted on this host as well, and has the same UUID as {}: give one of them another (tune2fs -U \
                 random, xfs_admin -U generate, on the unmounted device) before both are in /etc/fstab",
                twin.display(),
                mounted.mount_point.display()
            ));
            stable
        }
        None if mounted.uuid.is_empty() => stable,
        None => format!("UUID={}", mounted.uuid),
    };
    let options = if mounted.options.is_empty() { "defaults" } else { &mounted.options };
    // Without nofail a machine whose volume was detached or deleted does not boot, and nobody can log in to see why.
    let options = format!("{options},nofail");
    // Only the ext family is checked at boot; XFS and btrfs repair themselves.
    let pass = if mounted.fs_type.starts_with("ext") { 2 } else { 0 };
    mounted.fstab = format!("{name} {} {} {options} 0 {pass}", escaped(&mounted.mount_point), mounted.fs_type);
}

/// Where udev puts links to disks and partitions by what they are.
const BY_ID: &str = "/dev/disk/by-id";

/// The first link to `device` in a directory, by name.
fn link_to(directory: &Path, device: &Path) -> Option<PathBuf> {
    let links = std::fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path());
    links.filter(|link| link.canonicalize().is_ok_and(|real| real == device)).min()
}

/// Where another file system with this UUID is mounted.
fn twin(mounted: &MountedFileSystem) -> Option<PathBuf> {
    let table = MountTable::current().ok()?;
    let same = |source: &str| {
        let device = Path::new(source);
        device.starts_with("/dev")
            && device.canonicalize().is_ok_and(|real| real != mounted.device)
            && probe(device).is_ok_and(|found| found.is_some_and(|found| found.uuid == mounted.uuid))
    };
    table.iter().find(|mount| same(&mount.source)).map(|mount| mount.mount_point.clone())
}

/// As fstab(5) wants spaces.
fn escaped(path: &Path) -> String {
    let text = path.display().to_string();
    text.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012")
}

/// Makes the directory and what is above it. Returns those that were not there, outer ones first.
///
/// # Errors
/// `conflict` when it has content: it had none when the plan was made.
pub(super) fn make_mount_point(at: &Path) -> Result<Vec<PathBuf>> {
    let missing: Vec<_> = at.ancestors().take_while(|path| std::fs::symlink_metadata(path).is_err()).collect();
    if missing.is_empty() {
        let mut entries = std::fs::read_dir(at).map_err(|error| Error::io("read", at, error))?;
        return match entries.next() {
            None => Ok(Vec::new()),
            Some(_) => Err(Error::new(
                ErrorKind::Conflict,
                format!("{} is not empty, so nothing is mounted there", at.display()),
            )
            .with_hint("is another restore running to the same place?")),
        };
    }
    let mut made: Vec<PathBuf> = Vec::new();
    for path in missing.into_iter().rev() {
        // The server runs as another user, and has to pass whatever our umask is.
        let result = DirBuilder::new().mode(0o755).create(path).and_then(|()| {
            made.push(path.to_owned());
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        });
        if let Err(error) = result {
            remove_empty(&made);
            return Err(Error::io("make the directory", path, error));
        }
    }
    Ok(made)
}

/// Removes directories, inner ones first, as long as they are empty. Returns those that are left.
pub(super) fn remove_empty(directories: &[PathBuf]) -> Vec<PathBuf> {
    let left = |directory: &&PathBuf| match std::fs::remove_dir(directory) {
        Ok(()) => false,
        Err(error) => error.kind() != Io::NotFound,
    };
    directories.iter().rev().filter(left).cloned().collect()
}

/// Unmounts, patiently: a process that was just told to end may still have a file open. Not mounted is success.
pub(super) async fn unmount(at: &Path, clock: &dyn Clock) -> Result<()> {
    const TRIES: u32 = 40;
    for tried in 1.. {
        let path = at.to_owned();
        let result =
            super::super::provision::blocking(move || Ok(rustix::mount::unmount(&path, UnmountFlags::NOFOLLOW)));
        match result.await? {
            // EINVAL: nothing is mounted there.
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(rustix::io::Errno::BUSY) if tried < TRIES => clock.sleep(Duration::from_millis(250)).await,
            Err(errno) => return Err(Error::io("unmount", at, errno.into())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(uuid: &str) -> MountedFileSystem {
        MountedFileSystem {
            volume: "vol-1".into(),
            device: "/dev/nvme1n1".into(),
            mount_point: "/srv/my pg".into(),
            fs_type: "ext4".into(),
            uuid: uuid.into(),
            options: String::new(),
            fstab: String::new(),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn fstab_has_the_uuid_or_the_link_that_stays() {
        let mut one = mounted("abababab-abab-abab-abab-abababababab");
        name_for_good(&mut one, &RestoredVolume::default());
        assert_eq!(one.fstab, "UUID=abababab-abab-abab-abab-abababababab /srv/my\\040pg ext4 defaults,nofail 0 2");
        let dir = tempfile::tempdir().unwrap();
        let (device, link) = (dir.path().join("device"), dir.path().join("google-x"));
        std::fs::write(&device, "").unwrap();
        std::os::unix::fs::symlink(&device, &link).unwrap();
        let hints = vec![DeviceHint::Link("/dev/disk/by-id/other".into()), DeviceHint::Link(link.clone())];
        let mut one = MountedFileSystem { device: device.canonicalize().unwrap(), ..mounted("") };
        name_for_good(&mut one, &RestoredVolume { hints, ..RestoredVolume::default() });
        assert_eq!(one.fstab, format!("{} /srv/my\\040pg ext4 defaults,nofail 0 2", link.display()));
        // As udev names a partition: the first of several links, whatever else is there.
        std::os::unix::fs::symlink(&device, dir.path().join("zzz-part1")).unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("aaa")).unwrap();
        assert_eq!(link_to(dir.path(), &device.canonicalize().unwrap()), Some(dir.path().join("device")));
    }

    #[test]
    fn a_mount_point_is_made_with_what_is_above_it_and_only_empty_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("a/b/c");
        let made = make_mount_point(&at).unwrap();
        assert_eq!(made.len(), 3);
        assert!(make_mount_point(&at).unwrap().is_empty());
        std::fs::write(dir.path().join("a/file"), "x").unwrap();
        assert_eq!(make_mount_point(&dir.path().join("a")).unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(remove_empty(&made), [dir.path().join("a")]);
        assert!(remove_empty(&made[1..]).is_empty());
    }
}
