//! `gc`: what bears our mark and belongs to nobody. Facts in, plan out; pure.
//!
//! The invariant: a snapshot is removed only if its token is known to belong to nobody, and a volume only if it was never
//! attached to anything. A restore makes a volume for somebody to use, and its mark stays on it; whether a volume that was
//! attached once holds the only copy of a database, nobody can tell from here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use chrono::{DateTime, Duration, Utc};
use serde::Serialize;

use super::phase::Phase;
use super::state::SessionState;
use crate::id::{BackupId, Token};
use crate::provider::{RestoredVolume, Ticket};

/// What `gc` would remove.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct GcPlan {
    /// Snapshots whose token is in no `backup.info` and in no session that is not over.
    pub orphans: Vec<Orphan>,
    /// Volumes that restores have made and never attached, older than the [limit](GcLimits::volumes_older_than).
    pub volumes: Vec<OrphanVolume>,
    /// Volumes of restores that are attached to nothing, and stay.
    pub kept_volumes: Vec<KeptVolume>,
    /// Providers whose volumes could not be looked for, and why.
    pub unseen_volumes: BTreeMap<String, String>,
    /// Sessions whose snapshots cannot be seen from here, and why.
    pub unseen_snapshots: BTreeMap<BackupId, String>,
    /// Providers whose snapshots could not be looked for, and why.
    pub unreachable: BTreeMap<String, String>,
    /// Journals of sessions that are over and whose backup is gone, or that ended long ago; and of whose snapshots nothing
    /// is left.
    pub journals: Vec<BackupId>,
    /// Journals that would go, but name snapshots of which it is not known that they are gone.
    pub kept_journals: Vec<KeptJournal>,
    /// Saved configuration files of backups that are gone: a stock tool has deleted them, and leaves what it does not know.
    pub saved_configs: Vec<BackupId>,
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

/// A volume that no restore wants any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OrphanVolume {
    /// The provider that has it.
    pub provider: String,
    /// The volume.
    #[serde(flatten)]
    pub volume: RestoredVolume,
}

/// A volume of a restore that stays, although it is attached to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeptVolume {
    /// The provider that has it.
    pub provider: String,
    /// Its [id](RestoredVolume::id).
    pub id: String,
    /// Why, in one line.
    pub why: String,
}

/// How old things have to be before `gc` removes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GcLimits {
    /// The journal of an undone session, which people may want to read: 30 days by default.
    pub keep_undone: Duration,
    /// A volume of a restore that is attached to nothing: a day by default. A restore that is going on has volumes that are
    /// not attached yet.
    pub volumes_older_than: Duration,
}

impl Default for GcLimits {
    fn default() -> Self {
        Self { keep_undone: Duration::days(30), volumes_older_than: Duration::days(1) }
    }
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
        self.orphans.is_empty() && self.volumes.is_empty() && self.journals.is_empty() && self.saved_configs.is_empty()
    }
}

/// Facts for [`plan`].
#[derive(Clone, Debug)]
pub struct GcFacts {
    /// Every snapshot that the providers have for this server.
    pub snapshots: Vec<Orphan>,
    /// Every volume of a restore for this server that is attached to nothing.
    pub volumes: Vec<OrphanVolume>,
    /// Providers whose volumes could not be looked for, and why.
    pub unseen_volumes: BTreeMap<String, String>,
    /// Sessions whose snapshots cannot be seen from here, and why.
    pub unseen_snapshots: BTreeMap<BackupId, String>,
    /// Providers whose snapshots could not be looked for, and why.
    pub unreachable: BTreeMap<String, String>,
    /// The tokens that `backup.info` files name, with the ids of their backups.
    pub catalog: Vec<(BackupId, Option<Token>)>,
    /// Backups whose `backup.info` cannot be read.
    pub unreadable: Vec<BackupId>,
    /// The ids for which configuration files are saved.
    pub saved_configs: Vec<BackupId>,
    /// All sessions.
    pub sessions: Vec<SessionState>,
    /// Sessions whose journal cannot be read.
    pub unreadable_sessions: Vec<BackupId>,
    /// Now.
    pub now: DateTime<Utc>,
    /// How old things have to be.
    pub limits: GcLimits,
    /// Of the [`candidates`]: why snapshots of theirs may still exist somewhere.
    pub out_of_sight: BTreeMap<BackupId, String>,
}

