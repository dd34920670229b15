//! The life of a snapshot: made, looked at, found, deleted.
//!
//! `Snapshots - Create Or Update` is a PUT on a name that the engine has minted. A repeated PUT of the same body is the same
//! snapshot, but one with another body would *change* a snapshot that has that name already; therefore the group is read
//! first, and a name that is taken by somebody else is a conflict. (The API takes no `If-None-Match` for snapshots.)
//!
//! The reason why a snapshot failed stands in the asynchronous operation alone. Its address comes with the reply to the PUT and
//! cannot be found out again, so it is kept in memory; another process says no more than that the snapshot failed.

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use azure_core::headers::AZURE_ASYNCOPERATION;
use azure_mgmt_compute::package_2024_07_01::{Client, models};
use futures::TryStreamExt;
use models::creation_data::CreateOption;
use serde_json::Value;

use super::AzureProvider;
use super::arm::{ResourceId, Scope, key};
use super::client::gone;
use super::errors::{Call, Refusal};
use super::names;
use super::volumes::network;
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::provider::{CreateRequest, SnapshotState, SnapshotStatus, Ticket, VolumeSnapshot};

pub(super) const WRITE: &str = "Microsoft.Compute/snapshots/write";
pub(super) const READ: &str = "Microsoft.Compute/snapshots/read";
pub(super) const DELETE: &str = "Microsoft.Compute/snapshots/delete";

/// How long a delete call is followed. Azure deletes a snapshot within seconds.
const DELETING: Duration = Duration::from_secs(120);
/// How many operations are remembered.
const REMEMBERED: usize = 1000;

/// The addresses of operations that make snapshots, by the snapshot's id.
#[derive(Debug, Default)]
pub(super) struct Operations(Mutex<BTreeMap<String, String>>);

impl Operations {
    fn remember(&self, snapshot: &str, address: &str) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.pop_first();
        }
        known.insert(snapshot.to_owned(), address.to_owned());
    }

    fn of(&self, snapshot: &str) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(snapshot).cloned()
    }

    fn forget(&self, snapshot: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(snapshot);
    }
}

pub(super) fn subject(id: &ResourceId) -> String {
    format!("snapshot {} in resource group {}", id.name, id.scope.group)
}

/// Starts one snapshot.
pub(super) async fn create(azure: &AzureProvider, request: &CreateRequest) -> Result<Vec<Ticket>> {
    let [snapshot] = request.volumes.as_slice() else {
        return Err(super::group::refused());
    };
    let scope = names::scope(snapshot)?;
    let ticket = names::planned(request, snapshot)?;
    let id = scope.id("snapshots", &snapshot.name);
    for existing in list_group(azure, &scope).await?.iter() {
        let tags = names::read_tags(existing.resource.tags.as_ref());
        let name = existing.resource.name.clone().unwrap_or_default();
        let theirs = names::ticket(&scope.id("snapshots", &name), &tags).filter(|_| !tags.contains_key(names::COPY_OF));
        match theirs {
            Some(theirs) if theirs.token == ticket.token && theirs.volume == ticket.volume => return Ok(vec![theirs]),
            _ if name.eq_ignore_ascii_case(&snapshot.name) => {
                let message = format!("there is a {} already, and this session has not made it", subject(&id));
                return Err(Error::new(ErrorKind::Conflict, message));
            }
            _ => {}
        }
    }
    let model = model(azure, request, snapshot)?;
    match snapshot.volume.attributes.get(key::INSTANT) {
        Some(minutes) => put_instant(azure, &id, &model, minutes).await?,
        None => put(azure, &id, model).await?,
    }
    Ok(vec![ticket])
}

/// Sends the PUT of a snapshot and remembers its operation.
pub(super) async fn put(azure: &AzureProvider, id: &ResourceId, model: models::Snapshot) -> Result<()> {
    let subject = subject(id);
    let call = Call { action: WRITE, subject: &subject };
    let send = |client: &Client| {
        let target = &id.scope;
        client.snapshots_client().create_or_update(&target.subscription, &target.group, &id.name, model).send()
    };
    // What an earlier PUT of the name came to says nothing about this one.
    azure.operations.forget(&id.to_string());
    let response = azure.clients.write(call, send).await?;
    if let Some(address) = response.as_raw_response().headers().get_optional_str(&AZURE_ASYNCOPERATION) {
        azure.operations.remember(&id.to_string(), address);
    }
    Ok(())
}

