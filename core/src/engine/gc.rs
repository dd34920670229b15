//! Garbage, as the engine offers it: gathers the facts, lets [`gc`] decide, carries out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Engine;
use crate::catalog::CatalogEntry;
use crate::error::{Error, Result};
use crate::id::{BackupId, Token};
use crate::model::BackupInfo;
use crate::provider::{SnapshotProvider, Volume};
use crate::session::gc::{self, GcFacts, GcLimits, GcPlan, Orphan, OrphanVolume};
use crate::session::{SessionPlan, SessionState};
use crate::session::{rescue, sight};

impl Engine {
    /// What `gc` would remove: snapshots that bear our mark and belong to nobody, volumes that a restore has made and never
    /// attached, journals of what is gone.
    ///
    /// What cannot be seen from here is named in the plan and left alone; so is what a provider that cannot be reached has.
    ///
    /// # Errors
    /// If the catalog cannot be listed.
    pub async fn plan_gc(&self, limits: &GcLimits) -> Result<GcPlan> {
        // The order matters. A session stores its plan before it creates anything, and keeps it until its backup.info names
        // its snapshots: whatever is listed first has its owner among what is read afterwards.
        let (before, _) = self.sessions().await?;
        let marked = self.marked(&before).await?;
        let saved_configs = self.tools.catalog.saved_configs().await?;
        let (sessions, broken) = self.sessions().await?;
        let entries = self.tools.catalog.list().await?;
        let mut facts = GcFacts {
            snapshots: marked.snapshots,
            volumes: marked.volumes,
            unseen_volumes: marked.unseen_volumes,
            unseen_snapshots: marked.unseen_snapshots,
            unreachable: marked.unreachable,
            unreadable: entries.iter().filter(|entry| is_unreadable(entry)).map(|entry| entry.id.clone()).collect(),
            catalog: entries.iter().filter_map(token_of).collect(),
            saved_configs,
            sessions,
            unreadable_sessions: broken.into_iter().map(|(id, _)| id).collect(),
            now: self.tools.clock.now(),
            limits: *limits,
            out_of_sight: BTreeMap::new(),
        };
        let mut out_of_sight = BTreeMap::new();
        for state in gc::candidates(&facts) {
            if let Some(why) = sight::why_journal_stays(self.tools.providers.as_ref(), state).await? {
                out_of_sight.insert(state.plan.backup_id.clone(), why);
            }
        }
        facts.out_of_sight = out_of_sight;
        Ok(gc::plan(&facts))
    }

    /// Everything that bears the mark of this server and can be seen from here, of every provider that a session knows, and of the
    /// engine's own.
    async fn marked(&self, sessions: &[SessionState]) -> Result<Marked> {
        let mut marked = Marked::default();
        let Some(mark) = self.tools.journal.known_mark().await? else { return Ok(marked) };
        let own = self.provider().name();
        let mut by_provider: BTreeMap<&str, Vec<&SessionState>> = BTreeMap::from([(own, Vec::new())]);
        for state in sessions {
            by_provider.entry(&state.plan.provider).or_default().push(state);
        }
        for (name, states) in by_provider {
            match self.tools.providers.open(name).await {
                Ok(provider) => marked.look(&provider, &mark, &states).await,
                // Its snapshots are left alone, and so are the journals that name them.
                Err(error) => drop(marked.unreachable.insert(name.to_owned(), error.chain())),
            }
        }
        Ok(marked)
    }

