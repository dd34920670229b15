//! Deleting backups: a plan that says everything, and an executor that does what it says.
//!
//! What it is: [`Catalog::plan_delete`] gathers what is known of the snapshots ([`snapshots`]) and decides;
//! [`Catalog::carry_out`] only follows the plan. `--dry-run` prints it. What it is not: undo of a session, which knows its own
//! snapshots from its journal.
//!
//! The invariants:
//! * Order: that it begins is recorded, then snapshots, label, tars, proofs and journal, WAL, `backup.info`. Whatever
//!   stops it, `backup.info` still names all that is left, says that it is not a backup any more, and the same command again
//!   finishes the work, the WAL included.
//! * What cannot be seen from here is not gone: a backup with such a snapshot is refused, or left out, like one that is locked,
//!   unless the user says that it no longer exists.
//! * Snapshots are deleted by their tickets only, never by a pattern. Objects that nobody knows stay.
//! * All of a backup or nothing: before the first of its snapshots is deleted, the provider says whether all of them can be.
//!   A backup for which that is not so is refused if the user has named it; a policy leaves it out, with its WAL, and says so.
//! * A backup whose metadata do not name its snapshots is deleted only by way of a journal that does, or if there is none.
//! * A backup that is kept is never deleted, nor one that may still be running, nor so many that fewer complete ones than the
//!   minimum redundancy are left. A failed backup does not count as one that is left.

mod begun;
mod snapshots;

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};

pub(crate) use self::begun::begun;
use self::snapshots::Snapshots;
pub use self::snapshots::Trace;
use super::retention::{BackupFacts, Retention, RetentionPolicy, WalPlan, classify};
use super::space::PARALLEL;
use super::{Catalog, ObjectKind};
use crate::error::{Error, Result};
use crate::id::BackupId;
use crate::model::BackupStatus;
use crate::provider::Ticket;
use crate::provider::registry::ProviderSource;

/// Which backups to delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// These.
    Backups(Vec<BackupId>),
    /// Those that are obsolete by this policy.
    Obsolete(RetentionPolicy),
}

/// What the user wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteRequest {
    /// Which backups.
    pub selection: Selection,
    /// How many complete backups must be left.
    pub minimum_redundancy: u32,
    /// Delete also what is still being made by its own word. Only right if the caller knows that its session is dead.
    pub even_started: bool,
    /// Take snapshots that cannot be seen from here for gone: their host, disk or account no longer exists.
    pub snapshots_gone: bool,
}

/// One backup of a [`DeletePlan`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct BackupDeletion {
    /// The backup.
    pub id: BackupId,
    /// The provider of its snapshots; none if it has no snapshots.
    pub provider: Option<String>,
    /// Its snapshots.
    pub snapshots: Vec<Ticket>,
    /// Snapshots that cannot be seen from here and count as gone, by the user's word.
    pub given_up: Vec<Ticket>,
    /// By what to look for more of them, if its metadata may not name all.
    #[serde(skip)]
    pub search: Option<Trace>,
    /// The objects to delete after the snapshots, in this order.
    pub keys: Vec<String>,
    /// The object to delete last: `backup.info`.
    pub info_key: String,
}

/// A backup that a policy lets go, but that cannot be deleted now.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SkippedBackup {
    /// The backup.
    pub id: BackupId,
    /// Why, in one line.
    pub why: String,
}

/// What will be deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct DeletePlan {
    /// The backups, oldest first.
    pub backups: Vec<BackupDeletion>,
    /// The backups that would go, too, if they could; oldest first.
    pub skipped: Vec<SkippedBackup>,
    /// The WAL that nobody needs then.
    pub wal_keys: Vec<String>,
    /// Why WAL stays, if none may be deleted.
    pub wal_reason: Option<String>,
}

impl DeletePlan {
    /// True if there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.backups.is_empty()
    }
}

