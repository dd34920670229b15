//! The steps of a session and what undoes each: the plan of the whole engine on one screen.
//!
//! [`next`] is the only place that decides what comes next; it is a pure function of the folded journal, so a session can
//! be driven by one process from beginning to end, one step at a time by an embedding program, or by several processes
//! one after the other.
//!
//! Before its effect a step writes an *intent* where the effect could not be found otherwise; after it the *result*. Steps
//! without an intent may simply be done again: their keys and names are known since the plan.

use std::fmt;

use super::phase::{Event, Phase};
use super::state::SessionState;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Ask PostgreSQL to enter backup mode.
    Start,
    /// Store the configuration files that no snapshot has, then a `backup.info` with status STARTED.
    Announce,
    /// Take the snapshots of a wave, all at once.
    Snapshot(usize),
    /// Wait until each of them has its point in time; meanwhile name them in `backup.info`.
    AwaitCut(usize),
    /// Leave backup mode, and store what that returned. The dividing line.
    Stop,
    /// Store the label.
    StoreLabel,
    /// Make durable snapshots of what was cut, where the provider has to be asked for that.
    Promote,
    /// See to it that every segment from begin to stop is in the catalog.
    CompleteWal,
    /// Wait until every snapshot can be restored from.
    AwaitReady,
    /// Lock them, copy them: what the user asked for beyond the snapshots themselves.
    Secure,
    /// Store `backup.info` with status DONE.
    Publish,
    /// Undo: delete everything that carries the token.
    DeleteSnapshots,
    /// Undo: remove the backup from the catalog.
    ClearCatalog,
    /// Undo: close the journal.
    CloseUndo,
}

/// One row of [`TABLE`].
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The step (of the waves: the first).
    pub step: Step,
    /// The phase in which it is next.
    pub phase: &'static [Phase],
    /// What is written before the effect.
    pub intent: Option<Event>,
    /// What is written after it.
    pub result: Event,
    /// What undoes the effect. `None`: nothing needs to.
    pub undo: Option<Step>,
    /// Why that is enough.
    pub why: &'static str,
}

use Event as E;
use Phase as P;

const fn row(
    step: Step,
    phase: &'static [Phase],
    intent: Option<Event>,
    result: Event,
    undo: Option<Step>,
    why: &'static str,
) -> Row {
    Row { step, phase, intent, result, undo, why }
}

/// Every step, in order, with its undo.
#[rustfmt::skip]
pub const TABLE: [Row; 14] = [
    row(Step::Start,           &[P::Planned, P::Starting],     Some(E::StartIntended),  E::StartReturned,    None,                        "PostgreSQL ends a backup whose connection is gone"),
    row(Step::Announce,        &[P::Started],                  None,                    E::Announced,        Some(Step::ClearCatalog),    "their keys are known since the plan"),
    row(Step::Snapshot(0),     &[P::Started, P::Snapshotting], Some(E::CutIntended),    E::TicketsReceived,  Some(Step::DeleteSnapshots), "each carries the token from the call that creates it"),
    row(Step::AwaitCut(0),     &[P::Snapshotting],             None,                    E::CutReached,       Some(Step::ClearCatalog),    "only waits; backup.info is the announced one"),
    row(Step::Stop,            &[P::Snapshotting],             None,                    E::StopReturned,     None,                        "if it is not recorded the backup never ended, and is undone"),
    // ------------------------------------------------ the dividing line ------------------------------------------------
    row(Step::StoreLabel,      &[P::Stopped, P::Finishing],    Some(E::FinishIntended), E::LabelStored,      Some(Step::ClearCatalog),    "same key, same bytes, however often"),
    row(Step::Promote,         &[P::Finishing],                None,                    E::Promoted,         Some(Step::DeleteSnapshots), "carries the token, and may be asked for again"),
    row(Step::CompleteWal,     &[P::Finishing],                None,                    E::WalComplete,      None,                        "a segment in the archive harms nobody"),
    row(Step::AwaitReady,      &[P::Finishing],                None,                    E::SnapshotsReady,   None,                        "only waits"),
    row(Step::Secure,          &[P::Finishing],                None,                    E::Secured,          Some(Step::DeleteSnapshots), "last before the end, as what is locked cannot be deleted"),
    row(Step::Publish,         &[P::Finishing],                None,                    E::Published,        Some(Step::ClearCatalog),    "same key, same bytes, however often"),
    // ------------------------------------------------ the way back -----------------------------------------------------
    row(Step::DeleteSnapshots, &[P::Undoing],                  None,                    E::SnapshotsDeleted, None,                        "deleting what is gone is success"),
    row(Step::ClearCatalog,    &[P::Undoing],                  None,                    E::CatalogCleared,   None,                        "removes only what names our token"),
    row(Step::CloseUndo,       &[P::Undoing],                  None,                    E::Undone,           None,                        "the last entry"),
];