    /// Removes what a [`GcPlan`] names.
    ///
    /// # Errors
    /// Of the first removal that failed; the rest was tried all the same.
    pub async fn apply_gc(&self, plan: &GcPlan) -> Result<()> {
        let mut first = None;
        for Orphan { provider, ticket } in &plan.orphans {
            let deleted = match self.tools.providers.open(provider).await {
                Ok(provider) => provider.delete(ticket).await,
                Err(error) => Err(error),
            };
            if let Err(error) = deleted {
                first.get_or_insert(error.with_context("snapshot", ticket.snapshot.clone()));
            }
        }
        for OrphanVolume { provider, volume } in &plan.volumes {
            let deleted = match self.tools.providers.open(provider).await {
                Ok(provider) => provider.delete_volume(volume).await,
                Err(error) => Err(error),
            };
            if let Err(error) = deleted {
                first.get_or_insert(error.with_context("volume", volume.id.clone()));
            }
        }
        for id in &plan.saved_configs {
            if let Err(error) = self.tools.catalog.drop_orphaned_config(id).await {
                first.get_or_insert(error);
            }
        }
        // A journal says where to look for snapshots: while one could not be deleted, all journals stay.
        if first.is_none() {
            for id in &plan.journals {
                if let Err(error) = self.drop_journal(id).await {
                    first.get_or_insert(error);
                }
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Drops a journal, unless something has come to light since the plan was made.
    async fn drop_journal(&self, id: &BackupId) -> Result<()> {
        if let Some(state) = rescue::load(&self.tools, id).await?
            && let Some(why) = sight::why_journal_stays(self.tools.providers.as_ref(), &state).await?
        {
            return Err(Error::precondition(format!("the journal of session {id} stays: {why}")));
        }
        self.tools.journal.remove(id).await
    }
}

/// What bears the mark of a server.
#[derive(Debug, Default)]
struct Marked {
    snapshots: Vec<Orphan>,
    volumes: Vec<OrphanVolume>,
    unseen_volumes: BTreeMap<String, String>,
    unseen_snapshots: BTreeMap<BackupId, String>,
    unreachable: BTreeMap<String, String>,
}

/// Where the snapshots of a session are looked for.
struct SessionPlace<'a>(&'a SessionPlan);

impl PartialEq for SessionPlace<'_> {
    fn eq(&self, other: &Self) -> bool {
        let volumes = |plan: &'_ SessionPlan| plan.plain_volumes();
        self.0.instance == other.0.instance && volumes(self.0) == volumes(other.0)
    }
}

impl Marked {
    /// Looks for what a provider has, in all places that these sessions of it have used.
    async fn look(&mut self, provider: &Arc<dyn SnapshotProvider>, mark: &str, sessions: &[&SessionState]) {
        let mut volumes: Vec<Volume> = Vec::new();
        let mut seen: Vec<SessionPlace<'_>> = Vec::new();
        for state in sessions {
            // In a cloud the sessions of years lie in the same few places, and each question costs a call.
            let place = SessionPlace(&state.plan);
            if !provider.capabilities().host_bound && seen.contains(&place) {
                volumes.extend(state.plan.plain_volumes());
                continue;
            }
            match sight::why_out_of_sight(provider.as_ref(), state).await {
                Ok(None) => {
                    volumes.extend(state.plan.plain_volumes());
                    seen.push(place);
                }
                Ok(Some(why)) => drop(self.unseen_snapshots.insert(state.plan.backup_id.clone(), why)),
                Err(error) => drop(self.unseen_snapshots.insert(state.plan.backup_id.clone(), error.chain())),
            }
        }
        // The attributes of a volume say where its snapshots and their copies are, and later sessions may have used other
        // places: only what is the same in all is asked for once.
        volumes.sort_by(|a, b| (&a.id, &a.attributes).cmp(&(&b.id, &b.attributes)));
        volumes.dedup();
        let name = provider.name();
        match provider.list(mark, &volumes).await {
            Ok(mut found) => {
                let mut seen = BTreeSet::new();
                found.retain(|ticket| seen.insert(ticket.snapshot.clone()));
                self.snapshots.extend(found.into_iter().map(|ticket| Orphan { provider: name.to_owned(), ticket }));
            }
            Err(error) => drop(self.unreachable.insert(name.to_owned(), error.chain())),
        }
        self.look_for_volumes(provider, mark).await;
    }

    /// Volumes are looked for where the options of this command lead, and with a permission that only a restore needs: who may
    /// not see them can still remove snapshots.
    async fn look_for_volumes(&mut self, provider: &Arc<dyn SnapshotProvider>, mark: &str) {
        let name = provider.name();
        match provider.list_volumes(mark).await {
            Ok(found) => {
                self.volumes.extend(found.into_iter().map(|volume| OrphanVolume { provider: name.to_owned(), volume }));
            }
            Err(error) => {
                self.unseen_volumes.insert(name.to_owned(), error.chain());
            }
        }
    }
}

/// True if it cannot be said which snapshots a backup has: also when only our record in it is damaged, or of a later version.
fn is_unreadable(entry: &CatalogEntry) -> bool {
    !matches!(entry.info.as_ref().map(BackupInfo::engine_record), Ok(Ok(_)))
}

/// The id of a readable entry and the token its metadata names.
fn token_of(entry: &CatalogEntry) -> Option<(BackupId, Option<Token>)> {
    let info = entry.info.as_ref().ok()?;
    Some((entry.id.clone(), info.engine_record().ok().flatten().map(|record| record.token)))
}