/// Sends the PUT of a snapshot that is to be of use before all is copied. The generated client knows no version of the API that has
/// this (2025-01-02, <https://learn.microsoft.com/azure/virtual-machines/disks-instant-access-snapshots>).
async fn put_instant(azure: &AzureProvider, id: &ResourceId, model: &models::Snapshot, minutes: &str) -> Result<()> {
    let subject = subject(id);
    let bad = |what: &str| Error::corrupt(format!("{what} for {subject}"));
    let minutes: u32 = minutes.parse().map_err(|_| bad("not a duration of instant access"))?;
    let mut body = serde_json::to_value(model).map_err(|error| bad("no body").with_source(error))?;
    body["properties"]["creationData"]["instantAccessDurationMinutes"] = minutes.into();
    azure.operations.forget(&id.to_string());
    let address = format!("{id}?api-version=2025-01-02");
    let headers = azure.clients.put(Call { action: WRITE, subject: &subject }, &address, &body).await?;
    if let Some(address) = headers.get_optional_str(&AZURE_ASYNCOPERATION) {
        azure.operations.remember(&id.to_string(), address);
    }
    Ok(())
}

/// The body of the PUT.
fn model(azure: &AzureProvider, request: &CreateRequest, snapshot: &VolumeSnapshot) -> Result<models::Snapshot> {
    let attributes = &snapshot.volume.attributes;
    let missing = |what: &str| Error::corrupt(format!("volume {} has no {what}", snapshot.volume.id));
    let disk = attributes.get(key::DISK).ok_or_else(|| missing("disk id"))?;
    let location = attributes.get(key::LOCATION).ok_or_else(|| missing("location"))?;
    let mut properties = copy_of(CreateOption::Copy, disk);
    network::apply(attributes, &mut properties);
    properties.encryption = encryption(azure);
    let tags = names::write_tags(&names::tags(request, snapshot));
    Ok(with_properties(location, tags, sku(azure), properties))
}

/// An incremental snapshot of a disk or of another snapshot.
pub(super) fn copy_of(option: CreateOption, source: &str) -> models::SnapshotProperties {
    let creation =
        models::CreationData { source_resource_id: Some(source.to_owned()), ..models::CreationData::new(option) };
    models::SnapshotProperties { incremental: Some(true), ..models::SnapshotProperties::new(creation) }
}

pub(super) fn with_properties(
    location: &str,
    tags: Value,
    sku: Option<models::SnapshotSku>,
    properties: models::SnapshotProperties,
) -> models::Snapshot {
    let resource = models::Resource { tags: Some(tags), ..models::Resource::new(location.to_owned()) };
    models::Snapshot { sku, properties: Some(properties), ..models::Snapshot::new(resource) }
}

/// The storage that the user wants for snapshots; what is not known goes to the service as it is.
pub(super) fn sku(azure: &AzureProvider) -> Option<models::SnapshotSku> {
    let name = azure.options.snapshot_sku.as_ref()?;
    let name = serde_json::from_value(Value::String(name.clone())).ok();
    Some(models::SnapshotSku { name, tier: None })
}

/// The key that the user wants for snapshots; without one Azure decides as for every snapshot of the disk.
pub(super) fn encryption(azure: &AzureProvider) -> Option<models::Encryption> {
    azure.options.disk_encryption_set.as_ref().map(|set| models::Encryption {
        disk_encryption_set_id: Some(set.clone()),
        type_: Some(models::EncryptionType::EncryptionAtRestWithCustomerKey),
    })
}

/// A snapshot, if it exists.
pub(super) async fn get(azure: &AzureProvider, id: &ResourceId) -> Result<Option<models::Snapshot>> {
    let subject = subject(id);
    let ask = |client: &Client| {
        client.snapshots_client().get(&id.scope.subscription, &id.scope.group, &id.name).into_future()
    };
    azure.clients.look(Call { action: READ, subject: &subject }, ask).await
}

/// All snapshots of a resource group, page after page.
pub(super) async fn list_group(azure: &AzureProvider, scope: &Scope) -> Result<Arc<Vec<models::Snapshot>>> {
    azure.listings.get(scope, fetch(azure, scope)).await
}

async fn fetch(azure: &AzureProvider, scope: &Scope) -> Result<Vec<models::Snapshot>> {
    let subject = format!("the snapshots in resource group {}", scope.group);
    let ask = |client: &Client| {
        let pages = client.snapshots_client().list_by_resource_group(&scope.subscription, &scope.group).into_stream();
        let all = pages.try_fold(Vec::new(), |mut all, page| async move {
            all.extend(page.value);
            Ok(all)
        });
        Box::pin(all) as futures::future::BoxFuture<'static, _>
    };
    azure.clients.read(Call { action: READ, subject: &subject }, ask).await
}

