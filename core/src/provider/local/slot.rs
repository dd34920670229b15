//! Snapshots that lie in a directory of ours with a record beside them: btrfs snapshots, shared trees, copies.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use super::job::{self, Jobs};
use super::method::Method;
use super::patience::Patience;
use super::permits::Permits;
use super::records::{self, Unreadable};
use super::sidecar::{Flush, Record, RecordState, Slot};
use super::tree::CloneOptions;
use super::{btrfs, discovery, exists_already, not_ours, place, remove, reservation, space};
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::host::survey;
use crate::id::Token;
use crate::provider::{CreateRequest, SnapshotState, SnapshotStatus, Ticket, Volume, VolumeSnapshot};

/// Makes, watches and deletes them.
///
/// The record of a btrfs snapshot stays as it was begun: the snapshot is there as a whole or not at all, so it needs
/// nobody to say that it is complete, and PostgreSQL need not stay in backup mode while that is written down.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    permits: Permits,
    jobs: Jobs,
    /// What each volume was found to need when the backup was checked: to look again would prolong backup mode.
    needs: Arc<Mutex<HashMap<String, u64>>>,
}

impl Slots {
    pub(super) fn new(permits: Permits) -> Self {
        Self { permits, jobs: Jobs::default(), needs: Arc::default() }
    }

    /// Keeps in mind what volumes need.
    pub(super) fn expect(&self, needs: Vec<(String, u64)>) {
        self.needs.lock().unwrap_or_else(PoisonError::into_inner).extend(needs);
    }

    /// What a volume needs, as it was found, or is found now.
    fn needs_of(&self, volume: &Volume, shared: bool) -> Result<u64> {
        let known = self.needs.lock().unwrap_or_else(PoisonError::into_inner).get(&volume.id).copied();
        match known {
            Some(bytes) => Ok(bytes),
            None => Ok(space::needed(&survey(&volume.root, place::SNAPSHOT_DIRECTORY)?, shared)),
        }
    }

    /// Writes the record, then makes the snapshot (btrfs) or starts to (trees).
    pub(super) fn create(&self, request: &CreateRequest, snapshot: &VolumeSnapshot) -> Result<Ticket> {
        let volume = &snapshot.volume;
        let method: Method = volume.method.parse()?;
        let directory = discovery::snapshots(volume);
        let same = |token: &Token, _: &str| *token == request.token;
        let there = Self::scan(std::slice::from_ref(volume), Unreadable::LeaveOut, same)?;
        if let Some(existing) = there.iter().find(|t| t.volume == volume.id) {
            return Err(exists_already(existing));
        }
        let slot = Slot::new(&directory, &snapshot.name);
        let mut record = Record::new(request, snapshot);
        let ticket = record.ticket(&directory);
        // The kernel ends the transaction with the snapshot, and what was named before is in it.
        let lock = if method == Method::Btrfs {
            record.bytes_copied = Some(0);
            slot.begin(&record, Flush::Content)?
        } else {
            record.needs = Some(self.needs_of(volume, method == Method::Reflink)?);
            reservation::begin(&slot, &record)?
        };
        let started = match method {
            Method::Btrfs => {
                let made = btrfs::create(&volume.root, &slot.tree());
                drop(lock);
                made
            }
            Method::Reflink | Method::Copy => {
                let share = method == Method::Reflink;
                let options = CloneOptions { share, permits: self.permits.clone(), exclude_content: Vec::new() };
                self.jobs.start(slot.clone(), record, lock, options)
            }
            Method::Auto | Method::Zfs => {
                drop(lock);
                Err(Error::internal(format!("no record is kept for the method {method}")))
            }
        };
        match started {
            Ok(()) => Ok(ticket),
            // Nothing may stay behind that the caller has not been told of.
            Err(error) => match self.delete(&ticket, &Patience::new(&AtomicBool::new(false))) {
                Ok(()) => Err(error),
                Err(_) => Err(error.with_retry(Retry::Unknown)),
            },
        }
    }

    pub(super) fn status(&self, ticket: &Ticket) -> Result<SnapshotStatus> {
        let slot = Slot::of_ticket(ticket)?;
        let gone = || Error::not_found(format!("no such snapshot: {}", ticket.snapshot));
        let mut record = slot.read()?.filter(|record| record.token == ticket.token).ok_or_else(gone)?;
        complete_if_there(&slot, &mut record);
        if record.state == RecordState::Creating {
            if let Some(running) = self.jobs.running(&slot) {
                return Ok(SnapshotStatus {
                    state: if running.is_cut() { SnapshotState::Cut } else { SnapshotState::Creating },
                    percent: running.percent(),
                    bytes_copied: Some(running.bytes_copied()),
                });
            }
            match slot.lock() {
                Ok(None) => {
                    return Ok(SnapshotStatus { state: SnapshotState::Creating, percent: None, bytes_copied: None });
                }
                // Nobody works on it now; it may have been finished between the two looks.
                Ok(Some(_lock)) => {
                    record = slot.read()?.ok_or_else(gone)?;
                    complete_if_there(&slot, &mut record);
                    if let Some(copied) = slot.copied().filter(|_| record.state == RecordState::Creating) {
                        job::complete(&slot, record, copied);
                        record = slot.read()?.ok_or_else(gone)?;
                    }
                }
                Err(error) if error.kind() == ErrorKind::NotFound => return Err(gone()),
                Err(error) => return Err(error),
            }
        }
        let failed = |reason: &str| SnapshotState::Failed { reason: reason.to_owned() };
        let state = match record.state {
            RecordState::Creating => failed("the process that was making it has died"),
            RecordState::Deleting => failed("it is being deleted"),
            RecordState::Failed { reason } => SnapshotState::Failed { reason },
            RecordState::Ready if slot.tree().is_dir() => SnapshotState::Ready,
            RecordState::Ready => failed("its directory was removed by somebody else"),
        };
        let percent = (state == SnapshotState::Ready).then_some(100);
        Ok(SnapshotStatus { state, percent, bytes_copied: record.bytes_copied })
    }

