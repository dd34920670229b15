//! Disks made of snapshots, for a restore: made, attached, detached, deleted.
//!
//! A disk is made in the resource group, region and zone of the machine that it is for, of the kind that the source was. It
//! carries the restore's token; one that does not is never deleted.
//!
//! Attaching is `Virtual Machines - Attach Detach Data Disks` (API 2024-07-01), which leaves the rest of the machine alone.

use std::collections::BTreeMap;
use std::time::Duration;

use azure_core::headers::{AZURE_ASYNCOPERATION, Headers};
use azure_mgmt_compute::package_2024_07_01::{Client, models};
use chrono::DateTime;
use futures::TryStreamExt;
use models::creation_data::CreateOption;
use serde_json::Value;

use super::AzureProvider;
use super::arm::{ResourceId, Scope, key, location};
use super::client::gone;
use super::errors::Call;
use super::shape::{Shape, sku_name};
use super::snapshots::{Operation, read_operation};
use super::volumes::{READ_DISK, attached, get_disk, hints};
use super::{instance, names, snapshots};
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::id::Token;
use crate::provider::{CreateVolumeRequest, Instance, RestoredVolume, Ticket};

const WRITE_DISK: &str = "Microsoft.Compute/disks/write";
const DELETE_DISK: &str = "Microsoft.Compute/disks/delete";
const ATTACH: &str = "Microsoft.Compute/virtualMachines/attachDetachDataDisks/action";

/// How long a disk is waited for: made, attached, detached or deleted.
const PATIENCE: Duration = Duration::from_secs(600);

fn subject(id: &ResourceId) -> String {
    format!("disk {} in resource group {}", id.name, id.scope.group)
}

