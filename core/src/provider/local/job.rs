//! Copies that go on in the background, on threads of their own, so that neither a dropped future nor a runtime that ends
//! stops one halfway without a trace.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::Mode;

use super::copy::Counters;
use super::patience::Patience;
use super::sidecar::{Copied, Lock, Record, RecordState, Slot};
use super::tree::{CloneOptions, copy_tree, flush};
use super::{reservation, space};
use crate::error::{Error, ErrorKind, Result};
use crate::host::survey::survey_until;

/// How often a copy in the making is looked at.
const WATCH: Duration = Duration::from_millis(200);

/// The copies that this process is making now.
#[derive(Clone, Debug, Default)]
pub(super) struct Jobs {
    shared: Arc<Shared>,
}

/// The copies by their tree.
#[derive(Debug, Default)]
struct Shared {
    running: Mutex<HashMap<PathBuf, Arc<Running>>>,
}

/// One of them.
#[derive(Debug, Default)]
pub(super) struct Running {
    counters: Counters,
    /// What is expected to be handled, in bytes.
    total: AtomicU64,
    /// Nothing is read from the volume any more; only the disk is behind.
    cut: AtomicBool,
}

impl Running {
    /// Progress from 0 to 99: 100 is said by the record alone.
    pub(super) fn percent(&self) -> Option<u8> {
        let total = self.total.load(Ordering::Relaxed);
        let handled = self.counters.handled.load(Ordering::Relaxed);
        (total > 0).then(|| u8::try_from((u128::from(handled) * 100 / u128::from(total)).min(99)).unwrap_or(99))
    }

    /// True when the copy has all it needs of the volume, though perhaps not on disk yet.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    pub(super) fn bytes_copied(&self) -> u64 {
        self.counters.copied.load(Ordering::Relaxed)
    }
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Arc<Running>>> {
        self.shared.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The copy into this slot, if this process is making one.
    pub(super) fn running(&self, slot: &Slot) -> Option<Arc<Running>> {
        self.lock().get(&slot.tree()).cloned()
    }

    /// Starts the copy of a volume into `slot`, whose record has been begun and is held by `lock`.
    pub(super) fn start(&self, slot: Slot, record: Record, lock: Lock, options: CloneOptions) -> Result<()> {
        let running = Arc::new(Running::default());
        self.lock().insert(slot.tree(), Arc::clone(&running));
        let (jobs, key) = (self.clone(), slot.tree());
        let spawned = std::thread::Builder::new().name("barman-snap-copy".into()).spawn(move || {
            let tree = slot.tree();
            // A panic (no more threads to be had, for one) must not leave a copy that never ends: backup mode waits for it.
            let copied =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| copy_volume(&slot, &options, &running)));
            let copied = copied.unwrap_or_else(|_| Err(Error::internal("the copy panicked; see the log")));
            finish(&slot, record, copied);
            // Only now may another process take the record for that of a dead one.
            drop(lock);
            jobs.remove(&tree);
        });
        spawned.map(drop).map_err(|source| {
            self.remove(&key);
            Error::io("start a thread for", &key, source)
        })
    }

    fn remove(&self, tree: &Path) {
        self.lock().remove(tree);
    }

    /// Stops the copy into `slot`, if there is one, and waits until it has stopped; false when patience ends before (it waits for
    /// a disk, which nothing can stop).
    pub(super) fn cancel(&self, slot: &Slot, patience: &Patience<'_>) -> bool {
        while let Some(job) = self.running(slot) {
            job.counters.cancelled.store(true, Ordering::Relaxed);
            if !patience.pause() {
                return false;
            }
        }
        true
    }
}

