//! The state machine: phases, events, and one total function between them.
//!
//! No I/O, no clock, no data: this file can be read and tested as arithmetic. The full matrix and the graph are snapshots
//! in git (`core/tests/snapshots/`); a change to this function is a change to them, and is reviewed as such.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The plan is stored; nothing has been done.
    Planned,
    /// PostgreSQL is being asked to enter backup mode.
    Starting,
    /// PostgreSQL is in backup mode.
    Started,
    /// Snapshots are being taken.
    Snapshotting,
    /// What `pg_backup_stop` returned is stored durably. **The dividing line: from here on, forward.**
    Stopped,
    /// Label, WAL, readiness and the final `backup.info` are being completed. Needs no database.
    Finishing,
    /// The backup is in the catalog, complete and restorable.
    Published,
    /// Everything the session made is being removed.
    Undoing,
    /// Nothing is left but the journal.
    Undone,
    /// Somebody has to look: the undo, or the way forward, failed again and again.
    Stuck,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 10] = [
        Self::Planned,
        Self::Starting,
        Self::Started,
        Self::Snapshotting,
        Self::Stopped,
        Self::Finishing,
        Self::Published,
        Self::Undoing,
        Self::Undone,
        Self::Stuck,
    ];

    /// True if nothing is left to do.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Published | Self::Undone)
    }

    /// The name in JSON and on the screen.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Starting => "starting",
            Self::Started => "started",
            Self::Snapshotting => "snapshotting",
            Self::Stopped => "stopped",
            Self::Finishing => "finishing",
            Self::Published => "published",
            Self::Undoing => "undoing",
            Self::Undone => "undone",
            Self::Stuck => "stuck",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What can happen to a session. Each is one entry of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// PostgreSQL is about to be asked to enter backup mode.
    StartIntended,
    /// It is in backup mode.
    StartReturned,
    /// A `backup.info` with status STARTED is in the catalog.
    Announced,
    /// A wave of snapshots is about to be taken.
    CutIntended,
    /// The provider has accepted the snapshots of a wave.
    TicketsReceived,
    /// Every snapshot of a wave has its point in time.
    CutReached,
    /// `pg_backup_stop` has returned, and this entry holds what it returned.
    StopReturned,
    /// The work that needs no database begins.
    FinishIntended,
    /// The label is in the catalog.
    LabelStored,
    /// What was cut has been made durable; its tickets have changed.
    Promoted,
    /// Every segment from begin to stop is in the catalog (or is another tool's business, by the user's word).
    WalComplete,
    /// Every snapshot can be restored from.
    SnapshotsReady,
    /// Locks and copies that the user asked for are there.
    Secured,
    /// `backup.info` says DONE.
    Published,
    /// Everything is about to be removed.
    UndoIntended,
    /// No snapshot with the token of the session exists.
    SnapshotsDeleted,
    /// The catalog does not know the backup any more.
    CatalogCleared,
    /// The undo is complete.
    Undone,
    /// Neither forward nor back is possible without help.
    Stuck,
    /// Another process has taken over.
    Adopted,
}

impl Event {
    /// Every event.
    pub const ALL: [Self; 20] = [
        Self::StartIntended,
        Self::StartReturned,
        Self::Announced,
        Self::CutIntended,
        Self::TicketsReceived,
        Self::CutReached,
        Self::StopReturned,
        Self::FinishIntended,
        Self::LabelStored,
        Self::Promoted,
        Self::WalComplete,
        Self::SnapshotsReady,
        Self::Secured,
        Self::Published,
        Self::UndoIntended,
        Self::SnapshotsDeleted,
        Self::CatalogCleared,
        Self::Undone,
        Self::Stuck,
        Self::Adopted,
    ];
}