/// Makes a disk of a snapshot and waits until it can be attached.
pub(super) async fn create(azure: &AzureProvider, request: &CreateVolumeRequest) -> Result<RestoredVolume> {
    let instance = request
        .instance
        .as_ref()
        .ok_or_else(|| Error::invalid("a disk is made where its machine is: no instance is given"))?;
    let place = instance.attributes.get(key::LOCATION).cloned().unwrap_or_default();
    let snapshot = source(azure, &request.ticket, &place).await?;
    let scope = instance::id(instance)?.scope;
    let id = scope.id("disks", &names::disk_name(&request.ticket.name, &request.token));
    match get_disk(azure, &id).await? {
        Some(disk) if token_of(&disk).as_deref() == Some(request.token.as_str()) => {}
        Some(_) => {
            let message = format!("there is a {} already, and this restore has not made it", subject(&id));
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        None => {
            let model = model(azure, request, instance, &snapshot, &place).await?;
            let subject = subject(&id);
            let send = |client: &Client| {
                client.disks_client().create_or_update(&scope.subscription, &scope.group, &id.name, model).send()
            };
            azure.clients.write(Call { action: WRITE_DISK, subject: &subject }, send).await?;
        }
    }
    made(azure, &id).await?;
    Ok(restored(&id, &place, &request.token))
}

/// The snapshot to start from: the one in the machine's region.
async fn source(azure: &AzureProvider, ticket: &Ticket, place: &str) -> Result<ResourceId> {
    let of = |name: &str| ticket.attributes.get(name);
    let copied_here = of(key::COPY_LOCATION).is_some_and(|copy| copy == place);
    let id =
        ResourceId::stored(if copied_here { of(key::COPY).unwrap_or(&ticket.snapshot) } else { &ticket.snapshot })?;
    let Some(snapshot) = snapshots::get(azure, &id).await? else {
        return Err(Error::not_found(format!("no such {}", snapshots::subject(&id))));
    };
    let there = location(&snapshot.resource.location);
    if there != place {
        let message = format!("{} is in {there}, the machine is in {place}", snapshots::subject(&id));
        return Err(Error::precondition(message)
            .with_hint("restore to a machine in that region, or have snapshots copied (--azure-copy-to)"));
    }
    Ok(id)
}

async fn model(
    azure: &AzureProvider,
    request: &CreateVolumeRequest,
    instance: &Instance,
    snapshot: &ResourceId,
    place: &str,
) -> Result<models::Disk> {
    let attributes = &request.ticket.attributes;
    let sku = match attributes.get(key::DISK_SKU) {
        Some(_) => None,
        None => sku_of_source(azure, snapshot).await?,
    };
    let shape = Shape::of(&request.ticket, &azure.options, instance, sku);
    let creation = models::CreationData {
        source_resource_id: Some(snapshot.to_string()),
        logical_sector_size: attributes.get(key::SECTOR).and_then(|size| size.parse().ok()),
        ..models::CreationData::new(CreateOption::Copy)
    };
    let tags: BTreeMap<String, String> = [
        (names::TOKEN.to_owned(), request.token.to_string()),
        (names::MARK.to_owned(), request.mark.clone()),
        (names::RESTORED.to_owned(), request.ticket.name.clone()),
    ]
    .into();
    let resource = models::Resource { tags: Some(names::write_tags(&tags)), ..models::Resource::new(place.to_owned()) };
    // A disk that is stored in all zones is in none.
    let zones = if shape.sku.ends_with("_ZRS") {
        Vec::new()
    } else {
        instance.attributes.get(key::ZONE).cloned().into_iter().collect()
    };
    let name = serde_json::from_value(Value::String(shape.sku.clone())).ok();
    let mut properties = models::DiskProperties::new(creation);
    shape.apply(&mut properties);
    Ok(models::Disk {
        sku: Some(models::DiskSku { name, tier: None }),
        zones,
        properties: Some(properties),
        ..models::Disk::new(resource)
    })
}

/// The kind of the disk that a stock snapshot was made of, if it still exists.
async fn sku_of_source(azure: &AzureProvider, snapshot: &ResourceId) -> Result<Option<String>> {
    let source = snapshots::get(azure, snapshot)
        .await?
        .and_then(|snapshot| snapshot.properties?.creation_data.source_resource_id)
        .and_then(|id| ResourceId::parse(&id))
        .filter(|id| id.kind.eq_ignore_ascii_case("disks"));
    let disk = match source {
        Some(id) => get_disk(azure, &id).await?,
        None => None,
    };
    Ok(disk.as_ref().and_then(sku_name))
}

/// Waits until a disk is made.
async fn made(azure: &AzureProvider, id: &ResourceId) -> Result<()> {
    let mut wait = azure.wait(PATIENCE);
    loop {
        let state = get_disk(azure, id).await?.and_then(|disk| disk.properties?.provisioning_state);
        match state.as_deref() {
            Some("Succeeded") => return Ok(()),
            Some(failed @ ("Failed" | "Canceled")) => {
                let message = format!("{} could not be made: Azure says {failed}", subject(id));
                return Err(Error::new(ErrorKind::Provider, message));
            }
            _ => {}
        }
        if !wait.pause().await {
            return Err(too_long(&format!("{} was not made", subject(id))));
        }
    }
}

fn too_long(what: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("{what} within {} s", PATIENCE.as_secs())).with_retry(Retry::Unknown)
}

fn restored(id: &ResourceId, place: &str, token: &Token) -> RestoredVolume {
    let mut attributes = BTreeMap::new();
    id.scope.put(&mut attributes);
    attributes.insert(key::LOCATION.to_owned(), place.to_owned());
    attributes.insert(RestoredVolume::TOKEN.to_owned(), token.to_string());
    RestoredVolume { id: id.to_string(), attributes, ..RestoredVolume::default() }
}

fn token_of(disk: &models::Disk) -> Option<String> {
    names::read_tags(disk.resource.tags.as_ref()).get(names::TOKEN).cloned()
}