fn copy_volume(slot: &Slot, options: &CloneOptions, running: &Running) -> Result<Copied> {
    let tree = slot.tree();
    let Some(record) = slot.read()? else {
        return Err(Error::new(ErrorKind::Conflict, "the record of the snapshot was removed"));
    };
    std::fs::create_dir(&tree).map_err(|source| Error::io("make the directory", &tree, source))?;
    let (full, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let copied = std::thread::scope(|scope| {
        // Only for the percentage.
        scope.spawn(|| {
            let stop = || over.load(Ordering::Acquire) || running.counters.is_cancelled();
            if let Ok(seen) = survey_until(&record.root, super::place::SNAPSHOT_DIRECTORY, &[], &stop) {
                running.total.store(seen.bytes, Ordering::Relaxed);
            }
        });
        let watching = scope.spawn(|| watch(slot, running, &over, &full));
        let _end = End { over: &over, watching: watching.thread().clone() };
        copy_tree(&record.root, &tree, options, &running.counters)
    });
    if copied.is_err() && full.load(Ordering::Relaxed) {
        return Err(Error::new(
            ErrorKind::Exhausted,
            format!("stopped at less than {} MiB free on the disk of {}", reservation::FLOOR >> 20, tree.display()),
        )
        .with_hint("make room: a server on that disk needs the rest"));
    }
    copied?;
    let fail = |error: rustix::io::Errno| Error::io("make read-only", &tree, error.into());
    let mode = Mode::from_raw_mode(rustix::fs::stat(&tree).map_err(fail)?.st_mode);
    // No server can be started on the snapshot by mistake: it could not write its lock file.
    rustix::fs::chmod(&tree, mode.difference(Mode::WUSR | Mode::WGRP | Mode::WOTH)).map_err(fail)?;
    let copied = Copied { bytes: running.bytes_copied(), root_mode: mode.as_raw_mode() };
    slot.note_copied(&copied)?;
    // The disk may take as long again as the copy; backup mode need not wait for it.
    running.cut.store(true, Ordering::Release);
    flush(&tree)?;
    Ok(copied)
}

/// Ends the watch over a copy, also when the copy panics.
struct End<'a> {
    over: &'a AtomicBool,
    watching: std::thread::Thread,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        self.watching.unpark();
    }
}

/// While a copy is made: says how far it is to others who need space, and stops it before the disk is full.
fn watch(slot: &Slot, running: &Running, over: &AtomicBool, full: &AtomicBool) {
    while !over.load(Ordering::Acquire) {
        slot.note_written(running.bytes_copied());
        if space::free(slot.directory()).is_ok_and(|free| free < reservation::FLOOR) {
            full.store(true, Ordering::Relaxed);
            running.counters.cancelled.store(true, Ordering::Relaxed);
        }
        std::thread::park_timeout(WATCH);
    }
}

/// Brings to its end what a dead process had copied, but not seen on disk. The caller holds the lock.
pub(super) fn complete(slot: &Slot, record: Record, copied: Copied) {
    finish(slot, record, flush(&slot.tree()).map(|()| copied));
}

fn finish(slot: &Slot, mut record: Record, result: Result<Copied>) {
    match result {
        Ok(copied) => {
            record.state = RecordState::Ready;
            record.bytes_copied = Some(copied.bytes);
            record.root_mode = Some(copied.root_mode);
        }
        Err(error) => {
            // Not for the user yet: whoever asks for the status gets the reason, and reports it.
            tracing::debug!(snapshot = %slot.tree().display(), error = %error.chain(), "the snapshot failed");
            record.state = RecordState::Failed { reason: error.chain() };
        }
    }
    if let Err(error) = slot.update(&record) {
        slot.forget_written();
        // The record stays as it is, and nobody holds it: that reads as failed, or is tried again.
        tracing::error!(snapshot = %slot.tree().display(), error = %error.chain(), "cannot write the record");
        return;
    }
    slot.forget_copied();
    slot.forget_written();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_deletes_a_copy_that_hangs_on_the_disk_does_not_wait_without_end() {
        let (jobs, slot) = (Jobs::default(), Slot::new(Path::new("/m/.barman_snap"), "a"));
        let hanging = Arc::new(Running::default());
        jobs.lock().insert(slot.tree(), Arc::clone(&hanging));
        let unwanted = AtomicBool::new(true);
        assert!(!jobs.cancel(&slot, &Patience::new(&unwanted)));
        assert!(hanging.counters.is_cancelled(), "it was told to stop");
        jobs.remove(&slot.tree());
        assert!(jobs.cancel(&slot, &Patience::new(&AtomicBool::new(false))));
    }
}
