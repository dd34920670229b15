//! `gc`: what bears our mark and belongs to nobody. Facts in, plan out; pure.

use std::collections::BTreeSet;
use std::fmt;

use chrono::{DateTime, Duration, Utc};
use serde::Serialize;

use super::phase::Phase;
use super::state::SessionState;
use crate::id::{BackupId, Token};
use crate::provider::Ticket;

/// What `gc` would remove.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct GcPlan {
    /// Snapshots whose token is in no `backup.info` and in no session that is not over.
    pub orphans: Vec<Ticket>,
    /// Journals of sessions that are over and whose backup is gone, or that ended long ago.
    pub journals: Vec<BackupId>,
    /// Sessions that are not over: their snapshots are left alone. They are for `recover`.
    pub open_sessions: Vec<BackupId>,
    /// Why snapshots were left alone, if they were.
    pub refusal: Option<String>,
}

impl GcPlan {
    /// True if there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.orphans.is_empty() && self.journals.is_empty()
    }
}

/// Facts for [`plan`].
#[derive(Clone, Debug)]
pub struct GcFacts {
    /// Every snapshot the provider has for this server.
    pub snapshots: Vec<Ticket>,
    /// The tokens that `backup.info` files name, with the ids of their backups.
    pub catalog: Vec<(BackupId, Option<Token>)>,
    /// Backups whose `backup.info` cannot be read.
    pub unreadable: Vec<BackupId>,
    /// All sessions.
    pub sessions: Vec<SessionState>,
    /// Sessions whose journal cannot be read.
    pub unreadable_sessions: Vec<BackupId>,
    /// Now.
    pub now: DateTime<Utc>,
    /// How long the journal of an undone session is kept, for people to read.
    pub keep_undone: Duration,
}

/// Decides.
///
/// A snapshot is an orphan only if its token is known to belong to nobody. If any `backup.info` or journal cannot be
/// read, that is not known of any snapshot, and none is touched.
pub fn plan(facts: &GcFacts) -> GcPlan {
    let open: Vec<&SessionState> = facts.sessions.iter().filter(|state| !state.phase.is_final()).collect();
    let used: BTreeSet<&Token> = facts
        .catalog
        .iter()
        .filter_map(|(_, token)| token.as_ref())
        .chain(open.iter().map(|state| &state.plan.token))
        .collect();
    let known: BTreeSet<&BackupId> = facts.catalog.iter().map(|(id, _)| id).chain(&facts.unreadable).collect();
    let unreadable: Vec<String> =
        facts.unreadable.iter().chain(&facts.unreadable_sessions).map(ToString::to_string).collect();
    let mut plan = GcPlan {
        open_sessions: open.iter().map(|state| state.plan.backup_id.clone()).collect(),
        journals: facts
            .sessions
            .iter()
            .filter(|state| match state.phase {
                Phase::Published => !known.contains(&state.plan.backup_id),
                Phase::Undone => facts.now.signed_duration_since(state.last_at) > facts.keep_undone,
                _ => false,
            })
            .map(|state| state.plan.backup_id.clone())
            .collect(),
        ..GcPlan::default()
    };
    let orphans: Vec<Ticket> = facts.snapshots.iter().filter(|ticket| !used.contains(&ticket.token)).cloned().collect();
    if unreadable.is_empty() {
        plan.orphans = orphans;
    } else if !orphans.is_empty() {
        plan.journals.clear();
        plan.refusal = Some(format!(
            "{} snapshot(s) may be orphans, but cannot be told from those of {}, whose metadata cannot be read",
            orphans.len(),
            unreadable.join(", ")
        ));
    }
    plan
}

impl fmt::Display for GcPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() && self.refusal.is_none() {
            writeln!(f, "nothing to remove")?;
        }
        for ticket in &self.orphans {
            writeln!(f, "orphan snapshot {} of volume {}", ticket.name, ticket.volume)?;
        }
        for id in &self.journals {
            writeln!(f, "journal of session {id}")?;
        }
        if let Some(refusal) = &self.refusal {
            writeln!(f, "left alone: {refusal}")?;
        }
        for id in &self.open_sessions {
            writeln!(f, "session {id} is not over; `barman-snap recover` is for it")?;
        }
        Ok(())
    }
}
