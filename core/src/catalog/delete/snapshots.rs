//! The snapshots of a backup that is to be deleted: which they are, whether they can go, and their end.
//!
//! Three sources, in this order: our own record in `backup.info`; the journal of the session ([`Trace`]) where `backup.info`
//! cannot be read or was written before all snapshots were there; and what a stock tool has written about its own.

use std::path::PathBuf;

use futures::StreamExt;

use super::super::CatalogEntry;
use super::super::space::PARALLEL;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Token;
use crate::model::{BackupStatus, SnapshotRecord};
use crate::provider::registry::ProviderSource;
use crate::provider::{Instance, SnapshotProvider, Ticket, Volume};

/// What the journal of a session says of its snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The provider that has them.
    pub provider: String,
    /// The instance that had the volumes.
    pub instance: Instance,
    /// The token that each of them carries.
    pub token: Token,
    /// The volumes that they are of: where to look.
    pub volumes: Vec<Volume>,
    /// Those that are known by their tickets.
    pub tickets: Vec<Ticket>,
}

/// The snapshots of a backup.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    pub(super) provider: Option<String>,
    pub(super) tickets: Vec<Ticket>,
    /// Those that cannot be seen, and count as gone by the user's word.
    pub(super) given_up: Vec<Ticket>,
    pub(super) search: Option<Trace>,
    /// The volumes that they are of, as far as it is known where those were.
    volumes: Vec<Volume>,
}

/// How often it is looked again for snapshots that carry a token, while there still are some.
const LOOKS: u32 = 5;

/// Finds out, and makes sure that all of them can be deleted now.
pub(super) async fn of(
    entry: &CatalogEntry,
    providers: &dyn ProviderSource,
    trace: Option<&Trace>,
    snapshots_gone: bool,
) -> Result<Snapshots> {
    let mut found = match (named(entry, providers).await, trace) {
        (Ok(found), None) => found,
        // The journal knows all that the metadata know, and more; and it is there for this one.
        (_, Some(trace)) => Snapshots {
            provider: Some(trace.provider.clone()),
            tickets: trace.tickets.clone(),
            volumes: trace.volumes.clone(),
            search: Some(trace.clone()),
            given_up: Vec::new(),
        },
        (Err(error), None) => return Err(error),
    };
    let Some(name) = &found.provider else { return Ok(found) };
    let provider = providers.open(name).await?;
    leave_unseen(provider.as_ref(), &mut found, snapshots_gone).await?;
    if let Some(trace) = &found.search {
        add(&mut found.tickets, provider.find(&trace.token, &trace.volumes).await?);
    }
    provider.check_delete(&found.tickets).await?;
    Ok(found)
}

/// Refuses a backup of which a snapshot cannot be seen from here; or gives such snapshots up, where they are `gone` by the user's
/// word.
async fn leave_unseen(provider: &dyn SnapshotProvider, found: &mut Snapshots, gone: bool) -> Result<()> {
    let instance = found.search.as_ref().map(|trace| trace.instance.clone()).unwrap_or_default();
    let mut unseen = Vec::new();
    for volume in &found.volumes {
        let Some(why) = provider.unseen(&instance, std::slice::from_ref(volume)).await? else { continue };
        // A snapshot that is there is seen, whatever is noted of its place.
        let of_it: Vec<&Ticket> = found.tickets.iter().filter(|ticket| ticket.volume == volume.id).collect();
        let mut here = !of_it.is_empty();
        for ticket in of_it {
            here = here && provider.status(ticket).await.is_ok();
        }
        match (here, gone) {
            (true, _) => {}
            (false, true) => unseen.push(volume.clone()),
            (false, false) => {
                return Err(Error::precondition(format!("its snapshots cannot be seen from here: {why}"))
                    .with_hint("run it there, or use --snapshots-gone if they no longer exist"));
            }
        }
    }
    if unseen.is_empty() {
        return Ok(());
    }
    let is_unseen = |ticket: &Ticket| unseen.iter().any(|volume| volume.id == ticket.volume);
    let (given_up, tickets) = std::mem::take(&mut found.tickets).into_iter().partition(is_unseen);
    (found.given_up, found.tickets) = (given_up, tickets);
    if let Some(trace) = &mut found.search {
        trace.volumes.retain(|volume| !unseen.contains(volume));
    }
    Ok(())
}