/// The phase after `event`, or an error if `event` cannot happen in `phase`.
pub fn transition(phase: Phase, event: Event) -> Result<Phase> {
    use Phase as P;
    let next = match (event, phase) {
        (Event::StartIntended, P::Planned) => P::Starting,
        (Event::StartReturned, P::Starting) => P::Started,
        (Event::Announced, P::Started) => P::Started,
        (Event::CutIntended, P::Started | P::Snapshotting) => P::Snapshotting,
        (Event::TicketsReceived | Event::CutReached, P::Snapshotting) => P::Snapshotting,
        (Event::StopReturned, P::Snapshotting) => P::Stopped,
        (Event::FinishIntended, P::Stopped | P::Stuck) => P::Finishing,
        (Event::LabelStored | Event::WalComplete, P::Finishing) => P::Finishing,
        (Event::Promoted | Event::SnapshotsReady | Event::Secured, P::Finishing) => P::Finishing,
        (Event::Published, P::Finishing) => P::Published,
        // Behind the dividing line only when the way forward is gone (a snapshot failed after its cut, somebody deleted the
        // backup) or the user says so; `recover::decide` and `driver::disposition` are the only places that ask for it.
        (Event::UndoIntended, P::Planned | P::Starting | P::Started | P::Snapshotting) => P::Undoing,
        (Event::UndoIntended, P::Stopped | P::Finishing | P::Stuck) => P::Undoing,
        (Event::SnapshotsDeleted | Event::CatalogCleared, P::Undoing) => P::Undoing,
        (Event::Undone, P::Undoing) => P::Undone,
        (Event::Stuck, P::Undoing | P::Finishing) => P::Stuck,
        (Event::Adopted, phase) if !phase.is_final() => phase,
        (event, phase) => {
            return Err(Error::new(ErrorKind::Internal, format!("illegal event {event:?} in phase {phase}")));
        }
    };
    Ok(next)
}

/// The matrix as text: one row per phase, one column per event; a dot where the event is illegal.
pub fn matrix() -> String {
    let mut text = String::new();
    for event in Event::ALL {
        text.push_str(&format!("{event:?}\n"));
        for phase in Phase::ALL {
            if let Ok(next) = transition(phase, event) {
                text.push_str(&format!("    {phase} -> {next}\n"));
            }
        }
    }
    text
}

/// The graph in the DOT language (`dot -Tsvg`), without the loops of [`Event::Adopted`].
pub fn graph() -> String {
    let mut text = String::from("digraph session {\n    rankdir = LR;\n    node [shape = box, style = rounded];\n");
    for phase in Phase::ALL {
        if phase.is_final() {
            text.push_str(&format!("    {phase} [peripheries = 2];\n"));
        }
    }
    for from in Phase::ALL {
        for to in Phase::ALL {
            let events: Vec<String> = Event::ALL
                .into_iter()
                .filter(|event| *event != Event::Adopted && transition(from, *event).is_ok_and(|next| next == to))
                .map(|event| format!("{event:?}"))
                .collect();
            if !events.is_empty() {
                text.push_str(&format!("    {from} -> {to} [label = \"{}\"];\n", events.join("\\n")));
            }
        }
    }
    text.push_str("}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_phases_accept_nothing() {
        for phase in Phase::ALL.into_iter().filter(|phase| phase.is_final()) {
            for event in Event::ALL {
                assert!(transition(phase, event).is_err(), "{event:?} in {phase}");
            }
        }
    }

    #[test]
    fn every_phase_can_be_reached_and_left() {
        let reaches = |target| {
            Phase::ALL.into_iter().any(|from| {
                from != target
                    && Event::ALL.into_iter().any(|event| transition(from, event).is_ok_and(|to| to == target))
            })
        };
        for phase in Phase::ALL {
            assert!(phase == Phase::Planned || reaches(phase), "{phase} cannot be reached");
            let leaves = Event::ALL.into_iter().any(|event| transition(phase, event).is_ok_and(|to| to != phase));
            assert_eq!(leaves, !phase.is_final(), "{phase}");
        }
    }

    #[test]
    fn every_phase_that_is_not_final_can_be_undone_or_is_undoing() {
        for phase in Phase::ALL.into_iter().filter(|phase| !phase.is_final() && *phase != Phase::Undoing) {
            assert_eq!(transition(phase, Event::UndoIntended).ok(), Some(Phase::Undoing), "{phase}");
        }
    }
}
