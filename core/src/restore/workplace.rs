//! The throw-away places of a verification: private directories that are gone afterwards, whatever happens.
//!
//! A place lies on the file system of the snapshot that is restored into it, so that a reflink or a clone is possible and
//! the disk of nobody else fills up; but never inside a directory of the original.
//!
//! Each place has a lock file that its process holds locked. When a process was killed, the lock is free, and the next
//! verification in the same directory removes what was left. The server of the killed one has ended by itself
//! ([`server`](super::server)); as long as one runs, nothing is removed.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FlockOperation, Mode, OFlags, flock, openat};

use super::claims::is_of_the_system;
use super::pgdata::remove_any;
use super::tablespaces::normal;
use crate::error::{Error, Result};
use crate::host::MountTable;
use crate::host::beneath::Beneath;
use crate::host::clusters::holding;
use crate::id::Token;
use crate::model::{BackupInfo, EngineRecord};

/// Private directories. Dropping it removes them.
#[derive(Debug)]
pub(super) struct Workplace {
    name: String,
    given: Option<PathBuf>,
    forbidden: Vec<PathBuf>,
    directories: Vec<PathBuf>,
    /// Locked as long as this lives.
    locks: Vec<File>,
}

/// What the names of the directories begin with.
const PREFIX: &str = "barman-snap-verify-";

/// The lock file in a directory.
const LOCK: &str = "lock";

impl Workplace {
    /// A workplace that may lie neither inside the directories of the original nor in that of the catalog. `given` is the
    /// user's choice.
    pub(super) fn new(info: &BackupInfo, given: Option<&Path>, catalog: Option<PathBuf>, token: &Token) -> Self {
        let tablespaces = info.tablespaces.iter().flatten().map(|one| one.location.as_str());
        let forbidden =
            info.pgdata.as_deref().into_iter().chain(tablespaces).map(|path| normal(Path::new(path))).chain(catalog);
        Self {
            name: format!("{PREFIX}{}", &token.as_str()[..8]),
            given: given.map(Path::to_owned),
            forbidden: forbidden
                .flat_map(|path| [super::host::real_path(&path).unwrap_or(path.clone()), path])
                .collect(),
            directories: Vec::new(),
            locks: Vec::new(),
        }
    }

    /// The directory of ours near the volume that held `original`.
    ///
    /// # Errors
    /// `precondition` when the user's directory cannot be used, or no other can.
    pub(super) fn near(&mut self, record: &EngineRecord, original: &Path) -> Result<PathBuf> {
        let candidates = match &self.given {
            Some(given) => vec![given.clone()],
            // The record says where the volume was; it does not say that root may make directories in `/etc`.
            None => candidates(record, original).into_iter().filter(|place| !is_of_the_system(place)).collect(),
        };
        self.make(&candidates)
    }

    /// The directory of ours for mount points, wherever the user wants it: it gets no content but the WAL of the backup.
    ///
    /// # Errors
    /// As [`near`](Self::near).
    pub(super) fn anywhere(&mut self) -> Result<PathBuf> {
        self.make(&[self.given.clone().unwrap_or_else(std::env::temp_dir)])
    }

