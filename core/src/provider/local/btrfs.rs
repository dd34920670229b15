//! btrfs: a read-only snapshot of a whole subvolume, made and deleted by the kernel in milliseconds.
//!
//! Works for the owner of a subvolume without any privilege. Deleting needs privilege, the mount option
//! `user_subvol_rm_allowed`, or some patience: then the snapshot is made writable, emptied, and removed as a directory.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{btrfs_ioctl, remove};
use crate::error::{Error, Result};

/// The inode number of the root of every btrfs subvolume.
const SUBVOLUME_INODE: u64 = 256;

/// The root of the subvolume that `path` is in, if it can be reached below `mount_point` (with a bind mount it may not).
pub(super) fn subvolume_of(path: &Path, mount_point: &Path) -> Option<PathBuf> {
    path.ancestors()
        .take_while(|ancestor| ancestor.starts_with(mount_point))
        .find(|ancestor| std::fs::metadata(ancestor).is_ok_and(|m| m.ino() == SUBVOLUME_INODE && m.is_dir()))
        .map(Path::to_owned)
}

/// True if this process may make snapshots of `subvolume`: the kernel lets root and its owner.
pub(super) fn may_snapshot(subvolume: &Path) -> bool {
    let euid = rustix::process::geteuid();
    euid.is_root() || std::fs::metadata(subvolume).is_ok_and(|metadata| metadata.uid() == euid.as_raw())
}

/// Makes a read-only snapshot of `subvolume` at `target`. When it returns, the snapshot is on disk.
pub(super) fn create(subvolume: &Path, target: &Path) -> Result<()> {
    let fail = |source| Error::io("make a btrfs snapshot of", subvolume, source);
    let (directory, name) = parent_and_name(target)?;
    let source = File::open(subvolume).map_err(fail)?;
    btrfs_ioctl::create_snapshot(&directory, name, &source).map_err(|source| {
        fail(source).with_hint(format!("run as root or as the owner of the subvolume; target {}", target.display()))
    })
}

/// Deletes the snapshot at `target`. Gone already is success.
pub(super) fn delete(target: &Path) -> Result<()> {
    let (directory, name) = parent_and_name(target)?;
    match std::fs::symlink_metadata(target) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("read", target, error)),
        Ok(metadata) if metadata.is_dir() && metadata.ino() == SUBVOLUME_INODE => {}
        Ok(_) => return Err(Error::precondition(format!("not a btrfs subvolume: {}", target.display()))),
    }
    let fail = |source| Error::io("delete the btrfs snapshot", target, source);
    if rustix::process::geteuid().is_root() {
        return btrfs_ioctl::destroy_subvolume(&directory, name).map_err(fail);
    }
    let subvolume = File::open(target).map_err(fail)?;
    btrfs_ioctl::clear_read_only(&subvolume).map_err(fail)?;
    drop(subvolume);
    match btrfs_ioctl::destroy_subvolume(&directory, name) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => remove::remove_tree(target),
        Err(error) => Err(fail(error)),
    }
}

fn parent_and_name(target: &Path) -> Result<(File, &OsStr)> {
    match (target.parent(), target.file_name()) {
        (Some(parent), Some(name)) => {
            Ok((File::open(parent).map_err(|source| Error::io("open", parent, source))?, name))
        }
        _ => Err(Error::internal(format!("not a path of a snapshot: {}", target.display()))),
    }
}
