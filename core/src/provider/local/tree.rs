//! A copy of a directory tree, made by several threads: blocks shared (reflink) or copied.
//!
//! Kept: bytes, holes, modes, times, symbolic links as links, owners where this process may set them. Not kept: hard links,
//! extended attributes. Left out: sockets and pipes, our own [`SNAPSHOT_DIRECTORY`] and [`MARK_FILE`], and what lies on another file system
//! (its mount point stays as an empty directory).
//!
//! The invariant: `global/pg_control` is copied after everything else. PostgreSQL reads from it where recovery has to
//! start at the latest, so it must not be newer than the WAL that the rest of the tree needs. The tree is on disk
//! (`syncfs`) when [`clone_tree`] returns.
//!
//! Everything is opened relative to directories that are open already and without following links, so that nobody who
//! may write to the tree can make a privileged copier read or write elsewhere.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::copy::{self, Counters};
use super::place::{MARK_FILE, SNAPSHOT_DIRECTORY};
use crate::error::{Error, ErrorKind, Result};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const READ: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
const WRITE: OFlags =
    OFlags::RDWR.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Files that one thread takes at once: enough to keep the lock cold, few enough to spread one big directory.
const BATCH: usize = 32;

/// What to copy, and how.
#[derive(Clone, Debug)]
pub(super) struct CloneOptions {
    /// Share blocks where the file system can.
    pub(super) share: bool,
    /// Threads.
    pub(super) jobs: usize,
    /// Paths relative to the source that are not wanted; of a directory the content.
    pub(super) exclude_content: Vec<PathBuf>,
}

/// Copies the content of `source` into `target`, an empty directory that exists, then its attributes, then waits until
/// all is on disk.
///
/// # Errors
/// The first one of any thread; [`ErrorKind::Cancelled`] if [`Counters::cancelled`] was set. What was made stays.
pub(super) fn clone_tree(source: &Path, target: &Path, options: &CloneOptions, counters: &Counters) -> Result<()> {
    copy_tree(source, target, options, counters)?;
    flush(target)
}

/// Waits until a tree is on disk, with all else that was written to its file system.
pub(super) fn flush(target: &Path) -> Result<()> {
    let fail = |error: Errno| Error::io("write to disk", target, error.into());
    let directory = rustix::fs::open(target, DIRECTORY, Mode::empty()).map_err(fail)?;
    rustix::fs::syncfs(&directory).map_err(fail)
}

/// [`clone_tree`] without waiting for the disk.
pub(super) fn copy_tree(source: &Path, target: &Path, options: &CloneOptions, counters: &Counters) -> Result<()> {
    let open = |path: &Path| {
        rustix::fs::open(path, DIRECTORY, Mode::empty()).map_err(|error| Error::io("open", path, error.into()))
    };
    let (from, to) = (open(source)?, open(target)?);
    let device = rustix::fs::fstat(&from).map_err(|error| Error::io("read", source, error.into()))?.st_dev;
    let root = Job::Directory { from: Arc::new(from), to: Arc::new(to), path: PathBuf::new() };
    let work = Work {
        options,
        counters,
        device,
        root: source,
        keep_owner: rustix::process::geteuid().is_root(),
        queue: Mutex::new(Queue { jobs: vec![root], ..Queue::default() }),
        changed: Condvar::new(),
    };
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| work.run());
        }
    });
    let mut queue = work.queue.into_inner().unwrap_or_else(PoisonError::into_inner);
    queue.error.take().map_or(Ok(()), Err)
}

/// A piece of work for one thread.
enum Job {
    /// Read an open directory, whose copy is open too.
    Directory { from: Arc<OwnedFd>, to: Arc<OwnedFd>, path: PathBuf },
    /// Open a directory below, make its copy, and go on with it.
    Enter { from: Arc<OwnedFd>, to: Arc<OwnedFd>, path: PathBuf, name: CString },
    /// Copy some files and links of a directory.
    Files { from: Arc<OwnedFd>, to: Arc<OwnedFd>, path: PathBuf, names: Vec<CString> },
    /// Give a directory its attributes, when all in it is done.
    Finish { from: Arc<OwnedFd>, to: Arc<OwnedFd>, path: PathBuf },
}

