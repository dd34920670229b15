//! Whether a snapshot will fit. The arithmetic is pure.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::reservation;
use crate::error::{Error, ErrorKind, Result};
use crate::host::Survey;

/// What the file system needs for itself beside the data: directories, inodes, journal.
const RESERVE: u64 = 64 << 20;
/// Roughly what one more file costs in metadata.
const PER_FILE: u64 = 1 << 10;

/// Bytes that must be free to copy (or, with shared blocks, to describe) what was surveyed. A running server writes on
/// while it is copied, therefore one part in fifty on top.
pub(super) fn needed(survey: &Survey, shared: bool) -> u64 {
    let data = if shared { 0 } else { survey.bytes.saturating_add(survey.bytes / 50) };
    metadata(survey).saturating_add(RESERVE).saturating_add(data)
}

/// What the files need beside their content.
pub(super) fn metadata(survey: &Survey) -> u64 {
    (survey.files + survey.directories).saturating_mul(PER_FILE)
}

/// Bytes that this process may still write to the file system of `directory`.
pub(super) fn free(directory: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(directory).map_err(|error| Error::io("ask for space", directory, error.into()))?;
    let blocks = if rustix::process::geteuid().is_root() { stat.f_bfree } else { stat.f_bavail };
    Ok(blocks.saturating_mul(stat.f_frsize))
}

/// Space that a snapshot will take at once.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// How much, in bytes.
    pub(super) bytes: u64,
    /// An existing directory on the file system that has to have it.
    pub(super) directory: PathBuf,
    /// Where the snapshots will lie, and where others may be in the making.
    pub(super) place: PathBuf,
}

/// What is wanted of one file system, and what others have reserved on it.
struct Demand<'a> {
    needed: u64,
    directory: &'a Path,
    places: BTreeSet<&'a Path>,
}

/// An error if a file system has not enough for all that is wanted of it, and for what others are yet to write.
pub(super) fn check_all(wanted: &[Wanted]) -> Result<()> {
    let mut systems: BTreeMap<u64, Demand<'_>> = BTreeMap::new();
    for one in wanted {
        let device =
            std::fs::metadata(&one.directory).map_err(|error| Error::io("look at", &one.directory, error))?.dev();
        let new = || Demand { needed: 0, directory: &one.directory, places: BTreeSet::new() };
        let system = systems.entry(device).or_insert_with(new);
        system.needed = system.needed.saturating_add(one.bytes);
        system.places.insert(&one.place);
    }
    for system in systems.into_values() {
        let reserved: Vec<u64> = system.places.into_iter().map(reservation::by_others).collect::<Result<_>>()?;
        let reserved = reserved.into_iter().fold(0, u64::saturating_add);
        check(system.needed, reserved, free(system.directory)?, system.directory)?;
    }
    Ok(())
}

/// An error if of what is `free` less than `needed` is left for us by others, who have `reserved` some of it.
pub(super) fn check(needed: u64, reserved: u64, free: u64, directory: &Path) -> Result<()> {
    if free >= needed.saturating_add(reserved) {
        return Ok(());
    }
    let others = match reserved.div_ceil(1 << 20) {
        0 => String::new(),
        mebibytes => format!(", of which other copies are yet to write {mebibytes} MiB"),
    };
    Err(Error::new(
        ErrorKind::Exhausted,
        format!(
            "not enough space for the snapshots at {}: {} MiB needed, {} MiB free{others}",
            directory.display(),
            needed.div_ceil(1 << 20),
            free >> 20
        ),
    )
    .with_hint("make room, or give another place with --snapshot-directory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_needs_the_data_and_some_more_and_a_shared_tree_needs_little() {
        let seen = Survey { bytes: 100 << 20, length: 0, files: 1000, directories: 24, foreign: Vec::new() };
        assert_eq!(needed(&seen, false) >> 20, 102 + 64 + 1);
        assert_eq!(needed(&seen, true) >> 20, 64 + 1);
        assert_eq!(needed(&Survey { bytes: u64::MAX, ..seen }, false), u64::MAX);
    }

    #[test]
    fn too_little_space_is_an_error_with_both_numbers() {
        let error = check(100 << 20, 0, 99 << 20, Path::new("/m")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        assert_eq!(error.message(), "not enough space for the snapshots at /m: 100 MiB needed, 99 MiB free");
        check(1, 0, 1, Path::new("/m")).unwrap();
    }

    #[test]
    fn what_others_are_yet_to_write_is_not_free() {
        check(60 << 20, 40 << 20, 100 << 20, Path::new("/m")).unwrap();
        let error = check(60 << 20, 41 << 20, 100 << 20, Path::new("/m")).unwrap_err();
        assert!(error.message().ends_with("100 MiB free, of which other copies are yet to write 41 MiB"), "{error}");
        check(1, u64::MAX, u64::MAX - 1, Path::new("/m")).unwrap_err();
    }
}
