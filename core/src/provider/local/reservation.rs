//! Space that copies in the making have yet to write.
//!
//! Copies that are begun at the same time each see the space that is free *now*, and would fill the disk of the live server
//! together. So the record of a copy says how much it needs, and who begins another one beside it counts what the others have
//! not written yet. Only the living count: a process holds the lock of its record as long as it works on it, and the kernel
//! takes that lock away when it dies, however it dies.
//!
//! Known is what lies in the same snapshot directory, which is one for all volumes of a file system as a rule. What the server
//! itself writes meanwhile is not known to anybody: for that there is the margin of [`space`](super::space), and [`FLOOR`].

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FlockOperation;

use super::records::{self, Unreadable};
use super::sidecar::{Flush, Lock, Record, RecordState, Slot, make_private_directory};
use super::space;
use crate::error::{Error, ErrorKind, Result, Retry};

/// A copy stops when less than this is left free: the server needs it more.
pub(super) const FLOOR: u64 = 32 << 20;
/// How long to wait for others that begin a copy at this moment, and how often to look. Each takes a moment only.
const LOOKS: u32 = 200;
const PAUSE: Duration = Duration::from_millis(50);

/// What the living are yet to write into this snapshot directory.
pub(super) fn by_others(place: &Path) -> Result<u64> {
    let records = records::scan(place, Unreadable::LeaveOut)?;
    let open = records.iter().filter(|record| record.state == RecordState::Creating && record.needs.is_some());
    Ok(open.map(|record| left(&Slot::new(place, &record.name), record)).fold(0, u64::saturating_add))
}

/// What one of them is yet to write; nothing if it is dead.
fn left(slot: &Slot, record: &Record) -> u64 {
    let needs = record.needs.unwrap_or(0);
    if slot.is_held() { needs.saturating_sub(slot.written()) } else { 0 }
}

/// Begins the record of a copy, if there is room for it beside what others have reserved.
///
/// # Errors
/// [`ErrorKind::Exhausted`] if there is not; then nothing was made.
pub(super) fn begin(slot: &Slot, record: &Record) -> Result<Lock> {
    let place = slot.directory();
    let needs = record.needs.unwrap_or(0);
    for _ in 0..10 {
        make_private_directory(place, Flush::All)?;
        let Some((directory, inode)) = hold(place)? else { continue };
        let reserved = by_others(place)?;
        if let Err(error) = space::check(needs, reserved, space::free(place)?, place) {
            drop(directory);
            // Made for this, perhaps; if others use it, it is not empty.
            let _ = std::fs::remove_dir(place);
            return Err(error);
        }
        let lock = slot.begin(record, Flush::All)?;
        // If another process has removed the directory in between, what is held is not the one that others look at.
        if inode_of(place)? == Some(inode) {
            return Ok(lock);
        }
        slot.end()?;
    }
    Err(Error::new(ErrorKind::Storage, format!("cannot keep the directory {}", place.display())))
}

/// The directory, locked so that one process at a time begins a copy in it; `None` if it was removed.
fn hold(place: &Path) -> Result<Option<(File, u64)>> {
    let Ok(directory) = File::open(place) else { return Ok(None) };
    for _ in 0..LOOKS {
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let inode = directory.metadata().map_err(|error| Error::io("look at", place, error))?.ino();
                return Ok((inode_of(place)? == Some(inode)).then_some((directory, inode)));
            }
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => std::thread::park_timeout(PAUSE),
            Err(error) => return Err(Error::io("lock", place, error.into())),
        }
    }
    Err(Error::new(ErrorKind::Conflict, format!("another process keeps {} locked", place.display()))
        .with_retry(Retry::Safe)
        .with_hint("see who has it open: fuser -v on that directory"))
}

fn inode_of(place: &Path) -> Result<Option<u64>> {
    match std::fs::metadata(place) {
        Ok(metadata) => Ok(Some(metadata.ino())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("look at", place, error)),
    }
}
