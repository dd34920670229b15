//! A directory as an object store: durable and private.
//!
//! What it is: the backend of [`ObjectSpace`](super::space::ObjectSpace) for a plain path or `file://`. What it is not:
//! asynchronous; every function here blocks and is called from a thread that may.
//!
//! The invariants:
//! * An object appears whole or not at all: its bytes go to another file in the same directory, which is flushed to the
//!   disk, then gets its name, then the directory is flushed, and so is every directory that had to be made.
//! * Files are 0600 and directories 0700. A catalog holds secrets (the WAL is all of the data).
//! * A new object has no name at all until it is complete, where the file system allows that. Otherwise its bytes have a
//!   temporary name.
//! * Names that begin with [`PRIVATE`] are never objects: a crash can leave a temporary file, which nobody ever sees. It is
//!   locked by the process that writes it; the next process that writes or deletes in the same directory removes those
//!   that are not (where files cannot be locked: those that are an hour old).
//! * Create-if-absent is `link(2)`, atomic on every local file system and on NFS. Compare-and-replace holds a lock file at
//!   the root, and so does every other call that takes the place of an object.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags, flock, renameat_with};
use rustix::io::Errno;

use super::space::{ObjectInfo, PutIf, PutNew};
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::host::nameless;

/// What the names of our own files in a catalog begin with.
pub(super) const PRIVATE: &str = ".barman-snap.";
const LOCK: &str = ".barman-snap.lock";
/// Nobody writes one object for longer than this; a temporary file that is older is the leftover of a crash.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);
/// How often something is tried again that others undo at the same time: an empty directory is removed, a name is taken.
const ROUNDS: u32 = 64;
/// How long to wait for others who write, and how often to look. Each of them holds the lock for one object.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);
const LOCK_PAUSE: Duration = Duration::from_millis(5);
/// Links to directories are followed (a catalog may have its `wals` on another disk), but not for ever.
const MAX_DEPTH: u32 = 32;

/// How a file of our own is opened: through no link, and without waiting for what is no file.
const PLAIN: i32 = i32::from_ne_bytes(OFlags::NOFOLLOW.union(OFlags::NONBLOCK).bits().to_ne_bytes());

/// The objects below one directory.
#[derive(Clone, Debug)]
pub(super) struct LocalStore {
    root: PathBuf,
    /// Directories in which this process has already looked for leftovers.
    swept: Arc<Mutex<HashSet<PathBuf>>>,
}

/// What says whether an object is still the one that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LocalVersion {
    inode: u64,
    modified_ns: i128,
    digest: u64,
}

impl LocalStore {
    /// The objects below `root`, which need not exist yet.
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, swept: Arc::default() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn put(&self, key: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path(key)?;
        let _lock = self.lock()?;
        self.replace(&path, bytes)
    }

    pub(super) fn put_new(&self, key: &str, bytes: &[u8]) -> Result<PutNew> {
        let path = self.path(key)?;
        // A loop, because the object that is in the way can be deleted before it is read.
        for _ in 0..16 {
            // Most often an existing object is met by a second attempt of the same archiving: spare the write.
            if let Some((existing, _)) = read(&path)? {
                // Who made it may have been killed before its name was on the disk; now somebody relies on it.
                flush_parent(&path)?;
                if let Some(directory) = path.parent().filter(|directory| **directory != *self.root) {
                    flush_parent(directory)?;
                }
                return Ok(PutNew::Exists(existing));
            }
            match self.create(&path, bytes) {
                Ok(()) => {
                    flush_parent(&path)?;
                    return Ok(PutNew::Created);
                }
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorKind::Conflict, format!("cannot create {}: others create and delete it", path.display()))
            .with_retry(Retry::Safe))
    }

    pub(super) fn put_if_version(
        &self,
        key: &str,
        bytes: &[u8],
        version: &LocalVersion,
    ) -> Result<PutIf<LocalVersion>> {
        let path = self.path(key)?;
        let _lock = self.lock()?;
        match read(&path)? {
            Some((_, current)) if current == *version => {
                self.replace(&path, bytes)?;
                match read(&path)? {
                    Some((_, version)) => Ok(PutIf::Replaced(version)),
                    None => Ok(PutIf::Changed),
                }
            }
            _ => Ok(PutIf::Changed),
        }
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<(Bytes, LocalVersion)>> {
        read(&self.path(key)?)
    }

    pub(super) fn get_to_file(&self, key: &str, mut to: &File) -> Result<Option<u64>> {
        let path = self.path(key)?;
        let Some(mut from) = open(&path)? else { return Ok(None) };
        io::copy(&mut from, &mut to).map(Some).map_err(|error| Error::io("copy", &path, error))
    }

    pub(super) fn head(&self, key: &str) -> Result<Option<ObjectInfo>> {
        let path = self.path(key)?;
        match fs::metadata(&path) {
            Ok(meta) if meta.is_file() => Ok(Some(info(key.to_owned(), &meta))),
            Ok(_) => Ok(None),
            Err(error) if absent(&error) => Ok(None),
            Err(error) => Err(Error::io("read", &path, error)),
        }
    }

    /// Everything below the directory `prefix`.
    pub(super) fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let mut found = Vec::new();
        self.walk(prefix, 0, &mut found)?;
        Ok(found)
    }

