//! Removing a directory tree that is ours.
//!
//! Symbolic links are removed, never followed; another file system inside is an error and stays untouched. Whether a
//! tree is ours is decided by the callers.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode};
use rustix::io::Errno;

use super::below::{DIRECTORY, open_below};
use crate::error::{Error, Result};

/// Removes `target` and all below it. Gone already is success.
pub(crate) fn remove_tree(target: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(Error::internal(format!("not a tree to remove: {}", target.display())));
    };
    let fail = |source: std::io::Error| Error::io("remove", target, source);
    let parent = match File::open(parent) {
        Ok(parent) => parent,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail(error)),
    };
    remove_at(parent.as_fd(), name).map_err(fail)
}

/// Removes the directory `name` in `parent` and all below it. Gone already is success.
pub(crate) fn remove_at(parent: BorrowedFd<'_>, name: &OsStr) -> std::io::Result<()> {
    match open_directory(parent, name) {
        Ok(tree) => empty(tree)?,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes all that is in `target`, and leaves the directory itself.
pub(crate) fn empty_tree(target: &Path) -> Result<()> {
    let fail = |source: Errno| Error::io("empty", target, source.into());
    let tree = rustix::fs::open(target, DIRECTORY, Mode::empty()).map_err(fail)?;
    empty(tree).map_err(|source| Error::io("empty", target, source))
}

fn open_directory<N: rustix::path::Arg + Copy>(parent: BorrowedFd<'_>, name: N) -> rustix::io::Result<OwnedFd> {
    match rustix::fs::openat(parent, name, DIRECTORY, Mode::empty()) {
        // A directory without permissions for its owner: ours all the same.
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
            rustix::fs::openat(parent, name, DIRECTORY, Mode::empty())
        }
        other => other,
    }
}

/// Directories on the way down that stay open. The others are opened again by their names.
const OPEN: usize = 8;
/// Directories of one directory that wait by name; what else is in it is read again when these are gone.
const BATCH: usize = 256;

/// A directory on the way down.
struct Level {
    /// Its name in the one above.
    name: CString,
    /// Open, if it is one of the deepest [`OPEN`].
    open: Option<OwnedFd>,
    /// Directories in it that are to be emptied and removed.
    todo: Vec<CString>,
    /// Whether there may be more in it than in `todo`.
    more: bool,
}

/// Empties a directory without recursion on the stack of this thread, and with few open files: trees can be deep and wide.
fn empty(tree: OwnedFd) -> std::io::Result<()> {
    let device = rustix::fs::fstat(&tree)?.st_dev;
    let root = rustix::fs::openat(&tree, c".", DIRECTORY, Mode::empty())?;
    let mut way = vec![Level { name: c".".to_owned(), open: Some(tree), todo: Vec::new(), more: true }];
    // The directory below the deepest one of the way that has nothing left in it.
    let mut emptied: Option<CString> = None;
    while !way.is_empty() {
        match reopen(&root, &mut way) {
            Ok(()) => {}
            // Somebody else removes the same tree; that is what we want, too.
            Err(Errno::NOENT) => {
                emptied = way.pop().map(|level| level.name);
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        let Some(level) = way.last_mut() else { break };
        let directory = level.open.as_ref().ok_or_else(|| std::io::Error::other("a directory was not opened again"))?;
        if let Some(name) = emptied.take() {
            remove_empty(directory.as_fd(), &name)?;
        }
        if level.todo.is_empty() && level.more {
            level.more = remove_entries(directory.as_fd(), &mut level.todo)?;
        }
        if let Some(name) = level.todo.pop() {
            if let Some(child) = enter(directory.as_fd(), &name, device)? {
                way.push(Level { name, open: Some(child), todo: Vec::new(), more: true });
                if let Some(above) = way.len().checked_sub(OPEN + 1) {
                    way[above].open = None;
                }
            }
        } else if !level.more {
            emptied = way.pop().map(|level| level.name);
        }
    }
    Ok(())
}

/// Opens the deepest directory of the way again, and some above it, if it was closed.
fn reopen(root: &OwnedFd, way: &mut [Level]) -> rustix::io::Result<()> {
    let Some(last) = way.len().checked_sub(1).filter(|last| way[*last].open.is_none()) else { return Ok(()) };
    let first = (last + 1).saturating_sub(OPEN);
    // The first name is that of the root itself.
    let mut open = open_below(root.as_fd(), way[1..].iter().take(first).map(|level| level.name.as_c_str()))?;
    for at in first..=last {
        if at > first {
            let next = rustix::fs::openat(&open, way[at].name.as_c_str(), DIRECTORY, Mode::empty())?;
            way[at - 1].open = Some(std::mem::replace(&mut open, next));
        }
    }
    way[last].open = Some(open);
    Ok(())
}

/// Removes what is no directory, and collects the names of some directories. True if not all of the directory was read.
fn remove_entries(directory: BorrowedFd<'_>, todo: &mut Vec<CString>) -> std::io::Result<bool> {
    make_writable(directory)?;
    for entry in Dir::new(rustix::fs::openat(directory, c".", DIRECTORY, Mode::empty())?)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if todo.len() == BATCH {
            return Ok(true);
        }
        if is_directory_left(directory, name, entry.file_type())? {
            todo.push(name.to_owned());
        }
    }
    Ok(false)
}

/// Removes one entry; true if it is a directory, which has to be emptied first.
fn is_directory_left(parent: BorrowedFd<'_>, name: &CStr, kind: FileType) -> std::io::Result<bool> {
    if kind == FileType::Directory {
        return Ok(true);
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(false),
        // Some file systems do not tell the kind of an entry.
        Err(Errno::ISDIR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Opens a directory to empty it; `None` if it is gone.
fn enter(parent: BorrowedFd<'_>, name: &CStr, device: u64) -> std::io::Result<Option<OwnedFd>> {
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

fn remove_empty(parent: BorrowedFd<'_>, name: &CStr) -> std::io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
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