/// Attaches a disk at a free LUN and waits until it is there.
pub(super) async fn attach(
    azure: &AzureProvider,
    volume: &RestoredVolume,
    instance: &Instance,
) -> Result<RestoredVolume> {
    let disk = ResourceId::stored(&volume.id)?;
    // One change of a machine at a time is all that the service takes.
    let _one_at_a_time = azure.attaching.lock().await;
    let mut wait = azure.wait(PATIENCE);
    loop {
        let machine = instance::get(azure, &instance::id(instance)?).await?;
        let lun = attached(&machine).into_iter().find(|attached| attached.disk.same(&disk)).and_then(|found| found.lun);
        if let Some(lun) = lun {
            let mut attributes = volume.attributes.clone();
            attributes.insert(key::LUN.to_owned(), lun.to_string());
            return Ok(RestoredVolume { hints: hints(lun), attributes, ..volume.clone() });
        }
        // Without a LUN the service takes a free one.
        let attach = models::DataDisksToAttach::new(disk.to_string());
        let body = models::AttachDetachDataDisksRequest {
            data_disks_to_attach: vec![attach],
            data_disks_to_detach: Vec::new(),
        };
        change(azure, instance, body, &format!("attach {}", subject(&disk)), &mut wait).await?;
    }
}

/// Detaches a disk and waits until it is gone from the machine.
pub(super) async fn detach(azure: &AzureProvider, volume: &RestoredVolume, instance: &Instance) -> Result<()> {
    let disk = ResourceId::stored(&volume.id)?;
    let _one_at_a_time = azure.attaching.lock().await;
    let mut wait = azure.wait(PATIENCE);
    loop {
        let machine = match instance::get(azure, &instance::id(instance)?).await {
            Ok(machine) => machine,
            Err(error) if gone(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        if !attached(&machine).iter().any(|attached| attached.disk.same(&disk)) {
            return Ok(());
        }
        let detach = models::DataDisksToDetach::new(disk.to_string());
        let body = models::AttachDetachDataDisksRequest {
            data_disks_to_attach: Vec::new(),
            data_disks_to_detach: vec![detach],
        };
        change(azure, instance, body, &format!("detach {}", subject(&disk)), &mut wait).await?;
    }
}

/// One change of a machine's disks, followed to its end. The caller looks again what has become of it.
async fn change(
    azure: &AzureProvider,
    instance: &Instance,
    body: models::AttachDetachDataDisksRequest,
    what: &str,
    wait: &mut super::Wait,
) -> Result<()> {
    let machine = instance::id(instance)?;
    let subject = format!("{what} at virtual machine {}", machine.name);
    let call = Call { action: ATTACH, subject: &subject };
    let send = |client: &Client| {
        let machines = client.virtual_machines_client();
        machines.attach_detach_data_disks(&machine.scope.group, &machine.name, body, &machine.scope.subscription).send()
    };
    let patience = async |wait: &mut super::Wait| {
        if wait.pause().await { Ok(()) } else { Err(too_long(&format!("could not {subject}"))) }
    };
    let headers: Headers = match azure.clients.write(call, send).await {
        Ok(response) => response.as_raw_response().headers().clone(),
        // The machine is being changed by another, or the outcome is unknown: the caller looks.
        Err(error) if error.kind() == ErrorKind::Conflict || matches!(error.retry(), Retry::Safe | Retry::Unknown) => {
            tracing::debug!(error = error.chain(), "looking again");
            return patience(wait).await;
        }
        Err(error) => return Err(error),
    };
    let Some(address) = headers.get_optional_str(&AZURE_ASYNCOPERATION) else { return patience(wait).await };
    loop {
        match azure.clients.get(call, address).await.map(|body| read_operation(&body)) {
            Ok(Operation::Done) => return Ok(()),
            Ok(Operation::Failed(reason)) => {
                return Err(Error::new(ErrorKind::Provider, format!("could not {subject}: {reason}")));
            }
            Ok(Operation::Running) => patience(wait).await?,
            // A role may let us change the machine and not see the operation.
            Err(error) if gone(&error) || error.kind() == ErrorKind::PermissionDenied => return patience(wait).await,
            Err(error) => return Err(error),
        }
    }
}

/// Deletes a disk that a restore has made.
pub(super) async fn delete(azure: &AzureProvider, volume: &RestoredVolume) -> Result<()> {
    let refuse =
        || Error::new(ErrorKind::Conflict, format!("not made by this restore, so it is not deleted: {}", volume.id));
    let id = ResourceId::parse(&volume.id).ok_or_else(refuse)?;
    let Some(disk) = get_disk(azure, &id).await? else { return Ok(()) };
    let token = volume.attributes.get(RestoredVolume::TOKEN).ok_or_else(refuse)?;
    let is_restored = names::read_tags(disk.resource.tags.as_ref()).contains_key(names::RESTORED);
    if !is_restored || token_of(&disk).as_ref() != Some(token) {
        return Err(refuse());
    }
    let subject = subject(&id);
    let send = |client: &Client| client.disks_client().delete(&id.scope.subscription, &id.scope.group, &id.name).send();
    match azure.clients.write(Call { action: DELETE_DISK, subject: &subject }, send).await {
        Err(error) if !gone(&error) => return Err(error),
        _ => {}
    }
    let mut wait = azure.wait(PATIENCE);
    while get_disk(azure, &id).await?.is_some() {
        if !wait.pause().await {
            return Err(too_long(&format!("{subject} was not deleted")).with_retry(Retry::Safe));
        }
    }
    Ok(())
}

/// The disks that restores have made for this mark and that are attached to nothing.
pub(super) async fn list(azure: &AzureProvider, mark: &str) -> Result<Vec<RestoredVolume>> {
    let scope = azure.scope()?;
    let subject = format!("the disks in resource group {}", scope.group);
    let ask = |client: &Client| {
        let pages = client.disks_client().list_by_resource_group(&scope.subscription, &scope.group).into_stream();
        let all = pages.try_fold(Vec::new(), |mut all, page| async move {
            all.extend(page.value);
            Ok(all)
        });
        Box::pin(all) as futures::future::BoxFuture<'static, _>
    };
    let disks: Vec<models::Disk> = azure.clients.read(Call { action: READ_DISK, subject: &subject }, ask).await?;
    Ok(disks.iter().filter_map(|disk| left(disk, &scope, mark)).collect())
}

fn left(disk: &models::Disk, scope: &Scope, mark: &str) -> Option<RestoredVolume> {
    let tags = names::read_tags(disk.resource.tags.as_ref());
    let is_left = tags.contains_key(names::RESTORED)
        && tags.get(names::MARK).is_some_and(|found| found == mark)
        && disk.managed_by.is_none();
    let token = tags.get(names::TOKEN)?.parse().ok()?;
    let properties = disk.properties.as_ref();
    let time = properties.and_then(|properties| properties.time_created);
    let created = time.and_then(|time| DateTime::from_timestamp(time.unix_timestamp(), 0));
    // The service sets it when a disk is attached or detached.
    let used = properties.is_some_and(|properties| properties.last_ownership_update_time.is_some());
    is_left.then(|| {
        let id = scope.id("disks", disk.resource.name.as_deref().unwrap_or_default());
        restored(&id, &location(&disk.resource.location), &token).born(created, used)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_disks_of_a_restore_that_hang_nowhere_are_left_over() {
        let scope = Scope { subscription: "s1".into(), group: "rg1".into() };
        let disk = |mark: &str, tag: &str, owner: Option<&str>| -> models::Disk {
            let tags = serde_json::json!({
                names::TOKEN: Token::from_bits(7).to_string(), names::MARK: mark, tag: "x",
            });
            serde_json::from_value(serde_json::json!({
                "location": "westeurope", "name": "d", "managedBy": owner, "tags": tags,
                "properties": {"creationData": {"createOption": "Copy"}, "timeCreated": "2026-05-29T10:11:12.5+00:00"},
            }))
            .unwrap()
        };
        let found = left(&disk("m", names::RESTORED, None), &scope, "m").unwrap();
        assert!(found.id.ends_with("/disks/d"));
        assert_eq!(found.attributes[RestoredVolume::TOKEN], Token::from_bits(7).to_string());
        assert_eq!(found.attributes[RestoredVolume::CREATED], "2026-05-29T10:11:12Z");
        assert!(!found.was_used());
        assert!(left(&disk("m", names::RESTORED, Some("/vm")), &scope, "m").is_none());
        assert!(left(&disk("other", names::RESTORED, None), &scope, "m").is_none());
        assert!(left(&disk("m", "something", None), &scope, "m").is_none());
    }
}
