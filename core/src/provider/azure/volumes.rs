//! Which disks are meant, and what of the host lies on them.
//!
//! A volume is a managed data disk of the virtual machine. Its id is its name, as stock has it; if two disks from different
//! resource groups have the same name, both are `<group>/<name>`. A disk may be in another group than the machine.
//!
//! On the host a data disk shows by its LUN: as SCSI disk below `/dev/disk/azure/scsi1`, and, with azure-vm-utils, also on NVMe
//! (sizes from v6 on), below `/dev/disk/azure/data/by-lun`
//! (<https://learn.microsoft.com/azure/virtual-machines/azure-virtual-machine-utilities>).

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::path::PathBuf;

use azure_mgmt_compute::package_2024_07_01::{Client, models};
use futures::future::try_join_all;
use serde_json::Value;

use super::arm::{ResourceId, key, location};
use super::errors::Call;
use super::{AzureProvider, METHOD, instance, shape};
use crate::error::{Error, ErrorKind, Result};
use crate::host::devices::{AttachedDisk, DeviceHint, Disks, HostDescription};
use crate::provider::preflight::describe;
use crate::provider::{Findings, Instance, Preflight, Ticket, Volume, VolumeSelection};

pub(super) const READ_DISK: &str = "Microsoft.Compute/disks/read";

/// A managed disk as the virtual machine has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attached {
    /// The id of the volume.
    pub(super) id: String,
    /// The disk.
    pub(super) disk: ResourceId,
    /// Where it is attached; `None` for the OS disk.
    pub(super) lun: Option<i32>,
}

impl Attached {
    fn is_called(&self, name: &str) -> bool {
        let by_id = ResourceId::parse(name).is_some_and(|id| id.same(&self.disk));
        let with_group = format!("{}/{}", self.disk.scope.group, self.disk.name);
        by_id || self.disk.name.eq_ignore_ascii_case(name) || with_group.eq_ignore_ascii_case(name)
    }

    fn on_host(&self) -> AttachedDisk {
        AttachedDisk { id: self.id.clone(), hints: self.lun.map_or_else(os_hints, hints) }
    }
}

/// Where a data disk shows on the host.
pub(super) fn hints(lun: i32) -> Vec<DeviceHint> {
    let link = |text: String| DeviceHint::Link(PathBuf::from(text));
    vec![link(format!("/dev/disk/azure/data/by-lun/{lun}")), link(format!("/dev/disk/azure/scsi1/lun{lun}"))]
}

fn os_hints() -> Vec<DeviceHint> {
    ["/dev/disk/azure/os", "/dev/disk/azure/root"].map(|link| DeviceHint::Link(link.into())).to_vec()
}

/// Ultra disks and Premium SSD v2, whose snapshots can be used when all data is copied and not before.
pub(super) fn is_slow(sku: &str) -> bool {
    matches!(sku, "UltraSSD_LRS" | "PremiumV2_LRS")
}

/// The volumes of an instance.
pub(super) async fn volumes(
    azure: &AzureProvider,
    instance: &Instance,
    selection: &VolumeSelection,
) -> Result<Vec<Volume>> {
    let machine = instance::get(azure, &instance::id(instance)?).await?;
    let attached = attached(&machine);
    let chosen = match selection {
        VolumeSelection::Named(names) => named(azure, instance, &attached, names).await?,
        VolumeSelection::Holding(_) => Vec::new(),
    };
    let disks = on_host(azure, &attached).await?;
    let on_host = match selection {
        VolumeSelection::Named(_) => disks.named(&chosen)?,
        VolumeSelection::Holding(paths) => disks.holding(paths)?,
    };
    let find = |id: &str| attached.iter().find(|attached| attached.id == id);
    let os: Vec<&str> = on_host
        .iter()
        .filter(|disk| find(&disk.id).is_some_and(|attached| attached.lun.is_none()))
        .map(|disk| disk.id.as_str())
        .collect();
    if !os.is_empty() {
        return Err(os_disk(&os));
    }
    try_join_all(on_host.iter().map(async |on_host| {
        let attached = find(&on_host.id).ok_or_else(|| Error::internal(format!("disk {} is not there", on_host.id)))?;
        let disk = get_disk(azure, &attached.disk)
            .await?
            .ok_or_else(|| Error::not_found(format!("the machine has disk {}, but Azure does not", attached.disk)))?;
        on_host.volume(METHOD, attributes(azure, instance, attached, &disk))
    }))
    .await
}