    /// All snapshots in the places of these volumes whose token and server are wanted.
    pub(super) fn scan(
        volumes: &[Volume],
        unreadable: Unreadable,
        wanted: impl Fn(&Token, &str) -> bool,
    ) -> Result<Vec<Ticket>> {
        let (mut places, mut recorded): (Vec<PathBuf>, Vec<PathBuf>) = (Vec::new(), Vec::new());
        for volume in volumes {
            let known = discovery::snapshots(volume);
            for place in place::all_places(&volume.root, &volume.mount_point, Some(&known)) {
                let is_recorded = place == known;
                let place = place.canonicalize().unwrap_or(place);
                if is_recorded {
                    recorded.push(place.clone());
                }
                if !places.contains(&place) {
                    places.push(place);
                }
            }
        }
        let mut tickets = Vec::new();
        for place in places {
            let records = match records::scan(&place, unreadable) {
                Ok(records) => records,
                // Where the snapshots of this volume are known to lie, "not allowed to look" is not "nothing there".
                Err(error) if error.kind() == ErrorKind::PermissionDenied && recorded.contains(&place) => {
                    return Err(error.with_hint("run as the user who takes the backups"));
                }
                // The place of another user: nothing in it was made by us.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => continue,
                Err(error) => return Err(error),
            };
            tickets.extend(
                records.iter().filter(|record| wanted(&record.token, &record.mark)).map(|record| record.ticket(&place)),
            );
        }
        Ok(tickets)
    }

    /// Refuses what could be deleted only in part: whoever may not change the directory of the snapshots, or finds it on a file
    /// system that is mounted read-only, would stop in the middle. Gone already can be deleted.
    pub(super) fn check_delete(ticket: &Ticket) -> Result<()> {
        let slot = Slot::of_ticket(ticket)?;
        let Some(record) = slot.read()? else { return Ok(()) };
        if record.token != ticket.token {
            return Err(not_ours(&ticket.snapshot));
        }
        place::check_write(slot.directory())
    }

    /// Deletes the tree, then the record. What a process left halfway is finished by the next one.
    ///
    /// A copy that only waits for the disk does so to its end, even when it is killed; `patience` says how long that is waited for.
    pub(super) fn delete(&self, ticket: &Ticket, patience: &Patience<'_>) -> Result<()> {
        let slot = Slot::of_ticket(ticket)?;
        if !self.jobs.cancel(&slot, patience) {
            return Err(busy(ticket));
        }
        let Some(mut record) = slot.read()? else {
            return match slot.tree().symlink_metadata() {
                Ok(_) => Err(not_ours(&ticket.snapshot)),
                Err(_) => Ok(()),
            };
        };
        if record.token != ticket.token {
            return Err(not_ours(&ticket.snapshot));
        }
        complete_if_there(&slot, &mut record);
        if record.state == RecordState::Creating {
            let mut lock = slot.lock();
            while matches!(lock, Ok(None)) && slot.copied().is_some() && patience.pause() {
                lock = slot.lock();
            }
            match lock {
                Ok(Some(_)) => {}
                Ok(None) => return Err(busy(ticket)),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        if record.state != RecordState::Deleting {
            record.state = RecordState::Deleting;
            slot.update(&record)?;
        }
        match record.method.parse()? {
            Method::Btrfs => btrfs::delete(&slot.tree())?,
            _ => remove::remove_tree(&slot.tree())?,
        }
        slot.end()
    }

    /// The directory with the content of a complete snapshot, and the mode that its root had.
    pub(super) fn content(&self, ticket: &Ticket) -> Result<(PathBuf, Option<u32>)> {
        let slot = Slot::of_ticket(ticket)?;
        match self.status(ticket)?.state {
            SnapshotState::Ready => {}
            SnapshotState::Failed { reason } => {
                return Err(Error::precondition(format!("the snapshot {} is not usable: {reason}", ticket.snapshot)));
            }
            SnapshotState::Creating | SnapshotState::Cut => {
                return Err(Error::precondition(format!("the snapshot {} is not complete yet", ticket.snapshot))
                    .with_retry(Retry::Safe));
            }
        }
        let root_mode = slot.read()?.and_then(|record| record.root_mode);
        Ok((slot.tree(), root_mode))
    }
}

fn busy(ticket: &Ticket) -> Error {
    Error::new(ErrorKind::Conflict, format!("another process is making the snapshot {}", ticket.snapshot))
        .with_retry(Retry::Safe)
        .with_hint("try again when the disk has caught up")
}

/// A btrfs snapshot that is there is complete, whatever its record says. To be asked before who holds the record: to ask
/// that is to hold it for a moment, and others (a restore of several parts, a second delete) ask at the same time.
fn complete_if_there(slot: &Slot, record: &mut Record) {
    let is_btrfs = record.method == Method::Btrfs.as_str();
    if record.state == RecordState::Creating && is_btrfs && slot.tree().is_dir() {
        record.state = RecordState::Ready;
    }
}
