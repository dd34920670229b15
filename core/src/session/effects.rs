//! What each step does. One function per row of the [table](super::step::TABLE); each returns the entry that records it.
//!
//! Every function here may be called twice, or be dropped in the middle and called again by another process.

use std::time::Duration;

use futures::future::{Either, select};

use super::driver::Tools;
use super::journal::Record;
use super::metadata;
use super::recover::CatalogFact;
use super::snapshots;
use super::state::SessionState;
use super::step::Step;
use crate::catalog::Catalog;
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::host::flush::flush;
use crate::host::sighting::sight_again;
use crate::id::{BackupId, Token};
use crate::model::{BackupInfo, BackupStatus, SavedConfig, Tablespace};
use crate::postgres::{BackupControl, StartRequest, StartedBackup, StoppedBackup};

/// The steps that need no connection.
pub(super) async fn without_postgres(tools: &Tools, state: &SessionState, step: Step) -> Result<Record> {
    match step {
        Step::Announce => announce(tools, state).await,
        Step::Snapshot(wave) => snapshots::take(tools, state, wave).await,
        Step::AwaitCut(wave) => {
            // The names go into the catalog while the provider works; backup mode does not wait for them twice. A write that
            // has begun comes to its end, whatever becomes of the cut.
            let (named, cut) = (name_snapshots(tools, state), snapshots::await_cut(tools, state, wave));
            futures::pin_mut!(named, cut);
            match select(named, cut).await {
                Either::Left((named, cut)) => {
                    named?;
                    cut.await
                }
                Either::Right((cut, named)) => {
                    named.await?;
                    cut
                }
            }
        }
        Step::StoreLabel => store_label(tools, state).await,
        Step::Promote => promote(tools, state).await,
        Step::AwaitReady => snapshots::await_ready(tools, state).await,
        Step::Secure => snapshots::secure(tools, state).await,
        Step::Publish => publish(tools, state).await,
        Step::DeleteSnapshots => delete_snapshots(tools, state).await,
        Step::ClearCatalog => clear_catalog(tools, state).await,
        Step::CloseUndo => Ok(Record::Undone),
        Step::Start | Step::Stop | Step::CompleteWal => Err(Error::internal(format!("{step} is done elsewhere"))),
    }
}

/// How long the first flush may take. It comes before backup mode and writes whatever has piled up: nothing is lost by waiting,
/// nor by giving up.
const FLUSH_PATIENCE: Duration = Duration::from_secs(600);

/// How long the second flush may take, in backup mode. It writes what has changed since the first one.
const SECOND_FLUSH_PATIENCE: Duration = Duration::from_secs(30);

/// Enters backup mode, with all file systems of the backup on disk. `since`: when backup mode began.
pub(super) async fn start(
    tools: &Tools,
    state: &SessionState,
    control: &mut dyn BackupControl,
    since: &mut Option<Duration>,
) -> Result<Record> {
    let plan = &state.plan;
    flush(tools.clock.as_ref(), &plan.flush, FLUSH_PATIENCE).await?;
    let label = format!("Barman backup {} {}", plan.server, plan.backup_id);
    let started = control.start(&StartRequest { label, fast: plan.immediate_checkpoint }).await?;
    if started.in_recovery != plan.facts.in_recovery {
        return Err(Error::new(
            ErrorKind::Postgres,
            "the server was promoted between planning and starting the backup",
        ));
    }
    *since = Some(tools.clock.monotonic());
    // The start waits for a checkpoint, for minutes maybe. What was created since the plan was made is in the tablespace map, which
    // leads a restored server to it, and in no snapshot.
    let now = control.tablespaces().await?;
    let known = &plan.facts.tablespaces;
    let lacks = |list: &[Tablespace], one: &Tablespace| {
        !list.iter().any(|other| (other.oid, &other.location) == (one.oid, &one.location))
    };
    let created = now.iter().find(|one| lacks(known, one)).map(|one| ("created", one));
    if let Some((what, one)) = created.or_else(|| known.iter().find(|one| lacks(&now, one)).map(|one| ("dropped", one)))
    {
        let message = format!("tablespace {:?} at {} was {what} while the backup started", one.name, one.location);
        return Err(Error::precondition(message).with_hint("start the backup again"));
    }
    // PostgreSQL has waited for a checkpoint, and somebody may have written to a file meanwhile. Its own data does not depend on
    // this, so it is no reason to give up, nor to stay in backup mode for long.
    if let Err(error) = flush(tools.clock.as_ref(), &plan.flush, SECOND_FLUSH_PATIENCE).await {
        tracing::warn!(
            error = error.chain(),
            "files that were changed during the checkpoint may be incomplete in the snapshots"
        );
    }
    Ok(Record::StartReturned { started })
}