/// For each ticket the attached disk that was made of its snapshot, or of the copy of it.
pub(super) async fn made_of(
    azure: &AzureProvider,
    instance: &Instance,
    tickets: &[Ticket],
) -> Result<Vec<Option<Volume>>> {
    let attached = attached(&instance::get(azure, &instance::id(instance)?).await?);
    let details = try_join_all(attached.iter().map(|attached| get_disk(azure, &attached.disk))).await?;
    let disks = on_host(azure, &attached).await?;
    let made_of = |ticket: &Ticket| {
        let snapshots = [Some(&ticket.snapshot), ticket.attributes.get(key::COPY)];
        let snapshots: Vec<ResourceId> =
            snapshots.into_iter().flatten().filter_map(|id| ResourceId::parse(id)).collect();
        let is_of = |disk: &Option<models::Disk>| {
            let source = disk.as_ref().and_then(source_of);
            source.is_some_and(|source| snapshots.iter().any(|snapshot| snapshot.same(&source)))
        };
        let at = details.iter().position(is_of)?;
        let attributes = attributes(azure, instance, &attached[at], details[at].as_ref()?);
        let disk = disks.all().iter().find(|disk| disk.id == attached[at].id)?;
        // Called as `create_volume` calls it.
        Some(Volume { id: attached[at].disk.to_string(), ..disk.volume_or_idle(METHOD, attributes) })
    };
    Ok(tickets.iter().map(made_of).collect())
}

/// What a disk was made of.
fn source_of(disk: &models::Disk) -> Option<ResourceId> {
    ResourceId::parse(disk.properties.as_ref()?.creation_data.source_resource_id.as_ref()?)
}

/// What this host, or the described one, makes of the disks.
async fn on_host(azure: &AzureProvider, attached: &[Attached]) -> Result<Disks> {
    let asked: Vec<AttachedDisk> = attached.iter().map(Attached::on_host).collect();
    let description = azure.host_description.clone();
    tokio::task::spawn_blocking(move || {
        let host = match description {
            Some(file) => HostDescription::from_file(&file)?,
            None => HostDescription::here()?,
        };
        Disks::on(&host, &asked)
    })
    .await
    .map_err(|error| Error::internal("a thread of the provider stopped").with_source(error))?
}

/// For `check`: instance and volumes, line by line.
pub(super) async fn look_before(azure: &AzureProvider, name: Option<&str>, selection: &VolumeSelection) -> Preflight {
    let mut findings = Findings::default();
    let found = instance::find(azure, name).await;
    let instance = findings.take("instance", found, |instance| instance.name.clone());
    let volumes = match &instance {
        Some(instance) => look_at_volumes(azure, &mut findings, instance, selection).await,
        None => None,
    };
    Preflight { findings, instance, volumes }
}

async fn look_at_volumes(
    azure: &AzureProvider,
    findings: &mut Findings,
    instance: &Instance,
    selection: &VolumeSelection,
) -> Option<Vec<Volume>> {
    if let VolumeSelection::Named(names) = selection {
        let looked = async {
            let attached = attached(&instance::get(azure, &instance::id(instance)?).await?);
            let ids = named(azure, instance, &attached, names).await?;
            Ok((on_host(azure, &attached).await?, ids))
        };
        let (disks, ids) = findings.take("disks attached", looked.await, |(_, ids)| ids.join(", "))?;
        findings.extend(disks.findings(&ids));
        if !findings.is_ok() {
            return None;
        }
    }
    match volumes(azure, instance, selection).await {
        Ok(volumes) if matches!(selection, VolumeSelection::Named(_)) => Some(volumes),
        found => findings.take("disks that hold the cluster", found, |volumes| describe(volumes)),
    }
}

