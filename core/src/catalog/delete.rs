//! Deleting backups: a plan that says everything, and an executor that does what it says.
//!
//! What it is: [`DeletePlan::new`] is pure; [`Catalog::plan_delete`] only gathers its facts; [`Catalog::carry_out`] only
//! follows it. `--dry-run` prints the plan. What it is not: undo of a session, which knows its own snapshots from its journal.
//!
//! The invariants:
//! * Order: snapshots, label, tars, proofs and journal, `backup.info`, WAL. Whatever stops it, `backup.info` still names all
//!   that is left, and the same command again finishes the work.
//! * Snapshots are deleted by their tickets only, never by a pattern. Objects that nobody knows stay.
//! * A backup that is kept is never deleted, nor one that may still be running, nor so many that fewer complete ones than the
//!   minimum redundancy are left. A failed backup does not count as one that is left.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};

use super::retention::{BackupFacts, Retention, RetentionPolicy, WalPlan, classify};
use super::space::PARALLEL;
use super::{Catalog, CatalogEntry, ObjectKind};
use crate::error::{Error, ErrorKind, Result};
use crate::id::BackupId;
use crate::model::BackupStatus;
use crate::provider::{SnapshotProvider, Ticket};

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
    /// The objects to delete after the snapshots, in this order.
    pub keys: Vec<String>,
    /// The object to delete last: `backup.info`.
    pub info_key: String,
}

/// What will be deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct DeletePlan {
    /// The backups, oldest first.
    pub backups: Vec<BackupDeletion>,
    /// The WAL that nobody needs then.
    pub wal_keys: Vec<String>,
    /// Why WAL stays, if none may be deleted.
    pub wal_reason: Option<String>,
}

impl DeletePlan {
    /// Decides. `objects` are the keys of label, tars, proofs and journal of each backup; `wal` are those of the archive.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) for a backup that does not exist, [`Precondition`](ErrorKind::Precondition) for one
    /// that must not be deleted, [`Unsupported`](ErrorKind::Unsupported) for one whose snapshots another tool made.
    pub fn new(
        request: &DeleteRequest,
        entries: &[CatalogEntry],
        objects: &BTreeMap<BackupId, Vec<String>>,
        info_key: impl Fn(&BackupId) -> String,
        now: DateTime<Utc>,
    ) -> Result<(Self, WalPlan)> {
        let facts: Vec<_> = entries.iter().map(BackupFacts::of).collect();
        let ids = select(request, &facts, now)?;
        let (deleted, remaining): (Vec<_>, Vec<_>) = facts.into_iter().partition(|facts| ids.contains(&facts.id));
        let backups = entries
            .iter()
            .filter(|entry| ids.contains(&entry.id))
            .map(|entry| {
                let (provider, snapshots) = snapshots(entry)?;
                let keys = objects.get(&entry.id).cloned().unwrap_or_default();
                let id = entry.id.clone();
                Ok(BackupDeletion { info_key: info_key(&id), id, provider, snapshots, keys })
            })
            .collect::<Result<Vec<_>>>()?;
        if backups.is_empty() {
            return Ok((Self::default(), WalPlan::default()));
        }
        let wal = WalPlan::new(&deleted, &remaining);
        Ok((Self { backups, wal_keys: Vec::new(), wal_reason: wal.reason.clone() }, wal))
    }

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

/// Provider and tickets of a backup.
fn snapshots(entry: &CatalogEntry) -> Result<(Option<String>, Vec<Ticket>)> {
    // What cannot be read is deleted only if the user names it, and then it names no snapshots that could be found.
    let Ok(info) = &entry.info else { return Ok((None, Vec::new())) };
    match info.engine_record()? {
        Some(record) if record.snapshots.is_empty() => Ok((None, Vec::new())),
        Some(record) => {
            Ok((Some(record.provider), record.snapshots.into_iter().map(|snapshot| snapshot.ticket).collect()))
        }
        None if info.snapshots_info.is_some() => Err(Error::new(
            ErrorKind::Unsupported,
            format!("the snapshots of backup {} were made by another tool", entry.id),
        )
        .with_hint("delete it with barman-cloud-backup-delete")),
        None => Ok((None, Vec::new())),
    }
}

impl Catalog {
    /// Finds out what a request means. Changes nothing.
    ///
    /// # Errors
    /// As [`DeletePlan::new`].
    pub async fn plan_delete(&self, request: &DeleteRequest, now: DateTime<Utc>) -> Result<DeletePlan> {
        let entries = self.list().await?;
        // First without the objects: only those of the backups that are meant are worth listing.
        let info_key = |id: &BackupId| self.layout().backup_info(id);
        let (draft, _) = DeletePlan::new(request, &entries, &BTreeMap::new(), info_key, now)?;
        let objects = futures::stream::iter(draft.backups.into_iter().map(|backup| backup.id))
            .map(|id| async move { Ok::<_, Error>((id.clone(), self.objects_to_delete(&id).await?)) });
        let objects = objects.buffered(PARALLEL).try_collect().await?;
        let (mut plan, wal) = DeletePlan::new(request, &entries, &objects, info_key, now)?;
        plan.wal_keys = self.wal_to_delete(&wal).await?;
        Ok(plan)
    }

    /// Carries out a plan. What is gone already is success.
    ///
    /// # Errors
    /// The first one stops the work of a backup before its `backup.info` goes. [`Precondition`](ErrorKind::Precondition) if a
    /// backup has snapshots of another provider than `provider`, or there is none.
    pub async fn carry_out(&self, plan: &DeletePlan, provider: Option<&dyn SnapshotProvider>) -> Result<()> {
        for backup in &plan.backups {
            let provider = match (&backup.provider, provider) {
                (None, _) => None,
                (Some(name), Some(provider)) if provider.name() == name => Some(provider),
                (Some(name), _) => {
                    return Err(Error::precondition(format!("the snapshots of backup {} are of {name}", backup.id))
                        .with_hint(format!("use --snapshot-provider {name}")));
                }
            };
            self.delete_backup(backup, provider)
                .await
                .map_err(|error| error.with_operation("delete").with_context("backup_id", backup.id.to_string()))?;
        }
        self.space().delete_many(&plan.wal_keys).await
    }

    async fn delete_backup(&self, backup: &BackupDeletion, provider: Option<&dyn SnapshotProvider>) -> Result<()> {
        // It may have been kept since the plan was made.
        if let Some(keep) = self.keep(&backup.id).await? {
            return Err(Error::precondition(format!("backup {} is kept ({keep})", backup.id)));
        }
        if let Some(provider) = provider {
            // Concurrently, and all of them even if one fails: a snapshot costs money every hour.
            // Owned tickets: a closure over references makes the whole future one that cannot be sent to a thread.
            let deleted = futures::stream::iter(backup.snapshots.clone())
                .map(|ticket| async move { provider.delete(&ticket).await });
            let deleted: Vec<Result<()>> = deleted.buffer_unordered(PARALLEL).collect().await;
            deleted.into_iter().collect::<Result<()>>()?;
        }
        for key in &backup.keys {
            self.space().delete(key).await?;
        }
        self.space().delete(&backup.info_key).await
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
        if self.is_empty() {
            return writeln!(f, "nothing to delete");
        }
        for backup in &self.backups {
            writeln!(f, "backup {}", backup.id)?;
            for ticket in &backup.snapshots {
                writeln!(f, "  snapshot {}", ticket.snapshot)?;
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
