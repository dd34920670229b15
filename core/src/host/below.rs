//! Opening a directory deep below another one, by the names on the way.
//!
//! One name at a time and without following links, so that nobody who may write to the tree can lead us out of it, and so
//! that no path is too long. At most two directories are open meanwhile, however deep it goes: what is kept for later
//! (a queue, a stack) is names, not descriptors, of which a process may have few (1024 under systemd, cron and ssh).

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

/// How a directory is opened: only if it is one, and not a link to one.
pub(crate) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The directory `names` below `root`; without names another descriptor of `root`, with a position of its own.
pub(crate) fn open_below<'n>(
    root: BorrowedFd<'_>,
    names: impl IntoIterator<Item = &'n CStr>,
) -> rustix::io::Result<OwnedFd> {
    let mut open: Option<OwnedFd> = None;
    for name in names {
        let at = open.as_ref().map_or(root, AsFd::as_fd);
        open = Some(rustix::fs::openat(at, name, DIRECTORY, Mode::empty())?);
    }
    open.map_or_else(|| rustix::fs::openat(root, c".", DIRECTORY, Mode::empty()), Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_down_by_names_and_through_no_link() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("/", temp.path().join("a/link")).unwrap();
        let root = rustix::fs::open(temp.path(), DIRECTORY, Mode::empty()).unwrap();
        let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
        let found = open_below(root.as_fd(), [c"a", c"b"]).unwrap();
        let expected = rustix::fs::open(temp.path().join("a/b"), DIRECTORY, Mode::empty()).unwrap();
        assert_eq!(inode(&found), inode(&expected));
        assert_eq!(inode(&open_below(root.as_fd(), []).unwrap()), inode(&root));
        open_below(root.as_fd(), [c"a", c"link"]).unwrap_err();
        open_below(root.as_fd(), [c"a", c"link", c"etc"]).unwrap_err();
    }
}