/// The volume that a snapshot of a record is of, as far as the record tells.
fn volume_of(snapshot: &SnapshotRecord) -> Volume {
    let ticket = &snapshot.ticket;
    Volume {
        id: ticket.volume.clone(),
        root: ticket.root.clone(),
        mount_point: PathBuf::from(&snapshot.mount_point),
        mount_options: snapshot.mount_options.clone(),
        file_systems: snapshot.file_systems.clone(),
        device: String::new(),
        method: ticket.method.clone(),
        attributes: ticket.attributes.clone(),
    }
}

/// The snapshots that the metadata name.
async fn named(entry: &CatalogEntry, providers: &dyn ProviderSource) -> Result<Snapshots> {
    // What cannot be read is deleted only if the user names it. Without a journal it is no backup of this engine.
    let Ok(info) = &entry.info else { return Ok(Snapshots::default()) };
    match info.engine_record()? {
        Some(record) if info.status == BackupStatus::Started => Err(Error::precondition(format!(
            "backup {} is STARTED and has no journal: which snapshots it has is not known",
            entry.id
        ))
        .with_hint(format!(
            "look for snapshots with the token {} at the provider {}, then remove its backup.info",
            record.token, record.provider
        ))),
        Some(record) if record.snapshots.is_empty() => Ok(Snapshots::default()),
        Some(record) => Ok(Snapshots {
            provider: Some(record.provider),
            volumes: record.snapshots.iter().map(volume_of).collect(),
            tickets: record.snapshots.into_iter().map(|snapshot| snapshot.ticket).collect(),
            ..Snapshots::default()
        }),
        None => match info.snapshots()? {
            Some(stock) => {
                let name = stock.provider_info.provider();
                let adopted = providers.open(name).await?.adopt(&entry.id, &stock).await?;
                let tickets = adopted.into_iter().map(|snapshot| snapshot.ticket).collect();
                Ok(Snapshots { provider: Some(name.to_owned()), tickets, ..Snapshots::default() })
            }
            None => Ok(Snapshots::default()),
        },
    }
}

/// True for an error that says: not this backup, not now. Others say that something does not work.
pub(super) fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Precondition | ErrorKind::Unsupported)
}

/// Deletes them, and what else carries the token that is searched for. What is gone already is success.
pub(super) async fn delete(provider: &dyn SnapshotProvider, tickets: &[Ticket], search: Option<&Trace>) -> Result<()> {
    let mut left = tickets.to_vec();
    for _ in 0..LOOKS {
        if let Some(trace) = search {
            add(&mut left, provider.find(&trace.token, &trace.volumes).await?);
        }
        if left.is_empty() {
            return Ok(());
        }
        provider.check_delete(&left).await?;
        // Concurrently, and all of them even if one fails: a snapshot costs money every hour.
        // Owned tickets: a closure over references makes the whole future one that cannot be sent to a thread.
        let deleted = futures::stream::iter(std::mem::take(&mut left))
            .map(|ticket| async move { provider.delete(&ticket).await });
        let deleted: Vec<Result<()>> = deleted.buffer_unordered(PARALLEL).collect().await;
        deleted.into_iter().collect::<Result<()>>()?;
        if search.is_none() {
            return Ok(());
        }
    }
    Err(Error::new(ErrorKind::Conflict, "snapshots with the token of this backup keep appearing")
        .with_hint("is its session still running?"))
}

/// Adds tickets that are not there yet.
fn add(tickets: &mut Vec<Ticket>, more: Vec<Ticket>) {
    for ticket in more {
        if !tickets.iter().any(|known| known.snapshot == ticket.snapshot) {
            tickets.push(ticket);
        }
    }
}
