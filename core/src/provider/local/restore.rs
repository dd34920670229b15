//! Directories made from snapshots.
//!
//! A directory that [`create`] made bears a mark (an extended attribute where the file system has them, else a file), and
//! [`delete`] removes only what bears it and what no server runs on.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::Ordering;

use rustix::fs::XattrFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::copy::Counters;
use super::place::MARK_FILE;
use super::remove;
use super::tree::{CloneOptions, clone_tree};
use crate::error::{Error, ErrorKind, Result};
use crate::host::beneath::{Beneath, read_file};
use crate::id::Token;
use crate::provider::RestoredVolume;

const ATTRIBUTE: &str = "user.barman_snap.volume";

/// The mark.
#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    token: Token,
    /// True if the directory itself was made, and not only filled.
    made: bool,
}

/// A directory to be filled from a snapshot.
pub(super) struct Wanted<'a> {
    pub(super) token: &'a Token,
    /// The root of the snapshot.
    pub(super) tree: PathBuf,
    pub(super) subtree: &'a Path,
    pub(super) destination: &'a Path,
    /// The mode that the root of the snapshot would have, had it not been made read-only.
    pub(super) root_mode: Option<u32>,
    pub(super) options: CloneOptions,
    /// How far it is; and it can be told to stop there.
    pub(super) counters: &'a Counters,
}

/// Fills an absent or empty directory with a part of a snapshot. On an error it is as before.
pub(super) fn create(wanted: &Wanted<'_>) -> Result<RestoredVolume> {
    let source = source_directory(&wanted.tree, wanted.subtree)?;
    let destination = wanted.destination;
    let id = destination
        .to_str()
        .filter(|_| destination.is_absolute())
        .ok_or_else(|| Error::invalid(format!("not an absolute path in UTF-8: {}", destination.display())))?;
    claim(destination, wanted.token)?;
    let counters = wanted.counters;
    let filled = clone_tree(&source, destination, &wanted.options, counters).and_then(|()| {
        match wanted.root_mode.filter(|_| source == wanted.tree) {
            Some(mode) => std::fs::set_permissions(destination, std::fs::Permissions::from_mode(mode & 0o7777))
                .map_err(|source| Error::io("set the permissions of", destination, source)),
            None => Ok(()),
        }
    });
    let volume = RestoredVolume {
        id: id.to_owned(),
        path: Some(destination.to_owned()),
        bytes_copied: Some(counters.copied.load(Ordering::Relaxed)),
        ..RestoredVolume::default()
    };
    match filled {
        Ok(()) => Ok(volume),
        Err(error) => match delete(&volume) {
            Ok(()) => Err(error),
            Err(left) => Err(error.with_hint(format!("remove what is left of it yourself: {}", left.chain()))),
        },
    }
}

/// Removes what [`create`] made.
pub(super) fn delete(volume: &RestoredVolume) -> Result<()> {
    let directory = Path::new(&volume.id);
    match std::fs::symlink_metadata(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("read", directory, error)),
        Ok(_) => {}
    }
    let mark = mark_of(directory)?.ok_or_else(|| {
        Error::new(ErrorKind::Conflict, format!("not made by a restore, so it is not removed: {}", directory.display()))
    })?;
    if let Some(pid) = server_running_on(directory) {
        return Err(Error::precondition(format!(
            "a server (process {pid}) runs on {}, so it is not removed",
            directory.display()
        )));
    }
    if mark.made {
        return remove::remove_tree(directory);
    }
    remove::empty_tree(directory)?;
    match rustix::fs::removexattr(directory, ATTRIBUTE) {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(Error::io("unmark", directory, error.into())),
    }
}

/// The directory in the snapshot, which no link may lead out of.
pub(super) fn source_directory(tree: &Path, subtree: &Path) -> Result<PathBuf> {
    if subtree.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(Error::invalid(format!("not a path inside of a snapshot: {}", subtree.display())));
    }
    let wanted = if subtree == Path::new("") { tree.to_owned() } else { tree.join(subtree) };
    let fail = |source| Error::io("find in the snapshot", &wanted, source);
    let (real_tree, real) = (tree.canonicalize().map_err(fail)?, wanted.canonicalize().map_err(fail)?);
    let is_tree = std::fs::symlink_metadata(tree).is_ok_and(|meta| meta.is_dir());
    if is_tree && real.starts_with(&real_tree) && real.is_dir() {
        Ok(if real == real_tree { tree.to_owned() } else { real })
    } else {
        Err(Error::precondition(format!("not a directory of the snapshot: {}", wanted.display())))
    }
}

/// Makes the directory if it is absent, checks that it is empty, and marks it.
fn claim(directory: &Path, token: &Token) -> Result<()> {
    let made = match std::fs::create_dir(directory) {
        Ok(()) => true,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(Error::io("make the directory", directory, error)),
    };
    let fail = |source| Error::io("read", directory, source);
    if std::fs::read_dir(directory).map_err(fail)?.next().is_some() {
        return Err(Error::precondition(format!("directory is not empty: {}", directory.display()))
            .with_hint("choose one that does not exist"));
    }
    let mark = serde_json::to_vec(&Mark { token: token.clone(), made })
        .map_err(|error| Error::internal("cannot write a mark").with_source(error))?;
    let open = File::open(directory).map_err(fail)?;
    match rustix::fs::fsetxattr(&open, ATTRIBUTE, &mark, XattrFlags::empty()) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => {
            Beneath::open(directory)?.write(Path::new(MARK_FILE), &mark, 0o600, None)
        }
        Err(error) => Err(Error::io("mark", directory, error.into())),
    }
}

fn mark_of(directory: &Path) -> Result<Option<Mark>> {
    let mut buffer = [0; 512];
    let bytes = match rustix::fs::lgetxattr(directory, ATTRIBUTE, &mut buffer) {
        Ok(length) => buffer[..length].to_vec(),
        Err(_) => match read_file(&directory.join(MARK_FILE), 512)? {
            Some(bytes) => bytes,
            None => return Ok(None),
        },
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| Error::corrupt(format!("bad mark on {}", directory.display())).with_source(error))
}

/// The process of a server that has this as its data directory. The file may be that of the original server, copied with
/// the rest: then it names another directory.
fn server_running_on(directory: &Path) -> Option<u32> {
    let text = String::from_utf8(read_file(&directory.join("postmaster.pid"), 64 << 10).ok()??).ok()?;
    let mut lines = text.lines();
    let pid: u32 = lines.next()?.trim().parse().ok()?;
    let names_this = Path::new(lines.next()?).canonicalize().ok()? == directory.canonicalize().ok()?;
    (names_this && Path::new(&format!("/proc/{pid}")).exists()).then_some(pid)
}