#[derive(Default)]
struct Queue {
    /// What everybody may do now; last in, first out, so that few directories are open at a time.
    jobs: Vec<Job>,
    /// `global/pg_control` and the like: after all jobs.
    last: Vec<Job>,
    /// Attributes of directories: after everything, deepest first.
    finish: Vec<Job>,
    busy: usize,
    error: Option<Error>,
}

struct Work<'a> {
    options: &'a CloneOptions,
    counters: &'a Counters,
    device: u64,
    root: &'a Path,
    keep_owner: bool,
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Work<'_> {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        while let Some(job) = self.next_job() {
            let result = self.carry_out(job);
            let mut queue = self.lock();
            queue.busy -= 1;
            if let Err(error) = result {
                queue.error.get_or_insert(error);
            }
            self.changed.notify_all();
        }
    }

    /// The next job; waits while others may still find some; `None` at the end or after an error.
    fn next_job(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if queue.error.is_none() && self.counters.is_cancelled() {
                queue.error = Some(Error::new(ErrorKind::Cancelled, "the copy was cancelled"));
            }
            if queue.error.is_some() {
                return None;
            }
            if let Some(job) = queue.jobs.pop() {
                queue.busy += 1;
                return Some(job);
            }
            if queue.busy > 0 {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            if !queue.last.is_empty() {
                queue.jobs = std::mem::take(&mut queue.last);
                continue;
            }
            // Parents were entered before their children, so the end of the list is deepest; one at a time keeps it so.
            let job = queue.finish.pop()?;
            queue.busy += 1;
            return Some(job);
        }
    }

    fn carry_out(&self, job: Job) -> Result<()> {
        match job {
            Job::Directory { from, to, path } => self.read_directory(from, to, path),
            Job::Enter { from, to, path, name } => self.enter(&from, &to, &path, &name),
            Job::Files { from, to, path, names } => {
                names.iter().try_for_each(|name| self.entry(&from, &to, &path, name))
            }
            Job::Finish { from, to, path } => {
                let stat = rustix::fs::fstat(&from).map_err(|error| self.fail("read", &path, error))?;
                self.attributes(&to, &stat)
                    .map_err(|error| self.fail("set the attributes of the copy of", &path, error))
            }
        }
    }

    fn is_excluded(&self, path: &Path) -> bool {
        self.options.exclude_content.iter().any(|excluded| excluded == path)
    }

    fn fail(&self, action: &str, path: &Path, error: impl Into<std::io::Error>) -> Error {
        Error::io(action, self.root.join(path), error.into())
    }

    fn read_directory(&self, from: Arc<OwnedFd>, to: Arc<OwnedFd>, path: PathBuf) -> Result<()> {
        let fail = |error| self.fail("read", &path, error);
        let (mut directories, mut files, mut last) = (Vec::new(), Vec::new(), Vec::new());
        if !self.is_excluded(&path) {
            for entry in Dir::read_from(&from).map_err(fail)? {
                let entry = entry.map_err(fail)?;
                let name = entry.file_name();
                let ours = [SNAPSHOT_DIRECTORY, MARK_FILE].iter().any(|own| name.to_bytes() == own.as_bytes());
                if name == c"." || name == c".." || ours {
                    continue;
                }
                if entry.file_type() == FileType::Directory {
                    directories.push(name.to_owned());
                } else if name == c"pg_control" && path.ends_with("global") {
                    last.push(name.to_owned());
                } else {
                    // Perhaps a directory: not every file system tells.
                    files.push(name.to_owned());
                }
            }
        }
        let job = |names: &[CString]| Job::Files {
            from: Arc::clone(&from),
            to: Arc::clone(&to),
            path: path.clone(),
            names: names.to_vec(),
        };
        let mut queue = self.lock();
        for name in directories {
            queue.jobs.push(Job::Enter { from: Arc::clone(&from), to: Arc::clone(&to), path: path.clone(), name });
        }
        queue.jobs.extend(files.chunks(BATCH).map(job));
        queue.last.extend(last.chunks(BATCH).map(job));
        queue.finish.push(Job::Finish { from, to, path });
        Ok(())
    }

    /// Opens the directory `name` of `from` and makes its copy in `to`.
    fn enter(&self, from: &OwnedFd, to: &OwnedFd, directory: &Path, name: &CStr) -> Result<()> {
        let path = directory.join(OsStr::from_bytes(name.to_bytes()));
        let fail = |action: &'static str| {
            let path = &path;
            move |error: Errno| self.fail(action, path, error)
        };
        let child = match rustix::fs::openat(from, name, DIRECTORY, Mode::empty()) {
            Ok(child) => child,
            Err(Errno::NOENT) => return Ok(()),
            // It was replaced by something else meanwhile.
            Err(Errno::NOTDIR | Errno::LOOP) => return self.entry(from, to, directory, name),
            Err(error) => return Err(self.fail("open", &path, error)),
        };
        rustix::fs::mkdirat(to, name, Mode::RWXU).map_err(fail("make the copy of"))?;
        let copy = rustix::fs::openat(to, name, DIRECTORY, Mode::empty()).map_err(fail("open the copy of"))?;
        let stat = rustix::fs::fstat(&child).map_err(fail("read"))?;
        if stat.st_dev != self.device {
            return self.attributes(&copy, &stat).map_err(fail("set the attributes of the copy of"));
        }
        self.lock().jobs.push(Job::Directory { from: Arc::new(child), to: Arc::new(copy), path });
        self.changed.notify_one();
        Ok(())
    }

    /// Copies a file or a link.
    fn entry(&self, from: &OwnedFd, to: &OwnedFd, directory: &Path, name: &CStr) -> Result<()> {
        if self.counters.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "the copy was cancelled"));
        }
        let path = directory.join(OsStr::from_bytes(name.to_bytes()));
        let file = match rustix::fs::openat(from, name, READ, Mode::empty()) {
            Ok(file) => file,
            // Vanished: the server removed it, and the WAL says so. A socket: not ours to copy.
            Err(Errno::NOENT | Errno::NXIO) => return Ok(()),
            Err(Errno::LOOP) if self.is_excluded(&path) => return Ok(()),
            Err(Errno::LOOP) => return self.link(from, to, &path, name),
            Err(error) => return Err(self.fail("open", &path, error)),
        };
        let stat = rustix::fs::fstat(&file).map_err(|error| self.fail("read", &path, error))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if self.is_excluded(&path) => Ok(()),
            FileType::RegularFile if stat.st_dev == self.device => self.file(&file, to, &path, name, &stat),
            FileType::Directory => self.enter(from, to, directory, name),
            _ => Ok(()),
        }
    }

    fn file(&self, file: &OwnedFd, to: &OwnedFd, path: &Path, name: &CStr, stat: &Stat) -> Result<()> {
        let fail = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::Interrupted => Error::new(ErrorKind::Cancelled, "the copy was cancelled"),
            _ => self.fail("copy", path, error),
        };
        let copy = rustix::fs::openat(to, name, WRITE, Mode::RUSR | Mode::WUSR).map_err(|error| fail(error.into()))?;
        let size = stat.st_size.unsigned_abs();
        let shared =
            self.options.share && copy::share(file.as_fd(), copy.as_fd()).map_err(|error| fail(error.into()))?;
        if shared {
            self.counters.handled.fetch_add(size, Ordering::Relaxed);
        } else {
            copy::copy(file.as_fd(), copy.as_fd(), size, self.counters).map_err(fail)?;
        }
        self.attributes(&copy, stat).map_err(|error| fail(error.into()))
    }

    fn link(&self, from: &OwnedFd, to: &OwnedFd, path: &Path, name: &CStr) -> Result<()> {
        let target = match rustix::fs::readlinkat(from, name, Vec::new()) {
            Ok(target) => target,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(self.fail("read the link", path, error)),
        };
        let fail = |error: Errno| self.fail("copy the link", path, error);
        rustix::fs::symlinkat(&*target, to, name).map_err(fail)?;
        if self.keep_owner {
            let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
            let (user, group) = owner(&stat);
            rustix::fs::chownat(to, name, user, group, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
        }
        Ok(())
    }

    /// Owner, mode and times, in this order: changing the owner clears bits of the mode.
    fn attributes(&self, copy: &OwnedFd, stat: &Stat) -> rustix::io::Result<()> {
        if self.keep_owner {
            let (user, group) = owner(stat);
            rustix::fs::fchown(copy, user, group)?;
        }
        rustix::fs::fchmod(copy, Mode::from_raw_mode(stat.st_mode))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn options() -> CloneOptions {
        CloneOptions { share: true, jobs: 3, exclude_content: Vec::new() }
    }

    fn clone(source: &Path, target: &Path, options: &CloneOptions) -> Result<()> {
        std::fs::create_dir(target).unwrap();
        clone_tree(source, target, options, &Counters::default())
    }

    /// A tree with one of everything.
    fn make(root: &Path) {
        std::fs::create_dir_all(root.join("base/1")).unwrap();
        std::fs::create_dir_all(root.join("global")).unwrap();
        std::fs::create_dir_all(root.join(".barman_snap/old")).unwrap();
        for n in 0..200 {
            std::fs::write(root.join(format!("base/1/{n}")), vec![n as u8; n * 100]).unwrap();
        }
        std::fs::write(root.join("global/pg_control"), "control").unwrap();
        std::os::unix::fs::symlink("/nowhere/at/all", root.join("base/link")).unwrap();
        std::fs::set_permissions(root.join("base/1/7"), std::fs::Permissions::from_mode(0o640)).unwrap();
        std::fs::set_permissions(root.join("base/1"), std::fs::Permissions::from_mode(0o750)).unwrap();
        let socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        drop(socket);
    }

    #[test]
    fn all_that_belongs_to_the_tree_is_there_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let (source, target) = (temp.path().join("source"), temp.path().join("target"));
        make(&source);
        clone(&source, &target, &options()).unwrap();
        for n in 0..200 {
            assert_eq!(std::fs::read(target.join(format!("base/1/{n}"))).unwrap(), vec![n as u8; n * 100]);
        }
        assert_eq!(std::fs::read_link(target.join("base/link")).unwrap(), Path::new("/nowhere/at/all"));
        assert!(!target.join("socket").exists() && !target.join(".barman_snap").exists());
        for path in ["base/1/7", "base/1", "base", "global/pg_control", ""] {
            let (a, b) = (source.join(path).metadata().unwrap(), target.join(path).metadata().unwrap());
            assert_eq!((a.mode(), a.uid(), a.mtime(), a.mtime_nsec()), (b.mode(), b.uid(), b.mtime(), b.mtime_nsec()));
        }
    }

    #[test]
    fn excluded_directories_are_made_and_left_empty() {
        let temp = tempfile::tempdir().unwrap();
        let (source, target) = (temp.path().join("source"), temp.path().join("target"));
        make(&source);
        let exclude_content = vec!["base/1".into(), "global/pg_control".into(), "base/link".into()];
        clone(&source, &target, &CloneOptions { exclude_content, ..options() }).unwrap();
        assert_eq!(target.join("base/1").read_dir().unwrap().count(), 0);
        assert_eq!(target.join("base/1").metadata().unwrap().mode() & 0o777, 0o750);
        assert!(target.join("base/link").symlink_metadata().is_err());
    }

    #[test]
    fn the_control_file_is_copied_last() {
        let temp = tempfile::tempdir().unwrap();
        let (source, target) = (temp.path().join("source"), temp.path().join("target"));
        make(&source);
        clone(&source, &target, &options()).unwrap();
        // The time of birth of the copies tells the order; ties are possible, the wrong order is not.
        let born = |path: &str| target.join(path).metadata().unwrap().created().unwrap();
        let control = born("global/pg_control");
        assert!((0..200).all(|n| born(&format!("base/1/{n}")) <= control));
    }

    #[test]
    fn a_cancelled_copy_stops_with_that_error() {
        let temp = tempfile::tempdir().unwrap();
        let (source, target) = (temp.path().join("source"), temp.path().join("target"));
        make(&source);
        std::fs::create_dir(&target).unwrap();
        let counters = Counters::default();
        counters.cancelled.store(true, Ordering::Relaxed);
        let error = clone_tree(&source, &target, &options(), &counters).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    }
}