/// The backups that are meant, after all checks.
fn select(request: &DeleteRequest, facts: &[BackupFacts], now: DateTime<Utc>) -> Result<Vec<BackupId>> {
    let ids = match &request.selection {
        Selection::Obsolete(policy) => {
            let classes = classify(*policy, request.minimum_redundancy, facts, now);
            return Ok(classes
                .into_iter()
                .filter(|(_, class)| *class == Retention::Obsolete)
                .map(|(id, _)| id)
                .collect());
        }
        Selection::Backups(ids) => ids,
    };
    for id in ids {
        let Some(backup) = facts.iter().find(|facts| facts.id == *id) else {
            return Err(Error::not_found(format!("there is no backup {id}")).with_hint("see barman-snap list"));
        };
        if let Some(keep) = backup.keep {
            return Err(Error::precondition(format!("backup {id} is kept ({keep})"))
                .with_hint("release it first: barman-snap keep --release"));
        }
        if backup.status == Some(BackupStatus::Started) && !request.even_started {
            return Err(Error::precondition(format!("backup {id} is STARTED: it may still be running"))
                .with_hint("if its process is dead, barman-snap recover undoes or finishes it"));
        }
    }
    let done = |facts: &&BackupFacts| facts.status == Some(BackupStatus::Done);
    let left = facts.iter().filter(done).filter(|facts| !ids.contains(&facts.id)).count();
    let takes_any = facts.iter().filter(done).any(|facts| ids.contains(&facts.id));
    if takes_any && left < request.minimum_redundancy as usize {
        let backups = if left == 1 { "backup" } else { "backups" };
        return Err(Error::precondition(format!(
            "{left} complete {backups} would be left, the minimum redundancy is {}",
            request.minimum_redundancy
        )));
    }
    Ok(ids.clone())
}

impl Catalog {
    /// Finds out what a request means. Changes nothing. `traces` are those of the backups whose metadata may not name all of
    /// their snapshots.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) for a backup that does not exist,
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a policy that keeps nothing,
    /// [`Precondition`](crate::ErrorKind::Precondition) for one that must not be deleted or has a snapshot that cannot be;
    /// if a provider is needed that is not there.
    pub async fn plan_delete(
        &self,
        request: &DeleteRequest,
        now: DateTime<Utc>,
        providers: &dyn ProviderSource,
        traces: &BTreeMap<BackupId, Trace>,
    ) -> Result<DeletePlan> {
        if let Selection::Obsolete(policy @ (RetentionPolicy::Redundancy(0) | RetentionPolicy::Window { days: 0 })) =
            request.selection
        {
            return Err(Error::invalid(format!("the retention policy {policy} keeps nothing"))
                .with_hint("the least is 1; a single backup is deleted by its id"));
        }
        let entries = self.list().await?;
        let facts: Vec<_> = entries.iter().map(BackupFacts::of).collect();
        let ids = select(request, &facts, now)?;
        let meant = entries.into_iter().filter(|entry| ids.contains(&entry.id));
        let looked = futures::stream::iter(meant)
            .map(|entry| async move {
                let found = snapshots::of(&entry, providers, traces.get(&entry.id), request.snapshots_gone).await;
                (entry.id, found)
            })
            .buffered(PARALLEL)
            .collect::<Vec<_>>()
            .await;
        let mut plan = DeletePlan::default();
        let mut found = Vec::new();
        for (id, snapshots) in looked {
            match (snapshots, &request.selection) {
                (Ok(snapshots), _) => found.push((id, snapshots)),
                (Err(error), Selection::Obsolete(_)) if snapshots::is_refusal(&error) => {
                    plan.skipped.push(SkippedBackup { id, why: error.chain() });
                }
                (Err(error), _) => return Err(refused(&id, error)),
            }
        }
        let going = |facts: &BackupFacts| found.iter().any(|(id, _)| *id == facts.id);
        let (deleted, remaining): (Vec<_>, Vec<_>) = facts.into_iter().partition(going);
        if found.is_empty() {
            return Ok(plan);
        }
        let wal = WalPlan::new(&deleted, &remaining);
        plan.backups = futures::stream::iter(found)
            .map(|(id, snapshots)| self.deletion(id, snapshots))
            .buffered(PARALLEL)
            .try_collect()
            .await?;
        plan.wal_keys = self.wal_to_delete(&wal).await?;
        plan.wal_reason = wal.reason;
        Ok(plan)
    }

    async fn deletion(&self, id: BackupId, found: Snapshots) -> Result<BackupDeletion> {
        let Snapshots { provider, tickets: snapshots, given_up, search, .. } = found;
        let (keys, info_key) = (self.objects_to_delete(&id).await?, self.layout().backup_info(&id));
        Ok(BackupDeletion { id, provider, snapshots, given_up, search, keys, info_key })
    }

    /// Carries out a plan. What is gone already is success. A backup that fails is no reason to leave the others, but then
    /// no WAL is deleted. `now` is written into what an interruption leaves.
    ///
    /// # Errors
    /// The first one. What fails for a backup stops the work on it before its `backup.info` goes.
    pub async fn carry_out(&self, plan: &DeletePlan, providers: &dyn ProviderSource, now: DateTime<Utc>) -> Result<()> {
        let (mut first, mut emptied) = (None, Vec::new());
        for backup in &plan.backups {
            match self.empty_backup(backup, providers, now).await {
                Ok(()) => emptied.push(backup),
                Err(error) => {
                    let error = error.with_operation("delete").with_context("backup_id", backup.id.to_string());
                    tracing::warn!(backup_id = %backup.id, error = error.chain(), "cannot be deleted");
                    first.get_or_insert(error);
                }
            }
        }
        // While any of them is left, its metadata lead the next run to the WAL that could not be deleted in this one.
        if first.is_none() {
            self.space().delete_many(&plan.wal_keys).await?;
        }
        for backup in emptied {
            self.space().delete(&backup.info_key).await?;
        }
        first.map_or(Ok(()), Err)
    }

