//! The snapshots of a backup that is to be deleted: which they are, whether they can go, and their end.
//!
//! Three sources, in this order: our own record in `backup.info`; the journal of the session ([`Trace`]) where `backup.info`
//! cannot be read or was written before all snapshots were there; and what a stock tool has written about its own.

use futures::StreamExt;

use super::super::CatalogEntry;
use super::super::space::PARALLEL;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Token;
use crate::model::BackupStatus;
use crate::provider::registry::ProviderSource;
use crate::provider::{SnapshotProvider, Ticket, Volume};

/// What the journal of a session says of its snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The provider that has them.
    pub provider: String,
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
    pub(super) search: Option<Trace>,
}

/// How often it is looked again for snapshots that carry a token, while there still are some.
const LOOKS: u32 = 5;

/// Finds out, and makes sure that all of them can be deleted now.
pub(super) async fn of(
    entry: &CatalogEntry,
    providers: &dyn ProviderSource,
    trace: Option<&Trace>,
) -> Result<Snapshots> {
    let mut found = match (named(entry, providers).await, trace) {
        (Ok(found), None) => found,
        // The journal knows all that the metadata know, and more; and it is there for this one.
        (_, Some(trace)) => Snapshots {
            provider: Some(trace.provider.clone()),
            tickets: trace.tickets.clone(),
            search: Some(trace.clone()),
        },
        (Err(error), None) => return Err(error),
    };
    let Some(name) = &found.provider else { return Ok(found) };
    let provider = providers.open(name).await?;
    if let Some(trace) = &found.search {
        add(&mut found.tickets, provider.find(&trace.token, &trace.volumes).await?);
    }
    provider.check_delete(&found.tickets).await?;
    Ok(found)
}

/// The snapshots that the metadata name.
async fn named(entry: &CatalogEntry, providers: &dyn ProviderSource) -> Result<Snapshots> {
    // What cannot be read is deleted only if the user names it. Without a journal it is no backup of this engine.
    let Ok(info) = &entry.info else { return Ok(Snapshots::default()) };
    match info.engine_record()? {
        Some(record) if info.status == BackupStatus::Started => Err(Error::precondition(format!(
            "backup {} is STARTED and has no journal: nobody knows which snapshots it has",
            entry.id
        ))
        .with_hint(format!(
            "look for snapshots with the token {} at the provider {}, then remove its backup.info",
            record.token, record.provider
        ))),
        Some(record) if record.snapshots.is_empty() => Ok(Snapshots::default()),
        Some(record) => Ok(Snapshots {
            provider: Some(record.provider),
            tickets: record.snapshots.into_iter().map(|snapshot| snapshot.ticket).collect(),
            search: None,
        }),
        None => match info.snapshots()? {
            Some(stock) => {
                let name = stock.provider_info.provider();
                let adopted = providers.open(name).await?.adopt(&entry.id, &stock).await?;
                let tickets = adopted.into_iter().map(|snapshot| snapshot.ticket).collect();
                Ok(Snapshots { provider: Some(name.to_owned()), tickets, search: None })
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