fn os_disk(names: &[&str]) -> Error {
    Error::precondition(format!("on the OS disk, which is not snapshotted: {}", names.join(", ")))
        .with_hint("put the cluster on a data disk; a snapshot of the OS disk cannot be attached beside the system")
}

/// The managed disks of a machine, those that are just being detached left out; the OS disk last.
pub(super) fn attached(machine: &models::VirtualMachine) -> Vec<Attached> {
    let Some(storage) = machine.properties.as_ref().and_then(|properties| properties.storage_profile.as_ref()) else {
        return Vec::new();
    };
    let managed = |disk: Option<&models::ManagedDiskParameters>| {
        disk.and_then(|disk| disk.sub_resource.id.as_deref()).and_then(ResourceId::parse)
    };
    let disk = |disk: ResourceId, lun| Attached { id: disk.name.clone(), disk, lun };
    let data = storage.data_disks.iter().filter(|data| data.to_be_detached != Some(true));
    let mut all: Vec<Attached> =
        data.filter_map(|data| Some(disk(managed(data.managed_disk.as_ref())?, Some(data.lun)))).collect();
    let os = storage.os_disk.as_ref().and_then(|os| managed(os.managed_disk.as_ref()));
    all.extend(os.map(|id| disk(id, None)));
    let names: Vec<String> = all.iter().map(|disk| disk.id.to_lowercase()).collect();
    for (index, disk) in all.iter_mut().enumerate() {
        if names.iter().filter(|name| **name == names[index]).count() > 1 {
            disk.id = format!("{}/{}", disk.disk.scope.group, disk.disk.name);
        }
    }
    all
}

/// The ids of the volumes with these names.
async fn named(
    azure: &AzureProvider,
    instance: &Instance,
    attached: &[Attached],
    names: &[String],
) -> Result<Vec<String>> {
    let mut ids: Vec<String> = Vec::new();
    let (mut os, mut ambiguous, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for name in names {
        let found: Vec<&Attached> = attached.iter().filter(|disk| disk.is_called(name)).collect();
        match found.as_slice() {
            [] => missing.push(name.as_str()),
            [one] if one.lun.is_none() => os.push(name.as_str()),
            [one] if ids.contains(&one.id) => {}
            [one] => ids.push(one.id.clone()),
            several => ambiguous.push(format!(
                "{name} ({})",
                several.iter().map(|disk| disk.disk.to_string()).collect::<Vec<_>>().join(", ")
            )),
        }
    }
    if !missing.is_empty() {
        return Err(why_missing(azure, instance, &missing).await?);
    }
    if !ambiguous.is_empty() {
        return Err(Error::invalid(format!("several attached disks have the name: {}", ambiguous.join("; ")))
            .with_hint("give the resource id, or GROUP/NAME"));
    }
    if !os.is_empty() {
        return Err(os_disk(&os));
    }
    Ok(ids)
}

/// Why disks are not attached: all that are unknown, unattached, or attached elsewhere, in one error.
async fn why_missing(azure: &AzureProvider, instance: &Instance, names: &[&str]) -> Result<Error> {
    let machine = instance::id(instance)?;
    let (mut unknown, mut loose, mut elsewhere) = (Vec::new(), Vec::new(), Vec::new());
    for name in names {
        let id = ResourceId::parse(name).unwrap_or_else(|| machine.scope.id("disks", name));
        match get_disk(azure, &id).await {
            Ok(Some(disk)) => match disk.managed_by.as_deref().and_then(ResourceId::parse) {
                Some(owner) => elsewhere.push(format!("{name} ({})", owner.name)),
                None => loose.push(*name),
            },
            Ok(None) => unknown.push(*name),
            // What may not be seen, or cannot be a name, is not known here.
            Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::InvalidInput) => {
                unknown.push(*name);
            }
            Err(error) => return Err(error),
        }
    }
    let mut parts = Vec::new();
    if !unknown.is_empty() {
        parts.push(format!("no such disk in resource group {}: {}", machine.scope.group, unknown.join(", ")));
    }
    if !loose.is_empty() {
        parts.push(format!("attached to no machine: {}", loose.join(", ")));
    }
    if !elsewhere.is_empty() {
        parts.push(format!("attached to another machine: {}", elsewhere.join(", ")));
    }
    let kind = if unknown.is_empty() { ErrorKind::Precondition } else { ErrorKind::NotFound };
    Ok(Error::new(kind, format!("virtual machine {} lacks disks: {}", machine.name, parts.join("; ")))
        .with_hint("--snapshot-disk takes the names of the machine's data disks (`az vm show`), or their resource ids"))
}