async fn announce(tools: &Tools, state: &SessionState) -> Result<Record> {
    let id = &state.plan.backup_id;
    // First: a backup.info that names it would be found by others.
    if let Some(saved) = &state.plan.saved {
        tools.catalog.store_config(id, saved).await?;
    }
    let info = metadata::backup_info(tools.provider.as_ref(), state, BackupStatus::Started)?;
    match tools.catalog.create(id, &info).await {
        Ok(_) => Ok(Record::Announced),
        // Lost reply: what is there may be what we have just written.
        Err(error) if matches!(error.kind(), ErrorKind::Conflict) || error.retry() == Retry::Unknown => {
            match catalog_fact(&tools.catalog, id, &state.plan.token).await? {
                CatalogFact::Ours => Ok(Record::Announced),
                _ => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

async fn name_snapshots(tools: &Tools, state: &SessionState) -> Result<()> {
    replace_ours(tools, state, BackupStatus::Started).await
}

/// Leaves backup mode.
pub(super) async fn stop(
    tools: &Tools,
    state: &SessionState,
    control: &mut dyn BackupControl,
    since: Option<Duration>,
) -> Result<Record> {
    if let Some(before) = &state.plan.sighting {
        sight_again(control, tools.clock.as_ref(), before).await?;
    }
    let stopped = control.stop().await?;
    let started = started(state)?;
    if stopped.timeline != started.timeline {
        let message =
            format!("the timeline changed from {} to {} during the backup", started.timeline.0, stopped.timeline.0);
        return Err(Error::new(ErrorKind::Postgres, message).with_hint("a fail-over happened; start the backup again"));
    }
    let elapsed = since.map_or(Duration::ZERO, |since| tools.clock.monotonic().saturating_sub(since));
    Ok(Record::StopReturned { stopped, backup_mode_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX) })
}

async fn store_label(tools: &Tools, state: &SessionState) -> Result<Record> {
    tools.catalog.write_label(&state.plan.backup_id, &stopped(state)?.label).await?;
    Ok(Record::LabelStored)
}

/// Makes the snapshots durable, and names what came out in the catalog: until the backup is published, somebody may have to
/// clean up by that.
async fn promote(tools: &Tools, state: &SessionState) -> Result<Record> {
    let tickets = snapshots::promote(tools, state).await?;
    let after = SessionState { tickets: tickets.clone(), ..state.clone() };
    name_snapshots(tools, &after).await?;
    Ok(Record::Promoted { tickets })
}

async fn publish(tools: &Tools, state: &SessionState) -> Result<Record> {
    let plan = &state.plan;
    if !plan.config_files.is_empty() {
        // The plan of an older version has them itself.
        tools.catalog.store_config(&plan.backup_id, &SavedConfig::of_texts(&plan.config_files, &plan.token)).await?;
    }
    replace_ours(tools, state, BackupStatus::Done).await?;
    Ok(Record::Published)
}

/// The mark of an error that says: this backup was deleted while it was being made.
pub(super) const DELETED: &str = "deleted_meanwhile";

/// Replaces the `backup.info` of the session, if it still is that of the session. Never brings back what somebody else, who
/// may have fenced this driver, has removed.
async fn replace_ours(tools: &Tools, state: &SessionState, status: BackupStatus) -> Result<()> {
    let (id, token) = (&state.plan.backup_id, &state.plan.token);
    let info = metadata::backup_info(tools.provider.as_ref(), state, status)?;
    let is_ours = |found: &BackupInfo| matches!(found.engine_record(), Ok(Some(record)) if record.token == *token);
    if tools.catalog.replace_if(id, &info, is_ours).await? {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, format!("backup {id} was deleted while it was being made"))
        .with_context(DELETED, id.to_string()))
}

/// Deletes everything that carries the token of the session.
pub(super) async fn delete_snapshots(tools: &Tools, state: &SessionState) -> Result<Record> {
    snapshots::delete_all(tools, state).await
}

async fn clear_catalog(tools: &Tools, state: &SessionState) -> Result<Record> {
    let id = &state.plan.backup_id;
    match catalog_fact(&tools.catalog, id, &state.plan.token).await? {
        CatalogFact::Ours => tools.catalog.remove(id).await?,
        CatalogFact::Absent if state.announced => tools.catalog.remove(id).await?,
        // It is stored before the backup.info.
        CatalogFact::Absent | CatalogFact::Foreign => tools.catalog.remove_config(id, &state.plan.token).await?,
        CatalogFact::Unreadable => {
            let message = format!("the backup.info of {id} cannot be read, so it cannot be told whose it is");
            return Err(Error::corrupt(message).with_hint("look at it, remove it, then run `barman-snap recover`"));
        }
    }
    Ok(Record::CatalogCleared)
}

/// Whose `backup.info` is at `id`.
pub(super) async fn catalog_fact(catalog: &Catalog, id: &BackupId, token: &Token) -> Result<CatalogFact> {
    let info = match catalog.read(id).await {
        Ok(info) => info,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(CatalogFact::Absent),
        Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(CatalogFact::Unreadable),
        Err(error) => return Err(error),
    };
    Ok(match info.engine_record() {
        Ok(Some(record)) if record.token == *token => CatalogFact::Ours,
        Ok(_) => CatalogFact::Foreign,
        // Damaged, or written by a later version: it may well be ours.
        Err(_) => CatalogFact::Unreadable,
    })
}

pub(super) fn started(state: &SessionState) -> Result<&StartedBackup> {
    state.started.as_ref().ok_or_else(|| Error::internal("the backup has not started"))
}

pub(super) fn stopped(state: &SessionState) -> Result<&StoppedBackup> {
    state.stopped.as_ref().ok_or_else(|| Error::internal("the backup has not stopped"))
}