    /// The objects and the directories directly in the directory `prefix`.
    pub(super) fn list_dir(&self, prefix: &str) -> Result<(Vec<ObjectInfo>, Vec<String>)> {
        let path = self.path(prefix)?;
        let fail = |error| Error::io("list", &path, error);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if absent(&error) => return Ok((Vec::new(), Vec::new())),
            Err(error) => return Err(fail(error)),
        };
        let (mut objects, mut dirs) = (Vec::new(), Vec::new());
        for entry in entries {
            let entry = entry.map_err(fail)?;
            // Keys are text; a file whose name is not cannot be an object of ours or of Barman.
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with(PRIVATE) {
                continue;
            }
            match fs::metadata(entry.path()) {
                Ok(meta) if meta.is_dir() => dirs.push(name),
                Ok(meta) if meta.is_file() => objects.push(info(join(prefix, &name), &meta)),
                Ok(_) => {}
                // Deleted since, or a link that leads nowhere.
                Err(error) if absent(&error) => {}
                Err(error) => return Err(Error::io("read", entry.path(), error)),
            }
        }
        Ok((objects, dirs))
    }

    /// Whether there is any object below the directory `prefix`.
    pub(super) fn holds_any(&self, prefix: &str) -> Result<bool> {
        self.finds_any(prefix, 0)
    }

    fn finds_any(&self, prefix: &str, depth: u32) -> Result<bool> {
        let (objects, dirs) = self.list_dir(prefix)?;
        if !objects.is_empty() {
            return Ok(true);
        }
        // What is nested too deeply is not seen; nobody puts an object there.
        for dir in dirs.iter().filter(|_| depth < MAX_DEPTH) {
            if self.finds_any(&join(prefix, dir), depth + 1)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn delete(&self, key: &str) -> Result<()> {
        let path = self.path(key)?;
        if matches!(fs::symlink_metadata(&path), Err(error) if absent(&error)) {
            return Ok(());
        }
        let _lock = self.lock()?;
        match fs::remove_file(&path) {
            Ok(()) => flush_parent(&path)?,
            Err(error) if absent(&error) => return Ok(()),
            Err(error) => return Err(Error::io("delete", &path, error)),
        }
        self.prune(&path);
        Ok(())
    }

    /// Removes the directories that `path` has left empty. Errors do not matter: an empty directory is no object.
    fn prune(&self, path: &Path) {
        for dir in path.ancestors().skip(1).take_while(|dir| *dir != self.root && dir.starts_with(&self.root)) {
            self.sweep(dir);
            if fs::remove_dir(dir).is_err() {
                break;
            }
            self.swept.lock().unwrap_or_else(PoisonError::into_inner).remove(dir);
        }
    }

    fn walk(&self, prefix: &str, depth: u32, found: &mut Vec<ObjectInfo>) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorKind::Storage, format!("the catalog is nested too deeply at {prefix}"))
                .with_hint("a symbolic link may lead back to its own parent"));
        }
        let (objects, dirs) = self.list_dir(prefix)?;
        found.extend(objects);
        dirs.iter().try_for_each(|dir| self.walk(&join(prefix, dir), depth + 1, found))
    }

    /// The file of a key. No key can leave the root, whoever built it.
    fn path(&self, key: &str) -> Result<PathBuf> {
        if key.is_empty() {
            return Ok(self.root.clone());
        }
        let bad = |part: &str| matches!(part, "" | "." | "..") || part.contains('\0') || part.starts_with(PRIVATE);
        if key.split('/').any(bad) {
            return Err(Error::invalid(format!("not a key: {key:?}")));
        }
        self.refuse_links_of_others(key)?;
        Ok(self.root.join(key))
    }

    /// A catalog may have its `wals` on another disk, behind a link. But root reads, writes and deletes in a catalog that somebody else
    /// can write to, and goes through no link that root has not made.
    fn refuse_links_of_others(&self, key: &str) -> Result<()> {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let mut path = self.root.clone();
        for part in key.split('/') {
            path.push(part);
            match fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_symlink() && meta.uid() != 0 => {
                    let message =
                        format!("{} is a link of user {}, which root does not follow", path.display(), meta.uid());
                    return Err(Error::precondition(message).with_hint(format!(
                        "run this as the user of the catalog; or, if the link is meant, make it root's: chown -h root {}",
                        path.display()
                    )));
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Holds off everybody else who replaces or deletes an object, in this process and in others, until it is dropped.
    fn lock(&self) -> Result<File> {
        make_dirs(&self.root)?;
        let path = self.root.join(LOCK);
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).custom_flags(PLAIN).open(&path);
        let file = file.map_err(|error| Error::io("open", &path, error))?;
        for _ in 0..LOCK_PATIENCE.as_millis() / LOCK_PAUSE.as_millis() {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(Errno::WOULDBLOCK | Errno::INTR) => pause(),
                Err(errno) => return Err(Error::io("lock", &path, errno.into())),
            }
        }
        Err(Error::new(ErrorKind::Unavailable, format!("another process has locked {} for a minute", path.display()))
            .with_retry(Retry::Safe)
            .with_hint("see which one with fuser or lsof; it may be stopped, or wait for its disk"))
    }

    /// Writes an object where none is; [`ErrorKind::Conflict`] if there is one.
    fn create(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let fail = |error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                Error::new(ErrorKind::Conflict, format!("{} exists already", path.display()))
            }
            _ => Error::io("write", path, error),
        };
        let dir = path.parent().unwrap_or(&self.root);
        for _ in 0..ROUNDS {
            make_dirs(dir)?;
            let named = match nameless::create(dir) {
                Ok(Some(mut file)) => write_pieces(&mut file, bytes)
                    .and_then(|()| file.sync_all())
                    .and_then(|()| nameless::give_name(&file, path)),
                Ok(None) => {
                    let temp = self.write_temp(path, bytes)?;
                    name_if_absent(&temp.path, path).inspect_err(|_| temp.discard())
                }
                Err(error) => Err(error),
            };
            match named {
                // The directory was empty and somebody removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !dir.exists() => {}
                named => {
                    self.sweep(dir);
                    return named.map_err(fail);
                }
            }
        }
        Err(unsettled(path))
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let temp = self.write_temp(path, bytes)?;
        if let Err(error) = fs::rename(&temp.path, path) {
            temp.discard();
            return Err(Error::io("write", path, error));
        }
        flush_parent(path)
    }

    /// Writes and flushes a temporary file beside `path`.
    fn write_temp(&self, path: &Path, bytes: &[u8]) -> Result<Temp> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let dir = path.parent().unwrap_or(&self.root);
        for _ in 0..ROUNDS {
            make_dirs(dir)?;
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let temp = dir.join(format!("{PRIVATE}{}.{number}", std::process::id()));
            let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temp) {
                Ok(file) => file,
                // A leftover of a dead process with our number; or the directory was empty and somebody removed it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound && !dir.exists() => continue,
                Err(error) => return Err(Error::io("write", path, error)),
            };
            // Between the two calls somebody who sweeps may have taken it for a leftover.
            let swept = matches!(flock(&file, FlockOperation::NonBlockingLockExclusive), Err(Errno::WOULDBLOCK));
            if swept || file.metadata().is_ok_and(|meta| meta.nlink() == 0) {
                continue;
            }
            let written = write_pieces(&mut file, bytes).and_then(|()| file.sync_all());
            let temp = Temp { path: temp, _lock: file };
            if let Err(error) = written {
                temp.discard();
                return Err(Error::io("write", path, error));
            }
            self.sweep(dir);
            return Ok(temp);
        }
        Err(unsettled(path))
    }

    /// Removes what crashes have left in `dir`, once per process.
    fn sweep(&self, dir: &Path) {
        if !self.swept.lock().unwrap_or_else(PoisonError::into_inner).insert(dir.to_owned()) {
            return;
        }
        let Ok(entries) = fs::read_dir(dir) else { return };
        let temps = entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(PRIVATE) && entry.file_name() != LOCK);
        for path in temps.map(|entry| entry.path()) {
            let Ok(file) = OpenOptions::new().read(true).custom_flags(PLAIN).open(&path) else { continue };
            let dead = match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => true,
                Err(Errno::WOULDBLOCK) => false,
                Err(_) => file.metadata().and_then(|meta| meta.modified()).is_ok_and(is_old),
            };
            if dead {
                tracing::debug!(path = %path.display(), "removing what a crash has left");
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Writes all of `bytes`, in pieces. One call for 16 MiB makes a file system with large folios look for contiguous memory
/// and takes ten times as long (measured with ext4 of Linux 6.18: 40 ms against 4 ms).
pub(crate) fn write_pieces(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    bytes.chunks(128 << 10).try_for_each(|piece| file.write_all(piece))
}

/// A complete temporary file, locked as long as this lives.
struct Temp {
    path: PathBuf,
    _lock: File,
}

impl Temp {
    fn discard(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn is_old(modified: std::time::SystemTime) -> bool {
    modified.elapsed().is_ok_and(|age| age > LEFTOVER_AGE)
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") }
}

fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn info(key: String, meta: &fs::Metadata) -> ObjectInfo {
    let last_modified = meta.modified().map(DateTime::<Utc>::from).unwrap_or_default();
    ObjectInfo { key, size: meta.len(), last_modified }
}

/// What is no plain file is no object: a pipe would make us wait, a device would have no end.
fn open(path: &Path) -> Result<Option<File>> {
    let nonblocking = i32::from_ne_bytes(OFlags::NONBLOCK.bits().to_ne_bytes());
    match OpenOptions::new().read(true).custom_flags(nonblocking).open(path) {
        Ok(file) => match file.metadata() {
            Ok(meta) if !meta.is_file() => Ok(None),
            Ok(_) => Ok(Some(file)),
            Err(error) => Err(Error::io("read", path, error)),
        },
        Err(error) if absent(&error) => Ok(None),
        Err(error) => Err(Error::io("read", path, error)),
    }
}

fn read(path: &Path) -> Result<Option<(Bytes, LocalVersion)>> {
    let Some(mut file) = open(path)? else { return Ok(None) };
    let fail = |error| Error::io("read", path, error);
    let meta = file.metadata().map_err(fail)?;
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
    file.read_to_end(&mut bytes).map_err(fail)?;
    let modified_ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    let version = LocalVersion { inode: meta.ino(), modified_ns, digest: fnv(&bytes) };
    Ok(Some((bytes.into(), version)))
}

/// FNV-1a. It tells apart two contents that got the same inode within one tick of the file system's clock.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Gives `temp` its name unless that exists ([`io::ErrorKind::AlreadyExists`]).
fn name_if_absent(temp: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(temp, path) {
        Ok(()) => {
            // The object is there; what is left of the temporary name is swept later.
            let _ = fs::remove_file(temp);
            Ok(())
        }
        // File systems without hard links (FAT, some FUSE) say it in one of these ways.
        Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) => {
            renameat_with(CWD, temp, CWD, path, RenameFlags::NOREPLACE).map_err(Into::into)
        }
        Err(error) => Err(error),
    }
}

/// Makes `dir` and every directory above it that is missing, each one flushed into its parent. Others may remove an empty
/// one at the same time: the caller looks, and comes back a bounded number of times.
fn make_dirs(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_dirs(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => flush_parent(dir),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => no_directory(dir).map_or(Ok(()), Err),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("create the directory", dir, error)),
    }
}

/// Why what stands at `dir` is no directory; `None` if it is one, or gone.
fn no_directory(dir: &Path) -> Option<Error> {
    if dir.is_dir() {
        return None;
    }
    if let Ok(to) = fs::read_link(dir) {
        let message = format!("{} is a link to {}, where there is no directory", dir.display(), to.display());
        return Some(Error::precondition(message).with_hint("mount the file system that it leads to"));
    }
    let there = fs::symlink_metadata(dir).is_ok();
    there.then(|| Error::precondition(format!("{} is not a directory", dir.display())))
}

fn unsettled(path: &Path) -> Error {
    let message = format!("cannot create {}: its directory keeps vanishing", path.display());
    Error::new(ErrorKind::Conflict, message).with_retry(Retry::Safe)
}

#[allow(clippy::disallowed_methods, reason = "a lock of a file has no clock, and this thread may block")]
fn pause() {
    std::thread::sleep(LOCK_PAUSE);
}

/// Makes the name of `path` durable.
fn flush_parent(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(parent).and_then(|dir| dir.sync_all()) {
        Ok(()) => Ok(()),
        // The last object of the directory was deleted, and with it the directory.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // The name is there, but a crash of the machine may still lose it.
        Err(error) => Err(Error::io("flush the directory", parent, error).with_retry(Retry::Unknown)),
    }
}
