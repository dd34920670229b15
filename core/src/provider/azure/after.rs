//! After backup mode: copies in another region. And what can keep a snapshot from being deleted: resource locks.
//!
//! A copy is an incremental snapshot with `createOption` `CopyStart`
//! (<https://learn.microsoft.com/azure/virtual-machines/disks-copy-incremental-snapshot-across-regions>). It has a name that follows
//! from that of its original, carries the same token and mark, and its id stands in the original's ticket, with which it is
//! deleted.

use std::time::Duration;

use azure_mgmt_compute::package_2024_07_01::models;
use futures::future::try_join_all;
use models::creation_data::CreateOption;
use serde_json::Value;

use super::AzureProvider;
use super::arm::{ResourceId, key};
use super::errors::Call;
use super::snapshots::Operation;
use super::{names, snapshots};
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::provider::{AfterCut, CreateRequest, SnapshotState, Ticket, Volume, VolumeSnapshot};

/// The longest that a copy is waited for; a first one of a big disk takes hours.
const COPYING: Duration = Duration::from_secs(48 * 3600);
/// How long a copy may not show. One whose PUT got no answer may not have been made at all.
const SHOWS_WITHIN: Duration = Duration::from_secs(60);
const LOCKS: &str = "Microsoft.Authorization/locks/read";

pub(super) fn after_cut(volumes: &[Volume]) -> AfterCut {
    let copied = |volume: &Volume| volume.attributes.contains_key(key::COPY_LOCATION);
    AfterCut { promote: false, secure: volumes.iter().any(copied) }
}

/// Copies what is to be copied, all at once, and waits until the copies are complete.
pub(super) async fn secure(
    azure: &AzureProvider,
    requests: &[CreateRequest],
    tickets: &[Ticket],
) -> Result<Vec<Ticket>> {
    try_join_all(tickets.iter().map(async |ticket| {
        let wanted = requests.iter().find_map(|request| {
            let snapshot = request.volumes.iter().find(|snapshot| snapshot.volume.id == ticket.volume)?;
            Some((request, snapshot, snapshot.volume.attributes.get(key::COPY_LOCATION)?))
        });
        match wanted {
            Some((request, snapshot, region)) => copy(azure, request, snapshot, ticket, region).await,
            None => Ok(ticket.clone()),
        }
    }))
    .await
}

async fn copy(
    azure: &AzureProvider,
    request: &CreateRequest,
    snapshot: &VolumeSnapshot,
    ticket: &Ticket,
    region: &str,
) -> Result<Ticket> {
    let source = ResourceId::stored(&ticket.snapshot)?;
    let id = source.scope.id("snapshots", &names::fitted(&format!("{}-{region}", source.name)));
    if !is_there(azure, &id, &source, ticket).await? {
        let mut tags = names::tags(request, snapshot);
        tags.insert(names::COPY_OF.to_owned(), source.to_string());
        let mut properties = snapshots::copy_of(CreateOption::CopyStart, &ticket.snapshot);
        super::volumes::network::apply(&snapshot.volume.attributes, &mut properties);
        // Access over a private link is a resource of one region, too.
        if properties.disk_access_id.take().is_some() {
            properties.network_access_policy = Some(models::NetworkAccessPolicy::DenyAll);
        }
        let model = snapshots::with_properties(region, names::write_tags(&tags), snapshots::sku(azure), properties);
        match snapshots::put(azure, &id, model).await {
            // It may have been made; the wait tells.
            Err(error) if error.retry() == Retry::Unknown => tracing::warn!(error = error.chain(), "copying goes on"),
            other => other?,
        }
    }
    complete(azure, &id).await?;
    let mut attributes = ticket.attributes.clone();
    attributes.insert(key::COPY.to_owned(), id.to_string());
    attributes.insert(key::COPY_LOCATION.to_owned(), region.to_owned());
    Ok(Ticket { attributes, ..ticket.clone() })
}

/// Whether the copy was begun before, by a call whose reply was lost, and has not failed.
async fn is_there(azure: &AzureProvider, id: &ResourceId, source: &ResourceId, ticket: &Ticket) -> Result<bool> {
    let Some(existing) = snapshots::get(azure, id).await? else { return Ok(false) };
    let tags = names::read_tags(existing.resource.tags.as_ref());
    let of = tags.get(names::COPY_OF).and_then(|id| ResourceId::parse(id));
    if of.is_some_and(|of| of.same(source)) && tags.get(names::TOKEN).is_some_and(|t| t == ticket.token.as_str()) {
        // One that failed stays so: it makes way for a new one.
        if let SnapshotState::Failed { reason } = snapshots::state(&existing, true) {
            tracing::warn!(copy = %id, reason, "a copy failed; it is made anew");
            snapshots::delete_one(azure, id, ticket).await?;
            return Ok(false);
        }
        return Ok(true);
    }
    let message = format!("there is a {} already, and it is no copy of this backup", snapshots::subject(id));
    Err(Error::new(ErrorKind::Conflict, message))
}

