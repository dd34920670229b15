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
//! Everything is opened relative to the two roots, name by name and without following links, so that nobody who may write to
//! the tree can make a privileged copier read or write elsewhere. What waits to be done is kept by name: open files are a
//! few for each thread, and memory is a name for each directory that waits, however many files there are.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{Dir, FileType, Mode, Stat};
use rustix::io::Errno;

use super::below::{DIRECTORY, open_below};
use super::copy::Counters;
use super::permits::Permits;
use super::place::{MARK_FILE, SNAPSHOT_DIRECTORY};
use super::tree_entry::{self, Copier};
use crate::error::{Error, Result};
use crate::host::is_zfs_control;

/// Files that one thread takes at once: enough to keep the lock cold, few enough to spread one big directory.
const BATCH: usize = 32;
/// Batches that may wait for each thread. Who reads a directory and finds no room copies the files itself.
const WAITING: usize = 4;

/// What to copy, and how.
#[derive(Clone, Debug)]
pub(super) struct CloneOptions {
    /// Share blocks where the file system can.
    pub(super) share: bool,
    /// As many threads as there are permits; nothing is done without one.
    pub(super) permits: Permits,
    /// Paths relative to the source that are not wanted; of a directory the content.
    pub(super) exclude_content: Vec<PathBuf>,
}

/// Copies the content of `source` into `target`, an empty directory that exists, then its attributes, then waits until
/// all is on disk.
///
/// # Errors
/// The first one of any thread; [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) if [`Counters::cancelled`] was set. What was made stays.
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
    let work = Work {
        options,
        counters,
        copier: Copier { share: options.share, device, counters, keep_owner: rustix::process::geteuid().is_root() },
        root: source,
        from,
        to,
        queue: Mutex::new(Queue { directories: vec![Arc::new(Node::root())], ..Queue::default() }),
        changed: Condvar::new(),
    };
    std::thread::scope(|scope| {
        for _ in 1..options.permits.number() {
            // Where no more threads can be had, fewer do it, and this one in any case.
            if let Err(error) = std::thread::Builder::new().spawn_scoped(scope, || work.run()) {
                tracing::debug!(%error, "no thread to help with a copy");
                break;
            }
        }
        work.run();
    });
    let mut queue = work.queue.into_inner().unwrap_or_else(PoisonError::into_inner);
    queue.error.take().map_or(Ok(()), Err)
}

/// A directory on its way through the copy: a name and where it is, nothing that is open.
struct Node {
    /// `None`: the root.
    above: Option<(Arc<Node>, CString)>,
    /// What it was when its copy was made; its copy gets these attributes when nothing is left to do in it.
    made: OnceLock<Stat>,
    /// What is left to do: to read it, batches of files, directories in it.
    left: AtomicUsize,
}

impl Node {
    fn root() -> Self {
        Self { above: None, made: OnceLock::new(), left: AtomicUsize::new(1) }
    }

    /// A directory in `parent`, which is not done before this one is.
    fn child(parent: &Arc<Self>, name: &CStr) -> Self {
        parent.left.fetch_add(1, Ordering::Relaxed);
        let above = Some((Arc::clone(parent), name.to_owned()));
        Self { above, made: OnceLock::new(), left: AtomicUsize::new(1) }
    }

    fn names(&self) -> Vec<&CStr> {
        let mut names = Vec::new();
        let mut at = self;
        while let Some((parent, name)) = &at.above {
            names.push(name.as_c_str());
            at = parent;
        }
        names.reverse();
        names
    }

    fn path(&self) -> PathBuf {
        self.names().iter().map(|name| OsStr::from_bytes(name.to_bytes())).collect()
    }

    fn open(&self, root: &OwnedFd) -> rustix::io::Result<OwnedFd> {
        open_below(root.as_fd(), self.names())
    }
}

impl Drop for Node {
    /// One after the other: by itself it would be one within the other, and trees can be deep.
    fn drop(&mut self) {
        let mut above = self.above.take();
        while let Some((parent, _)) = above {
            above = Arc::into_inner(parent).and_then(|mut parent| parent.above.take());
        }
    }
}

/// Files and links of a directory.
struct Batch {
    node: Arc<Node>,
    names: Vec<CString>,
}