/// A disk, if it exists.
pub(super) async fn get_disk(azure: &AzureProvider, id: &ResourceId) -> Result<Option<models::Disk>> {
    let subject = format!("disk {} in resource group {}", id.name, id.scope.group);
    let ask =
        |client: &Client| client.disks_client().get(&id.scope.subscription, &id.scope.group, &id.name).into_future();
    azure.clients.look(Call { action: READ_DISK, subject: &subject }, ask).await
}

/// The name that the API has for a value of one of its lists.
pub(super) fn api_name(value: &impl serde::Serialize) -> Option<String> {
    match serde_json::to_value(value) {
        Ok(Value::String(name)) => Some(name),
        _ => None,
    }
}

/// All that a later process has to know of a disk and its snapshots.
fn attributes(
    azure: &AzureProvider,
    instance: &Instance,
    attached: &Attached,
    disk: &models::Disk,
) -> BTreeMap<String, String> {
    let mut attributes = BTreeMap::new();
    let mut put = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            attributes.insert(name.to_owned(), value);
        }
    };
    for name in [key::SUBSCRIPTION, key::GROUP] {
        put(name, instance.attributes.get(name).cloned());
    }
    let place = location(&disk.resource.location);
    put(key::DISK, Some(attached.disk.to_string()));
    put(key::LUN, attached.lun.map(|lun| lun.to_string()));
    put(key::DISK_SKU, disk.sku.as_ref().and_then(|sku| sku.name.as_ref()).and_then(api_name));
    let copy_to = azure.options.copy_to.as_deref().map(location).filter(|to| *to != place);
    put(key::COPY_LOCATION, copy_to);
    put(key::LOCATION, Some(place));
    let properties = disk.properties.as_ref();
    // A snapshot with sectors of 4096 bytes makes Ultra disks and Premium SSD v2 only.
    let sector = properties.and_then(|properties| properties.creation_data.logical_sector_size);
    put(key::SECTOR, sector.map(|size| size.to_string()));
    if let Some(properties) = properties {
        network::keep(properties, &mut attributes);
    }
    // Of other disks every snapshot can be used at once.
    if let Some(minutes) = azure.options.instant_access_minutes
        && shape::sku_name(disk).is_some_and(|sku| is_slow(&sku))
    {
        attributes.insert(key::INSTANT.to_owned(), minutes.to_string());
    }
    shape::keep(disk, shape::sku_name(disk).as_deref(), &mut attributes);
    attributes
}

/// Who may read a disk over the network; its snapshots are to be as closed as it is.
///
/// Azure would make a snapshot that anybody with a shared access signature may read, also of a disk that nobody may. Stock
/// leaves it at that.
pub(super) mod network {
    use std::collections::BTreeMap;

    use azure_mgmt_compute::package_2024_07_01::models;
    use serde_json::Value;

    use super::api_name;

    pub(in super::super) const POLICY: &str = "network_access_policy";
    pub(in super::super) const ACCESS: &str = "disk_access_id";
    pub(in super::super) const PUBLIC: &str = "public_network_access";

    /// Writes down what differs from the default of a snapshot.
    pub(in super::super) fn keep(disk: &models::DiskProperties, attributes: &mut BTreeMap<String, String>) {
        let policy = disk.network_access_policy.as_ref().and_then(api_name).filter(|policy| policy != "AllowAll");
        let public = disk.public_network_access.as_ref().and_then(api_name).filter(|public| public != "Enabled");
        for (name, value) in [(POLICY, policy), (ACCESS, disk.disk_access_id.clone()), (PUBLIC, public)] {
            if let Some(value) = value {
                attributes.insert(name.to_owned(), value);
            }
        }
    }