/// How far a snapshot is.
pub(super) async fn status(azure: &AzureProvider, ticket: &Ticket) -> Result<SnapshotStatus> {
    let id = ResourceId::stored(&ticket.snapshot)?;
    let absent = || Error::not_found(format!("no such {}", subject(&id)));
    let Some(snapshot) = get(azure, &id).await? else {
        // What fails early leaves nothing behind, and what was just accepted may not show yet.
        return match operation(azure, &id).await? {
            Some(Operation::Failed(reason)) => Ok(status_of(SnapshotState::Failed { reason }, None)),
            Some(Operation::Running) => Ok(status_of(SnapshotState::Creating, None)),
            _ => Err(absent()),
        };
    };
    if !ticket.is_stock() && !carries(&snapshot, ticket) {
        return Err(absent());
    }
    let state = state(&snapshot, is_slow(ticket));
    let percent = percent(&snapshot);
    if let SnapshotState::Failed { reason } = state {
        let told = operation(azure, &id).await.ok().flatten();
        let reason = if let Some(Operation::Failed(why)) = told { why } else { reason };
        return Ok(status_of(SnapshotState::Failed { reason }, percent));
    }
    Ok(status_of(state, percent))
}

fn status_of(state: SnapshotState, percent: Option<u8>) -> SnapshotStatus {
    SnapshotStatus { state, percent, bytes_copied: None }
}

/// Whether the data of a disk's snapshots is copied before they can be used: Ultra and Premium SSD v2.
fn is_slow(ticket: &Ticket) -> bool {
    ticket.attributes.get(key::DISK_SKU).is_some_and(|sku| super::volumes::is_slow(sku))
}

pub(super) fn percent(snapshot: &models::Snapshot) -> Option<u8> {
    let percent = snapshot.properties.as_ref()?.completion_percent?;
    Some(percent.clamp(0.0, 100.0) as u8)
}

/// The state as the module says.
pub(super) fn state(snapshot: &models::Snapshot, slow: bool) -> SnapshotState {
    let properties = snapshot.properties.as_ref();
    if let Some(error) = properties.and_then(|properties| properties.copy_completion_error.as_ref()) {
        return SnapshotState::Failed { reason: error.error_message.clone() };
    }
    match properties.and_then(|properties| properties.provisioning_state.as_deref()).unwrap_or("Creating") {
        "Succeeded" => match percent(snapshot) {
            Some(100) => SnapshotState::Ready,
            None if !slow => SnapshotState::Ready,
            _ => SnapshotState::Cut,
        },
        "Failed" | "Canceled" | "Cancelled" | "Deleting" => {
            SnapshotState::Failed { reason: "Azure says that it failed and not why".to_owned() }
        }
        _ => SnapshotState::Creating,
    }
}

/// How an operation stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Running,
    Done,
    Failed(String),
}

