//! How much a restore will write, seen beforehand.
//!
//! Nothing worth counting where blocks are shared, which is tried with one file of the snapshot: what the file systems say of
//! themselves (a btrfs subvolume has a number of its own) does not tell.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::copy::{self, Counters};
use super::{place, restore, space};
use crate::error::{Error, Result};
use crate::host::nameless;
use crate::host::survey::survey_until;
use crate::provider::{CreateVolumeRequest, RestoreSpace};

/// Files and directories that are looked at to find one with content.
const TRIES: usize = 1000;
/// File systems that may keep a file in fewer blocks than it has bytes (`statfs(2)`): btrfs and ZFS. What is written elsewhere is
/// written in full.
const COMPRESSING: [u64; 2] = [0x9123_683e, 0x2fc1_2fc1];

/// What a restore of `tree` to `destination` would write.
pub(super) fn look(
    tree: &Path,
    request: &CreateVolumeRequest,
    destination: &Path,
    counters: &Counters,
) -> Result<Option<RestoreSpace>> {
    let source = restore::source_directory(tree, &request.subtree)?;
    let Some(directory) = destination.ancestors().find(|ancestor| ancestor.is_dir()).map(Path::to_owned) else {
        return Ok(None);
    };
    if shares(&source, &directory) {
        return Ok(None);
    }
    let stop = || counters.is_cancelled();
    let seen = survey_until(&source, place::SNAPSHOT_DIRECTORY, &request.exclude_content, &stop)?;
    let system = rustix::fs::statfs(&source).map_err(|error| Error::io("look at", &source, error.into()))?;
    let compressing = COMPRESSING.contains(&u64::try_from(system.f_type).unwrap_or(0));
    let data = if compressing { seen.length.max(seen.bytes) } else { seen.bytes };
    let device = std::fs::metadata(&directory).map_err(|error| Error::io("look at", &directory, error))?.dev();
    Ok(Some(RestoreSpace {
        bytes: data.saturating_add(space::metadata(&seen)),
        free: space::free(&directory)?,
        device,
        directory,
    }))
}

/// Whether blocks of the snapshot can be shared with files in `directory`. Tried with a file that has no name.
fn shares(source: &Path, directory: &Path) -> bool {
    let Some(file) = file_with_content(source).and_then(|path| File::open(path).ok()) else { return false };
    let Ok(Some(target)) = nameless::create(directory) else { return false };
    copy::share(file.as_fd(), target.as_fd()).unwrap_or(false)
}

fn file_with_content(source: &Path) -> Option<PathBuf> {
    let mut todo = vec![source.to_owned()];
    let mut tries = 0;
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(directory).ok()?.flatten() {
            tries += 1;
            if tries > TRIES {
                return None;
            }
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => todo.push(entry.path()),
                Ok(metadata) if metadata.is_file() && metadata.blocks() > 0 => return Some(entry.path()),
                _ => {}
            }
        }
    }
    None
}