impl Step {
    /// The name in events, errors and on the screen.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Announce => "announce",
            Self::Snapshot(_) => "snapshot",
            Self::AwaitCut(_) => "await-cut",
            Self::Stop => "stop",
            Self::StoreLabel => "store-label",
            Self::Promote => "promote",
            Self::CompleteWal => "complete-wal",
            Self::AwaitReady => "await-ready",
            Self::Secure => "secure",
            Self::Publish => "publish",
            Self::DeleteSnapshots => "delete-snapshots",
            Self::ClearCatalog => "clear-catalog",
            Self::CloseUndo => "close-undo",
        }
    }

    /// Its row in the table.
    pub fn row(self) -> &'static Row {
        let plain = match self {
            Self::Snapshot(_) => Self::Snapshot(0),
            Self::AwaitCut(_) => Self::AwaitCut(0),
            other => other,
        };
        // The table holds every step; the first row stands in for the impossible rather than a panic in a library.
        TABLE.iter().find(|row| row.step == plain).unwrap_or(&TABLE[0])
    }

    /// True if the step needs the connection that holds backup mode.
    pub const fn needs_postgres(self) -> bool {
        matches!(self, Self::Start | Self::Announce | Self::Snapshot(_) | Self::AwaitCut(_) | Self::Stop)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What comes next, or `None` if the session is over or stuck.
pub fn next(state: &SessionState) -> Option<Step> {
    Some(match state.phase {
        P::Planned | P::Starting => Step::Start,
        P::Started if !state.announced => Step::Announce,
        P::Started => Step::Snapshot(0),
        P::Snapshotting if state.waves_cut == state.plan.waves.len() => Step::Stop,
        P::Snapshotting if state.waves_ticketed > state.waves_cut => Step::AwaitCut(state.waves_cut),
        P::Snapshotting => Step::Snapshot(state.waves_cut),
        P::Stopped => Step::StoreLabel,
        P::Finishing if !state.label_stored => Step::StoreLabel,
        // Before the WAL, for which it may have to wait: what is only cut is lost with its source.
        P::Finishing if state.plan.after_cut.promote && !state.promoted => Step::Promote,
        P::Finishing if state.wal_complete.is_none() => Step::CompleteWal,
        P::Finishing if !state.snapshots_ready => Step::AwaitReady,
        P::Finishing if state.plan.after_cut.secure && !state.secured => Step::Secure,
        P::Finishing => Step::Publish,
        P::Undoing if !state.snapshots_deleted => Step::DeleteSnapshots,
        P::Undoing if !state.catalog_cleared => Step::ClearCatalog,
        P::Undoing => Step::CloseUndo,
        P::Published | P::Undone | P::Stuck => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::phase::transition;

    #[test]
    fn every_row_is_a_legal_walk_through_the_state_machine() {
        for row in TABLE {
            for phase in row.phase {
                let phase = match row.intent {
                    // A step that was interrupted after its intent is done again without writing it twice.
                    Some(intent) => transition(*phase, intent).unwrap_or(*phase),
                    None => *phase,
                };
                assert!(transition(phase, row.result).is_ok(), "{} in {phase}", row.step);
            }
        }
    }

    #[test]
    fn what_a_step_leaves_behind_is_undone_by_a_later_row() {
        for (at, row) in TABLE.iter().enumerate() {
            if let Some(undo) = row.undo {
                assert!(TABLE.iter().skip(at).any(|later| later.step == undo), "{}", row.step);
            }
            assert!(!row.why.is_empty());
        }
    }
}
