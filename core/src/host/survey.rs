//! A look at a directory tree without changing it: how much lies in it, and where it leaves its file system.
//!
//! A btrfs subvolume counts as a file system of its own here, because the kernel gives each a device number of its own
//! and a snapshot ends at its border, as it does at a mount point.

use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The inode of `.zfs`, which shows every snapshot of a dataset below its top and claims to be part of it. With
/// `snapdir=visible` it is listed like any other directory.
const ZFS_CONTROL: u64 = 0xffff_ffff_ffff;

/// True for that directory: no part of what it lies in.
pub(crate) fn is_zfs_control(name: &[u8], inode: u64) -> bool {
    name == b".zfs" && inode == ZFS_CONTROL
}

/// What [`survey`] saw.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Survey {
    /// Bytes on disk (allocated blocks, so that holes do not count).
    pub bytes: u64,
    /// Bytes that files say they have, holes and compressed ones included.
    pub length: u64,
    /// Files, links and other things that are no directories.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Directories at which another file system or subvolume begins. They are not entered.
    pub foreign: Vec<PathBuf>,
}

/// Walks `root`. Entries named like `skip` are passed over; what vanishes on the way (a running server removes files) is
/// left out; a directory that may not be read is an error.
pub fn survey(root: &Path, skip: &str) -> Result<Survey> {
    survey_until(root, skip, &[], &|| false)
}

/// [`survey`] without the content of some directories, by their paths relative to `root`; ends early, with what was seen so
/// far, when `stop` says so. One directory is open at a time, and kept are the names of directories that wait.
pub(crate) fn survey_until(root: &Path, skip: &str, without: &[PathBuf], stop: &dyn Fn() -> bool) -> Result<Survey> {
    let without: Vec<PathBuf> = without.iter().map(|path| root.join(path)).collect();
    let top = std::fs::symlink_metadata(root).map_err(|source| Error::io("read", root, source))?;
    let mut seen = Survey { directories: 1, ..Survey::default() };
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        if stop() {
            break;
        }
        if without.contains(&directory) {
            continue;
        }
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(source) if source.kind() == std::io::ErrorKind::NotFound && directory != root => continue,
            Err(source) => return Err(Error::io("read", &directory, source)),
        };
        for entry in entries {
            let entry = entry.map_err(|source| Error::io("read", &directory, source))?;
            if entry.file_name() == skip || is_zfs_control(entry.file_name().as_encoded_bytes(), entry.ino()) {
                continue;
            }
            let Ok(metadata) = entry.metadata() else { continue };
            if !metadata.is_dir() {
                if without.contains(&entry.path()) {
                    continue;
                }
                seen.files += 1;
                seen.bytes += metadata.blocks() * 512;
                seen.length += metadata.len();
            } else if metadata.dev() != top.dev() {
                seen.foreign.push(entry.path());
            } else {
                seen.directories += 1;
                todo.push(entry.path());
            }
        }
    }
    seen.foreign.sort();
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_and_skipped_names_do_not_count() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("a"), vec![1; 8192]).unwrap();
        std::fs::File::create(temp.path().join("hole")).unwrap().set_len(1 << 30).unwrap();
        std::fs::create_dir_all(temp.path().join("sub/.skip")).unwrap();
        std::fs::write(temp.path().join("sub/.skip/b"), vec![1; 8192]).unwrap();
        let seen = survey(temp.path(), ".skip").unwrap();
        assert_eq!((seen.files, seen.directories), (2, 2));
        assert!(seen.bytes <= 1 << 20, "{}", seen.bytes);
        assert!(seen.foreign.is_empty());
    }

    #[test]
    fn another_file_system_is_noticed_and_not_entered() {
        // /proc is one on every host that this crate runs on.
        let seen = survey(Path::new("/proc/self/fd"), "").unwrap();
        assert!(seen.foreign.is_empty());
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(survey(&temp.path().join("absent"), "").unwrap_err().kind(), crate::ErrorKind::NotFound);
    }
}