    fn make(&mut self, candidates: &[PathBuf]) -> Result<PathBuf> {
        let usable: Vec<_> = candidates.iter().filter(|place| self.usable(place)).collect();
        // Who may rename our directory may put something else in its place. Not on another file system: there it would be a copy.
        let device = |place: &Path| fs::metadata(place).map(|meta| meta.dev()).ok();
        let near = |place: &&&PathBuf| device(place) == usable.first().and_then(|first| device(first));
        let safe = usable.iter().filter(near).find(|place| is_safe(place));
        let usable = safe.or(usable.first()).copied().ok_or_else(|| {
            let tried: Vec<_> = candidates.iter().map(|place| place.display().to_string()).collect();
            Error::precondition(format!("no place for a verification: {} cannot be used", tried.join(", ")))
                .with_hint("name a writable directory outside of any cluster and of the catalog with --work-dir")
        })?;
        let directory = usable.join(&self.name);
        if !self.directories.contains(&directory) {
            remove_leftovers(usable);
            // Others may pass through, since the server may run as another user; each place inside is private.
            let made = DirBuilder::new().mode(0o711).create(&directory);
            made.map_err(|error| Error::io("make the directory", &directory, error))?;
            self.directories.push(directory.clone());
            let path = directory.join(LOCK);
            let lock = File::create_new(&path).map_err(|error| Error::io("write", &path, error))?;
            flock(&lock, FlockOperation::NonBlockingLockExclusive)
                .map_err(|error| Error::io("lock", &path, error.into()))?;
            self.locks.push(lock);
        }
        Ok(directory)
    }

    fn usable(&self, place: &Path) -> bool {
        let writable = rustix::fs::accessat(CWD, place, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_ok();
        let real = super::host::real_path(place).unwrap_or_else(|_| place.to_owned());
        let taken = self.forbidden.iter().any(|taken| place.starts_with(taken) || real.starts_with(taken));
        // Nor inside any other cluster; what cannot be looked at is none of ours.
        place.is_dir() && writable && !taken && matches!(holding(&real), Ok(None))
    }

    /// Removes everything, and says what could not be removed.
    pub(super) fn clean(&mut self) -> Result<()> {
        while let Some(directory) = self.directories.last() {
            if let Some(mounted) = mounted_below(directory)?.first() {
                return Err(Error::precondition(format!("{} is still mounted", mounted.display()))
                    .with_hint("unmount it, and remove the directory above it"));
            }
            remove_any(directory)?;
            self.directories.pop();
        }
        Ok(())
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        for directory in &self.directories {
            // Nothing is removed through a mount. The volume itself stays, for nobody is left to ask its cloud.
            for mounted in mounted_below(directory).unwrap_or_default().iter().rev() {
                tracing::warn!(mount_point = %mounted.display(), "a volume of a verification that was dropped stays attached");
                let _ = rustix::mount::unmount(mounted, rustix::mount::UnmountFlags::DETACH);
            }
            if !mounted_below(directory).is_ok_and(|left| left.is_empty()) {
                continue;
            }
            if let Err(error) = remove_stubbornly(directory) {
                tracing::warn!(directory = %directory.display(), error = error.chain(), "cannot remove");
            }
        }
    }
}

/// The place of ours that `path` is in.
pub(super) fn place_of(path: &Path) -> Option<&Path> {
    let prefix = PREFIX.as_bytes();
    let ours = |place: &&Path| place.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(prefix));
    path.ancestors().filter(ours).last()
}

/// Opens a directory in a place of ours, through no link below that place: what runs in the server may have put one anywhere.
/// `None` if it is none any more.
pub(super) fn open_inside(path: &Path) -> Result<Option<Beneath>> {
    let ours =
        |place: &&Path| place.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()));
    let Some(place) = path.ancestors().filter(ours).last() else { return Beneath::open(path).map(Some) };
    Beneath::open(place)?.enter(path.strip_prefix(place).unwrap_or(Path::new("")))
}

/// Removes the directories of verifications whose process was killed. What cannot be removed stays, and is told.
fn remove_leftovers(place: &Path) {
    let Ok(entries) = fs::read_dir(place) else { return };
    for directory in entries.flatten().map(|entry| entry.path()) {
        let ours = directory.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(PREFIX));
        if !ours || !is_abandoned(&directory) {
            continue;
        }
        match remove_any(&directory) {
            Ok(_) => tracing::info!(directory = %directory.display(), "removed what a killed verification had left"),
            Err(error) => tracing::warn!(
                directory = %directory.display(),
                error = error.chain(),
                "cannot remove what a killed verification has left"
            ),
        }
    }
}

