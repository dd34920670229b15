//! What a session has come to: its journal, folded.
//!
//! Pure. The driver, `recover`, `list` and the tests all see a session through this one fold, so that a process that
//! adopts a session knows exactly what the one before it knew.

use super::journal::{Entry, Record};
use super::owner::Owner;
use super::phase::{Phase, transition};
use super::plan::SessionPlan;
use crate::error::{Error, Result};
use crate::postgres::{StartedBackup, StoppedBackup};
use crate::provider::Ticket;

/// See the [module documentation](self).
#[derive(Clone, Debug, PartialEq)]
pub struct SessionState {
    /// The plan.
    pub plan: SessionPlan,
    /// The phase.
    pub phase: Phase,
    /// The number of the next entry.
    pub next_sequence: u32,
    /// The highest writer epoch seen.
    pub epoch: u32,
    /// Who drives it now.
    pub owner: Owner,
    /// When the last entry was written, by its writer's clock.
    pub last_at: chrono::DateTime<chrono::Utc>,
    /// What starting returned.
    pub started: Option<StartedBackup>,
    /// A `backup.info` is in the catalog.
    pub announced: bool,
    /// Waves whose create call was about to be made.
    pub waves_intended: usize,
    /// Waves whose tickets are here.
    pub waves_ticketed: usize,
    /// Waves that are cut.
    pub waves_cut: usize,
    /// The tickets.
    pub tickets: Vec<Ticket>,
    /// Milliseconds from the first create call to the cut of the slowest snapshot, over all waves.
    pub cut_ms: u64,
    /// Bytes that were copied to make the snapshots, as far as known.
    pub bytes_copied: Option<u64>,
    /// What stopping returned.
    pub stopped: Option<StoppedBackup>,
    /// Milliseconds in backup mode.
    pub backup_mode_ms: u64,
    /// The label is stored.
    pub label_stored: bool,
    /// The WAL is complete; the segments the engine stored itself.
    pub wal_complete: Option<Vec<String>>,
    /// A file that the server says it has archived, and that was not in the catalog when the backup looked.
    pub archived_elsewhere: Option<String>,
    /// The snapshots are made durable, if that has to be done.
    pub promoted: bool,
    /// Every snapshot is ready.
    pub snapshots_ready: bool,
    /// Locks and copies are there, if there shall be any.
    pub secured: bool,
    /// Why it is being undone.
    pub undo_reason: Option<String>,
    /// The snapshots are gone.
    pub snapshots_deleted: bool,
    /// The catalog does not know the backup.
    pub catalog_cleared: bool,
    /// Why it is stuck.
    pub stuck_reason: Option<String>,
}

impl SessionState {
    /// Folds a journal.
    ///
    /// # Errors
    /// A journal that does not begin with a plan, or holds an event that cannot happen, is corrupt.
    pub fn replay(entries: &[Entry]) -> Result<Self> {
        let Some((first, rest)) = entries.split_first() else {
            return Err(Error::corrupt("the journal of a session has no first entry"));
        };
        let Record::Planned { plan } = &first.record else {
            return Err(Error::corrupt("the journal of a session does not begin with its plan"));
        };
        let mut state = Self::planned((**plan).clone(), first);
        for entry in rest {
            state.apply(entry).map_err(|source| {
                Error::corrupt(format!("journal entry {} of backup {}", entry.sequence, state.plan.backup_id))
                    .with_source(source)
            })?;
        }
        Ok(state)
    }

    fn planned(plan: SessionPlan, entry: &Entry) -> Self {
        Self {
            owner: plan.owner.clone(),
            plan,
            phase: Phase::Planned,
            next_sequence: entry.sequence + 1,
            epoch: entry.epoch,
            last_at: entry.at,
            started: None,
            announced: false,
            waves_intended: 0,
            waves_ticketed: 0,
            waves_cut: 0,
            tickets: Vec::new(),
            cut_ms: 0,
            bytes_copied: None,
            stopped: None,
            backup_mode_ms: 0,
            label_stored: false,
            wal_complete: None,
            archived_elsewhere: None,
            promoted: false,
            snapshots_ready: false,
            secured: false,
            undo_reason: None,
            snapshots_deleted: false,
            catalog_cleared: false,
            stuck_reason: None,
        }
    }

    /// Takes in one more entry.
    ///
    /// # Errors
    /// If the event cannot happen in the present phase. The state is unchanged then.
    pub fn apply(&mut self, entry: &Entry) -> Result<()> {
        let Some(event) = entry.record.event() else {
            return Err(Error::internal("a session has one plan only"));
        };
        self.phase = transition(self.phase, event)?;
        self.next_sequence = entry.sequence + 1;
        self.epoch = self.epoch.max(entry.epoch);
        self.last_at = entry.at;
        match &entry.record {
            Record::Planned { .. } | Record::StartIntended | Record::FinishIntended => {}
            Record::StartReturned { started } => self.started = Some(started.clone()),
            Record::Announced => self.announced = true,
            Record::CutIntended { wave } => self.waves_intended = wave + 1,
            Record::TicketsReceived { wave, tickets } => {
                self.waves_ticketed = wave + 1;
                self.tickets.extend(tickets.iter().cloned());
            }
            Record::CutReached { wave, cut_ms, bytes_copied } => {
                self.waves_cut = wave + 1;
                self.cut_ms += cut_ms;
                self.bytes_copied = match (self.bytes_copied, bytes_copied) {
                    (Some(before), Some(now)) => Some(before + now),
                    (before, now) => before.or(*now),
                };
            }
            Record::StopReturned { stopped, backup_mode_ms } => {
                self.stopped = Some(stopped.clone());
                self.backup_mode_ms = *backup_mode_ms;
            }
            Record::LabelStored => self.label_stored = true,
            Record::WalComplete { supplied, archived_elsewhere } => {
                self.wal_complete = Some(supplied.clone());
                self.archived_elsewhere.clone_from(archived_elsewhere);
            }
            Record::Promoted { tickets } => {
                self.promoted = true;
                self.tickets.clone_from(tickets);
            }
            Record::SnapshotsReady => self.snapshots_ready = true,
            Record::Secured { tickets } => {
                self.secured = true;
                self.tickets.clone_from(tickets);
            }
            Record::Published => {}
            Record::UndoIntended { reason } => {
                // The first reason is the cause; a later one is only the attempt to undo again.
                self.undo_reason.get_or_insert_with(|| reason.clone());
                self.snapshots_deleted = false;
                self.catalog_cleared = false;
            }
            Record::SnapshotsDeleted { .. } => self.snapshots_deleted = true,
            Record::CatalogCleared => self.catalog_cleared = true,
            Record::Undone => {}
            Record::Stuck { reason } => self.stuck_reason = Some(reason.clone()),
            Record::Adopted { owner } => self.owner = owner.clone(),
        }
        Ok(())
    }

    /// True once what `pg_backup_stop` returned is durable: from then on, recovery goes forward.
    pub fn is_past_the_line(&self) -> bool {
        self.stopped.is_some()
    }

    /// True if a call that makes something may still be on its way: its intent is known, its result is not. What it makes
    /// may then show late.
    pub fn may_still_make(&self) -> bool {
        let after_cut = self.plan.after_cut;
        self.waves_intended > self.waves_ticketed
            || (after_cut.promote && self.label_stored && !self.promoted)
            || (after_cut.secure && self.snapshots_ready && !self.secured)
    }
}