/// Waits until a copy is complete. One that does not show is waited for only as long as its operation runs.
async fn complete(azure: &AzureProvider, id: &ResourceId) -> Result<()> {
    let mut wait = azure.wait(COPYING);
    let mut last_seen = azure.clients.clock().monotonic();
    loop {
        let now = azure.clients.clock().monotonic();
        let state = match snapshots::get(azure, id).await? {
            // A copy counts only when all of it is there.
            Some(copy) => {
                last_seen = now;
                snapshots::state(&copy, true)
            }
            None => match snapshots::operation(azure, id).await? {
                Some(Operation::Failed(reason)) => SnapshotState::Failed { reason },
                Some(Operation::Running) => {
                    last_seen = now;
                    SnapshotState::Creating
                }
                // A second PUT of the name makes no second copy.
                Some(Operation::Done) | None if now.saturating_sub(last_seen) >= SHOWS_WITHIN => {
                    let message = format!("the copy {} does not show", snapshots::subject(id));
                    return Err(Error::new(ErrorKind::Unavailable, message).with_retry(Retry::Safe));
                }
                Some(Operation::Done) | None => SnapshotState::Creating,
            },
        };
        match state {
            SnapshotState::Ready => return Ok(()),
            SnapshotState::Failed { reason } => {
                let message = format!("the copy {} failed: {reason}", snapshots::subject(id));
                return Err(Error::new(ErrorKind::Provider, message));
            }
            SnapshotState::Creating | SnapshotState::Cut => {}
        }
        if !wait.pause().await {
            let message = format!("the copy {} is not complete after 48 hours", snapshots::subject(id));
            return Err(Error::new(ErrorKind::Unavailable, message).with_retry(Retry::Safe));
        }
    }
}

/// Whether all of these belong to the sessions of their tickets. What is gone is fine.
async fn check_ours(azure: &AzureProvider, all: &[(ResourceId, &Ticket)]) -> Result<()> {
    let found = try_join_all(all.iter().map(|(id, _)| snapshots::get(azure, id))).await?;
    let mut theirs = Vec::new();
    for (found, (id, ticket)) in found.iter().zip(all) {
        if found.as_ref().is_some_and(|found| snapshots::is_foreign(found, ticket)) {
            theirs.push(snapshots::subject(id));
        }
    }
    if theirs.is_empty() {
        return Ok(());
    }
    Err(Error::precondition(format!("snapshots without the token of their session: {}", theirs.join(", ")))
        .with_hint("they were not made by this backup; they are left alone"))
}

/// Whether a lock on the snapshots or on their group is in the way. Who may not see locks learns of them when he deletes.
pub(super) async fn check_delete(azure: &AzureProvider, tickets: &[Ticket]) -> Result<()> {
    let mut all = Vec::new();
    for ticket in tickets {
        for id in [Some(&ticket.snapshot), ticket.attributes.get(key::COPY)].into_iter().flatten() {
            all.push((ResourceId::stored(id)?, ticket));
        }
    }
    check_ours(azure, &all).await?;
    let ids: Vec<ResourceId> = all.into_iter().map(|(id, _)| id).collect();
    let mut scopes: Vec<_> = ids.iter().map(|id| id.scope.clone()).collect();
    scopes.sort();
    scopes.dedup();
    let mut locked = Vec::new();
    for scope in scopes {
        let subject = format!("the locks of resource group {}", scope.group);
        let address = format!("{scope}/providers/Microsoft.Authorization/locks?api-version=2016-09-01");
        let locks = match azure.clients.get(Call { action: LOCKS, subject: &subject }, &address).await {
            Ok(locks) => locks,
            Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::NotFound) => continue,
            Err(error) => return Err(error),
        };
        locked.extend(ids.iter().filter(|id| id.scope == scope).flat_map(|id| locks_of(id, &locks)));
    }
    if locked.is_empty() {
        return Ok(());
    }
    Err(Error::precondition(format!("resource locks forbid to delete snapshots: {}", locked.join("; ")))
        .with_hint("remove the locks (`az lock delete`) and try again"))
}

/// The locks that apply to a snapshot: its own and those of its group.
fn locks_of(id: &ResourceId, locks: &Value) -> Vec<String> {
    let (id_text, group) = (id.to_string().to_lowercase(), id.scope.to_string().to_lowercase());
    let text = |lock: &Value, name: &str| lock.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let all = locks.get("value").and_then(Value::as_array).into_iter().flatten();
    all.filter_map(|lock| {
        let lock_id = text(lock, "id").to_lowercase();
        let (on, _) = lock_id.split_once("/providers/microsoft.authorization/locks/")?;
        let level = text(lock.get("properties")?, "level");
        let is_on_it = on == id_text || on == group;
        (is_on_it && level != "NotSpecified").then(|| format!("{} by {} ({level})", id.name, text(lock, "name")))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::names::tests;
    use super::*;

    #[test]
    fn only_what_is_to_be_copied_needs_more_than_the_cut() {
        let mut volume = tests::volume("pg-data");
        assert_eq!(after_cut(std::slice::from_ref(&volume)), AfterCut::default());
        volume.attributes.insert(key::COPY_LOCATION.into(), "northeurope".into());
        assert!(after_cut(&[volume]).secure);
    }

    #[test]
    fn locks_of_a_snapshot_are_its_own_and_those_of_its_group() {
        let group = "/subscriptions/s1/resourceGroups/rg1";
        let id = ResourceId::parse(&format!("{group}/providers/Microsoft.Compute/snapshots/a")).unwrap();
        let lock = |on: &str, name: &str| {
            let on = format!("{on}/providers/Microsoft.Authorization/locks/{name}");
            serde_json::json!({"id": on, "name": name, "properties": {"level": "CanNotDelete"}})
        };
        let locks = serde_json::json!({"value": [
            lock(&id.to_string().to_uppercase(), "mine"), lock(group, "all"),
            lock(&format!("{group}/providers/Microsoft.Compute/snapshots/ab"), "other"),
        ]});
        assert_eq!(locks_of(&id, &locks), ["a by mine (CanNotDelete)", "a by all (CanNotDelete)"]);
    }
}