    /// Gives a snapshot what was written down.
    pub(in super::super) fn apply(attributes: &BTreeMap<String, String>, snapshot: &mut models::SnapshotProperties) {
        let text = |name: &str| attributes.get(name).cloned().map(Value::String);
        snapshot.network_access_policy = text(POLICY).and_then(|value| serde_json::from_value(value).ok());
        snapshot.public_network_access = text(PUBLIC).and_then(|value| serde_json::from_value(value).ok());
        snapshot.disk_access_id = attributes.get(ACCESS).cloned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(group: &str, name: &str) -> String {
        format!("/subscriptions/s1/resourceGroups/{group}/providers/Microsoft.Compute/disks/{name}")
    }

    fn machine() -> models::VirtualMachine {
        let data = |lun: i32, id: String, gone: bool| serde_json::json!({"lun": lun, "createOption": "Attach", "managedDisk": {"id": id}, "toBeDetached": gone});
        serde_json::from_value(serde_json::json!({
            "location": "westeurope",
            "properties": {"storageProfile": {
                "osDisk": {"createOption": "FromImage", "managedDisk": {"id": id("rg1", "os")}},
                "dataDisks": [
                    data(0, id("rg1", "pg-data"), false),
                    data(1, id("RG2", "tbs"), false),
                    data(2, id("rg3", "TBS"), false),
                    data(3, id("rg1", "leaving"), true),
                ],
            }},
        }))
        .unwrap()
    }

    #[test]
    fn disks_are_known_by_name_and_by_id_and_told_apart_by_group() {
        let all = attached(&machine());
        let ids: Vec<_> = all.iter().map(|disk| (disk.id.as_str(), disk.lun)).collect();
        assert_eq!(ids, [("pg-data", Some(0)), ("RG2/tbs", Some(1)), ("rg3/TBS", Some(2)), ("os", None)]);
        let called = |name: &str| all.iter().filter(|disk| disk.is_called(name)).count();
        assert_eq!((called("PG-DATA"), called(&id("RG1", "pg-data")), called("rg2/tbs")), (1, 1, 1));
        assert_eq!((called("tbs"), called("data"), called(&id("rg1", "tbs"))), (2, 0, 0));
    }

    #[test]
    fn a_data_disk_shows_by_its_lun() {
        let links: Vec<_> = hints(10)
            .into_iter()
            .map(|hint| match hint {
                DeviceHint::Link(path) => path.display().to_string(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(links, ["/dev/disk/azure/data/by-lun/10", "/dev/disk/azure/scsi1/lun10"]);
    }

    #[test]
    fn a_snapshot_is_as_closed_as_its_disk() {
        let disk: models::DiskProperties = serde_json::from_value(serde_json::json!({
            "creationData": {"createOption": "Empty"},
            "networkAccessPolicy": "AllowPrivate", "diskAccessId": "/x", "publicNetworkAccess": "Disabled",
        }))
        .unwrap();
        let mut kept = BTreeMap::new();
        network::keep(&disk, &mut kept);
        let mut snapshot = super::super::snapshots::copy_of(models::creation_data::CreateOption::Copy, "/d");
        network::apply(&kept, &mut snapshot);
        assert_eq!(snapshot.network_access_policy, Some(models::NetworkAccessPolicy::AllowPrivate));
        assert_eq!(snapshot.public_network_access, Some(models::PublicNetworkAccess::Disabled));
        assert_eq!(snapshot.disk_access_id.as_deref(), Some("/x"));
        let open: models::DiskProperties = serde_json::from_value(serde_json::json!({
            "creationData": {"createOption": "Empty"}, "networkAccessPolicy": "AllowAll", "publicNetworkAccess": "Enabled",
        }))
        .unwrap();
        let mut kept = BTreeMap::new();
        network::keep(&open, &mut kept);
        assert!(kept.is_empty());
    }
}