/// A piece of work for one thread.
enum Job {
    /// Make the copy of a directory, and read it.
    Directory(Arc<Node>),
    Files(Batch),
}

#[derive(Default)]
struct Queue {
    /// Directories to be read; last in, first out, so that few wait at a time.
    directories: Vec<Arc<Node>>,
    /// At most [`WAITING`] for each thread.
    files: Vec<Batch>,
    /// `global/pg_control` and the like: after all else.
    last: Vec<Batch>,
    busy: usize,
    error: Option<Error>,
}

struct Work<'a> {
    options: &'a CloneOptions,
    counters: &'a Counters,
    copier: Copier<'a>,
    root: &'a Path,
    from: OwnedFd,
    to: OwnedFd,
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Work<'_> {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        while let Some(job) = self.next_job() {
            let ended = Ended(self);
            // Without a permit the copy is cancelled, and `next_job` says so.
            let permit = self.options.permits.take(|| self.counters.is_cancelled());
            let result = if permit.is_some() { self.carry_out(job) } else { Ok(()) };
            drop(permit);
            if let Err(error) = result {
                self.lock().error.get_or_insert(error);
            }
            drop(ended);
        }
    }

    /// The next job; waits while others may still find some; `None` at the end or after an error.
    fn next_job(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if queue.error.is_none() && self.counters.is_cancelled() {
                queue.error = Some(tree_entry::cancelled());
            }
            if queue.error.is_some() {
                return None;
            }
            let files = queue.files.pop().map(Job::Files);
            if let Some(job) = files.or_else(|| queue.directories.pop().map(Job::Directory)) {
                queue.busy += 1;
                return Some(job);
            }
            if queue.busy > 0 {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            queue.busy += 1;
            let Some(batch) = queue.last.pop() else {
                queue.busy -= 1;
                return None;
            };
            return Some(Job::Files(batch));
        }
    }

    fn carry_out(&self, job: Job) -> Result<()> {
        match job {
            Job::Directory(node) => self.directory(&node).and_then(|()| self.one_done(node)),
            Job::Files(batch) => self.files(&batch).and_then(|()| self.one_done(batch.node)),
        }
    }

    fn is_excluded(&self, path: &Path) -> bool {
        self.options.exclude_content.iter().any(|excluded| excluded == path)
    }

    fn fail(&self, action: &str, path: &Path, error: impl Into<std::io::Error>) -> Error {
        Error::io(action, self.root.join(path), error.into())
    }

    fn open_copy(&self, node: &Node) -> Result<OwnedFd> {
        node.open(&self.to).map_err(|error| self.fail("open the copy of", &node.path(), error))
    }

    /// Makes the copy of a directory and hands out what is in it.
    fn directory(&self, node: &Arc<Node>) -> Result<()> {
        let path = node.path();
        let from = match (node.open(&self.from), &node.above) {
            (Ok(from), _) => from,
            // Vanished: the server removed it, and the WAL says so.
            (Err(Errno::NOENT), _) => return Ok(()),
            // It was replaced by something else meanwhile.
            (Err(Errno::NOTDIR | Errno::LOOP), Some((parent, name))) => {
                let batch = Batch { node: Arc::clone(parent), names: vec![name.clone()] };
                return self.files(&batch);
            }
            (Err(error), _) => return Err(self.fail("open", &path, error)),
        };
        let stat = rustix::fs::fstat(&from).map_err(|error| self.fail("read", &path, error))?;
        if let Some((parent, name)) = &node.above {
            let to = self.open_copy(parent)?;
            rustix::fs::mkdirat(to, name, Mode::RWXU).map_err(|error| self.fail("make the copy of", &path, error))?;
        }
        let is_foreign = stat.st_dev != self.copier.device;
        let _ = node.made.set(stat);
        if is_foreign || self.is_excluded(&path) {
            return Ok(());
        }
        self.read(node, from, &path)
    }

    /// Hands out the entries of a directory, or copies them where enough is handed out already.
    fn read(&self, node: &Arc<Node>, from: OwnedFd, path: &Path) -> Result<()> {
        let fail = |error| self.fail("read", path, error);
        let is_global = path.ends_with("global");
        let mut entries = Dir::new(from).map_err(fail)?;
        let mut names = Vec::with_capacity(BATCH);
        loop {
            let entry = entries.next().transpose().map_err(fail)?;
            if let Some(entry) = &entry {
                let name = entry.file_name();
                let ours = [SNAPSHOT_DIRECTORY, MARK_FILE].iter().any(|own| name.to_bytes() == own.as_bytes());
                if name == c"." || name == c".." || ours || is_zfs_control(name.to_bytes(), entry.ino()) {
                    continue;
                }
                if entry.file_type() == FileType::Directory {
                    self.hand_out_directory(node, name);
                } else if name == c"pg_control" && is_global {
                    self.lock().last.push(self.batch(node, vec![name.to_owned()]));
                } else {
                    // Perhaps a directory: not every file system tells.
                    names.push(name.to_owned());
                }
            }
            if names.len() == BATCH || (entry.is_none() && !names.is_empty()) {
                let batch = self.batch(node, std::mem::replace(&mut names, Vec::with_capacity(BATCH)));
                if let Some(batch) = self.hand_out_files(batch) {
                    self.files_of(entries.fd().map_err(fail)?, &batch)?;
                    // The directory itself is not done before it is read.
                    batch.node.left.fetch_sub(1, Ordering::AcqRel);
                }
            }
            if entry.is_none() {
                return Ok(());
            }
        }
    }

    /// A batch, which the directory has to wait for from now on.
    fn batch(&self, node: &Arc<Node>, names: Vec<CString>) -> Batch {
        node.left.fetch_add(1, Ordering::Relaxed);
        Batch { node: Arc::clone(node), names }
    }

    fn hand_out_directory(&self, parent: &Arc<Node>, name: &CStr) {
        let node = Arc::new(Node::child(parent, name));
        self.lock().directories.push(node);
        self.changed.notify_one();
    }

    /// Gives the batch back if enough are waiting.
    fn hand_out_files(&self, batch: Batch) -> Option<Batch> {
        let mut queue = self.lock();
        if queue.files.len() >= WAITING * self.options.permits.number() {
            return Some(batch);
        }
        queue.files.push(batch);
        self.changed.notify_one();
        None
    }

    fn files(&self, batch: &Batch) -> Result<()> {
        match batch.node.open(&self.from) {
            Ok(from) => self.files_of(from.as_fd(), batch),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(self.fail("open", &batch.node.path(), error)),
        }
    }

    fn files_of(&self, from: BorrowedFd<'_>, batch: &Batch) -> Result<()> {
        let to = self.open_copy(&batch.node)?;
        let directory = batch.node.path();
        for name in &batch.names {
            let path = directory.join(OsStr::from_bytes(name.to_bytes()));
            let excluded = self.is_excluded(&path);
            match self.copier.entry(from, to.as_fd(), name, excluded) {
                Ok(tree_entry::Seen::Done) => {}
                Ok(tree_entry::Seen::Directory) => self.hand_out_directory(&batch.node, name),
                Err(failure) => return Err(failure.named(&self.root.join(path))),
            }
        }
        Ok(())
    }

    /// One thing less to do in a directory. The last one: the copy gets its attributes, and the directory above has one
    /// thing less to do.
    fn one_done(&self, node: Arc<Node>) -> Result<()> {
        let mut node = node;
        while node.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            if let Some(stat) = node.made.get() {
                let copy = self.open_copy(&node)?;
                self.copier
                    .attributes(copy.as_fd(), stat)
                    .map_err(|error| self.fail("set the attributes of the copy of", &node.path(), error))?;
            }
            match &node.above {
                Some((parent, _)) => node = Arc::clone(parent),
                None => break,
            }
        }
        Ok(())
    }
}

/// A job that was taken; when it is over, also by a panic, others may stop waiting for it.
struct Ended<'a, 'w>(&'a Work<'w>);

impl Drop for Ended<'_, '_> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.busy -= 1;
        if std::thread::panicking() {
            queue.error.get_or_insert_with(|| Error::internal("a thread of the copy panicked; see the log"));
        }
        drop(queue);
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn options() -> CloneOptions {
        CloneOptions { share: true, permits: Permits::new(3), exclude_content: Vec::new() }
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