    /// Deletes all of a backup but its `backup.info`.
    async fn empty_backup(
        &self,
        backup: &BackupDeletion,
        providers: &dyn ProviderSource,
        now: DateTime<Utc>,
    ) -> Result<()> {
        // It may have been kept since the plan was made.
        if let Some(keep) = self.keep(&backup.id).await? {
            return Err(Error::precondition(format!("backup {} is kept ({keep})", backup.id)));
        }
        let provider = match &backup.provider {
            Some(name) => Some(providers.open(name).await?),
            None => None,
        };
        // And its snapshots may have got out of sight, or be held by now.
        if let Some(provider) = &provider {
            provider.check_delete(&backup.snapshots).await?;
        }
        self.begin_deletion(&backup.id, now).await?;
        if let Some(provider) = &provider {
            snapshots::delete(provider.as_ref(), &backup.snapshots, backup.search.as_ref()).await?;
        }
        // In their order: the journal, which names the snapshots of a backup that cannot be read, goes last.
        for key in &backup.keys {
            self.space().delete(key).await?;
        }
        Ok(())
    }

    /// Label, tars, proofs and journal of a backup, in this order.
    async fn objects_to_delete(&self, id: &BackupId) -> Result<Vec<String>> {
        let mut keys = self.objects_of(id).await?;
        keys.sort_by_key(|key| !matches!(self.layout().parse(key), ObjectKind::BackupLabel(_)));
        for folder in [self.layout().proofs(id), self.layout().session(id)] {
            keys.extend(self.space().list(&folder).await?.into_iter().map(|object| object.key));
        }
        Ok(keys)
    }

    /// The keys of the WAL that a plan lets go. Lists only the folders that can hold any.
    async fn wal_to_delete(&self, plan: &WalPlan) -> Result<Vec<String>> {
        if plan.before.is_none() {
            return Ok(Vec::new());
        }
        let folders = self.space().list_dir(&self.layout().wals()).await?.dirs;
        let folders = folders.into_iter().filter(|folder| plan.touches(folder));
        let lists = futures::stream::iter(folders)
            .map(|folder| async move { self.space().list_dir(&self.layout().wal_dir(&folder)).await });
        let lists: Vec<_> = lists.buffered(PARALLEL).try_collect().await?;
        let goes = |key: &String| match self.layout().parse(key) {
            ObjectKind::Wal(object) => plan.deletes(object.name),
            _ => false,
        };
        Ok(lists.into_iter().flat_map(|list| list.objects).map(|object| object.key).filter(goes).collect())
    }
}

impl fmt::Display for DeletePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for SkippedBackup { id, why } in &self.skipped {
            writeln!(f, "backup {id} stays: {why}")?;
        }
        if self.is_empty() {
            return writeln!(f, "nothing to delete");
        }
        for backup in &self.backups {
            writeln!(f, "backup {}", backup.id)?;
            for ticket in &backup.snapshots {
                writeln!(f, "  snapshot {}", ticket.snapshot)?;
            }
            for ticket in &backup.given_up {
                writeln!(f, "  snapshot {} is not visible from here and counts as gone", ticket.snapshot)?;
            }
            for key in backup.keys.iter().chain([&backup.info_key]) {
                writeln!(f, "  object {key}")?;
            }
        }
        match (self.wal_keys.as_slice(), &self.wal_reason) {
            (_, Some(reason)) => writeln!(f, "no WAL: {reason}"),
            ([], None) => writeln!(f, "no WAL"),
            ([one], None) => writeln!(f, "1 WAL file: {one}"),
            ([first, .., last], None) => writeln!(f, "{} WAL files: {first} to {last}", self.wal_keys.len()),
        }
    }
}

/// The error for a backup that the user may have named in another way than by its id.
fn refused(id: &BackupId, error: Error) -> Error {
    let id = id.to_string();
    let error = match error.message().contains(&id) {
        true => error,
        false => Error::new(error.kind(), format!("backup {id} cannot be deleted"))
            .with_retry(error.retry())
            .with_source(error),
    };
    error.with_context("backup_id", id)
}