/// True for a directory of this user whose lock nobody holds, with nothing mounted below and no server running in it.
fn is_abandoned(directory: &Path) -> bool {
    let mine = |meta: fs::Metadata| meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw();
    // The directory is given to the user of the server; root may remove it even so.
    let root = rustix::process::geteuid().is_root();
    if !fs::symlink_metadata(directory).is_ok_and(|meta| root && meta.is_dir() || mine(meta)) {
        return false;
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    // Without a lock it is just being made, or of an older version.
    let Ok(lock) = openat(CWD, directory.join(LOCK), flags, Mode::empty()) else { return false };
    let free = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
    let quiet = |data: PathBuf| super::host::served_by(&data).is_ok_and(|process| process.is_none());
    free && quiet(directory.join("data")) && mounted_below(directory).is_ok_and(|mounts| mounts.is_empty())
}

/// True if nobody else can rename a directory of ours in `place`, or one above it: they all belong to root or to us, and others may write
/// there only where the sticky bit keeps them from what is not theirs.
fn is_safe(place: &Path) -> bool {
    let us = rustix::process::geteuid().as_raw();
    let safe = |directory: &Path| {
        fs::metadata(directory).is_ok_and(|meta| {
            let owned = meta.uid() == 0 || meta.uid() == us;
            owned && (meta.mode() & 0o022 == 0 || meta.mode() & 0o1000 != 0)
        })
    };
    super::host::real_path(place).is_ok_and(|real| real.ancestors().all(safe))
}

/// What is mounted below a directory, outer mount points first.
fn mounted_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let real = super::host::real_path(directory)?;
    let table = MountTable::current()?;
    Ok(table.below(&real).into_iter().map(|mount| mount.mount_point.clone()).collect())
}

/// Removes a directory into which a copy, told to stop a moment ago, may still put a last file.
#[allow(clippy::disallowed_methods, reason = "drop has no clock, and nobody waits for it but the end of a process")]
fn remove_stubbornly(directory: &Path) -> Result<bool> {
    for _ in 0..40 {
        if let Ok(removed) = remove_any(directory) {
            return Ok(removed);
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    remove_any(directory)
}

/// The directories above the root of the volume, nearest first, up to its mount point; then the root itself, for a volume
/// that is no larger than its mount; then the directory for temporary files.
fn candidates(record: &EngineRecord, original: &Path) -> Vec<PathBuf> {
    let real = super::host::real_path(original).unwrap_or_else(|_| original.to_owned());
    let holds = |root: &Path| real.starts_with(root) || original.starts_with(root);
    let volume = record
        .snapshots
        .iter()
        .filter(|one| holds(&one.ticket.root))
        .max_by_key(|one| one.ticket.root.components().count());
    let mut places = Vec::new();
    if let Some(volume) = volume {
        let root = volume.ticket.root.as_path();
        let mount = Path::new(&volume.mount_point);
        places.extend(root.ancestors().skip(1).take_while(|place| place.starts_with(mount)).map(Path::to_owned));
        places.push(root.to_owned());
    }
    places.push(std::env::temp_dir());
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_verification_left_is_removed_and_what_another_one_holds_is_not() {
        let place = tempfile::tempdir().unwrap();
        let directory = |name: &str| {
            let path = place.path().join(name);
            fs::create_dir_all(path.join("data")).unwrap();
            // As it is copied from a running original, before it is prepared.
            fs::write(path.join("data/postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
            path
        };
        let [killed, held, young, other] =
            [format!("{PREFIX}killed"), format!("{PREFIX}held"), format!("{PREFIX}young"), "mine".to_owned()]
                .map(|name| directory(&name));
        for path in [&killed, &other] {
            File::create(path.join(LOCK)).unwrap();
        }
        let lock = File::create(held.join(LOCK)).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        remove_leftovers(place.path());
        let there = [&killed, &held, &young, &other].map(|path| path.exists());
        assert_eq!(there, [false, true, true, true]);
    }
}