/// The operation that makes a snapshot, if this process started it.
pub(super) async fn operation(azure: &AzureProvider, id: &ResourceId) -> Result<Option<Operation>> {
    let Some(address) = azure.operations.of(&id.to_string()) else { return Ok(None) };
    let subject = subject(id);
    match azure.clients.get(Call { action: READ, subject: &subject }, &address).await {
        Ok(body) => Ok(Some(read_operation(&body))),
        // The service keeps operations for a while only, and a role may not let us see them.
        Err(error) if gone(&error) || error.kind() == ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads `{"status", "error"}`,
/// <https://learn.microsoft.com/azure/azure-resource-manager/management/async-operations>.
pub(super) fn read_operation(body: &Value) -> Operation {
    match body.get("status").and_then(Value::as_str).unwrap_or_default() {
        "Succeeded" => Operation::Done,
        failed @ ("Failed" | "Canceled" | "Cancelled") => {
            let reason = body.get("error").map(|error| Refusal::of_error(error).to_string());
            Operation::Failed(reason.unwrap_or_else(|| failed.to_lowercase()))
        }
        _ => Operation::Running,
    }
}

fn carries(snapshot: &models::Snapshot, ticket: &Ticket) -> bool {
    names::read_tags(snapshot.resource.tags.as_ref())
        .get(names::TOKEN)
        .is_some_and(|token| token == ticket.token.as_str())
}

/// Whether a snapshot belongs to another session than its ticket says. A stock one is named by the catalog alone: what carries the
/// token of a session belongs to that one.
pub(super) fn is_foreign(snapshot: &models::Snapshot, ticket: &Ticket) -> bool {
    match ticket.is_stock() {
        true => names::read_tags(snapshot.resource.tags.as_ref()).contains_key(names::TOKEN),
        false => !carries(snapshot, ticket),
    }
}

/// The tickets of all snapshots in these groups with this tag: originals first, so that a copy is never taken for one.
pub(super) async fn tagged(azure: &AzureProvider, scopes: &[Scope], tag: &str, value: &str) -> Result<Vec<Ticket>> {
    let (mut originals, mut copies) = (Vec::new(), Vec::new());
    for scope in scopes {
        for snapshot in list_group(azure, scope).await?.iter() {
            let tags = names::read_tags(snapshot.resource.tags.as_ref());
            if tags.get(tag).is_none_or(|found| found != value) {
                continue;
            }
            let name = snapshot.resource.name.clone().unwrap_or_default();
            let into = if tags.contains_key(names::COPY_OF) { &mut copies } else { &mut originals };
            into.extend(names::ticket(&scope.id("snapshots", &name), &tags));
        }
    }
    originals.append(&mut copies);
    Ok(originals)
}

/// Deletes a snapshot and the copy that its ticket names.
pub(super) async fn delete(azure: &AzureProvider, ticket: &Ticket) -> Result<()> {
    if let Some(copy) = ticket.attributes.get(key::COPY) {
        delete_one(azure, &ResourceId::stored(copy)?, ticket).await?;
    }
    delete_one(azure, &ResourceId::stored(&ticket.snapshot)?, ticket).await
}

pub(super) async fn delete_one(azure: &AzureProvider, id: &ResourceId, ticket: &Ticket) -> Result<()> {
    let Some(snapshot) = get(azure, id).await? else { return Ok(()) };
    if is_foreign(&snapshot, ticket) {
        let message = format!("{} does not carry the token of its session", subject(id));
        return Err(
            Error::new(ErrorKind::Conflict, message).with_hint("it was not made by this backup; it is left alone")
        );
    }
    let subject = subject(id);
    let send =
        |client: &Client| client.snapshots_client().delete(&id.scope.subscription, &id.scope.group, &id.name).send();
    let mut wait = azure.wait(DELETING);
    loop {
        match azure.clients.write(Call { action: DELETE, subject: &subject }, send).await {
            Ok(_) => break,
            Err(error) if gone(&error) => return Ok(()),
            // A snapshot that is being made may have to be made first.
            Err(error) if error.retry() != Retry::Safe || !wait.pause().await => return Err(error),
            Err(_) => {}
        }
    }
    while get(azure, id).await?.is_some() {
        if !wait.pause().await {
            let message = format!("{subject} is still there {} s after it was deleted", DELETING.as_secs());
            return Err(Error::new(ErrorKind::Unavailable, message).with_retry(Retry::Safe));
        }
    }
    azure.operations.forget(&id.to_string());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(state: &str, percent: Option<f64>) -> models::Snapshot {
        let mut body = serde_json::json!({
            "location": "westeurope",
            "properties": {"creationData": {"createOption": "Copy"}, "provisioningState": state},
        });
        if let Some(percent) = percent {
            body["properties"]["completionPercent"] = percent.into();
        }
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn the_states_of_azure_mean_what_the_module_says() {
        use SnapshotState::{Creating, Cut, Ready};
        for (provisioning, percent, slow, expected) in [
            ("Creating", None, false, Creating),
            ("Succeeded", None, false, Ready),
            ("Succeeded", None, true, Cut),
            ("Succeeded", Some(0.0), true, Cut),
            ("Succeeded", Some(99.9), true, Cut),
            ("Succeeded", Some(100.0), true, Ready),
            ("Succeeded", Some(12.0), false, Cut),
            ("Updating", None, false, Creating),
        ] {
            assert_eq!(state(&snapshot(provisioning, percent), slow), expected, "{provisioning} {percent:?} {slow}");
        }
        assert!(matches!(state(&snapshot("Failed", None), false), SnapshotState::Failed { .. }));
        let mut broken = snapshot("Succeeded", Some(40.0));
        broken.properties.as_mut().unwrap().copy_completion_error = serde_json::from_value(
            serde_json::json!({"errorCode": "CopySourceNotFound", "errorMessage": "the source is gone"}),
        )
        .ok();
        assert_eq!(state(&broken, true), SnapshotState::Failed { reason: "the source is gone".into() });
    }

    #[test]
    fn the_reason_of_a_failure_is_that_of_its_operation() {
        let body = serde_json::json!({"status": "Failed", "error": {"code": "QuotaExceeded", "message": "too many."}});
        assert_eq!(read_operation(&body), Operation::Failed("QuotaExceeded: too many".into()));
        assert_eq!(read_operation(&serde_json::json!({"status": "InProgress"})), Operation::Running);
        assert_eq!(read_operation(&serde_json::json!({"status": "Succeeded"})), Operation::Done);
    }
}
