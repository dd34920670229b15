//! What to do about a session that its driver has left: facts in, plan out. Pure.
//!
//! **The one rule: the dividing line is the durable record that holds what `pg_backup_stop` returned. Before it: undo.
//! After it: go forward.** The rest of this file is about when to keep one's hands off.

use std::fmt;

use serde::Serialize;

use super::owner::Liveness;
use super::phase::Phase;
use super::state::SessionState;
use crate::id::BackupId;

/// What is known from outside the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whether its driver lives.
    pub owner: Liveness,
    /// Seconds since the store last saw a sign of life (an entry or a renewed lease).
    pub silent_s: u64,
    /// Names of the snapshots that carry its token.
    pub found: Vec<String>,
    /// Why its snapshots cannot be seen from here, if they cannot.
    pub unseen: Option<String>,
    /// What the catalog says about the backup id.
    pub catalog: CatalogFact,
}

/// What the catalog says about the backup id of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CatalogFact {
    /// There is no `backup.info`.
    Absent,
    /// There is one that names our token.
    Ours,
    /// There is one that does not name our token.
    Foreign,
    /// There is one that cannot be read.
    Unreadable,
}

/// What the user has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wishes {
    /// Take over even though the driver may live (it will be fenced).
    pub force: bool,
    /// Undo also what could go forward.
    pub discard: bool,
    /// Take snapshots that cannot be seen from here for gone: their host, disk or account no longer exists.
    pub snapshots_gone: bool,
    /// After how many seconds of silence a driver on another host counts as dead.
    pub stale_after_s: u64,
}

impl Default for Wishes {
    fn default() -> Self {
        Self { force: false, discard: false, snapshots_gone: false, stale_after_s: 300 }
    }
}

/// The greatest `checkpoint_timeout` that PostgreSQL allows, in seconds.
const LONGEST_CHECKPOINT_S: u64 = 86_400;

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// The session is over.
    Nothing,
    /// Its driver lives, or may live.
    LeaveAlone {
        /// Why, and what the user can do.
        why: String,
    },
    /// Its snapshots cannot be seen from here, so it is not known whether they are gone.
    NotVisible {
        /// Why.
        why: String,
    },
    /// Remove everything it made.
    Undo {
        /// Why.
        why: String,
    },
    /// Complete it.
    GoForward {
        /// What is still missing.
        missing: Vec<String>,
    },
}

/// The plan for one session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecoveryPlan {
    /// The session.
    pub backup_id: BackupId,
    /// How far it had come.
    pub phase: Phase,
    /// What to do.
    #[serde(flatten)]
    pub action: Action,
    /// Snapshots that carry its token now.
    pub snapshots: Vec<String>,
}

impl fmt::Display for RecoveryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "backup {} ({}): ", self.backup_id, self.phase)?;
        match &self.action {
            Action::Nothing => f.write_str("nothing to do"),
            Action::LeaveAlone { why } => write!(f, "leave alone: {why}"),
            Action::NotVisible { why } => write!(
                f,
                "leave alone: {why}; recover it where they can be seen, or use --snapshots-gone if they no longer exist"
            ),
            Action::Undo { why } => {
                let count = self.snapshots.len();
                write!(f, "undo, removing {count} snapshot{}: {why}", if count == 1 { "" } else { "s" })
            }
            Action::GoForward { missing } => write!(f, "go forward; still missing: {}", missing.join(", ")),
        }
    }
}

/// Decides.
pub fn decide(state: &SessionState, facts: &Facts, wishes: Wishes) -> RecoveryPlan {
    RecoveryPlan {
        backup_id: state.plan.backup_id.clone(),
        phase: state.phase,
        action: action(state, facts, wishes),
        snapshots: facts.found.clone(),
    }
}

fn action(state: &SessionState, facts: &Facts, wishes: Wishes) -> Action {
    if state.phase.is_final() {
        return Action::Nothing;
    }
    if let Some(why) = hands_off(state, facts, wishes) {
        return Action::LeaveAlone { why };
    }
    if let Some(why) = facts.unseen.as_ref().filter(|_| !wishes.snapshots_gone) {
        return Action::NotVisible { why: why.clone() };
    }
    if state.phase == Phase::Undoing || (state.phase == Phase::Stuck && state.undo_reason.is_some()) {
        return Action::Undo { why: state.undo_reason.clone().unwrap_or_else(|| "its undo was interrupted".into()) };
    }
    if !state.is_past_the_line() {
        return Action::Undo { why: format!("its process ended while it was {}", state.phase) };
    }
    if wishes.discard {
        return Action::Undo { why: "discarded by the user".into() };
    }
    if facts.catalog == CatalogFact::Unreadable {
        let why = "its backup.info cannot be read; it may have been written by a later version".to_owned();
        return Action::LeaveAlone { why };
    }
    // Past the line, but the way forward may be gone all the same.
    if matches!(facts.catalog, CatalogFact::Absent | CatalogFact::Foreign) {
        return Action::Undo { why: "its backup.info was removed from the catalog".into() };
    }
    let lost: Vec<&str> = state
        .tickets
        .iter()
        .filter(|ticket| !facts.found.contains(&ticket.name))
        .map(|ticket| ticket.name.as_str())
        .collect();
    if !lost.is_empty() {
        return Action::Undo { why: format!("these snapshots do not exist any more: {}", lost.join(", ")) };
    }
    Action::GoForward { missing: missing(state) }
}

/// Why nobody should touch the session now.
fn hands_off(state: &SessionState, facts: &Facts, wishes: Wishes) -> Option<String> {
    let owner = &state.owner;
    // A spread checkpoint may take as long as checkpoint_timeout, at most a day, and nothing is written meanwhile. Nothing has
    // been made yet, either, so waiting harms nobody.
    let stale_after = match state.phase {
        Phase::Starting => wishes.stale_after_s.max(LONGEST_CHECKPOINT_S),
        _ => wishes.stale_after_s,
    };
    match facts.owner {
        _ if wishes.force => None,
        Liveness::Dead => None,
        Liveness::Alive => Some(format!("process {} on this host is working on it", owner.pid)),
        Liveness::Elsewhere if facts.silent_s >= stale_after => None,
        Liveness::Elsewhere => Some(format!(
            "process {} on host {} was heard of {} s ago; run this there, or wait, or use --force",
            owner.pid, owner.host, facts.silent_s
        )),
    }
}

/// What a session past the line still lacks.
fn missing(state: &SessionState) -> Vec<String> {
    let mut missing = Vec::new();
    if !state.label_stored {
        missing.push("label".into());
    }
    if state.plan.after_cut.promote && !state.promoted {
        missing.push("durable snapshots".into());
    }
    if state.wal_complete.is_none() {
        missing.push("wal".into());
    }
    if !state.snapshots_ready {
        missing.push("ready snapshots".into());
    }
    if state.plan.after_cut.secure && !state.secured {
        missing.push("locks and copies".into());
    }
    missing.push("publication".into());
    missing
}
