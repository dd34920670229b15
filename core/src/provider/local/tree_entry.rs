//! One file or link of a tree: its copy, with its attributes.
//!
//! Knows the two directories it is in, and not where these are; who asks puts the path into the error.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::copy::{self, Counters};
use crate::error::{Error, ErrorKind};

const READ: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
const WRITE: OFlags =
    OFlags::RDWR.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How entries are copied.
pub(super) struct Copier<'a> {
    /// Share blocks where the file system can.
    pub(super) share: bool,
    /// The file system of the tree; what lies on another one is left out.
    pub(super) device: u64,
    pub(super) keep_owner: bool,
    pub(super) counters: &'a Counters,
}

/// What was found under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Copied, or nothing to be copied.
    Done,
    /// A directory, which is for others to enter.
    Directory,
}

/// What could not be done.
pub(super) enum Failure {
    Cancelled,
    Io(&'static str, std::io::Error),
}

impl Failure {
    pub(super) fn named(self, path: &Path) -> Error {
        match self {
            Self::Cancelled => cancelled(),
            Self::Io(action, error) => Error::io(action, path, error),
        }
    }
}

/// The error of a copy that was told to stop.
pub(super) fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "the copy was cancelled")
}

fn failed<E: Into<std::io::Error>>(action: &'static str) -> impl Fn(E) -> Failure {
    move |error| Failure::Io(action, error.into())
}

impl Copier<'_> {
    /// Copies a file or a link.
    pub(super) fn entry(
        &self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        is_excluded: bool,
    ) -> Result<Seen, Failure> {
        if self.counters.is_cancelled() {
            return Err(Failure::Cancelled);
        }
        let file = match rustix::fs::openat(from, name, READ, Mode::empty()) {
            Ok(file) => file,
            // Vanished: the server removed it, and the WAL says so. A socket: not ours to copy.
            Err(Errno::NOENT | Errno::NXIO) => return Ok(Seen::Done),
            Err(Errno::LOOP) if is_excluded => return Ok(Seen::Done),
            Err(Errno::LOOP) => return self.link(from, to, name).map(|()| Seen::Done),
            Err(error) => return Err(failed("open")(error)),
        };
        let stat = rustix::fs::fstat(&file).map_err(failed("read"))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if is_excluded => {}
            FileType::RegularFile if stat.st_dev == self.device => self.file(file.as_fd(), to, name, &stat)?,
            FileType::Directory => return Ok(Seen::Directory),
            _ => {}
        }
        Ok(Seen::Done)
    }

    fn file(&self, file: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<(), Failure> {
        let fail = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::Interrupted => Failure::Cancelled,
            _ => Failure::Io("copy", error),
        };
        let copy = rustix::fs::openat(to, name, WRITE, Mode::RUSR | Mode::WUSR).map_err(failed("copy"))?;
        let size = stat.st_size.unsigned_abs();
        if self.share && copy::share(file, copy.as_fd()).map_err(failed("copy"))? {
            self.counters.handled.fetch_add(size, Ordering::Relaxed);
        } else {
            copy::copy(file, copy.as_fd(), size, self.counters).map_err(fail)?;
        }
        self.attributes(copy.as_fd(), stat).map_err(failed("copy"))
    }

    fn link(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<(), Failure> {
        let target = match rustix::fs::readlinkat(from, name, Vec::new()) {
            Ok(target) => target,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(failed("read the link")(error)),
        };
        let fail = failed("copy the link");
        rustix::fs::symlinkat(&*target, to, name).map_err(&fail)?;
        if self.keep_owner {
            let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(&fail)?;
            let (user, group) = owner(&stat);
            rustix::fs::chownat(to, name, user, group, AtFlags::SYMLINK_NOFOLLOW).map_err(&fail)?;
        }
        Ok(())
    }

    /// Owner, mode and times, in this order: changing the owner clears bits of the mode.
    pub(super) fn attributes(&self, copy: BorrowedFd<'_>, stat: &Stat) -> rustix::io::Result<()> {
        if self.keep_owner {
            let (user, group) = owner(stat);
            rustix::fs::fchown(copy, user, group)?;
        }
        // A program that runs as its owner is nothing that a cluster has; a copy of one lies where nobody looks for it.
        let dropped = if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile { 0o6000 } else { 0 };
        rustix::fs::fchmod(copy, Mode::from_raw_mode(stat.st_mode & !dropped))?;
        let time = |seconds: i64, nanoseconds: u64| Timespec {
            tv_sec: seconds,
            tv_nsec: i64::try_from(nanoseconds).unwrap_or_default(),
        };
        let times = Timestamps {
            last_access: time(stat.st_atime, stat.st_atime_nsec),
            last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
        };
        rustix::fs::futimens(copy, &times)
    }
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
}
