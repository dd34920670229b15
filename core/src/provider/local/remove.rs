//! Removing a directory tree that is ours.
//!
//! Symbolic links are removed, never followed; another file system inside is an error and stays untouched. Whether a
//! tree is ours is decided by the callers.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

const OPEN_DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Removes `target` and all below it. Gone already is success.
pub(super) fn remove_tree(target: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(Error::internal(format!("not a tree to remove: {}", target.display())));
    };
    let fail = |source: std::io::Error| Error::io("remove", target, source);
    let parent = match File::open(parent) {
        Ok(parent) => parent,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail(error)),
    };
    match open_directory(parent.as_fd(), name) {
        Ok(tree) => empty(tree).map_err(fail)?,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(fail(error.into())),
    }
    match rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(fail(error.into())),
    }
}

/// Removes all that is in `target`, and leaves the directory itself.
pub(super) fn empty_tree(target: &Path) -> Result<()> {
    let fail = |source: Errno| Error::io("empty", target, source.into());
    let tree = rustix::fs::open(target, OPEN_DIRECTORY, Mode::empty()).map_err(fail)?;
    empty(tree).map_err(|source| Error::io("empty", target, source))
}

fn open_directory<N: rustix::path::Arg + Copy>(parent: BorrowedFd<'_>, name: N) -> rustix::io::Result<OwnedFd> {
    match rustix::fs::openat(parent, name, OPEN_DIRECTORY, Mode::empty()) {
        // A directory without permissions for its owner: ours all the same.
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
            rustix::fs::openat(parent, name, OPEN_DIRECTORY, Mode::empty())
        }
        other => other,
    }
}

/// Empties a directory without recursion on the stack of this thread: trees can be deep.
fn empty(tree: OwnedFd) -> std::io::Result<()> {
    let device = rustix::fs::fstat(&tree)?.st_dev;
    let mut open = vec![(Dir::new(tree)?, None::<std::ffi::CString>)];
    while let Some((directory, _)) = open.last_mut() {
        match directory.next() {
            Some(entry) => {
                let entry = entry?;
                let name = entry.file_name();
                if name == c"." || name == c".." {
                    continue;
                }
                if let Some(child) = remove_entry(directory.fd()?, name, entry.file_type(), device)? {
                    open.push((Dir::new(child)?, Some(name.to_owned())));
                }
            }
            None => {
                let name = open.pop().and_then(|(_, name)| name);
                if let (Some(name), Some((parent, _))) = (name, open.last_mut()) {
                    match rustix::fs::unlinkat(parent.fd()?, &*name, AtFlags::REMOVEDIR) {
                        Ok(()) | Err(Errno::NOENT) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
    }
    Ok(())
}

/// Removes one entry, or opens it if it is a directory that has to be emptied first.
fn remove_entry(parent: BorrowedFd<'_>, name: &CStr, kind: FileType, device: u64) -> std::io::Result<Option<OwnedFd>> {
    make_writable(parent)?;
    if kind != FileType::Directory {
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(None),
            // Some file systems do not tell the kind of an entry.
            Err(Errno::ISDIR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let child = match open_directory(parent, name) {
        Ok(child) => child,
        // Somebody else removes the same tree; that is what we want, too.
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if rustix::fs::fstat(&child)?.st_dev != device {
        // An empty placeholder of a nested subvolume has a device of its own and goes away like a directory.
        return match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) => Ok(None),
            Err(_) => Err(std::io::Error::other(format!(
                "another file system is mounted on {:?} inside of it",
                name.to_string_lossy()
            ))),
        };
    }
    Ok(Some(child))
}

/// Gives the owner back the right to remove entries, where the tree was made read-only.
fn make_writable(directory: BorrowedFd<'_>) -> std::io::Result<()> {
    let mode = Mode::from_raw_mode(rustix::fs::fstat(directory)?.st_mode);
    if !mode.contains(Mode::WUSR | Mode::XUSR) {
        rustix::fs::fchmod(directory, mode | Mode::RWXU)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn links_are_removed_and_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let outside = temp.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("precious"), "x").unwrap();
        let tree = temp.path().join("tree");
        std::fs::create_dir_all(tree.join("a/b/c")).unwrap();
        std::fs::write(tree.join("a/b/c/file"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("a/link")).unwrap();
        std::fs::set_permissions(tree.join("a/b"), std::fs::Permissions::from_mode(0o500)).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        assert!(outside.join("precious").exists());
        remove_tree(&tree).unwrap();
    }

    #[test]
    fn a_tree_that_is_a_link_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let real = temp.path().join("real");
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, temp.path().join("tree")).unwrap();
        remove_tree(&temp.path().join("tree")).unwrap_err();
        assert!(real.exists());
    }
}
