//! `gc`: what bears our mark and belongs to nobody. Facts in, plan out; pure.

use std::collections::{BTreeMap, BTreeSet};
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
    pub orphans: Vec<Orphan>,
    /// Journals of sessions that are over and whose backup is gone, or that ended long ago; and of whose snapshots nothing
    /// is left.
    pub journals: Vec<BackupId>,
    /// Journals that would go, but name snapshots of which it is not known that they are gone.
    pub kept_journals: Vec<KeptJournal>,
    /// Sessions that are not over: their snapshots are left alone. They are for `recover`.
    pub open_sessions: Vec<BackupId>,
    /// Why snapshots were left alone, if they were.
    pub refusal: Option<String>,
}

/// A snapshot that belongs to nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Orphan {
    /// The provider that has it.
    pub provider: String,
    /// The snapshot.
    #[serde(flatten)]
    pub ticket: Ticket,
}

/// A journal that has to stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeptJournal {
    /// The session.
    pub backup_id: BackupId,
    /// Why, in one line.
    pub why: String,
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
    /// Every snapshot that the providers have for this server.
    pub snapshots: Vec<Orphan>,
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
    /// Of the [`candidates`]: why snapshots of theirs may still exist somewhere.
    pub out_of_sight: BTreeMap<BackupId, String>,
}

/// The sessions whose journal nobody needs, as far as the catalog can tell.
pub fn candidates(facts: &GcFacts) -> impl Iterator<Item = &SessionState> {
    let known =
        |id: &BackupId| facts.catalog.iter().map(|(id, _)| id).chain(&facts.unreadable).any(|known| known == id);
    facts.sessions.iter().filter(move |state| match state.phase {
        Phase::Published => !known(&state.plan.backup_id),
        Phase::Undone => facts.now.signed_duration_since(state.last_at) > facts.keep_undone,
        _ => false,
    })
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
    let unreadable: Vec<String> =
        facts.unreadable.iter().chain(&facts.unreadable_sessions).map(ToString::to_string).collect();
    let orphans: Vec<Orphan> =
        facts.snapshots.iter().filter(|found| !used.contains(&found.ticket.token)).cloned().collect();
    let mut plan =
        GcPlan { open_sessions: open.iter().map(|state| state.plan.backup_id.clone()).collect(), ..GcPlan::default() };
    for state in candidates(facts) {
        let backup_id = state.plan.backup_id.clone();
        let is_orphaned = orphans.iter().any(|orphan| orphan.ticket.token == state.plan.token);
        match facts.out_of_sight.get(&backup_id) {
            _ if is_orphaned => {
                plan.kept_journals
                    .push(KeptJournal { backup_id, why: "snapshots of it are orphans; they go first".into() });
            }
            Some(why) => plan.kept_journals.push(KeptJournal { backup_id, why: why.clone() }),
            None => plan.journals.push(backup_id),
        }
    }
    if unreadable.is_empty() {
        plan.orphans = orphans;
    } else if !orphans.is_empty() {
        // A journal also says where to look for the snapshots of the others.
        let why = format!("the metadata of {} cannot be read", unreadable.join(", "));
        let stays = |backup_id| KeptJournal { backup_id, why: why.clone() };
        plan.kept_journals.extend(plan.journals.drain(..).map(stays));
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
        for Orphan { ticket, .. } in &self.orphans {
            writeln!(f, "orphan snapshot {} of volume {}", ticket.name, ticket.volume)?;
        }
        for id in &self.journals {
            writeln!(f, "journal of session {id}")?;
        }
        for KeptJournal { backup_id, why } in &self.kept_journals {
            writeln!(f, "journal of session {backup_id} stays: {why}")?;
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