impl GcFacts {
    /// Whether the catalog has this backup, readable or not.
    fn has_backup(&self, id: &BackupId) -> bool {
        self.catalog.iter().map(|(id, _)| id).chain(&self.unreadable).any(|known| known == id)
    }
}

/// The sessions whose journal nobody needs, as far as the catalog can tell.
pub fn candidates(facts: &GcFacts) -> impl Iterator<Item = &SessionState> {
    facts.sessions.iter().filter(move |state| match state.phase {
        Phase::Published => !facts.has_backup(&state.plan.backup_id),
        Phase::Undone => facts.now.signed_duration_since(state.last_at) > facts.limits.keep_undone,
        _ => false,
    })
}

/// Decides.
///
/// A snapshot is an orphan only if its token is known to belong to nobody. If any `backup.info` or journal cannot be
/// read, that is not known of any snapshot, and none is touched.
pub fn plan(facts: &GcFacts) -> GcPlan {
    let open: Vec<&SessionState> = facts.sessions.iter().filter(|state| !state.phase.is_final()).collect();
    // A stock tool may have rewritten a backup.info without our record. The journal knows which snapshots it has all the same.
    let published = facts
        .sessions
        .iter()
        .filter(|state| state.phase == Phase::Published && facts.has_backup(&state.plan.backup_id));
    let used: BTreeSet<&Token> = facts
        .catalog
        .iter()
        .filter_map(|(_, token)| token.as_ref())
        .chain(open.iter().copied().chain(published).map(|state| &state.plan.token))
        .collect();
    let unreadable: Vec<String> =
        facts.unreadable.iter().chain(&facts.unreadable_sessions).map(ToString::to_string).collect();
    let orphans: Vec<Orphan> =
        facts.snapshots.iter().filter(|found| !used.contains(&found.ticket.token)).cloned().collect();
    let mut plan = GcPlan {
        open_sessions: open.iter().map(|state| state.plan.backup_id.clone()).collect(),
        unseen_volumes: facts.unseen_volumes.clone(),
        unseen_snapshots: facts.unseen_snapshots.clone(),
        unreachable: facts.unreachable.clone(),
        ..GcPlan::default()
    };
    for found in &facts.volumes {
        match why_volume_stays(&found.volume, facts) {
            None => plan.volumes.push(found.clone()),
            Some(why) => plan.kept_volumes.push(KeptVolume {
                provider: found.provider.clone(),
                id: found.volume.id.clone(),
                why,
            }),
        }
    }
    let is_open =
        |id: &BackupId| facts.unreadable_sessions.iter().chain(&plan.open_sessions).any(|session| session == id);
    plan.saved_configs =
        facts.saved_configs.iter().filter(|id| !facts.has_backup(id) && !is_open(id)).cloned().collect();
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

/// Why a volume that is attached to nothing is no garbage, if it is none.
fn why_volume_stays(volume: &RestoredVolume, facts: &GcFacts) -> Option<String> {
    if volume.was_used() {
        return Some("it was attached once, and may hold what is nowhere else; delete it yourself".to_owned());
    }
    let Some(created) = volume.created() else { return Some("its age is not known".to_owned()) };
    let limit = facts.limits.volumes_older_than;
    let is_old = facts.now.signed_duration_since(created) >= limit;
    (!is_old).then(|| format!("it is younger than {} hours, and its restore may be going on", limit.num_hours()))
}

impl fmt::Display for GcPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() && self.refusal.is_none() {
            writeln!(f, "nothing to remove")?;
        }
        for Orphan { ticket, .. } in &self.orphans {
            writeln!(f, "orphan snapshot {} of volume {}", ticket.name, ticket.volume)?;
        }
        for OrphanVolume { volume, .. } in &self.volumes {
            let created = volume.created().map(|time| format!(" made {time}")).unwrap_or_default();
            writeln!(f, "volume {}{created} for a restore, and never attached", volume.id)?;
        }
        for KeptVolume { id, why, .. } in &self.kept_volumes {
            writeln!(f, "volume {id} of a restore stays: {why}")?;
        }
        for (provider, why) in &self.unseen_volumes {
            writeln!(f, "volumes of restores on {provider} were not looked for: {why}")?;
        }
        for (id, why) in &self.unseen_snapshots {
            writeln!(f, "snapshots of session {id} were not looked for: {why}")?;
        }
        for (provider, why) in &self.unreachable {
            writeln!(f, "snapshots on {provider} were not looked for: {why}")?;
        }
        for id in &self.journals {
            writeln!(f, "journal of session {id}")?;
        }
        for id in &self.saved_configs {
            writeln!(f, "saved configuration of backup {id}, which is gone")?;
        }
        for KeptJournal { backup_id, why } in &self.kept_journals {
            writeln!(f, "journal of session {backup_id} stays: {why}")?;
        }
        if let Some(refusal) = &self.refusal {
            writeln!(f, "left alone: {refusal}")?;
        }
        for id in &self.open_sessions {
            writeln!(f, "session {id} is not over; run `barman-snap recover`")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-05-29T12:00:00Z".parse().unwrap()
    }

    fn facts(volumes: &[(&str, Option<&str>, bool)]) -> GcFacts {
        let volume = |&(id, created, used): &(&str, Option<&str>, bool)| OrphanVolume {
            provider: "aws".into(),
            volume: RestoredVolume { id: id.into(), ..RestoredVolume::default() }
                .born(created.map(|time| time.parse().unwrap()), used),
        };
        GcFacts {
            snapshots: Vec::new(),
            volumes: volumes.iter().map(volume).collect(),
            unseen_volumes: BTreeMap::new(),
            unseen_snapshots: BTreeMap::new(),
            unreachable: BTreeMap::new(),
            catalog: Vec::new(),
            unreadable: Vec::new(),
            saved_configs: Vec::new(),
            sessions: Vec::new(),
            unreadable_sessions: Vec::new(),
            now: now(),
            limits: GcLimits::default(),
            out_of_sight: BTreeMap::new(),
        }
    }

    #[test]
    fn a_volume_goes_only_if_it_is_old_and_was_never_attached() {
        let old = Some("2026-05-28T12:00:00Z");
        let plan = plan(&facts(&[
            ("old", old, false),
            ("young", Some("2026-05-28T12:00:01Z"), false),
            ("used", old, true),
            ("ageless", None, false),
        ]));
        let going: Vec<&str> = plan.volumes.iter().map(|found| found.volume.id.as_str()).collect();
        assert_eq!(going, ["old"]);
        let why: Vec<(&str, &str)> = plan
            .kept_volumes
            .iter()
            .map(|kept| (kept.id.as_str(), kept.why.split([',', ' ']).nth(1).unwrap()))
            .collect();
        assert_eq!(why, [("young", "is"), ("used", "was"), ("ageless", "age")]);
        assert!(!plan.is_empty());
        assert!(plan.to_string().contains("volume old made 2026-05-28 12:00:00 UTC for a restore"), "{plan}");
    }

    #[test]
    fn a_volume_that_stays_is_nothing_to_remove() {
        let plan = plan(&facts(&[("used", Some("2020-01-01T00:00:00Z"), true)]));
        assert!(plan.is_empty());
        let text = plan.to_string();
        assert!(text.starts_with("nothing to remove\nvolume used of a restore stays: it was attached once"), "{text}");
    }

    #[test]
    fn what_could_not_be_looked_for_is_told() {
        let mut facts = facts(&[]);
        facts.unseen_volumes.insert("gcp".into(), "permission denied".into());
        let text = plan(&facts).to_string();
        assert!(text.contains("volumes of restores on gcp were not looked for: permission denied"), "{text}");
    }
}
